//! A submit: checked, made durable once, and begun.
//!
//! In a cell the log may not answer in time; then nobody knows whether the job is made
//! until it does, and one that is made is begun all the same.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::buffer::Since;
use super::credentials::Wanted;
use super::directory::Agent;
use super::grant::Grant;
use super::idempotency::{fingerprint, meant, same_or_conflict};
use super::now;
use super::registry::{Jobs, after, hosted, unavailable};
use crate::authority::Lease;
use crate::credential::{Fresh, Holding, Tree};
use crate::log::{Command, GrantRow, JobRow, Outcome, StreamId, ViewOpRow};
use crate::protocol::message::Submit;
use crate::protocol::{Failure, Timestamp, TraceContext, id};
use crate::telemetry::{self, JobTrace, Submitted, Via};

/// A submit whose sender is known.
pub struct NewJob {
    /// Empty without a session.
    pub session_id: String,
    pub principal: String,
    /// What the submitter said of the trace it is in.
    pub trace: TraceContext,
    pub via: Via,
    pub submit: Submit,
}

/// A job that is durable and may be told to its submitter.
pub struct Accepted {
    pub row: JobRow,
    /// An earlier submit with the same idempotency key made it.
    pub duplicate: bool,
    start: Option<Start>,
}

struct Start {
    agent: Arc<dyn Agent>,
    max_runtime: Option<Duration>,
    deadline: Option<Timestamp>,
    grant: Option<Grant>,
    credential: Option<Holding>,
    trace: Arc<JobTrace>,
    /// Until it runs.
    _making: Making,
}

/// A job that is about to begin, and not one that nobody has begun.
pub(super) struct Making {
    all: Arc<Mutex<HashSet<StreamId>>>,
    stream: StreamId,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.all.lock().remove(&self.stream);
    }
}

/// A submit that made no job.
struct Refused {
    failure: Failure,
    /// What was said of it elsewhere before it was refused.
    trace: Option<Arc<JobTrace>>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            trace: None,
        }
    }
}

impl Accepted {
    /// Another replica has it, and may have begun it.
    pub fn runs_elsewhere(&self) -> bool {
        self.start.is_none()
    }

    fn again(row: JobRow) -> Self {
        Self {
            row,
            duplicate: true,
            start: None,
        }
    }
}

impl Jobs {
    /// Makes a job durable. It runs only once [`Jobs::start`] is called, so the
    /// submitter can be watching before its first event. `op` says how the job
    /// enters the submitting session's view, if there is one.
    pub async fn submit(
        &self,
        new: NewJob,
        op: impl FnOnce(StreamId) -> Option<ViewOpRow>,
    ) -> Result<Accepted, Failure> {
        let start_ns = telemetry::now_ns();
        let said = self
            .telemetry()
            .is_on()
            .then(|| (new.trace.clone(), new.via));
        let submitted = self.make(new, op, start_ns).await;
        match &submitted {
            Ok(accepted) if accepted.duplicate => {}
            Ok(accepted) => self.telemetry().metrics.submitted(&accepted.row.agent),
            Err(refused) => self.telemetry().metrics.refused(refused.failure.code),
        }
        if let Some((trace, via)) = said {
            let told = match &submitted {
                Ok(accepted) if accepted.duplicate => Some((Ok(&accepted.row), None)),
                Ok(_) => None,
                Err(refused) => Some((Err(refused.failure.code), refused.trace.as_deref())),
            };
            if let Some((ended, own)) = told {
                let telemetry = self.telemetry();
                telemetry.not_submitted(&trace, via, start_ns, ended, own);
            }
        }
        submitted.map_err(|refused| refused.failure)
    }

    async fn make(
        &self,
        new: NewJob,
        op: impl FnOnce(StreamId) -> Option<ViewOpRow>,
        start_ns: u64,
    ) -> Result<Accepted, Refused> {
        let at = now();
        // Before all that may have changed since: agents, their versions, room.
        if let Some(earlier) = self.earlier(&new, at).await? {
            let said = fingerprint(meant(&new.submit.agent, &earlier), &new.submit);
            let same = same_or_conflict("idempotency_key", earlier, &said);
            return Ok(same.map(Accepted::again)?);
        }
        let (agent, runner) = self.resolve(&new.submit.agent).await?;
        self.check_running(&new.principal).await?;
        let lease = self.lease(&new, &agent, at)?;
        let max_runtime = (new.submit.max_runtime_sec > 0)
            .then(|| Duration::from_secs(new.submit.max_runtime_sec));
        let deadline = max_runtime.map(|limit| after(at, limit));
        let stream = self.next_stream();
        let hosted = runner.is_hosted().then(|| hosted(stream, deadline));
        let is_hosted = hosted.is_some();
        let (context, via) = (new.trace.clone(), new.via);
        let job = self.job_row(new, stream, (agent, is_hosted), &lease, at);
        let tree = match self.may_delegate(&lease) {
            true => Tree::Root,
            false => Tree::Alone,
        };
        let trace = JobTrace::begin(self.telemetry(), &job, &context);
        let wanted = Wanted {
            budget: lease.budget.clone(),
            tree,
            deadline,
        };
        let credential = self.credential(&job, &lease, wanted, &trace);
        // Whoever was asked for it knows the trace.
        let credential = credential.await.map_err(|failure| Refused {
            failure,
            trace: Some(trace.clone()),
        })?;
        let owner = match self.elsewhere.get() {
            Some(elsewhere) if is_hosted => elsewhere(&job.agent),
            _ => None,
        };
        let making = self.making(stream);
        let command = Command::CreateJob {
            job: Box::new(job.clone()),
            op: op(stream),
            hosted,
            credentials: credential.as_ref().map(Fresh::rows).unwrap_or_default(),
            trace: trace.to_row(self.telemetry()),
            owner,
        };
        let traced = trace.clone();
        let start = move |jobs: &Self, job: &JobRow, credential: Option<Fresh>| Start {
            agent: runner,
            max_runtime,
            deadline,
            grant: jobs.grant(job, lease),
            credential: credential.and_then(Fresh::keep),
            trace: traced,
            _making: making,
        };
        let outcome = match self.log().execute(command).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if owner.is_none() && self.log().is_replicated() {
                    self.start_if_made(job.id, |jobs, job| start(jobs, job, credential));
                }
                return Err(unavailable(error))?;
            }
        };
        match outcome {
            Outcome::Duplicate(row) => {
                let same = same_or_conflict("idempotency_key", *row, &job.fingerprint);
                Ok(same.map(Accepted::again)?)
            }
            Outcome::Stale | Outcome::Dialled(_) => {
                Err(Failure::internal("the job was not stored; try again"))?
            }
            Outcome::Done => {
                let submitted = Submitted {
                    row: &job,
                    hosted: is_hosted,
                    context: &context,
                    via,
                    start_ns,
                };
                self.telemetry().submitted(&trace, &submitted);
                if owner.is_some() {
                    if let Some(fresh) = credential {
                        fresh.leave();
                    }
                    return Ok(Accepted {
                        row: job,
                        duplicate: false,
                        start: None,
                    });
                }
                let start = Some(start(self, &job, credential));
                Ok(Accepted {
                    row: job,
                    duplicate: false,
                    start,
                })
            }
        }
    }

    fn job_row(
        &self,
        new: NewJob,
        stream: StreamId,
        (agent, is_hosted): (String, bool),
        lease: &Lease,
        at: Timestamp,
    ) -> JobRow {
        let key = new.submit.idempotency_key.is_some();
        // Compared only with a key's other submits.
        let fingerprint = key.then(|| fingerprint(&agent, &new.submit));
        let expires_at_ms = at.0 + self.limits().idempotency_ttl.as_millis() as i64;
        JobRow {
            id: id::job_id(),
            stream,
            session_id: new.session_id,
            principal: new.principal,
            agent,
            input_json: new.submit.input_json,
            trace_id: new.trace.trace_id.unwrap_or_else(id::trace_id),
            created_at_ms: at.0,
            status: if is_hosted { "pending" } else { "running" }.into(),
            ended_at_ms: None,
            last_seq: 0,
            end_position: None,
            idempotency_expires_at_ms: key.then_some(expires_at_ms),
            idempotency_key: new.submit.idempotency_key,
            fingerprint: fingerprint.unwrap_or_default(),
            grant: GrantRow {
                lease_json: lease.to_json(),
                expires_at_ms: lease.expires_at.map(|at| at.0),
                ..GrantRow::default()
            },
        }
    }

    /// Of a log that did not answer in time it is not known whether the job is made. Once
    /// it answers again, one that is runs like any other: who submits it again finds it.
    fn start_if_made(
        &self,
        job_id: String,
        start: impl FnOnce(&Self, &JobRow) -> Start + Send + 'static,
    ) {
        let Some(jobs) = self.me.upgrade() else {
            return;
        };
        tokio::spawn(async move {
            match jobs.made_after_all(&job_id).await {
                Ok(Some(row)) => {
                    let start = Some(start(&jobs, &row));
                    jobs.start(Accepted {
                        row,
                        duplicate: false,
                        start,
                    });
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, job_id, "a job was not begun"),
            }
        });
    }

    /// Resolves once the log answers again: the job, if it was made. A replica that is gone
    /// is never answered, and its jobs are another's.
    pub(super) async fn made_after_all(
        &self,
        job_id: &str,
    ) -> Result<Option<JobRow>, crate::log::Error> {
        // Applied behind what was sent before.
        self.log().until_settled().await;
        self.log().job(job_id).await
    }

    /// The job that has this submit's key.
    async fn earlier(&self, new: &NewJob, at: Timestamp) -> Result<Option<JobRow>, Failure> {
        let Some(key) = &new.submit.idempotency_key else {
            return Ok(None);
        };
        let earlier = self.log().job_by_key(&new.principal, key).await;
        let holds = |job: &JobRow| job.idempotency_expires_at_ms.is_some_and(|ms| ms > at.0);
        Ok(earlier.map_err(unavailable)?.filter(holds))
    }

    pub(super) fn making(&self, stream: StreamId) -> Making {
        self.making.lock().insert(stream);
        let all = self.making.clone();
        Making { all, stream }
    }

    pub(super) fn is_making(&self, stream: StreamId) -> bool {
        self.making.lock().contains(&stream)
    }

    /// Starts the agent of a job that was just accepted; nothing for a duplicate.
    pub fn start(&self, accepted: Accepted) {
        let Some(start) = accepted.start else {
            return;
        };
        let context = self.context(accepted.row, Since::default(), start.trace);
        let context = context.with(start.deadline, None);
        let context = context.provided(start.credential).granted(start.grant);
        self.start_job(context, start.agent, start.max_runtime);
    }

    /// What a submit asks for, within what its principal may have.
    fn lease(&self, new: &NewJob, agent: &str, at: Timestamp) -> Result<Lease, Failure> {
        let submit = &new.submit;
        let json = &submit.lease_request_json;
        let asked = Lease::parse(json, submit.lease_expires_at, at).map_err(Failure::invalid)?;
        self.bounded(&new.principal, agent, &asked)
    }
}
