//! What an agent reported and the writer has not yet taken.
//!
//! One buffer per job. While the writer commits a block the agent fills the
//! next; a full buffer holds the agent back, so memory is bounded and the
//! store's pace is the agent's.

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::log::{BlockSource, JobEnd, PendingBlock, ReportMark, StreamId};

/// Told how many reports are durable, from the log's thread.
pub(super) type OnReported = Box<dyn Fn(Reported) + Send + Sync>;

/// What became of what a host has reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reported {
    /// Durable up to here.
    Durable(u64),
    /// It does not count, or nothing more will: another replica has the job.
    Elsewhere,
}

/// A block is taken whole, so this is also the size of a block.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
const BUFFER_RECORDS_MAX: u32 = 1024;
/// Blocks from this size on are followed by a buffer of their size.
const KEPT_BYTES_MIN: usize = 4 * 1024;

pub(super) struct Buffer {
    stream: StreamId,
    epoch: u64,
    state: Mutex<State>,
    taken: Notify,
    on_reported: Mutex<Option<OnReported>>,
}

struct State {
    data: BytesMut,
    next_seq: u64,
    count: u32,
    queued: bool,
    end: Option<JobEnd>,
    mark: Option<ReportMark>,
    spent_json: Option<String>,
    traced: bool,
    closed: bool,
    /// The host's report that came with the terminal, once that is taken.
    last_report: Option<u64>,
}

/// Where a job's records go on from, and under which epoch they count; a new job's
/// begin at 1, under 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Since {
    pub last_seq: u64,
    pub epoch: u64,
}

/// What is pushed at once: all in one block.
#[derive(Default)]
pub(super) struct Push {
    /// Makes the last record the terminal, which is never held back.
    pub end: Option<JobEnd>,
    /// How far a host's reports are with these records.
    pub mark: Option<ReportMark>,
}

/// What encoding records came to.
pub(super) struct Encoded {
    pub records: u32,
    /// What the job has spent with them.
    pub spent_json: Option<String>,
    /// There is something in them that a trace shows.
    pub traced: bool,
}

/// What became of a push.
pub(super) enum Pushed {
    /// The first record since the last take: tell the writer.
    Wake,
    Queued,
    Full,
    /// The job has its terminal; nothing may follow it.
    Closed,
}

impl Buffer {
    pub(super) fn new(stream: StreamId, since: Since) -> Self {
        let state = State {
            data: BytesMut::new(),
            next_seq: since.last_seq + 1,
            count: 0,
            queued: false,
            end: None,
            mark: None,
            spent_json: None,
            traced: false,
            closed: false,
            last_report: None,
        };
        Self {
            stream,
            epoch: since.epoch,
            state: Mutex::new(state),
            taken: Notify::new(),
            on_reported: Mutex::new(None),
        }
    }

    pub(super) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(super) fn on_reported(&self, told: Option<OnReported>) {
        *self.on_reported.lock() = told;
    }

    /// Another replica has the job: nothing is taken any more.
    pub(super) fn let_go(&self) {
        self.close();
        self.left_out();
    }

    /// Encodes records into the buffer. What `encode` does besides is in the order of
    /// the records; it is not called when nothing is taken. The log's thread waits for it
    /// in [`take`](BlockSource::take), and with that every other job: it is to be short.
    pub(super) fn push(&self, push: Push, encode: impl FnOnce(&mut BytesMut) -> Encoded) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::Closed;
        }
        let full = state.data.len() >= BUFFER_BYTES_MAX || state.count >= BUFFER_RECORDS_MAX;
        if full && push.end.is_none() {
            return Pushed::Full;
        }
        let encoded = encode(&mut state.data);
        state.count += encoded.records;
        state.spent_json = encoded.spent_json.or(state.spent_json.take());
        state.traced |= encoded.traced;
        state.closed = push.end.is_some();
        state.end = push.end;
        if let Some(mark) = push.mark {
            // A checkpoint that has not been taken yet stays.
            let before = state.mark.take().and_then(|mark| mark.checkpoint);
            let checkpoint = mark.checkpoint.or(before);
            state.mark = Some(ReportMark { checkpoint, ..mark });
        }
        if std::mem::replace(&mut state.queued, true) {
            Pushed::Queued
        } else {
            Pushed::Wake
        }
    }

    /// Drops what was not taken, and takes nothing any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.count = 0;
        state.data.clear();
        (state.end, state.mark, state.spent_json) = (None, None, None);
        drop(state);
        self.taken.notify_waiters();
    }

    /// Waits until the writer has taken what was there.
    pub(super) async fn wait_taken(&self) {
        let taken = self.taken.notified();
        tokio::pin!(taken);
        // Registered before the look, so a take in between is not missed.
        taken.as_mut().enable();
        if self.state.lock().count == 0 {
            return;
        }
        taken.await;
    }
}

impl BlockSource for Buffer {
    fn take(&self) -> Option<PendingBlock> {
        let mut state = self.state.lock();
        state.queued = false;
        if state.count == 0 && state.mark.is_none() {
            return None;
        }
        // As much again is likely; a job that trickles keeps nothing.
        let next = match state.data.len() {
            0..KEPT_BYTES_MIN => BytesMut::new(),
            len => BytesMut::with_capacity(len),
        };
        let block = PendingBlock {
            stream: self.stream,
            first_seq: state.next_seq,
            count: state.count,
            data: std::mem::replace(&mut state.data, next).freeze(),
            terminal: state.end.take(),
            mark: state.mark.take(),
            spent_json: state.spent_json.take(),
            traced: std::mem::take(&mut state.traced),
            epoch: self.epoch,
        };
        state.next_seq += u64::from(state.count);
        state.count = 0;
        if block.terminal.is_some() {
            state.last_report = block.mark.as_ref().map(|mark| mark.seq);
        }
        drop(state);
        self.taken.notify_waiters();
        Some(block)
    }

    fn committed(&self, report_seq: u64) {
        let over = {
            let state = self.state.lock();
            // Blocks may be on their way to the log before the first of them is in it.
            let is_last = state.last_report.is_none_or(|last| report_seq >= last);
            state.closed && state.count == 0 && is_last
        };
        let mut told = self.on_reported.lock();
        if let Some(tell) = &*told {
            tell(Reported::Durable(report_seq));
        }
        if over {
            // Nothing follows the terminal.
            *told = None;
        }
    }

    fn left_out(&self) {
        if let Some(tell) = &*self.on_reported.lock() {
            tell(Reported::Elsewhere);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The block before the terminal's was committed when that had been taken, and the
    /// host never heard that its last report was durable.
    #[test]
    fn the_last_report_is_told_also_where_blocks_are_taken_ahead_of_commits() {
        let buffer = Buffer::new(1, Since::default());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        buffer.on_reported(Some(Box::new(move |what| hears.lock().push(what))));
        let end = JobEnd {
            status: "success".into(),
            ended_at_ms: 0,
        };
        for (seq, end) in [(1, None), (2, Some(end))] {
            let mark = Some(ReportMark {
                seq,
                ..ReportMark::default()
            });
            let encoded = Encoded {
                records: 1,
                spent_json: None,
                traced: false,
            };
            buffer.push(Push { end, mark }, |_| encoded);
            assert!(buffer.take().is_some());
        }
        buffer.committed(1);
        buffer.committed(2);
        buffer.committed(2);
        assert_eq!(*heard.lock(), [1, 2].map(Reported::Durable));
    }
}
