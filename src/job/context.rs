//! What an agent sees of its job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::buffer::{Buffer, Push};
use super::{ChunkEncoding, Limits, ResultWriter, now};
use crate::log::{BlockSource, JobEnd, Log};
use crate::protocol::{Event, EventBody, Failure, Outcome};
use crate::wire;

/// Handed to an agent for one job; cheap to clone.
#[derive(Clone)]
pub struct JobContext {
    shared: Arc<Shared>,
}

struct Shared {
    job_id: String,
    trace_id: String,
    input_json: String,
    limits: Limits,
    buffer: Arc<Buffer>,
    log: Log,
    cancelled: CancellationToken,
    result_started: AtomicBool,
}

impl JobContext {
    pub(super) fn new(
        job_id: String,
        trace_id: String,
        input_json: String,
        limits: Limits,
        buffer: Arc<Buffer>,
        log: Log,
    ) -> Self {
        let cancelled = CancellationToken::new();
        let shared = Shared {
            job_id,
            trace_id,
            input_json,
            limits,
            buffer,
            log,
            cancelled,
            result_started: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub fn job_id(&self) -> &str {
        &self.shared.job_id
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
        body.check().map_err(Failure::invalid)?;
        wire::check_event_json(&body).map_err(|invalid| Failure::invalid(invalid.message))?;
        let record = self.encode(body);
        let limit = self.shared.limits.event_bytes_max;
        let bytes = wire::json_len(&record, limit);
        if bytes > limit {
            return Err(Failure::invalid(format!(
                "event: {bytes} bytes as JSON, the limit is {limit}; use an artifact or a chunked result"
            )));
        }
        self.push(&record).await
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
        self.push(&self.encode(body)).await
    }

    fn encode(&self, body: EventBody) -> bytes::BytesMut {
        let mut record = bytes::BytesMut::new();
        wire::encode_event(Event { ts: now(), body }, &mut record);
        record
    }

    async fn push(&self, record: &[u8]) -> Result<(), Failure> {
        loop {
            match self
                .shared
                .buffer
                .push(None, |data| data.extend_from_slice(record))
            {
                Push::Wake => {
                    self.shared.log.ready(self.source());
                    return Ok(());
                }
                Push::Queued => return Ok(()),
                Push::Full => self.shared.buffer.wait_taken().await,
                Push::Closed => return Err(Failure::invalid("event: the job has ended")),
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
        let at = now();
        let end = JobEnd {
            status: outcome.status().into(),
            ended_at_ms: at.0,
        };
        let encode = |data: &mut bytes::BytesMut| {
            wire::encode_outcome(outcome, at, data);
        };
        if let Push::Wake = self.shared.buffer.push(Some(end), encode) {
            self.shared.log.ready(self.source());
        }
    }

    fn source(&self) -> Arc<dyn BlockSource> {
        self.shared.buffer.clone()
    }
}
