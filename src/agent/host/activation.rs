//! One activation of one job: what fences it, and how its reports get into the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base64::Engine;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::outbox::Outbox;
use super::process::Host;
use crate::job::{JobContext, now, utf8_pieces};
use crate::log::{ReportMark, ResultMark};
use crate::protocol::host::{AssignmentRef, Completion, HostReply, LossPolicy, Report, ReportBody};
use crate::protocol::{Event, EventBody, Failure, Outcome, id};
use crate::wire;

/// Bytes of records that are pushed at once.
const PUSH_BYTES: usize = 64 * 1024;
/// Decoded bytes of one chunk of a result.
const CHUNK_BYTES: usize = 512 * 1024;

/// offered ──accept──▶ running ──complete──▶ over
///     │                  │
///     └── decline, time ─┴── host lost, decline ──▶ over
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    Offered,
    Running,
    /// The terminal is on its way into the log.
    Completed,
    /// Given back by its host, or its host is gone.
    Lost(String),
}

pub(super) struct Activation {
    pub job: JobContext,
    pub attempt: u32,
    pub loss_policy: LossPolicy,
    token_hash: Vec<u8>,
    /// Known once the host has shown it, when it was given before a restart.
    token: Mutex<String>,
    phase: watch::Sender<Phase>,
    /// `None` while reports are being applied.
    mark: Mutex<Option<ReportMark>>,
    /// The last one of this activation.
    checkpoint: Mutex<Option<Bytes>>,
    acked: AtomicU64,
    ack_queued: AtomicBool,
    /// Of one that was recovered: the host that came for it.
    adopted_by: Mutex<Option<Arc<Host>>>,
}

impl Activation {
    /// A new one, with the token that fences it.
    pub fn new(job: JobContext, attempt: u32, loss_policy: LossPolicy) -> Self {
        let token = format!("lt_{:032x}", rand::random::<u128>());
        Self::build(
            job,
            attempt,
            loss_policy,
            hash(&token),
            token,
            ReportMark::default(),
        )
    }

    /// One that an earlier run of the runtime gave out.
    pub fn recovered(
        job: JobContext,
        attempt: u32,
        loss_policy: LossPolicy,
        token_hash: Vec<u8>,
        mark: ReportMark,
    ) -> Self {
        Self::build(job, attempt, loss_policy, token_hash, String::new(), mark)
    }

    fn build(
        job: JobContext,
        attempt: u32,
        loss_policy: LossPolicy,
        token_hash: Vec<u8>,
        token: String,
        mark: ReportMark,
    ) -> Self {
        Self {
            job,
            attempt,
            loss_policy,
            token_hash,
            token: Mutex::new(token),
            phase: watch::Sender::new(Phase::Offered),
            acked: AtomicU64::new(mark.seq),
            mark: Mutex::new(Some(mark)),
            checkpoint: Mutex::new(None),
            ack_queued: AtomicBool::new(false),
            adopted_by: Mutex::new(None),
        }
    }

    pub fn token_hash(&self) -> Vec<u8> {
        self.token_hash.clone()
    }

    pub fn reference(&self) -> AssignmentRef {
        AssignmentRef {
            job_id: self.job.job_id().into(),
            lease_token: self.token.lock().clone(),
        }
    }

    /// Whether a message that shows this token is about this activation.
    pub fn is_named_by(&self, token: &str) -> bool {
        self.token_hash.ct_eq(&hash(token)).into()
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub fn is_over(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Completed | Phase::Lost(_))
    }

    /// Its last ack is still to come.
    pub fn is_completed(&self) -> bool {
        *self.phase.borrow() == Phase::Completed
    }

    /// Moves on, unless it is over.
    pub fn move_to(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let over = matches!(phase, Phase::Completed | Phase::Lost(_));
            if !over && *phase != to {
                *phase = to;
                return true;
            }
            false
        });
    }

    /// From now on acks go to this host, under the token it has shown.
    pub fn attach(self: &Arc<Self>, outbox: &Arc<Outbox>, token: Option<&str>) {
        if let Some(token) = token {
            *self.token.lock() = token.into();
        }
        // Kept until the terminal is durable, or until it is taken from the host.
        let (activation, outbox) = (self.clone(), outbox.clone());
        self.job.on_durable(Some(Box::new(move |seq| {
            activation.acked.fetch_max(seq, Ordering::AcqRel);
            outbox.ack(activation.clone());
        })));
    }

    /// Nobody is told any more.
    pub fn detach(&self) {
        self.job.on_durable(None);
    }

    pub fn take_checkpoint(&self) -> Option<Bytes> {
        self.checkpoint.lock().take()
    }

    pub fn set_adopted_by(&self, host: &Arc<Host>) {
        *self.adopted_by.lock() = Some(host.clone());
    }

    pub fn adopted_by(&self) -> Option<Arc<Host>> {
        self.adopted_by.lock().take()
    }

    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// True for whoever is to put it in line.
    pub fn queue_ack(&self) -> bool {
        !self.ack_queued.swap(true, Ordering::AcqRel)
    }

    pub fn take_ack(&self) -> HostReply {
        self.ack_queued.store(false, Ordering::Release);
        HostReply::Ack {
            of: self.reference(),
            seq: self.acked(),
        }
    }

    /// Applies reports in order; each answer is for the host. Waits while the
    /// log is behind.
    pub async fn apply(&self, reports: Vec<Report>) -> Vec<HostReply> {
        let Some(mark) = self.mark.lock().take() else {
            // Another connection of the host is still at it.
            return vec![self.rejected(0, "reports: a connection before this one is not done")];
        };
        let mut applying = Applying::new(self, mark);
        for report in reports {
            if applying.take(report).await.is_break() {
                break;
            }
        }
        applying.push().await;
        let Applying { mark, answers, .. } = applying;
        *self.mark.lock() = Some(mark);
        answers
    }

    fn rejected(&self, seq: u64, message: impl Into<String>) -> HostReply {
        HostReply::Rejected {
            of: Some(self.reference()),
            seq,
            message: message.into(),
        }
    }
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}

/// A batch of reports on its way into the job's buffer.
struct Applying<'a> {
    activation: &'a Activation,
    mark: ReportMark,
    records: BytesMut,
    count: u32,
    /// The mark has moved since the last push.
    moved: bool,
    answers: Vec<HostReply>,
}

type Flow = std::ops::ControlFlow<()>;

impl<'a> Applying<'a> {
    fn new(activation: &'a Activation, mark: ReportMark) -> Self {
        Self {
            activation,
            mark,
            records: BytesMut::new(),
            count: 0,
            moved: false,
            answers: Vec::new(),
        }
    }

    async fn take(&mut self, report: Report) -> Flow {
        let due = self.mark.seq + 1;
        if report.seq < due {
            // A repeat: its ack was lost.
            if report.seq > 0 && self.activation.acked() >= report.seq {
                self.answers.push(HostReply::Ack {
                    of: self.activation.reference(),
                    seq: self.activation.acked(),
                });
            }
            return Flow::Continue(());
        }
        if report.seq > due {
            let text = format!("reports.seq: {} where {due} was due", report.seq);
            self.reject(report.seq, text);
            return Flow::Break(());
        }
        (self.mark.seq, self.moved) = (due, true);
        let taken = match report.body {
            Ok(ReportBody::Complete(completion)) => {
                self.push().await;
                self.complete(completion);
                return Flow::Break(());
            }
            Ok(body) => self.record(body),
            Err(message) => Err(message),
        };
        if let Err(message) = taken {
            self.reject(due, message);
        }
        if self.records.len() >= PUSH_BYTES {
            self.push().await;
        }
        Flow::Continue(())
    }

    fn reject(&mut self, seq: u64, message: String) {
        self.answers.push(self.activation.rejected(seq, message));
    }

    fn record(&mut self, body: ReportBody) -> Result<(), String> {
        let job = &self.activation.job;
        match body {
            ReportBody::Event { ts, body } => {
                let ts = ts.unwrap_or_else(now);
                let record = job.checked(Event { ts, body }).map_err(|f| f.message)?;
                self.add(&record);
            }
            ReportBody::Text(text) => {
                self.begin_result(true, text.len())?;
                for piece in utf8_pieces(&text) {
                    self.chunk(piece.to_owned(), piece.len(), true);
                }
            }
            ReportBody::Data(data) => {
                self.begin_result(false, data.len())?;
                for piece in data.chunks(CHUNK_BYTES) {
                    let text = base64::engine::general_purpose::STANDARD.encode(piece);
                    self.chunk(text, piece.len(), true);
                }
            }
            ReportBody::Checkpoint(state) => self.mark.checkpoint = Some(Bytes::from(state)),
            ReportBody::Complete(_) => {}
        }
        Ok(())
    }

    fn add(&mut self, record: &[u8]) {
        self.records.extend_from_slice(record);
        self.count += 1;
    }

    fn begin_result(&mut self, is_text: bool, bytes: usize) -> Result<(), String> {
        let limit = self.activation.job.limits().result_bytes_max;
        let result = &mut self.mark.result;
        if result.result_id.is_empty() {
            *result = ResultMark {
                result_id: id::result_id(),
                is_text,
                ..ResultMark::default()
            };
        }
        if result.is_text != is_text {
            return Err("result_part: the parts of a result are all text or all data".into());
        }
        if result.bytes + bytes as u64 > limit {
            return Err(format!(
                "result_part: more than {limit} bytes in all, which is the limit; use an artifact"
            ));
        }
        Ok(())
    }

    fn chunk(&mut self, data: String, bytes: usize, more: bool) {
        let result = &mut self.mark.result;
        let body = EventBody::ResultChunk {
            result_id: result.result_id.clone(),
            chunk_seq: result.chunks,
            data,
            encoding: if result.is_text { "utf8" } else { "base64" }.into(),
            more,
        };
        result.chunks += 1;
        result.bytes += bytes as u64;
        let mut record = BytesMut::new();
        wire::encode_event(Event { ts: now(), body }, &mut record);
        self.add(&record);
    }

    /// Hands what there is to the job's buffer, the mark with it.
    async fn push(&mut self) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        let (records, count) = (std::mem::take(&mut self.records), self.count);
        self.count = 0;
        let mark = self.mark.clone();
        if let Some(state) = self.mark.checkpoint.take() {
            *self.activation.checkpoint.lock() = Some(state);
        }
        let pushed = self.activation.job.push(count, Some(mark), &records).await;
        if pushed.is_err() {
            self.over();
        }
    }

    /// The job was ended by somebody else.
    fn over(&mut self) {
        self.answers.push(HostReply::Revoked {
            of: self.activation.reference(),
            reason: "the job is over".into(),
        });
    }

    fn complete(&mut self, completion: Completion) {
        let job = &self.activation.job;
        let outcome = match completion {
            // Whatever it says: it was asked to stop, and has.
            _ if job.is_cancelled() => Outcome::Cancelled {
                message: "cancelled by the client".into(),
            },
            Completion::Outcome(outcome) => said(outcome),
            Completion::Parts { summary } if !self.mark.result.result_id.is_empty() => {
                // The end of the chunks and the terminal are one block.
                self.chunk(String::new(), 0, false);
                Outcome::Chunked {
                    result_id: self.mark.result.result_id.clone(),
                    result_size: self.mark.result.bytes,
                    summary,
                }
            }
            Completion::Parts { .. } => Outcome::Failed(Failure::invalid(
                "complete.parts: no result_part was reported before",
            )),
        };
        let records = std::mem::take(&mut self.records);
        let (count, mark) = (std::mem::take(&mut self.count), self.mark.clone());
        self.moved = false;
        if job.end_with(count, &records, outcome, mark) {
            self.activation.move_to(Phase::Completed);
        } else {
            self.over();
        }
    }
}

/// One SDK drops an error frame without a message.
fn said(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(mut failure) if failure.message.is_empty() => {
            failure.message = "the agent gave no reason".into();
            Outcome::Failed(failure)
        }
        outcome => outcome,
    }
}
