//! What an agent sees of its job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::buffer::{Buffer, OnDurable, Push, Pushed};
use super::{ChunkEncoding, Limits, ResultWriter, now};
use crate::log::{BlockSource, HostedRow, JobEnd, JobRow, Log, ReportMark, StreamId};
use crate::protocol::{Event, EventBody, Failure, Outcome, Timestamp};
use crate::wire;

/// Handed to an agent for one job; cheap to clone.
#[derive(Clone)]
pub struct JobContext {
    shared: Arc<Shared>,
}

struct Shared {
    job_id: String,
    principal: String,
    agent: String,
    trace_id: String,
    input_json: String,
    deadline: Option<Timestamp>,
    /// What an earlier run of the runtime left of it.
    recovered: Option<HostedRow>,
    limits: Limits,
    buffer: Arc<Buffer>,
    log: Log,
    cancelled: CancellationToken,
    result_started: AtomicBool,
}

impl JobContext {
    /// `next_seq` is the number of the job's next record.
    pub(super) fn new(row: JobRow, next_seq: u64, limits: Limits, log: Log) -> Self {
        let shared = Shared {
            job_id: row.id,
            principal: row.principal,
            agent: row.agent,
            trace_id: row.trace_id,
            input_json: row.input_json,
            deadline: None,
            recovered: None,
            limits,
            buffer: Arc::new(Buffer::new(row.stream, next_seq)),
            log,
            cancelled: CancellationToken::new(),
            result_started: AtomicBool::new(false),
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
        let span = rand::random::<u64>() | 1;
        format!("00-{}-{span:016x}-01", self.shared.trace_id)
    }

    /// When the runtime ends the job, if it has a limit.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.shared.deadline
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
        let record = self.checked(Event { ts: now(), body })?;
        self.push(1, None, &record).await
    }

    /// The record of an event that keeps the rules of its kind and the limits.
    pub(crate) fn checked(&self, event: Event) -> Result<bytes::BytesMut, Failure> {
        event.body.check().map_err(Failure::invalid)?;
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

    pub(super) async fn emit_chunk(&self, body: EventBody) -> Result<(), Failure> {
        let mut record = bytes::BytesMut::new();
        wire::encode_event(Event { ts: now(), body }, &mut record);
        self.push(1, None, &record).await
    }

    /// Pushes encoded records, all in one block; waits while the buffer is full.
    pub(crate) async fn push(
        &self,
        records: u32,
        mark: Option<ReportMark>,
        encoded: &[u8],
    ) -> Result<(), Failure> {
        loop {
            let push = Push {
                records,
                mark: mark.clone(),
                end: None,
            };
            let pushed = self
                .shared
                .buffer
                .push(push, |data| data.extend_from_slice(encoded));
            match pushed {
                Pushed::Wake => {
                    self.shared.log.ready(self.source());
                    return Ok(());
                }
                Pushed::Queued => return Ok(()),
                Pushed::Full => self.shared.buffer.wait_taken().await,
                Pushed::Closed => return Err(Failure::invalid("event: the job has ended")),
            }
        }
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
        self.push_end(0, &[], outcome, None);
    }

    /// The same as the last report of an activation, with the records before it in
    /// one block. False when the job was over.
    pub(crate) fn end_with(
        &self,
        records: u32,
        encoded: &[u8],
        outcome: Outcome,
        mark: ReportMark,
    ) -> bool {
        self.push_end(records, encoded, outcome, Some(mark))
    }

    fn push_end(
        &self,
        records: u32,
        encoded: &[u8],
        outcome: Outcome,
        mark: Option<ReportMark>,
    ) -> bool {
        let at = now();
        let end = JobEnd {
            status: outcome.status().into(),
            ended_at_ms: at.0,
        };
        let encode = |data: &mut bytes::BytesMut| {
            data.extend_from_slice(encoded);
            wire::encode_outcome(outcome, at, data);
        };
        let push = Push {
            records: records + 1,
            end: Some(end),
            mark,
        };
        match self.shared.buffer.push(push, encode) {
            Pushed::Wake => self.shared.log.ready(self.source()),
            Pushed::Queued => {}
            Pushed::Full | Pushed::Closed => return false,
        }
        true
    }

    fn source(&self) -> Arc<dyn BlockSource> {
        self.shared.buffer.clone()
    }
}
