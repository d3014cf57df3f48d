//! The way in to jobs: submit, start, cancel, recover.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::directory::{Agent, AgentDirectory};
use super::live::LiveJobs;
use super::{JobContext, Limits, now};
use crate::log::{Command, HostedRow, JobRow, Log, Outcome as LogOutcome, StreamId, ViewOpRow};
use crate::protocol::message::Submit;
use crate::protocol::{Failure, Outcome, Timestamp, id};

/// Shared by all sessions.
pub struct Jobs {
    log: Log,
    agents: AgentDirectory,
    limits: Limits,
    next_stream: AtomicI64,
    live: Arc<LiveJobs>,
}

/// A submit whose sender is known.
pub struct NewJob {
    /// Empty without a session.
    pub session_id: String,
    pub principal: String,
    pub trace_id: Option<String>,
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
}

impl Jobs {
    /// `log` must be open; streams are numbered after the highest it knows.
    pub fn new(
        log: Log,
        agents: AgentDirectory,
        limits: Limits,
        last_stream: StreamId,
    ) -> Arc<Self> {
        Arc::new(Self {
            log,
            agents,
            next_stream: AtomicI64::new(last_stream + 1),
            live: LiveJobs::new(limits.cancel_grace),
            limits,
        })
    }

    pub fn agents(&self) -> &AgentDirectory {
        &self.agents
    }

    pub fn next_stream(&self) -> StreamId {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes a job durable. It runs only once [`Jobs::start`] is called, so the
    /// submitter can be watching before its first event. `op` says how the job
    /// enters the submitting session's view, if there is one.
    pub async fn submit(
        &self,
        new: NewJob,
        op: impl FnOnce(StreamId) -> Option<ViewOpRow>,
    ) -> Result<Accepted, Failure> {
        refuse_unbuilt(&new.submit)?;
        let at = now();
        // Before all that may have changed since: agents, their versions, room.
        if let Some(earlier) = self.earlier(&new, at).await? {
            let said = fingerprint(meant(&new.submit.agent, &earlier), &new.submit);
            return same_or_conflict(earlier, &said);
        }
        let (agent, runner) = self.agents.resolve(&new.submit.agent)?;
        self.check_running(&new.principal)?;
        let stream = self.next_stream();
        let fingerprint = match &new.submit.idempotency_key {
            Some(_) => fingerprint(&agent, &new.submit),
            // Compared only with a key's other submits.
            None => Vec::new(),
        };
        let max_runtime = (new.submit.max_runtime_sec > 0)
            .then(|| Duration::from_secs(new.submit.max_runtime_sec));
        let deadline = max_runtime.map(|limit| after(at, limit));
        let hosted = runner.is_hosted().then(|| HostedRow {
            stream,
            deadline_ms: deadline.map(|at| at.0),
            ..HostedRow::default()
        });
        let status = if hosted.is_some() {
            "pending"
        } else {
            "running"
        };
        let expires_at_ms = at.0 + self.limits.idempotency_ttl.as_millis() as i64;
        let job = JobRow {
            id: id::job_id(),
            stream,
            session_id: new.session_id,
            principal: new.principal,
            agent,
            input_json: new.submit.input_json,
            trace_id: new.trace_id.unwrap_or_else(id::trace_id),
            created_at_ms: at.0,
            status: status.into(),
            ended_at_ms: None,
            last_seq: 0,
            end_position: None,
            idempotency_expires_at_ms: new
                .submit
                .idempotency_key
                .is_some()
                .then_some(expires_at_ms),
            idempotency_key: new.submit.idempotency_key,
            fingerprint: fingerprint.clone(),
        };
        let command = Command::CreateJob {
            job: Box::new(job.clone()),
            op: op(stream),
            hosted,
        };
        match self.log.execute(command).await.map_err(unavailable)? {
            LogOutcome::Duplicate(row) => same_or_conflict(*row, &fingerprint),
            LogOutcome::Stale => Err(Failure::internal("the job was not stored; try again")),
            LogOutcome::Done => {
                let start = Some(Start {
                    agent: runner,
                    max_runtime,
                    deadline,
                });
                Ok(Accepted {
                    row: job,
                    duplicate: false,
                    start,
                })
            }
        }
    }

    /// The job that has this submit's key.
    async fn earlier(&self, new: &NewJob, at: Timestamp) -> Result<Option<JobRow>, Failure> {
        let Some(key) = &new.submit.idempotency_key else {
            return Ok(None);
        };
        let earlier = self.log.job_by_key(&new.principal, key).await;
        let holds = |job: &JobRow| job.idempotency_expires_at_ms.is_some_and(|ms| ms > at.0);
        Ok(earlier.map_err(unavailable)?.filter(holds))
    }

    /// Starts the agent of a job that was just accepted; nothing for a duplicate.
    pub fn start(&self, accepted: Accepted) {
        let Some(start) = accepted.start else {
            return;
        };
        let context = self.context(accepted.row, 0).with(start.deadline, None);
        self.live.start(context, start.agent, start.max_runtime);
    }

    fn context(&self, row: JobRow, last_seq: u64) -> JobContext {
        JobContext::new(row, last_seq + 1, self.limits.clone(), self.log.clone())
    }

    /// Asks a live job to stop. True when it was live; authority is the caller's to check
    /// against the job's row.
    pub fn cancel(&self, job_id: &str) -> bool {
        self.live.cancel(job_id)
    }

    /// Ends what a crash left running, but for what hosts may still work on: that
    /// is taken up again. No job stays `running` for ever. Returns how many it ended.
    pub async fn recover(&self) -> Result<usize, crate::log::Error> {
        let hosted = self.log.hosted_jobs().await?;
        let mut hosted: HashMap<_, _> = hosted.into_iter().map(|row| (row.stream, row)).collect();
        let mut ended = 0;
        for row in self.log.unfinished_jobs().await? {
            let last_seq = self.log.seq_at(row.stream, self.log.committed()).await?;
            let agent = self.agents.recover(&row.agent);
            match (hosted.remove(&row.stream), agent) {
                (Some(hosted), Some(agent)) => self.take_up(row, last_seq, hosted, agent),
                _ => {
                    let text = "the runtime was restarted while the job ran; submit it again";
                    let context = self.context(row, last_seq);
                    context.end(Outcome::Failed(Failure::internal(text)));
                    ended += 1;
                }
            }
        }
        Ok(ended)
    }

    fn take_up(&self, row: JobRow, last_seq: u64, hosted: HostedRow, agent: Arc<dyn Agent>) {
        let deadline = hosted.deadline_ms.map(Timestamp);
        let left = deadline.map(|at| {
            let ms = at.0.saturating_sub(now().0);
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        });
        let (job_id, cancelled) = (row.id.clone(), hosted.cancelled);
        let context = self.context(row, last_seq).with(deadline, Some(hosted));
        self.live.start(context, agent, left);
        if cancelled {
            self.live.cancel(&job_id);
        }
    }

    fn check_running(&self, principal: &str) -> Result<(), Failure> {
        let limit = self.limits.running_per_principal_max;
        if self.live.count_of(principal) < limit {
            return Ok(());
        }
        Err(Failure::internal(format!(
            "job.submit: this principal runs {limit} jobs, which is the limit; try again when some have ended"
        )))
    }

    /// Jobs that run now.
    pub fn running(&self) -> usize {
        self.live.count()
    }
}

/// A bare agent name means the version that it meant when the job was made.
fn meant<'a>(agent: &'a str, earlier: &'a JobRow) -> &'a str {
    match earlier.agent.split_once('@') {
        Some((name, _)) if name == agent => &earlier.agent,
        _ => agent,
    }
}

/// The job of an earlier submit with the same key, if that said the same.
fn same_or_conflict(row: JobRow, said: &[u8]) -> Result<Accepted, Failure> {
    if row.fingerprint != said {
        return Err(Failure::new(
            crate::protocol::ErrorCode::DuplicateKey,
            "idempotency_key: used before with other parameters; choose a new key",
        ));
    }
    Ok(Accepted {
        row,
        duplicate: true,
        start: None,
    })
}

/// Leases are enforced or refused, never accepted and ignored.
fn refuse_unbuilt(submit: &Submit) -> Result<(), Failure> {
    let lease: serde_json::Value =
        serde_json::from_str(&submit.lease_request_json).unwrap_or_default();
    match lease.as_object() {
        None => Err(Failure::invalid("lease_request: must be an object")),
        Some(lease) if !lease.is_empty() => Err(Failure::invalid(
            "lease_request: this version grants no leases; leave it out",
        )),
        Some(_) if submit.lease_expires_at.is_some() => Err(Failure::invalid(
            "lease_constraints: this version grants no leases; leave it out",
        )),
        Some(_) => Ok(()),
    }
}

fn after(at: Timestamp, limit: Duration) -> Timestamp {
    // google.protobuf.Timestamp has no later one, and libraries refuse to read it.
    const LAST_MS: i64 = 253_402_300_799_999;
    let ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_add(ms).min(LAST_MS))
}

/// Of a submit with a key. Equal for equal parameters, however the JSON was written.
fn fingerprint(agent: &str, submit: &Submit) -> Vec<u8> {
    // serde_json's map is ordered by key, so this is the canonical form.
    let input: serde_json::Value = serde_json::from_str(&submit.input_json).unwrap_or_default();
    let canonical = serde_json::json!([agent, input, submit.max_runtime_sec]);
    Sha256::digest(canonical.to_string()).to_vec()
}

fn unavailable(error: crate::log::Error) -> Failure {
    tracing::error!(%error, "the store refused a submit");
    Failure::internal("the store is not available; try again")
}

/// When a job row was created, as the wire has it.
impl JobRow {
    pub fn created_at(&self) -> Timestamp {
        Timestamp(self.created_at_ms)
    }
}
