//! One that watches a job without a session: when its call ends and the job has not, it
//! calls again when it was told to, behind what it has.

use arcpd::wire::proto::job_record::Record;
use arcpd::wire::proto::job_service_client::JobServiceClient;
use arcpd::wire::proto::{JobRecord, job_event::Body};
use tokio::sync::watch;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::host::FOLLOWED;
use crate::support::ALICE;
use crate::support::jobs::{self, Bearer, Jobs};
use crate::told::Told;

pub struct Watcher {
    address: String,
    job: String,
    /// What it has.
    last: u64,
    told: Told,
}

impl Watcher {
    pub async fn start(address: &str) -> Self {
        let mut service = dial(address).await.unwrap();
        let input = serde_json::from_str(FOLLOWED).unwrap();
        Self {
            address: address.into(),
            job: jobs::submit(&mut service, "a", input).await,
            last: 0,
            told: Told::new(),
        }
    }

    pub fn progress(&self) -> watch::Receiver<u64> {
        self.told.progress()
    }

    /// Each record once, in order.
    pub async fn watch(mut self) -> Told {
        loop {
            let mut service = match dial(&self.address).await {
                Ok(service) => service,
                Err(why) => {
                    self.told.refused.push(why);
                    continue;
                }
            };
            let Err(status) = self.until_end(&mut service).await else {
                return self.told;
            };
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            let details = status.get_error_details();
            let after = details.retry_info().and_then(|info| info.retry_delay);
            // Hung up, or the runtime would wait for that.
            drop(service);
            tokio::time::sleep(after.expect("it says when")).await;
            self.told.moves += 1;
        }
    }

    async fn until_end(&mut self, service: &mut Jobs) -> Result<(), Status> {
        let mut stream = jobs::watch(service, &self.job, self.last).await?;
        while let Some(records) = jobs::next(&mut stream).await? {
            for JobRecord { job_seq, record } in records {
                assert_eq!(job_seq, self.last + 1);
                self.last = job_seq;
                self.told.hear();
                match record.expect("a record") {
                    Record::JobEvent(event) => match event.body {
                        Some(Body::Log(log)) => assert_eq!(log.message, job_seq.to_string()),
                        other => panic!("{other:?}"),
                    },
                    Record::JobResult(result) => {
                        assert_eq!(result.result_json, (job_seq - 1).to_string());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        Ok(())
    }
}

async fn dial(address: &str) -> Result<Jobs, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    Ok(JobServiceClient::with_interceptor(channel, Bearer(ALICE)))
}
