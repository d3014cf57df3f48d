//! What an agent sees of its job.

mod reporting;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::buffer::{Buffer, OnReported, Since};
use super::grant::Grant;
use super::places::{Place, Places};
use super::{Limits, now};
use crate::credential::{Credential, Holding, SecretString};
use crate::log::{HostedRow, JobRow, Log, StreamId};
use crate::protocol::Timestamp;
use crate::telemetry::{JobTrace, Telemetry};

/// Handed to an agent for one job; cheap to clone.
#[derive(Clone)]
pub struct JobContext {
    shared: Arc<Shared>,
}

struct Shared {
    job_id: String,
    session_id: String,
    principal: String,
    agent: String,
    input_json: String,
    deadline: Option<Timestamp>,
    /// What an earlier run of the runtime left of it.
    recovered: Option<HostedRow>,
    credential: Option<Holding>,
    limits: Limits,
    buffer: Arc<Buffer>,
    log: Log,
    cancelled: CancellationToken,
    result_started: AtomicBool,
    grant: Option<Grant>,
    /// Its terminal has been written.
    over: CancellationToken,
    /// Another replica has it.
    elsewhere: AtomicBool,
    created_at: Timestamp,
    /// Left when the terminal is written, before anybody can read it.
    place: Mutex<Option<Place>>,
    /// Something has been reported.
    begun: AtomicBool,
    /// No host has accepted it.
    pending: AtomicBool,
    /// Its agent has been called.
    called: Notify,
    trace: Arc<JobTrace>,
    telemetry: Telemetry,
}

/// Does not keep the job.
#[derive(Clone)]
pub(super) struct WeakJob(Weak<Shared>);

impl WeakJob {
    pub fn upgrade(&self) -> Option<JobContext> {
        self.0.upgrade().map(|shared| JobContext { shared })
    }
}

impl JobContext {
    pub(super) fn new(
        row: JobRow,
        since: Since,
        limits: Limits,
        log: Log,
        (trace, telemetry): (Arc<JobTrace>, Telemetry),
    ) -> Self {
        let shared = Shared {
            job_id: row.id,
            session_id: row.session_id,
            principal: row.principal,
            agent: row.agent,
            input_json: row.input_json,
            deadline: None,
            recovered: None,
            credential: None,
            limits,
            buffer: Arc::new(Buffer::new(row.stream, since)),
            log,
            cancelled: CancellationToken::new(),
            result_started: AtomicBool::new(false),
            grant: None,
            over: CancellationToken::new(),
            elsewhere: AtomicBool::new(false),
            place: Mutex::default(),
            created_at: Timestamp(row.created_at_ms),
            begun: AtomicBool::new(since.last_seq > 0),
            pending: AtomicBool::new(row.status == "pending"),
            called: Notify::new(),
            trace,
            telemetry,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(log: Log) -> Self {
        let row = JobRow {
            id: "job_1".into(),
            stream: 1,
            session_id: String::new(),
            principal: "alice".into(),
            agent: "a@1.0.0".into(),
            input_json: "null".into(),
            trace_id: "t".into(),
            created_at_ms: 0,
            status: "pending".into(),
            ended_at_ms: None,
            last_seq: 0,
            end_position: None,
            idempotency_key: None,
            fingerprint: Vec::new(),
            idempotency_expires_at_ms: None,
            grant: crate::log::GrantRow::default(),
        };
        let telemetry = Telemetry::default();
        let trace = JobTrace::stored(&telemetry, &row, None);
        Self::new(
            row,
            Since::default(),
            Limits::default(),
            log,
            (trace, telemetry),
        )
    }

    /// Before the context is shared.
    pub(super) fn with(
        mut self,
        deadline: Option<Timestamp>,
        recovered: Option<HostedRow>,
    ) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            (shared.deadline, shared.recovered) = (deadline, recovered);
        }
        self
    }

    /// Before the context is shared.
    pub(super) fn granted(mut self, grant: Option<Grant>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.grant = grant;
        }
        if let Some(grant) = &self.shared.grant {
            grant.family.join(&self);
        }
        self
    }

    pub(super) fn downgrade(&self) -> WeakJob {
        WeakJob(Arc::downgrade(&self.shared))
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        self.shared.grant.as_ref()
    }

    /// Whether it is still to be told that this job has delegated that child.
    pub(super) fn is_to_say(&self, child: StreamId) -> bool {
        self.grant()
            .is_none_or(|grant| grant.family.is_to_say(child))
    }

    /// Once for each job, when it starts to run.
    pub(super) fn take_place(&self, places: &Arc<Places>) {
        *self.shared.place.lock() = Some(places.take(self.principal()));
    }

    /// Nothing is taken of it any more.
    pub(super) fn let_go(&self) {
        self.shared.elsewhere.store(true, Ordering::Release);
        self.shared.buffer.let_go();
        drop(self.shared.place.lock().take());
        self.shared.over.cancel();
    }

    /// Whether another replica has it, to which its host has gone.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.shared.elsewhere.load(Ordering::Acquire)
    }

    /// Its agent has done what it does before it first waits.
    pub(super) fn set_called(&self) {
        self.shared.called.notify_one();
    }

    /// Resolves once that is so, or the job is over. For one waiter.
    pub(super) async fn called(&self) {
        tokio::select! {
            () = self.shared.called.notified() => {}
            () = self.shared.over.cancelled() => {}
        }
    }

    /// Resolves when the job's terminal has been written.
    pub(super) fn over(&self) -> CancellationToken {
        self.shared.over.clone()
    }

    /// Empty for a job that no session submitted.
    pub fn session_id(&self) -> &str {
        &self.shared.session_id
    }

    pub fn job_id(&self) -> &str {
        &self.shared.job_id
    }

    /// Who submitted it.
    pub fn principal(&self) -> &str {
        &self.shared.principal
    }

    /// `name@version`.
    pub fn agent(&self) -> &str {
        &self.shared.agent
    }

    /// W3C trace context for whoever works on the job: a child of its run.
    pub fn traceparent(&self) -> String {
        self.shared.trace.traceparent()
    }

    /// What the submitter gave for whoever works on the job; may be empty.
    pub fn tracestate(&self) -> &str {
        &self.shared.trace.tracestate
    }

    /// As [`JobContext::tracestate`].
    pub fn baggage(&self) -> &str {
        &self.shared.trace.baggage
    }

    /// A host has it, for the first time or again.
    pub(crate) fn running_on_host(&self, attempt: u32, since_ns: u64) {
        let shared = &*self.shared;
        shared.pending.store(false, Ordering::Relaxed);
        if attempt == 1 && shared.recovered.is_none() {
            let queued_ms = now().0 - shared.created_at.0;
            shared.telemetry.metrics.queued(queued_ms);
        }
        shared
            .telemetry
            .running(&shared.trace, self.stream(), since_ns);
    }

    pub fn created_at(&self) -> Timestamp {
        self.shared.created_at
    }

    /// `pending` while it waits for a host.
    pub fn status(&self) -> &'static str {
        match self.shared.pending.load(Ordering::Relaxed) {
            true => "pending",
            false => "running",
        }
    }

    pub(crate) fn trace(&self) -> &JobTrace {
        &self.shared.trace
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// When the runtime ends the job, if it has a limit.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.shared.deadline
    }

    /// What the job was given for services that cost money (§9.8), as it is now: one
    /// that ends before the job does is replaced. Not for logs.
    pub fn credentials(&self) -> Vec<Credential> {
        let held = self.shared.credential.as_ref();
        let held = held.and_then(|holding| holding.borrow().clone());
        held.iter().map(|held| held.credential.clone()).collect()
    }

    /// The same as the JSON of `job.accepted`; none for a job that gets none.
    pub(crate) fn credentials_json(&self) -> Option<SecretString> {
        self.shared.credential.as_ref()?;
        let all: Vec<_> = self.credentials().iter().map(Credential::to_json).collect();
        Some(serde_json::Value::from(all).to_string().into())
    }

    /// A view of its own on the credentials, which are others after each change.
    pub(crate) fn holding(&self) -> Option<Holding> {
        self.shared.credential.clone()
    }

    /// Before [`Self::granted`], which shares the context.
    pub(super) fn provided(mut self, credential: Option<Holding>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.credential = credential;
        }
        self
    }

    pub(crate) fn stream(&self) -> StreamId {
        self.shared.buffer.stream()
    }

    pub(crate) fn log_of_jobs(&self) -> &Log {
        &self.shared.log
    }

    pub(crate) fn recovered(&self) -> Option<&HostedRow> {
        self.shared.recovered.as_ref()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Calls back when reports are durable, on the log's thread, or will not be.
    pub(crate) fn on_reported(&self, told: Option<OnReported>) {
        self.shared.buffer.on_reported(told);
    }

    /// 32 hex digits; hand it to whatever the agent calls.
    pub fn trace_id(&self) -> &str {
        &self.shared.trace.trace_id
    }

    /// The input as JSON text.
    pub fn input_json(&self) -> &str {
        &self.shared.input_json
    }

    /// Resolves when the job is to stop; it is ended for the agent after a grace.
    pub async fn cancelled(&self) {
        self.shared.cancelled.cancelled().await;
    }

    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.is_cancelled()
    }

    pub(super) fn cancel(&self) {
        self.shared.cancelled.cancel();
    }
}
