//! A client without a session: it submits by a call, and watches by calls that go on where
//! the last one ended, at whichever replica.

use std::sync::Arc;
use std::time::Duration;

use arcpd::wire::proto::job_service_client::JobServiceClient;
use arcpd::wire::proto::{WatchJobRequest, job_record::Record};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::cell::Cell;
use crate::history::{Answer, History};
use crate::jobs::record;
use crate::support::ALICE;
use crate::support::jobs::{Bearer, Jobs};

use crate::work::{Shared, Work};

/// For one answer; a job may say nothing for as long.
const PATIENCE: Duration = Duration::from_secs(4);

pub struct Caller {
    pub cell: Arc<Cell>,
    pub shared: Arc<Shared>,
    pub history: Arc<History>,
    random: StdRng,
}

impl Caller {
    pub fn new(cell: Arc<Cell>, shared: Arc<Shared>, history: Arc<History>, seed: u64) -> Self {
        Self {
            cell,
            shared,
            history,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Until it is told to stop: what it has begun then, it ends.
    pub async fn run(mut self) {
        while !self.shared.is_over() {
            let (key, work) = self.shared.new_work(&mut self.random);
            self.history.submitted(&key);
            if let Some(job) = self.submit(&key, &work).await {
                self.watch(&job).await;
            }
        }
    }

    /// A connection to any replica that takes one.
    async fn connect(&mut self) -> Jobs {
        loop {
            let replica = self.random.random_range(0..self.cell.replicas.len());
            let address = self.cell.replicas[replica].address();
            let endpoint = address.map(|at| Endpoint::from_shared(format!("http://{at}")));
            if let Some(Ok(endpoint)) = endpoint
                && let Ok(Ok(channel)) = timeout(PATIENCE, endpoint.connect()).await
            {
                return JobServiceClient::with_interceptor(channel, Bearer(ALICE));
            }
            let back_off = Duration::from_millis(self.random.random_range(10..150));
            tokio::time::sleep(back_off).await;
        }
    }

    /// Until it is answered, or refused for good.
    async fn submit(&mut self, key: &str, work: &Work) -> Option<String> {
        loop {
            let mut jobs = self.connect().await;
            let request = work.request(key);
            match timeout(PATIENCE, jobs.submit_job(request)).await {
                Ok(Ok(submitted)) => {
                    let job = submitted.into_inner().job.expect("a job").job_id;
                    self.history.count("calls accepted");
                    self.shared.accepted(&job);
                    let answer = Answer::Accepted { job: job.clone() };
                    self.history.answered(key, answer);
                    return Some(job);
                }
                Ok(Err(status)) if is_for_now(status.code()) => {
                    self.history.note(key, &status.to_string());
                }
                Ok(Err(status)) => {
                    self.history.fault(format!("a call was refused: {status}"));
                    let code = status.code().to_string();
                    self.history.answered(key, Answer::Refused { code });
                    return None;
                }
                Err(_) => self.history.note(key, "no answer in time"),
            }
        }
    }

    /// To its terminal.
    async fn watch(&mut self, job: &str) {
        let mut after = 0;
        loop {
            let mut jobs = self.connect().await;
            let request = WatchJobRequest {
                job_id: job.into(),
                after_job_seq: after,
            };
            let watched = match timeout(PATIENCE, jobs.watch_job(request)).await {
                Ok(Ok(watched)) => watched,
                Ok(Err(status)) if !is_for_now(status.code()) => {
                    return self.history.fault(format!("a watch was refused: {status}"));
                }
                _ => continue,
            };
            self.history.count("watches");
            let mut records = watched.into_inner();
            while let Ok(Ok(Some(more))) = timeout(PATIENCE, records.message()).await {
                for one in more.records {
                    if one.job_seq != after + 1 {
                        let text = format!("a watch of {job} has {} after {after}", one.job_seq);
                        return self.history.fault(text);
                    }
                    after = one.job_seq;
                    let ended = !matches!(one.record, Some(Record::JobEvent(_)));
                    let (_, said) = record(one);
                    self.history.watched(job, after, format!("{said:?}"));
                    if ended {
                        return;
                    }
                }
            }
        }
    }
}

/// What another replica, or this one later, may answer otherwise.
fn is_for_now(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Internal | Code::Cancelled | Code::Unknown
    )
}
