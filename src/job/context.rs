//! What an agent sees of its job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::buffer::{Buffer, Encoded, OnDurable, Push, Pushed};
use super::grant::Grant;
use super::{ChunkEncoding, Limits, ResultWriter, now};
use crate::credential::{Credential, Holding, SecretString};
use crate::log::{BlockSource, HostedRow, JobEnd, JobRow, Log, ReportMark, StreamId};
use crate::protocol::event::ROTATED;
use crate::protocol::{Event, EventBody, Failure, Outcome, Timestamp, id};
use crate::wire;

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
    trace_id: String,
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
    /// `next_seq` is the number of the job's next record.
    pub(super) fn new(row: JobRow, next_seq: u64, limits: Limits, log: Log) -> Self {
        let shared = Shared {
            job_id: row.id,
            session_id: row.session_id,
            principal: row.principal,
            agent: row.agent,
            trace_id: row.trace_id,
            input_json: row.input_json,
            deadline: None,
            recovered: None,
            credential: None,
            limits,
            buffer: Arc::new(Buffer::new(row.stream, next_seq)),
            log,
            cancelled: CancellationToken::new(),
            result_started: AtomicBool::new(false),
            grant: None,
            over: CancellationToken::new(),
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
        Self::new(row, 1, Limits::default(), log)
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

    /// Resolves when the job's terminal has been written.
    pub(super) fn over(&self) -> CancellationToken {
        self.shared.over.clone()
    }

    /// Empty for a job that no session submitted.
    pub(super) fn session_id(&self) -> &str {
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

    /// W3C trace context for whoever works on the job.
    pub fn traceparent(&self) -> String {
        id::traceparent(&self.shared.trace_id)
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

    /// Calls back, on the log's thread, when reports are durable.
    pub(crate) fn on_durable(&self, told: Option<OnDurable>) {
        self.shared.buffer.on_durable(told);
    }

    /// 32 hex digits; hand it to whatever the agent calls.
    pub fn trace_id(&self) -> &str {
        &self.shared.trace_id
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

    /// Reports an event. Waits while the job's buffer is full; fails when the
    /// event breaks a rule of its kind, is too large, or the job has ended.
    pub async fn emit(&self, body: EventBody) -> Result<(), Failure> {
        if matches!(body, EventBody::ResultChunk { .. }) {
            return Err(Failure::invalid("result_chunk: use result_writer"));
        }
        if let EventBody::Delegate { .. } = body {
            return self.emit_delegate(body).await;
        }
        let mut batch = Batch::default();
        batch.add(self, Event { ts: now(), body })?;
        self.push(&batch, None).await
    }

    /// An event of the runtime's own.
    pub(super) async fn emit_own(&self, body: EventBody) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.add_own(body);
        self.push(&batch, None).await
    }

    /// Says what changed of its budgets. For who cannot wait: what finds no room
    /// follows when there is some.
    pub(super) fn tell_remaining(&self) {
        if let Pushed::Full = self.try_tell() {
            let job = self.clone();
            tokio::spawn(async move {
                while let Pushed::Full = job.try_tell() {
                    job.shared.buffer.wait_taken().await;
                }
            });
        }
    }

    fn try_tell(&self) -> Pushed {
        let encode = |data: &mut bytes::BytesMut| {
            let news = self.grant().map(|grant| grant.news(self.stream()));
            Encoded {
                records: encode_own(news.unwrap_or_default(), data),
                spent_json: None,
            }
        };
        let pushed = self.shared.buffer.push(Push::default(), encode);
        if let Pushed::Wake = pushed {
            self.shared.log.ready(self.source());
        }
        pushed
    }

    /// The record of an event that keeps the rules of its kind and the limits.
    pub(crate) fn checked(&self, event: Event) -> Result<bytes::BytesMut, Failure> {
        event.body.check().map_err(Failure::invalid)?;
        if matches!(&event.body, EventBody::Status { phase, .. } if phase == ROTATED) {
            let text = "phase: credential_rotated is the runtime's to say";
            return Err(Failure::invalid(text));
        }
        wire::check_event_json(&event.body).map_err(|invalid| Failure::invalid(invalid.message))?;
        let mut record = bytes::BytesMut::new();
        wire::encode_event(event, &mut record);
        let limit = self.shared.limits.event_bytes_max;
        let bytes = wire::json_len(&record, limit);
        if bytes > limit {
            return Err(Failure::invalid(format!(
                "event: {bytes} bytes as JSON, the limit is {limit}; use an artifact or a chunked result"
            )));
        }
        Ok(record)
    }

    /// Starts a result in chunks of at most `chunk_bytes` decoded bytes. A job has one.
    pub fn result_writer(
        &self,
        encoding: ChunkEncoding,
        chunk_bytes: usize,
    ) -> Result<ResultWriter, Failure> {
        if self.shared.result_started.swap(true, Ordering::Relaxed) {
            return Err(Failure::invalid(
                "result_chunk: a job has one chunked result",
            ));
        }
        let result_bytes_max = self.shared.limits.result_bytes_max;
        Ok(ResultWriter::new(
            self.clone(),
            encoding,
            chunk_bytes,
            result_bytes_max,
        ))
    }

    /// Pushes encoded records, all in one block; waits while the buffer is full.
    pub(crate) async fn push(
        &self,
        batch: &Batch,
        mark: Option<ReportMark>,
    ) -> Result<(), Failure> {
        loop {
            match self.try_push(batch, mark.clone()) {
                Pushed::Wake | Pushed::Queued => return Ok(()),
                Pushed::Full => self.shared.buffer.wait_taken().await,
                Pushed::Closed => return Err(Failure::invalid("event: the job has ended")),
            }
        }
    }

    fn try_push(&self, batch: &Batch, mark: Option<ReportMark>) -> Pushed {
        let push = Push { mark, end: None };
        let pushed = self
            .shared
            .buffer
            .push(push, |data| self.encode(batch, data));
        if let Pushed::Wake = pushed {
            self.shared.log.ready(self.source());
        }
        if let (Pushed::Wake | Pushed::Queued, Some(grant)) = (&pushed, &self.shared.grant)
            && !batch.costs.is_empty()
        {
            grant.family.tell_above(self.stream());
        }
        pushed
    }

    /// Counts what the records cost in the order they are written, so that the last
    /// sum of a block is what its records add up to.
    fn encode(&self, batch: &Batch, data: &mut bytes::BytesMut) -> Encoded {
        data.extend_from_slice(&batch.data);
        let mut encoded = Encoded {
            records: batch.records,
            spent_json: None,
        };
        if let (Some(grant), false) = (&self.shared.grant, batch.costs.is_empty()) {
            let (left, spent_json) = grant.charge(self.stream(), &batch.costs);
            encoded.records += encode_own(left, data);
            encoded.spent_json = Some(spent_json);
        }
        encoded
    }

    pub async fn log(&self, level: &str, message: impl Into<String>) -> Result<(), Failure> {
        let body = EventBody::Log {
            level: level.into(),
            message: message.into(),
            attributes_json: None,
        };
        self.emit(body).await
    }

    pub async fn progress(&self, current: f64, total: Option<f64>) -> Result<(), Failure> {
        self.emit(EventBody::Progress {
            current,
            total,
            units: None,
            message: None,
        })
        .await
    }

    /// Writes the terminal. The first one stands; later ones are dropped.
    pub(super) fn end(&self, outcome: Outcome) {
        self.push_end(&Batch::default(), outcome, None);
    }

    /// The same as the last report of an activation, with the records before it in
    /// one block. False when the job was over.
    pub(crate) fn end_with(&self, batch: &Batch, outcome: Outcome, mark: ReportMark) -> bool {
        self.push_end(batch, outcome, Some(mark))
    }

    fn push_end(&self, batch: &Batch, outcome: Outcome, mark: Option<ReportMark>) -> bool {
        let at = now();
        let end = JobEnd {
            status: outcome.status().into(),
            ended_at_ms: at.0,
        };
        let encode = |data: &mut bytes::BytesMut| {
            let encoded = self.encode(batch, data);
            wire::encode_outcome(outcome, at, data);
            Encoded {
                records: encoded.records + 1,
                ..encoded
            }
        };
        let push = Push {
            end: Some(end),
            mark,
        };
        match self.shared.buffer.push(push, encode) {
            Pushed::Wake => self.shared.log.ready(self.source()),
            Pushed::Queued => {}
            Pushed::Full | Pushed::Closed => return false,
        }
        if let Some(grant) = &self.shared.grant {
            grant.end(self.stream());
        }
        self.shared.over.cancel();
        true
    }

    fn source(&self) -> Arc<dyn BlockSource> {
        self.shared.buffer.clone()
    }
}

/// Returns how many there were.
fn encode_own(bodies: Vec<EventBody>, data: &mut bytes::BytesMut) -> u32 {
    let count = bodies.len() as u32;
    for body in bodies {
        wire::encode_event(Event { ts: now(), body }, data);
    }
    count
}
