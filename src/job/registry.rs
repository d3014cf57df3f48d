//! The way in to jobs: submit, start, cancel, recover.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::buffer::Since;
use super::credentials::Wanted;
use super::directory::{Agent, AgentDirectory, Resolved};
use super::grant::{Family, Grant};
use super::idempotency::{fingerprint, meant, same_or_conflict};
use super::live::LiveJobs;
use super::{JobContext, Limits, audit, now};
use crate::authority::{Lease, Ledger, Policy};
use crate::credential::{Credentials, Fresh, Holding, Tree};
use crate::log::{
    Command, GrantRow, HostedRow, JobRow, Log, Outcome as LogOutcome, ReplicaNumber, StreamId,
    ViewOpRow,
};
use crate::protocol::message::Submit;
use crate::protocol::{AgentRef, ErrorCode, Failure, Outcome, Timestamp, TraceContext, id};
use crate::telemetry::{self, JobTrace, Submitted, Telemetry, Via};

/// How often a log that does not answer is asked what it made.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Shared by all sessions.
pub struct Jobs {
    log: Log,
    agents: AgentDirectory,
    limits: Limits,
    next_stream: AtomicI64,
    pub(super) live: Arc<LiveJobs>,
    pub(super) policy: Policy,
    pub(super) credentials: Option<Arc<Credentials>>,
    /// Told of each job that another one delegated.
    observer: OnceLock<Observer>,
    /// Who else may run a job, where there are several replicas.
    elsewhere: OnceLock<Elsewhere>,
    /// In the log, or on their way there, and not running yet.
    making: Arc<Mutex<HashSet<StreamId>>>,
    pub(super) me: Weak<Self>,
    telemetry: Telemetry,
}

/// Called with the session and the stream of a delegated job.
type Observer = Box<dyn Fn(&str, StreamId) + Send + Sync>;

/// The replica that should run a job of `name@version`; none for this one.
type Elsewhere = Box<dyn Fn(&str) -> Option<ReplicaNumber> + Send + Sync>;

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
    /// `log` must be open; streams are numbered after the highest it knows.
    pub fn new(
        log: Log,
        agents: AgentDirectory,
        limits: Limits,
        policy: Policy,
        credentials: Option<Arc<Credentials>>,
        last_stream: StreamId,
        telemetry: Telemetry,
    ) -> Arc<Self> {
        telemetry.metrics.reserve(agents.pinned());
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            policy,
            credentials,
            observer: OnceLock::new(),
            elsewhere: OnceLock::new(),
            making: Arc::default(),
            log,
            agents,
            next_stream: AtomicI64::new(last_stream + 1),
            live: LiveJobs::new(limits.cancel_grace),
            limits,
            telemetry,
        })
    }

    pub fn agents(&self) -> &AgentDirectory {
        &self.agents
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who is to hear of delegated jobs; the first one set stays.
    pub fn on_delegated(&self, observer: impl Fn(&str, StreamId) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    /// Who chooses where new jobs of hosts run; the first one set stays.
    pub fn place_by(
        &self,
        elsewhere: impl Fn(&str) -> Option<ReplicaNumber> + Send + Sync + 'static,
    ) {
        let _ = self.elsewhere.set(Box::new(elsewhere));
    }

    pub(super) fn observe(&self, session_id: &str, stream: StreamId) {
        if let (Some(observer), false) = (self.observer.get(), session_id.is_empty()) {
            observer(session_id, stream);
        }
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
        let start_ns = telemetry::now_ns();
        let said = self.telemetry.is_on().then(|| (new.trace.clone(), new.via));
        let submitted = self.make(new, op, start_ns).await;
        match &submitted {
            Ok(accepted) if accepted.duplicate => {}
            Ok(accepted) => self.telemetry.metrics.submitted(&accepted.row.agent),
            Err(refused) => self.telemetry.metrics.refused(refused.failure.code),
        }
        if let Some((trace, via)) = said {
            let told = match &submitted {
                Ok(accepted) if accepted.duplicate => Some((Ok(&accepted.row), None)),
                Ok(_) => None,
                Err(refused) => Some((Err(refused.failure.code), refused.trace.as_deref())),
            };
            if let Some((ended, own)) = told {
                let telemetry = &self.telemetry;
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
        let stream = self.next_stream();
        let fingerprint = match &new.submit.idempotency_key {
            Some(_) => fingerprint(&agent, &new.submit),
            // Compared only with a key's other submits.
            None => Vec::new(),
        };
        let max_runtime = (new.submit.max_runtime_sec > 0)
            .then(|| Duration::from_secs(new.submit.max_runtime_sec));
        let deadline = max_runtime.map(|limit| after(at, limit));
        let hosted = runner.is_hosted().then(|| hosted(stream, deadline));
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
            trace_id: new.trace.trace_id.clone().unwrap_or_else(id::trace_id),
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
            grant: GrantRow {
                lease_json: lease.to_json(),
                expires_at_ms: lease.expires_at.map(|at| at.0),
                ..GrantRow::default()
            },
        };
        let tree = match self.may_delegate(&lease) {
            true => Tree::Root,
            false => Tree::Alone,
        };
        let trace = JobTrace::begin(&self.telemetry, &job, &new.trace);
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
        let is_hosted = hosted.is_some();
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
            trace: trace.to_row(&self.telemetry),
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
        let outcome = match self.log.execute(command).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if owner.is_none() && self.log.is_replicated() {
                    self.start_if_made(job.id, |jobs, job| start(jobs, job, credential));
                }
                return Err(unavailable(error))?;
            }
        };
        match outcome {
            LogOutcome::Duplicate(row) => {
                let same = same_or_conflict("idempotency_key", *row, &fingerprint);
                Ok(same.map(Accepted::again)?)
            }
            LogOutcome::Stale => Err(Failure::internal("the job was not stored; try again"))?,
            LogOutcome::Done => {
                let submitted = Submitted {
                    row: &job,
                    hosted: is_hosted,
                    context: &new.trace,
                    via: new.via,
                    start_ns,
                };
                self.telemetry.submitted(&trace, &submitted);
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
        while self.log.settled().await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.log.job(job_id).await
    }

    /// The pinned agent. One that is not known here may have been registered at another
    /// replica a moment ago.
    pub(super) async fn resolve(&self, text: &str) -> Resolved {
        let found = self.agents.resolve(text);
        let unknown = found.as_ref().is_err_and(|failure| {
            matches!(
                failure.code,
                ErrorCode::AgentNotAvailable | ErrorCode::AgentVersionNotAvailable
            )
        });
        if !unknown || !self.log.is_replicated() {
            return found;
        }
        self.log.caught_up().await.map_err(unavailable)?;
        let known = self.log.hosted_agents().await.map_err(unavailable)?;
        self.agents.remember(&known);
        self.agents.resolve(text)
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

    pub(super) fn making(&self, stream: StreamId) -> Making {
        self.making.lock().insert(stream);
        let all = self.making.clone();
        Making { all, stream }
    }

    pub(super) fn is_making(&self, stream: StreamId) -> bool {
        self.making.lock().contains(&stream)
    }

    /// Another replica has it: it runs on, and nothing that is said of it here counts.
    pub fn let_go(&self, job_id: &str) {
        let Some(context) = self.live.let_go(job_id) else {
            return;
        };
        let parent = context.parent_id().and_then(|id| self.live_context(id));
        if let Some(parent) = parent {
            self.follow_child(&parent, job_id.into(), context.stream());
        }
        for child in self.live.children(job_id) {
            if let Some(child) = self.live_context(&child) {
                self.follow_parent(&child);
            }
        }
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

    pub(super) fn start_job(
        &self,
        context: JobContext,
        agent: Arc<dyn Agent>,
        max_runtime: Option<Duration>,
    ) {
        let grace = self.limits.lease_expiry_grace;
        self.live.start(context, agent, max_runtime, grace);
    }

    /// What a submit asks for, within what its principal may have.
    fn lease(&self, new: &NewJob, agent: &str, at: Timestamp) -> Result<Lease, Failure> {
        let submit = &new.submit;
        let json = &submit.lease_request_json;
        let asked = Lease::parse(json, submit.lease_expires_at, at).map_err(Failure::invalid)?;
        self.bounded(&new.principal, agent, &asked)
    }

    /// The part of a lease that policy grants.
    pub(super) fn bounded(
        &self,
        principal: &str,
        agent: &str,
        asked: &Lease,
    ) -> Result<Lease, Failure> {
        let wanted = AgentRef::parse(agent).map_err(Failure::invalid)?;
        let effective = self.policy.effective(principal, &wanted, asked, now());
        let effective = effective
            .map_err(|why| Failure::new(ErrorCode::PermissionDenied, format!("policy: {why}")));
        // Who asks for nothing and gets it is no news.
        if *asked != Lease::default() || effective.is_err() {
            let granted = effective.as_ref().map(Lease::to_json);
            let asked = asked.to_json();
            let (lines, decided) = (&self.telemetry.lines, granted.as_deref());
            audit::bounded(lines, principal, agent, &asked, decided.map_err(|f| *f));
            if let Ok(granted) = &granted {
                // It is stored, and has to be read again after a restart.
                Lease::parse(granted, None, now()).map_err(|why| {
                    let form = match *granted == asked {
                        true => "in its canonical form",
                        false => "what policy leaves of it",
                    };
                    Failure::invalid(format!("lease_request: {form}: {why}"))
                })?;
            }
        }
        effective
    }

    /// A job without a lease has no authority to keep.
    pub(super) fn grant(&self, root: &JobRow, lease: Lease) -> Option<Grant> {
        if lease == Lease::default() && self.policy.model_use_default == Default::default() {
            return None;
        }
        let ledger = Ledger::open(root.stream, lease.budget.clone());
        let family = Family::new(ledger, root, &lease);
        Some(self.grant_in(family, lease, 0, None))
    }

    pub(super) fn grant_in(
        &self,
        family: Arc<Family>,
        lease: Lease,
        depth: u32,
        parent_id: Option<String>,
    ) -> Grant {
        Grant {
            lease,
            models: self.policy.model_use_default,
            family,
            jobs: self.me.clone(),
            depth,
            parent_id,
            is_apart: false,
            delegating: Default::default(),
        }
    }

    pub(super) fn context(&self, row: JobRow, since: Since, trace: Arc<JobTrace>) -> JobContext {
        let telemetry = (trace, self.telemetry.clone());
        JobContext::new(row, since, self.limits.clone(), self.log.clone(), telemetry)
    }

    /// Asks a live job to stop. True when it was live; authority is the caller's to check
    /// against the job's row.
    pub fn cancel(&self, job_id: &str, asked: &TraceContext, via: Via) -> bool {
        let Some(job) = self.live.context(job_id) else {
            return false;
        };
        self.telemetry.cancelled(job.trace(), asked, via);
        self.live.cancel(job_id)
    }

    /// As [`Jobs::cancel`], of a job whose cancel was asked for before.
    pub(super) fn cancel_again(&self, job_id: &str) {
        self.live.cancel(job_id);
    }

    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Whether a principal may run one more, of those in the whole cell: by what is in the
    /// log, so that those on their way at the same moment are let in.
    pub(super) async fn check_running(&self, principal: &str) -> Result<(), Failure> {
        let limit = self.limits.running_per_principal_max;
        let count = || match self.log.is_replicated() {
            true => self.log.running_of(principal),
            false => self.live.count_of(principal),
        };
        if count() < limit {
            return Ok(());
        }
        // One that has ended elsewhere may not be known here yet.
        self.log.caught_up().await.map_err(unavailable)?;
        if count() < limit {
            return Ok(());
        }
        Err(Failure::internal(format!(
            "job.submit: this principal runs {limit} jobs, which is the limit; try again when some have ended"
        )))
    }

    /// How an ended job ended.
    pub(super) async fn outcome(&self, row: &JobRow) -> Result<Option<Outcome>, Failure> {
        let terminal = self.log.terminal(row).await.map_err(unavailable)?;
        Ok(terminal.and_then(|record| crate::wire::decode_outcome(&record)))
    }

    pub(super) fn live_context(&self, job_id: &str) -> Option<JobContext> {
        self.live.context(job_id)
    }

    /// Ends a job that runs; one that is over stays as it is.
    pub(super) fn end_job(&self, job_id: &str, outcome: Outcome) {
        self.live.end(job_id, outcome);
    }

    pub(super) fn children_of(&self, job_id: &str) -> usize {
        self.live.children_of(job_id)
    }

    /// Those that are not over.
    pub fn live(&self) -> Vec<JobContext> {
        self.live.all()
    }

    /// The principal with most of those in the cell, how many, and the limit of each.
    pub fn most_running(&self) -> (Option<(String, usize)>, usize) {
        let most = match self.log.is_replicated() {
            true => self.log.most_running(),
            false => self.live.most(),
        };
        (most, self.limits.running_per_principal_max)
    }

    /// Jobs that run now.
    pub fn running(&self) -> usize {
        self.live.count()
    }
}

/// What a new job of an agent host starts from.
pub(super) fn hosted(stream: StreamId, deadline: Option<Timestamp>) -> HostedRow {
    HostedRow {
        stream,
        deadline_ms: deadline.map(|at| at.0),
        ..HostedRow::default()
    }
}

fn after(at: Timestamp, limit: Duration) -> Timestamp {
    // google.protobuf.Timestamp has no later one, and libraries refuse to read it.
    const LAST_MS: i64 = 253_402_300_799_999;
    let ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    Timestamp(at.0.saturating_add(ms).min(LAST_MS))
}

pub(super) fn unavailable(error: crate::log::Error) -> Failure {
    tracing::error!(%error, "the store refused a submit");
    Failure::internal("the store is not available; try again")
}

/// When a job row was created, as the wire has it.
impl JobRow {
    pub fn created_at(&self) -> Timestamp {
        Timestamp(self.created_at_ms)
    }
}
