//! `JobService`: jobs without a session, over gRPC and gRPC-Web.
//!
//! Each call is authenticated, its message checked and handed on; what a
//! principal may do is the session folder's to say, which code a refusal has is
//! [`super::status`]'s.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use bytes::BytesMut;
use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::request::Parts;
use prost::Message;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tonic::Status;

use super::call;
use super::status::{RETRY_MAX, away, status};
use crate::drain::{Drain, Stay};
use crate::log::JobRow;
use crate::protocol::{Departure, ErrorCode, Failure, Timestamp, TraceContext};
use crate::session::{Sessions, Watch};
use crate::telemetry::{Service, Via};
use crate::wire::{self, Invalid, proto};

/// What calls count as.
const VIA: Via = Via::JobService("");

pub fn router(sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route("/arcp.v1.JobService/SubmitJob", unary(submit))
        .route("/arcp.v1.JobService/GetJob", unary(get))
        .route("/arcp.v1.JobService/ListJobs", unary(list))
        .route("/arcp.v1.JobService/CancelJob", unary(cancel))
        .route("/arcp.v1.JobService/WatchJob", post(watch))
        .with_state(sessions)
        .layer(from_fn(grpc_only))
}

async fn grpc_only(request: Request, next: Next) -> Response {
    match call::refuse(request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

type Called<M> = (Arc<Sessions>, Call<M>);

async fn submit(
    (sessions, call): Called<proto::SubmitJobRequest>,
) -> Result<proto::SubmitJobResponse, Failure> {
    let submit = wire::submit_from_proto(call.message).map_err(|refused| {
        let metrics = &sessions.jobs.telemetry().metrics;
        metrics.refused(ErrorCode::InvalidRequest);
        invalid(refused)
    })?;
    let submitted = sessions.submit(call.principal, call.trace, submit);
    let (row, duplicate) = submitted.await?;
    let credentials = sessions.credentials_of(&row).await;
    let job = Some(described(&sessions, row).await?);
    Ok(proto::SubmitJobResponse {
        job,
        duplicate,
        credentials_json: credentials
            .map(|json| json.expose_secret().to_owned())
            .unwrap_or_default(),
    })
}

async fn get(
    (sessions, call): Called<proto::GetJobRequest>,
) -> Result<proto::GetJobResponse, Failure> {
    let job_id = wire::job_id(call.message.job_id).map_err(invalid)?;
    let row = sessions.visible(&call.principal, Some(&job_id)).await?;
    let job = Some(described(&sessions, row).await?);
    Ok(proto::GetJobResponse { job })
}

async fn list(
    (sessions, call): Called<proto::ListJobsRequest>,
) -> Result<proto::ListJobsResponse, Failure> {
    let list = wire::list_from_proto(call.message).map_err(invalid)?;
    let page = sessions.page(&call.principal, list).await?;
    let mut jobs = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let last_job_seq = sessions.last_job_seq(&row).await?;
        jobs.push(job(row, last_job_seq));
    }
    let next_page_token = page.next_cursor.unwrap_or_default();
    Ok(proto::ListJobsResponse {
        jobs,
        next_page_token,
    })
}

async fn cancel(
    (sessions, call): Called<proto::CancelJobRequest>,
) -> Result<proto::CancelJobResponse, Failure> {
    let job_id = wire::job_id(call.message.job_id).map_err(invalid)?;
    let via = Via::JobService("arcp.v1.JobService/CancelJob");
    let row = sessions
        .cancel(&call.principal, None, Some(&job_id), &call.trace, via)
        .await?;
    let job = Some(described(&sessions, row).await?);
    Ok(proto::CancelJobResponse { job })
}

async fn watch(
    State(sessions): State<Arc<Sessions>>,
    Extension(stay): Extension<Stay>,
    request: Request,
) -> Response {
    let watch = async {
        let call = open::<proto::WatchJobRequest>(&sessions, request).await?;
        let after = call.message.after_job_seq;
        let job_id = wire::job_id(call.message.job_id);
        let job_id = job_id.map_err(|refused| status(invalid(refused)))?;
        let watch = sessions.watch(&call.principal, &job_id, after).await;
        watch.map_err(status)
    };
    match watch.await {
        Ok(watch) => {
            let turn = async move { stay.turn(RETRY_MAX).await }.boxed().fuse();
            let next = |(sessions, mut watch, mut turn): Watching| async move {
                let message = tokio::select! {
                    biased;
                    departure = &mut turn => Err(away(departure, "call again")),
                    message = watch.next() => message.map_err(status),
                };
                let message = message.transpose()?;
                if let Ok(message) = &message {
                    let metrics = &sessions.jobs.telemetry().metrics;
                    metrics.sent(VIA, 1, message.len());
                }
                Some((message, (sessions, watch, turn)))
            };
            let every = sessions.limits.heartbeat_interval;
            let messages = stream::unfold((sessions, watch, turn), next);
            call::answer(kept_alive(messages, every))
        }
        Err(refusal) => refusal.into_http(),
    }
}

/// With what ends a watch that has not come to its end.
type Watching = (Arc<Sessions>, Watch, Fuse<BoxFuture<'static, Departure>>);

/// An empty message after each so long a silence: a proxy takes a stream that says
/// nothing for dead.
fn kept_alive(
    messages: impl Stream<Item = Result<BytesMut, Status>>,
    every: Duration,
) -> impl Stream<Item = Result<BytesMut, Status>> {
    let ticks = tokio::time::interval_at(Instant::now() + every, every);
    let messages = tokio_stream::StreamExt::timeout_repeating(messages, ticks);
    messages.map(|message| {
        let empty = || Ok(call::encoded(&proto::WatchJobResponse::default()));
        message.unwrap_or_else(|_silent| empty())
    })
}

/// A call whose caller is known and whose message is there.
struct Call<M> {
    principal: String,
    trace: TraceContext,
    message: M,
}

async fn open<M>(sessions: &Sessions, request: Request) -> Result<Call<M>, Status>
where
    M: Message + Default + 'static,
{
    let (parts, body) = request.into_parts();
    let principal = authenticate(sessions, &parts).map_err(status)?;
    if sessions.drain.is_begun() {
        return Err(turned_away(&sessions.drain));
    }
    let trace = super::trace(&parts.headers);
    let message: M = call::message(body).await.map_err(status)?;
    let metrics = &sessions.jobs.telemetry().metrics;
    metrics.received(VIA, message.encoded_len());
    Ok(Call {
        principal,
        trace,
        message,
    })
}

/// A method with one answer.
fn unary<M, R, F>(run: fn(Called<M>) -> F) -> MethodRouter<Arc<Sessions>>
where
    M: Message + Default + 'static,
    R: Message + 'static,
    F: Future<Output = Result<R, Failure>> + Send + 'static,
{
    post(
        move |State(sessions): State<Arc<Sessions>>, request: Request| async move {
            let answer = async {
                let call = open(&sessions, request).await?;
                run((sessions.clone(), call)).await.map_err(status)
            };
            match answer.await {
                Ok(message) => {
                    let message = call::encoded(&message);
                    let metrics = &sessions.jobs.telemetry().metrics;
                    metrics.sent(VIA, 1, message.len());
                    call::answer(stream::iter([Ok(message)]))
                }
                Err(refusal) => refusal.into_http::<Body>(),
            }
        },
    )
}

fn authenticate(sessions: &Sessions, parts: &Parts) -> Result<String, Failure> {
    let token = super::bearer(&parts.headers);
    let shown = token.as_ref().map_or("", |token| token.expose_secret());
    let known = sessions.authenticate(shown, Service::Job);
    known.map_err(|failure| match token {
        Some(_) => failure,
        None => {
            let text = "authorization: missing; send `Bearer` and a token";
            Failure::new(ErrorCode::Unauthenticated, text)
        }
    })
}

/// As a watch that it ends is.
fn turned_away(drain: &Drain) -> Status {
    away(drain.departure(RETRY_MAX), "call again")
}

fn invalid(invalid: Invalid) -> Failure {
    Failure::invalid(invalid.message)
}

/// A job with how it ended.
async fn described(sessions: &Sessions, row: JobRow) -> Result<proto::Job, Failure> {
    let last_job_seq = sessions.last_job_seq(&row).await?;
    let terminal = sessions.terminal(&row).await?;
    let mut job = job(row, last_job_seq);
    job.outcome = terminal.and_then(|record| wire::outcome(&record));
    Ok(job)
}

fn job(row: JobRow, last_job_seq: u64) -> proto::Job {
    proto::Job {
        created_at: wire::ts_to_proto(row.created_at()),
        ended_at: row
            .ended_at_ms
            .and_then(|at| wire::ts_to_proto(Timestamp(at))),
        job_id: row.id,
        agent: row.agent,
        status: row.status,
        trace_id: row.trace_id,
        last_job_seq,
        parent_job_id: row.grant.parent_id.unwrap_or_default(),
        lease_json: row.grant.lease_json,
        lease_expires_at: row
            .grant
            .expires_at_ms
            .and_then(|at| wire::ts_to_proto(Timestamp(at))),
        outcome: None,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    /// It was told to wait for up to two seconds, with other replicas beside it.
    #[test]
    fn a_call_at_a_replica_that_drains_is_to_be_made_elsewhere_at_once() {
        let delay = |replicated| {
            let drain = Drain::new(replicated);
            drain.begin(1, Duration::from_secs(20));
            let status = turned_away(&drain);
            assert_eq!(status.code(), tonic::Code::Unavailable);
            let details = status.get_error_details();
            details.retry_info().and_then(|info| info.retry_delay)
        };
        assert_eq!(delay(true), Some(Duration::ZERO));
        let alone = (0..100).filter_map(|_| delay(false)).max();
        assert!(alone > Some(Duration::from_secs(1)), "{alone:?}");
    }
}
