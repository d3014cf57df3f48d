//! What a job reports, on its way into its buffer: events, costs, the terminal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::JobContext;
use crate::job::batch::Batch;
use crate::job::buffer::{Encoded, Push, Pushed};
use crate::job::{ChunkEncoding, ResultWriter, now};
use crate::log::{BlockSource, JobEnd, ReportMark};
use crate::protocol::event::{REMAINING, ROTATED};
use crate::protocol::{Event, EventBody, Failure, Outcome};
use crate::wire;

impl JobContext {
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
    pub(in crate::job) async fn emit_own(&self, body: EventBody) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.add_own(body);
        self.push(&batch, None).await
    }

    /// Says what changed of its budgets. For who cannot wait: what finds no room
    /// follows when there is some.
    pub(in crate::job) fn tell_remaining(&self) {
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
                traced: true,
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
        match &event.body {
            EventBody::Status { phase, .. } if phase == ROTATED => {
                let text = "phase: credential_rotated is the runtime's to say";
                return Err(Failure::invalid(text));
            }
            // Who reads it acts on it, and cannot see who wrote it.
            EventBody::Metric { name, .. } if name == REMAINING => {
                let text = "name: cost.budget.remaining is the runtime's to say";
                return Err(Failure::invalid(text));
            }
            _ => {}
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
        self.begin();
        loop {
            match self.try_push(batch, mark.clone()) {
                Pushed::Wake | Pushed::Queued => return Ok(()),
                Pushed::Full => self.shared.buffer.wait_taken().await,
                Pushed::Closed => return Err(Failure::invalid("event: the job has ended")),
            }
        }
    }

    /// The first record of a job is timed.
    fn begin(&self) {
        let shared = &*self.shared;
        if !shared.begun.load(Ordering::Relaxed) && !shared.begun.swap(true, Ordering::Relaxed) {
            let metrics = &shared.telemetry.metrics;
            metrics.first_event(now().0 - shared.created_at.0);
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
            traced: batch.traced,
        };
        if let (Some(grant), false) = (&self.shared.grant, batch.costs.is_empty()) {
            let charged = grant.charge(self.stream(), &batch.costs);
            encoded.records += encode_own(charged.left, data);
            encoded.spent_json = Some(charged.spent_json);
            if charged.exhausted {
                self.shared.telemetry.metrics.budgets_exhausted.inc();
            }
            encoded.traced = true;
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
    pub(in crate::job) fn end(&self, outcome: Outcome) {
        self.push_end(&Batch::default(), outcome, None);
    }

    /// The same as the last report of an activation, with the records before it in
    /// one block. False when the job was over.
    pub(crate) fn end_with(&self, batch: &Batch, outcome: Outcome, mark: ReportMark) -> bool {
        self.push_end(batch, outcome, Some(mark))
    }

    fn push_end(&self, batch: &Batch, outcome: Outcome, mark: Option<ReportMark>) -> bool {
        let at = now();
        let status = outcome.status();
        let end = JobEnd {
            status: status.into(),
            ended_at_ms: at.0,
        };
        let encode = |data: &mut bytes::BytesMut| {
            let encoded = self.encode(batch, data);
            wire::encode_outcome(outcome, at, data);
            // The block cannot be taken yet: who sees the end may submit the next job.
            drop(self.shared.place.lock().take());
            Encoded {
                records: encoded.records + 1,
                traced: true,
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
        let shared = &*self.shared;
        shared.over.cancel();
        self.begin();
        let metrics = &shared.telemetry.metrics;
        metrics.ended(&shared.agent, status, at.0 - shared.created_at.0);
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
