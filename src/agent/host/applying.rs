//! A batch of reports on its way into the log: checked, numbered, encoded, and
//! pushed with the mark that says how far they are.

use base64::Engine;
use bytes::Bytes;

use super::activation::{Activation, Phase};
use crate::job::{Batch, now, utf8_pieces};
use crate::log::{ReportMark, ResultMark};
use crate::protocol::host::{Completion, HostReply, Report, ReportBody};
use crate::protocol::{Event, EventBody, Failure, Outcome, id};

/// Bytes of records that are pushed at once.
const PUSH_BYTES: usize = 64 * 1024;
/// Decoded bytes of one chunk of a result.
const CHUNK_BYTES: usize = 512 * 1024;

/// A batch of reports on its way into the job's buffer.
pub(super) struct Applying<'a> {
    activation: &'a Activation,
    /// With everything taken, and with what is in the job's buffer.
    mark: ReportMark,
    pushed: ReportMark,
    batch: Batch,
    /// The mark has moved since the last push.
    moved: bool,
    pub answers: Vec<HostReply>,
}

pub(super) type Flow = std::ops::ControlFlow<()>;

impl<'a> Applying<'a> {
    pub fn new(activation: &'a Activation, mark: ReportMark) -> Self {
        Self {
            activation,
            pushed: mark.clone(),
            mark,
            batch: Batch::default(),
            moved: false,
            answers: Vec::new(),
        }
    }

    pub async fn take(&mut self, report: Report) -> Flow {
        if self.activation.is_lost() {
            self.over();
            return Flow::Break(());
        }
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
            Ok(body) => {
                if let Some(failure) = self.broken_result(&body) {
                    self.push().await;
                    self.complete(Completion::Outcome(Outcome::Failed(failure)));
                    return Flow::Break(());
                }
                self.record(body)
            }
            Err(message) => Err(message),
        };
        if let Err(message) = taken {
            self.reject(due, message);
        }
        if self.batch.len() >= PUSH_BYTES {
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
                let added = self.batch.add(job, Event { ts, body });
                added.map_err(|failure| failure.message)?;
            }
            ReportBody::Text(text) => {
                self.begin_result(true);
                for piece in utf8_pieces(&text) {
                    self.chunk(piece.to_owned(), piece.len(), true);
                }
            }
            ReportBody::Data(data) => {
                self.begin_result(false);
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

    /// A result that lacks a part is none, so the job is over.
    fn broken_result(&self, body: &ReportBody) -> Option<Failure> {
        let (bytes, is_text) = match body {
            ReportBody::Text(text) => (text.len(), true),
            ReportBody::Data(data) => (data.len(), false),
            _ => return None,
        };
        let result = &self.mark.result;
        if !result.result_id.is_empty() && result.is_text != is_text {
            let text = "result_part: the parts of a result are all text or all data";
            return Some(Failure::invalid(text));
        }
        let limit = self.activation.job.limits().result_bytes_max;
        (result.bytes + bytes as u64 > limit).then(|| {
            Failure::internal(format!(
                "result_part: more than {limit} bytes in all, which is the limit; use an artifact"
            ))
        })
    }

    fn begin_result(&mut self, is_text: bool) {
        if self.mark.result.result_id.is_empty() {
            self.mark.result = ResultMark {
                result_id: id::result_id(),
                is_text,
                ..ResultMark::default()
            };
        }
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
        self.batch.add_own(body);
    }

    /// Hands what there is to the job's buffer, the mark with it.
    pub async fn push(&mut self) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let mark = self.mark.clone();
        if let Some(state) = self.mark.checkpoint.take() {
            self.activation.set_checkpoint(state);
        }
        let pushed = self.activation.job.push(&batch, Some(mark)).await;
        match pushed {
            Ok(()) => self.pushed = self.mark.clone(),
            Err(_) => self.over(),
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
        let (batch, mark) = (std::mem::take(&mut self.batch), self.mark.clone());
        self.moved = false;
        if job.end_with(&batch, outcome, mark) {
            self.pushed = self.mark.clone();
            self.activation.move_to(Phase::Completed);
        } else {
            self.over();
        }
    }
}

/// Also when the connection goes in the middle: what was not pushed is sent again.
impl Drop for Applying<'_> {
    fn drop(&mut self) {
        let pushed = std::mem::take(&mut self.pushed);
        self.activation.put_back(pushed);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::JobContext;
    use crate::log::{Durability, Log, OpenOptions};
    use crate::protocol::host::LossPolicy;

    fn logs(seqs: std::ops::RangeInclusive<u64>) -> Vec<Report> {
        let event = |seq| Report {
            seq,
            body: Ok(ReportBody::Event {
                ts: None,
                body: EventBody::Thought { text: "t".into() },
            }),
        };
        seqs.map(event).collect()
    }

    /// A connection that went while its reports waited for the log took the mark
    /// with it, and no later one could report.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_goes_while_the_log_is_behind_leaves_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        // Nothing is taken any more.
        log.close();
        let activation = Activation::new(JobContext::for_test(log), 1, LossPolicy::Fail);
        let answers = activation.apply(logs(1..=1_024)).await;
        assert!(answers.is_empty());
        let waiting = activation.apply(logs(1_025..=1_030));
        let cut = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert!(cut.is_err(), "the job's buffer is full");
        // The next connection sends it again, and a gap is still one.
        let answers = activation.apply(logs(1_026..=1_026)).await;
        let [HostReply::Rejected { message, .. }] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert!(message.contains("1025 was due"), "{message}");
    }

    /// What a lost host's reports in the buffer's line were came after the next
    /// attempt had begun, and its mark took the place of the new one's.
    #[tokio::test(start_paused = true)]
    async fn a_loss_waits_for_what_is_being_applied_and_nothing_is_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        // Nothing is taken any more.
        log.close();
        let activation = Activation::new(JobContext::for_test(log), 1, LossPolicy::Retry);
        activation.apply(logs(1..=1_024)).await;
        let mut applying = Box::pin(activation.apply(logs(1_025..=1_030)));
        let limit = Duration::from_secs(1);
        assert!(tokio::time::timeout(limit, &mut applying).await.is_err());
        activation.move_to(Phase::Lost("gone".into()));
        let early = tokio::time::timeout(limit, activation.settled()).await;
        assert!(early.is_err(), "reports are still being applied");
        drop(applying);
        activation.settled().await;
        let answers = activation.apply(logs(1_025..=1_025)).await;
        assert!(
            matches!(answers[..], [HostReply::Revoked { .. }]),
            "{answers:?}"
        );
    }
}
