//! One running job: the agent's future beside its cancel and its deadline.

use std::time::Duration;

use super::{Agent, JobContext};
use crate::protocol::{Failure, Outcome};

/// Runs the agent to a terminal, whichever comes first: its own end, a cancel
/// and the grace after it, or `max_runtime`.
pub(super) async fn run(
    agent: &dyn Agent,
    job: JobContext,
    max_runtime: Option<Duration>,
    cancel_grace: Duration,
) {
    // A panic of an agent ends its job, not the runtime.
    let mut agent = tokio::spawn(agent.run(job.clone()));
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

fn own_end(
    job: &JobContext,
    ended: Result<Result<String, Failure>, tokio::task::JoinError>,
) -> Outcome {
    match ended {
        Ok(_) if job.is_cancelled() => Outcome::Cancelled {
            message: "cancelled by the client".into(),
        },
        Ok(Ok(result_json)) => Outcome::Inline { result_json },
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(_) => Outcome::Failed(Failure::internal(
            "the agent panicked; see the runtime's log",
        )),
    }
}
