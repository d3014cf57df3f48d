//! What a principal may do with its jobs, in a session or without one.

use bytes::Bytes;
use secrecy::SecretString;

use super::{Sessions, unavailable};
use crate::job::{NewJob, audit_subscribed};
use crate::log::{Command, JobRow, ListFilter, Outcome};
use crate::protocol::message::{ListJobs, Submit};
use crate::protocol::{ErrorCode, Failure, TraceContext};
use crate::telemetry::{Service, Via};

const LIST_LIMIT_DEFAULT: u32 = 100;
const LIST_LIMIT_MAX: u32 = 1_000;
const STATUSES: [&str; 6] = [
    "pending",
    "running",
    "success",
    "error",
    "cancelled",
    "timed_out",
];

/// A part of a principal's jobs, oldest first.
pub struct Page {
    pub rows: Vec<JobRow>,
    /// None when there is no further page.
    pub next_cursor: Option<String>,
}

impl Sessions {
    /// Who shows this token to a service.
    pub fn authenticate(&self, token: &str, service: Service) -> Result<String, Failure> {
        let principal = self.authenticator.principal(token);
        principal.ok_or_else(|| {
            self.jobs.telemetry().unauthenticated(service);
            Failure::new(ErrorCode::Unauthenticated, "auth: the token is not valid")
        })
    }

    /// The job, if this principal may know of it; otherwise there is none.
    pub async fn visible(&self, principal: &str, job_id: Option<&str>) -> Result<JobRow, Failure> {
        let job_id = job_id.ok_or_else(|| Failure::invalid("job_id: missing"))?;
        let job = self.job(job_id).await?;
        job.filter(|job| job.principal == principal)
            .ok_or_else(Failure::job_not_found)
    }

    /// One that is not known here may have been accepted elsewhere a moment ago.
    async fn job(&self, job_id: &str) -> Result<Option<JobRow>, Failure> {
        let job = self.log.job(job_id).await.map_err(unavailable)?;
        if job.is_some() || !self.log.is_replicated() {
            return Ok(job);
        }
        self.log.caught_up().await.map_err(unavailable)?;
        self.log.job(job_id).await.map_err(unavailable)
    }

    /// The same for one who is going to watch it; the audit log has a refusal (§14).
    pub async fn watchable(
        &self,
        principal: &str,
        job_id: Option<&str>,
    ) -> Result<JobRow, Failure> {
        let job_id = job_id.ok_or_else(|| Failure::invalid("job_id: missing"))?;
        let job = self.job(job_id).await?;
        // A refusal names the owner here, and to nobody else.
        let owner = job.as_ref().map(|job| &*job.principal);
        audit_subscribed(&self.jobs.telemetry().lines, principal, job_id, owner);
        job.filter(|job| job.principal == principal)
            .ok_or_else(Failure::job_not_found)
    }

    /// Submits without a session and starts the job. Also whether an earlier
    /// submit made it.
    pub async fn submit(
        &self,
        principal: String,
        trace: TraceContext,
        submit: Submit,
    ) -> Result<(JobRow, bool), Failure> {
        let new = NewJob {
            session_id: String::new(),
            principal,
            trace,
            via: Via::JobService("arcp.v1.JobService/SubmitJob"),
            submit,
        };
        let jobs = self.jobs.clone();
        // A task of its own: a caller that goes in the middle drops this future, and
        // a job that is durable has to be started.
        let submitted = tokio::spawn(async move {
            let accepted = jobs.submit(new, |_| None).await?;
            let answer = (accepted.row.clone(), accepted.duplicate);
            jobs.start(accepted);
            Ok(answer)
        });
        let submitted = submitted.await;
        submitted.unwrap_or_else(|_| Err(Failure::internal("the submit was cut off; try again")))
    }

    /// What a job has been given, as JSON; none when it has none or has ended. For
    /// its principal, in the answer to a submit and nowhere else.
    pub async fn credentials_of(&self, row: &JobRow) -> Option<SecretString> {
        let held = self.jobs.credentials()?.of(row.stream).await?;
        let json = serde_json::Value::from(vec![held.credential.to_json()]);
        Some(json.to_string().into())
    }

    /// Asks a job to stop; `asking` is the session that does, if it is one.
    pub async fn cancel(
        &self,
        principal: &str,
        asking: Option<&str>,
        job_id: Option<&str>,
        trace: &TraceContext,
        via: Via,
    ) -> Result<JobRow, Failure> {
        let job = self.visible(principal, job_id).await?;
        // §7.4 reserves the cancel to the submitting session. While nobody has
        // that session its principal may act for it, or nobody could ever stop
        // a job whose client is gone. A job without one is its principal's.
        if asking != Some(&job.session_id) && self.is_connected(&job.session_id).await? {
            let text = "job.cancel: the session that submitted this job is connected, \
                        and only it may cancel";
            return Err(Failure::new(ErrorCode::PermissionDenied, text));
        }
        let here = self.jobs.cancel(&job.id, trace, via);
        if job.end_position.is_none() {
            self.keep_cancel(&job, here).await?;
        }
        Ok(job)
    }

    /// Before it is answered: whoever has the job after a crash sees that it stops.
    async fn keep_cancel(&self, job: &JobRow, here: bool) -> Result<(), Failure> {
        let (stream, job_id) = (job.stream, job.id.clone());
        if here {
            let kept = self.log.execute(Command::SetCancelled { stream }).await;
            if kept.map_err(unavailable)? != Outcome::Stale {
                return Ok(());
            }
            // It went to another replica meanwhile, or is over.
        }
        let asked = self.log.execute(Command::AskCancel { stream, job_id });
        asked.await.map_err(unavailable)?;
        Ok(())
    }

    /// Here or at another replica.
    async fn is_connected(&self, session_id: &str) -> Result<bool, Failure> {
        if self.is_attached(session_id) || !self.log.is_replicated() {
            return Ok(self.is_attached(session_id));
        }
        let session = self.log.session(session_id).await.map_err(unavailable)?;
        Ok(session.is_some_and(|session| session.parked_at_ms.is_none()))
    }

    pub async fn page(&self, principal: &str, list: ListJobs) -> Result<Page, Failure> {
        let limit = match list.limit {
            0 => LIST_LIMIT_DEFAULT,
            limit => limit.min(LIST_LIMIT_MAX),
        } as usize;
        self.log.caught_up().await.map_err(unavailable)?;
        let after = list.cursor.as_deref().map(parse_cursor).transpose()?;
        let filter = filter(list)?;
        let rows = self.log.list_jobs(principal, filter, limit + 1, after);
        let mut rows = rows.await.map_err(unavailable)?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows
            .last()
            .filter(|_| more)
            .map(|row| format!("{}.{}", row.created_at_ms, row.id));
        Ok(Page { rows, next_cursor })
    }

    /// A job's records so far.
    pub async fn last_job_seq(&self, job: &JobRow) -> Result<u64, Failure> {
        if job.end_position.is_some() {
            return Ok(job.last_seq);
        }
        let seq = self.log.seq_at(job.stream, self.log.committed());
        seq.await.map_err(unavailable)
    }

    /// The record an ended job ended with.
    pub async fn terminal(&self, job: &JobRow) -> Result<Option<Bytes>, Failure> {
        self.log.terminal(job).await.map_err(unavailable)
    }
}

fn filter(list: ListJobs) -> Result<ListFilter, Failure> {
    if let Some(unknown) = list.statuses.iter().find(|s| !STATUSES.contains(&&***s)) {
        return Err(Failure::invalid(format!(
            "filter.status: {unknown:?} is none of {}",
            STATUSES.join(", ")
        )));
    }
    Ok(ListFilter {
        statuses: list.statuses,
        agent: list.agent,
        created_after_ms: list.created_after.map(|at| at.0),
        created_before_ms: list.created_before.map(|at| at.0),
    })
}

/// Opaque to clients: the place after the last row of a page.
fn parse_cursor(text: &str) -> Result<(i64, String), Failure> {
    text.split_once('.')
        .and_then(|(at, id)| Some((at.parse().ok()?, id.to_owned())))
        .ok_or_else(|| Failure::invalid("cursor: is not one that a page came with"))
}
