//! The way in to jobs: what all of them share, and who asks for one.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::buffer::Since;
use super::directory::{Agent, AgentDirectory, Resolved};
use super::grant::{Family, Grant};
use super::live::LiveJobs;
use super::{JobContext, Limits, audit, now};
use crate::authority::{Lease, Ledger, Policy};
use crate::credential::Credentials;
use crate::log::{HostedRow, JobRow, Log, ReplicaNumber, StreamId};
use crate::protocol::{AgentRef, ErrorCode, Failure, Outcome, Timestamp, TraceContext};
use crate::telemetry::{JobTrace, Telemetry, Via};

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
    pub(super) elsewhere: OnceLock<Elsewhere>,
    /// In the log, or on their way there, and not running yet.
    pub(super) making: Arc<Mutex<HashSet<StreamId>>>,
    pub(super) me: Weak<Self>,
    telemetry: Telemetry,
}

/// Called with the session and the stream of a delegated job.
type Observer = Box<dyn Fn(&str, StreamId) + Send + Sync>;

/// The replica that should run a job of `name@version`; none for this one.
type Elsewhere = Box<dyn Fn(&str) -> Option<ReplicaNumber> + Send + Sync>;

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

    pub(super) fn start_job(
        &self,
        context: JobContext,
        agent: Arc<dyn Agent>,
        max_runtime: Option<Duration>,
    ) {
        let grace = self.limits.lease_expiry_grace;
        self.live.start(context, agent, max_runtime, grace);
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

pub(super) fn after(at: Timestamp, limit: Duration) -> Timestamp {
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
