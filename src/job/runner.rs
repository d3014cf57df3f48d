//! One agent's run, from its call to the terminal of its job.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;

use futures_util::FutureExt;
use opentelemetry::context::FutureExt as _;

use super::result::{CHUNK_BYTES_MAX, Form, INLINE_BYTES_MAX};
use super::{Agent, AgentResult, ChunkEncoding, JobContext};
use crate::protocol::{Failure, Outcome};
use crate::telemetry::context_of;
use crate::wire;

/// Runs the agent to its own end and writes the terminal.
pub(super) async fn run(agent: &dyn Agent, job: &JobContext) {
    let run = async {
        fit(
            job,
            within(agent.is_hosted(), job, agent.run(job.clone())).await?,
        )
        .await
    };
    // A panic of an agent ends its job, not the runtime. What it may have left
    // half done is its own: the job's parts are changed in single steps.
    let mut run = pin!(AssertUnwindSafe(run).catch_unwind());
    let first = poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await;
    job.set_called();
    let ended = match first {
        Poll::Ready(ended) => ended,
        Poll::Pending => run.await,
    };
    job.end(own_end(job, ended));
}

/// An agent in this process: spans of its own are below its job's run.
async fn within<T>(is_hosted: bool, job: &JobContext, run: impl Future<Output = T>) -> T {
    match context_of(job.trace()).filter(|_| !is_hosted) {
        Some(context) => run.with_context(context).await,
        None => run.await,
    }
}

pub(super) fn cancelled() -> Outcome {
    Outcome::Cancelled {
        message: "cancelled by the client".into(),
    }
}

/// A result too large for the terminal goes ahead of it in chunks.
async fn fit(job: &JobContext, result: AgentResult) -> Result<AgentResult, Failure> {
    let Form::Inline(json) = &result.0 else {
        return Ok(result);
    };
    wire::check_json("result", json).map_err(|invalid| Failure::invalid(invalid.message))?;
    if json.len() <= INLINE_BYTES_MAX {
        return Ok(result);
    }
    let mut writer = job.result_writer(ChunkEncoding::Utf8, CHUNK_BYTES_MAX)?;
    writer.write(json.as_bytes()).await?;
    writer.finish(None).await
}

/// An agent's failure, made one that every client can read: an SDK drops an
/// error frame without a message, or one that is retryable against §12, and
/// waits for the end of its job for ever.
fn said(mut failure: Failure) -> Failure {
    if failure.message.is_empty() {
        failure.message = "the agent gave no reason".into();
    }
    if failure.code.fixes_retryable() {
        failure.retryable = failure.code.retryable();
    }
    failure
}

fn own_end(
    job: &JobContext,
    ended: Result<Result<AgentResult, Failure>, Box<dyn Any + Send>>,
) -> Outcome {
    match ended {
        // Whatever it says: it was asked to stop, and has.
        _ if job.is_cancelled() => cancelled(),
        Ok(Ok(AgentResult(Form::Inline(result_json)))) => Outcome::Inline { result_json },
        Ok(Ok(AgentResult(Form::Chunked {
            result_id,
            result_size,
            summary,
        }))) => Outcome::Chunked {
            result_id,
            result_size,
            summary,
        },
        Ok(Err(failure)) => Outcome::Failed(said(failure)),
        Err(_) => {
            tracing::error!(
                trace_id = job.trace_id(),
                session_id = job.session_id(),
                job_id = job.job_id(),
                agent = job.agent(),
                "an agent panicked"
            );
            Outcome::Failed(Failure::internal(
                "the agent panicked; see the runtime's log",
            ))
        }
    }
}
