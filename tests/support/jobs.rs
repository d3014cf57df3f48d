//! A client of `JobService`, and what its refusals say.

use std::time::Duration;

use arcpd::wire::proto::{self, job_service_client::JobServiceClient};
use serde_json::Value;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::Runtime;

#[derive(Clone)]
pub struct Bearer(pub &'static str);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let value = format!("Bearer {}", self.0).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

pub type Jobs = JobServiceClient<InterceptedService<Channel, Bearer>>;

pub fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    (dir, runtime)
}

pub async fn channel(runtime: &Runtime) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", runtime.address)).unwrap();
    endpoint.connect().await.unwrap()
}

pub async fn connect(runtime: &Runtime, token: &'static str) -> Jobs {
    JobServiceClient::with_interceptor(channel(runtime).await, Bearer(token))
}

pub fn of(agent: &str, input: Value) -> proto::SubmitJobRequest {
    proto::SubmitJobRequest {
        agent: agent.into(),
        input_json: input.to_string(),
        ..Default::default()
    }
}

pub async fn submit(jobs: &mut Jobs, agent: &str, input: Value) -> String {
    let submitted = jobs.submit_job(of(agent, input)).await.unwrap();
    submitted.into_inner().job.unwrap().job_id
}

pub async fn get(jobs: &mut Jobs, job_id: &str) -> Result<proto::Job, Status> {
    let job_id = job_id.into();
    let got = jobs.get_job(proto::GetJobRequest { job_id }).await?;
    Ok(got.into_inner().job.unwrap())
}

pub async fn cancel(jobs: &mut Jobs, job_id: &str) -> Result<proto::Job, Status> {
    let job_id = job_id.into();
    let cancelled = jobs.cancel_job(proto::CancelJobRequest { job_id }).await?;
    Ok(cancelled.into_inner().job.unwrap())
}

pub async fn watch(
    jobs: &mut Jobs,
    job_id: &str,
    after_job_seq: u64,
) -> Result<Streaming<proto::WatchJobResponse>, Status> {
    let request = proto::WatchJobRequest {
        job_id: job_id.into(),
        after_job_seq,
    };
    Ok(jobs.watch_job(request).await?.into_inner())
}

/// The next message of a watch; none at its end.
pub async fn next(
    stream: &mut Streaming<proto::WatchJobResponse>,
) -> Result<Option<Vec<proto::JobRecord>>, Status> {
    let message = tokio::time::timeout(Duration::from_secs(30), stream.message());
    let message = message.await.expect("a message or an end within 30 s")?;
    Ok(message.map(|response| response.records))
}

/// Everything up to the end of the call.
pub async fn rest(stream: &mut Streaming<proto::WatchJobResponse>) -> Vec<proto::JobRecord> {
    let mut records = Vec::new();
    while let Some(more) = next(stream).await.unwrap() {
        records.extend(more);
    }
    records
}

pub async fn watch_all(jobs: &mut Jobs, job_id: &str) -> Vec<proto::JobRecord> {
    rest(&mut watch(jobs, job_id, 0).await.unwrap()).await
}

pub fn numbers(records: &[proto::JobRecord]) -> Vec<u64> {
    records.iter().map(|record| record.job_seq).collect()
}

/// Code, reason and field of a refusal, and whether to come again.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String, String, bool) {
    let status = answer.expect_err("a refusal");
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "arcp");
    let field = details.bad_request().map(|bad| {
        assert_eq!(bad.field_violations.len(), 1);
        bad.field_violations[0].field.clone()
    });
    (
        status.code(),
        info.reason.clone(),
        field.unwrap_or_default(),
        details.retry_info().is_some(),
    )
}

pub fn refused(code: Code, reason: &str, field: &str) -> (Code, String, String, bool) {
    (code, reason.into(), field.into(), false)
}
