//! One running job: the agent's future beside its cancel and its deadline.

use std::time::Duration;

use super::result::{CHUNK_BYTES_MAX, Form, INLINE_BYTES_MAX};
use super::{Agent, AgentResult, ChunkEncoding, JobContext};
use crate::protocol::{Failure, Outcome};
use crate::wire;

/// Runs the agent to a terminal, whichever comes first: its own end, a cancel
/// and the grace after it, or `max_runtime`.
pub(super) async fn run(
    agent: &dyn Agent,
    job: JobContext,
    max_runtime: Option<Duration>,
    cancel_grace: Duration,
) {
    // A panic of an agent ends its job, not the runtime.
    let (run, own) = (agent.run(job.clone()), job.clone());
    let mut agent = tokio::spawn(async move { fit(&own, run.await?).await });
    let deadline = async {
        match max_runtime {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        ended = &mut agent => own_end(&job, ended),
        () = deadline => {
            job.cancel();
            agent.abort();
            Outcome::TimedOut { message: "max_runtime_sec is over".into() }
        }
        () = job.cancelled() => {
            if tokio::time::timeout(cancel_grace, &mut agent).await.is_err() {
                agent.abort();
            }
            Outcome::Cancelled { message: "cancelled by the client".into() }
        }
    };
    job.end(outcome);
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

/// One SDK drops an error frame without a message.
fn said(mut failure: Failure) -> Failure {
    if failure.message.is_empty() {
        failure.message = "the agent gave no reason".into();
    }
    failure
}

fn own_end(
    job: &JobContext,
    ended: Result<Result<AgentResult, Failure>, tokio::task::JoinError>,
) -> Outcome {
    match ended {
        Ok(_) if job.is_cancelled() => Outcome::Cancelled {
            message: "cancelled by the client".into(),
        },
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
        Err(_) => Outcome::Failed(Failure::internal(
            "the agent panicked; see the runtime's log",
        )),
    }
}
