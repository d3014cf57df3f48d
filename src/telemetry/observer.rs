//! Follows the committed log and makes spans of it, on the telemetry thread.
//!
//! It is told of a job before the job's first record, and of every block after it
//! was committed; nobody waits for it. What does not fit its queue is left out and
//! counted, but for how jobs ended: that goes in without its block and has room of its
//! own, so that a run that began also ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::queue::Queue;
use super::run::{Began, Run};
use super::span::{Span, now_ns};
use super::thread;
use crate::log::{Block, StreamId};
use crate::wire::{self, Traced};

/// Bytes of blocks that may wait; they are shared with whoever else reads them.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
const WAITING_MESSAGES_MAX: usize = 65_536;
/// Jobs followed at once; more are counted as dropped.
const RUNS_MAX: usize = 200_000;
/// One end for each job that is followed, above all else that may wait.
const WAITING_ENDS_MAX: usize = WAITING_MESSAGES_MAX + RUNS_MAX;

/// Messages taken at a time.
const RECEIVED_MAX: usize = 1_024;
/// How long messages are let come together when all are dealt with: to be woken for
/// each would cost those who send them more than the spans do.
const GATHER: Duration = Duration::from_millis(5);

type Runs = HashMap<StreamId, Box<Run>>;

pub(super) enum Message {
    Began(StreamId, Box<Began>),
    /// Records of a job from before this run of the runtime: their spans are out.
    Earlier(StreamId, Vec<Arc<Block>>),
    Running(StreamId, u64),
    /// The host of this attempt was lost then.
    Lost(StreamId, u64, u64),
    Blocks(Vec<Arc<Block>>, usize),
    /// The last record of a job, and its number, where the block did not fit.
    Ended(StreamId, u64, Traced),
    Span(Box<Span>),
    Flush(oneshot::Sender<()>),
}

/// The senders' end. Not a bounded channel: what is bounded is blocks and spans,
/// and a flush must always fit.
pub(super) struct Inbox {
    pub sender: UnboundedSender<Message>,
    pub waiting: Arc<Waiting>,
}

#[derive(Default)]
pub(super) struct Waiting {
    bytes: AtomicUsize,
    messages: AtomicUsize,
    /// Blocks and messages that were left out.
    pub dropped: AtomicU64,
}

impl Waiting {
    /// Nobody will deal with what waits, with the message in hand, nor end the runs.
    fn lost(&self, runs: usize) {
        let messages = self.messages.load(Ordering::Relaxed) + 1;
        let lost = (messages + runs) as u64;
        self.dropped.fetch_add(lost, Ordering::Relaxed);
    }
}

impl Message {
    /// How many may wait before this one is left out.
    fn waiting_max(&self) -> usize {
        match self {
            Self::Ended(..) => WAITING_ENDS_MAX,
            Self::Flush(_) => usize::MAX,
            _ => WAITING_MESSAGES_MAX,
        }
    }

    /// What is missing in the trace without it; at least, as nobody looks into blocks.
    fn left_out(&self) -> u64 {
        match self {
            Self::Began(_, began) => 1 + u64::from(began.submit.is_some()),
            Self::Blocks(blocks, _) => blocks.len() as u64,
            // Without a loss no retry is shown.
            Self::Span(_) | Self::Ended(..) | Self::Lost(..) => 1,
            // These only say more of spans that come in any case.
            Self::Earlier(..) | Self::Running(..) | Self::Flush(_) => 0,
        }
    }
}

impl Inbox {
    pub fn send(&self, message: Message) {
        if let Err(message) = self.try_send(message) {
            self.drop_spans(message.left_out());
        }
    }

    /// Gives back what does not fit, and everything when nobody is there to take it.
    fn try_send(&self, message: Message) -> Result<(), Message> {
        let before = self.waiting.messages.fetch_add(1, Ordering::Relaxed);
        let sent = match before < message.waiting_max() {
            true => self.sender.send(message).map_err(|unsent| unsent.0),
            false => Err(message),
        };
        if sent.is_err() {
            self.waiting.messages.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    pub fn blocks(&self, group: &[Arc<Block>]) {
        // Most blocks have nothing that a trace shows, and are not even looked at.
        let shown = group.iter().filter(|block| block.traced || block.terminal);
        let shown: Vec<_> = shown.cloned().collect();
        if shown.is_empty() {
            return;
        }
        let bytes = shown.iter().map(|block| block.data.len()).sum();
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        let unsent = match before <= WAITING_BYTES_MAX {
            true => self.try_send(Message::Blocks(shown, bytes)).err(),
            false => Some(Message::Blocks(shown, bytes)),
        };
        if let Some(Message::Blocks(shown, bytes)) = unsent {
            // They do not wait, and nobody else would take them off the sum.
            self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
            shown.iter().for_each(|block| self.end_of(block));
        }
    }

    /// Of a block that does not fit, what its job's run cannot do without.
    fn end_of(&self, block: &Block) {
        let last = block.record((block.count as usize).saturating_sub(1));
        match wire::traced(last).filter(|_| block.terminal) {
            Some(end) => {
                // There may be something to show in front of it.
                self.drop_spans(u64::from(block.count > 1));
                self.send(Message::Ended(block.stream, block.last_seq(), end));
            }
            None => self.drop_spans(1),
        }
    }

    fn drop_spans(&self, count: u64) {
        self.waiting.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

/// Runs until every sender is gone. What a panic leaves is counted, and what was made
/// before it still goes out.
pub(super) async fn observe(
    inbox: UnboundedReceiver<Message>,
    waiting: Arc<Waiting>,
    queue: Arc<Queue>,
) {
    let mut runs = Runs::new();
    let following = follow(inbox, &waiting, &queue, &mut runs);
    if !thread::unless_panicked("spans", following).await {
        waiting.lost(runs.len());
    }
    queue.close();
}

async fn follow(
    mut inbox: UnboundedReceiver<Message>,
    waiting: &Waiting,
    queue: &Queue,
    runs: &mut Runs,
) {
    let (mut messages, mut spans) = (Vec::new(), Vec::new());
    loop {
        let received = inbox.recv_many(&mut messages, RECEIVED_MAX).await;
        if received == 0 {
            break;
        }
        for message in messages.drain(..) {
            waiting.messages.fetch_sub(1, Ordering::Relaxed);
            if let Message::Flush(done) = message {
                queue.flush().await;
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                continue;
            }
            on(message, runs, waiting, &mut spans);
            for span in spans.drain(..) {
                queue.push(span).await;
            }
        }
        if received < RECEIVED_MAX {
            tokio::time::sleep(GATHER).await;
        }
    }
}

fn on(message: Message, runs: &mut Runs, waiting: &Waiting, spans: &mut Vec<Span>) {
    match message {
        Message::Began(stream, began) => {
            let (run, submit) = Run::new(*began);
            spans.extend(submit);
            if runs.len() < RUNS_MAX {
                runs.insert(stream, Box::new(run));
            } else {
                waiting.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Message::Earlier(stream, blocks) => {
            // What it left out was counted when it was left out.
            apply(runs, &blocks, spans);
            spans.clear();
            if let Some(run) = runs.get_mut(&stream) {
                run.earlier_is_over();
            }
        }
        Message::Running(stream, at_ns) => {
            if let Some(run) = runs.get_mut(&stream) {
                run.running(at_ns);
            }
        }
        Message::Lost(stream, attempt, at_ns) => {
            if let Some(run) = runs.get_mut(&stream) {
                run.host_lost(attempt, at_ns);
            }
        }
        Message::Blocks(blocks, bytes) => {
            let left_out = apply(runs, &blocks, spans);
            waiting.dropped.fetch_add(left_out, Ordering::Relaxed);
            waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Message::Ended(stream, seq, end) => {
            if let Some(mut run) = runs.remove(&stream) {
                run.ended(seq, end, now_ns(), spans);
            }
        }
        Message::Span(span) => spans.push(*span),
        // Waited for where it was received.
        Message::Flush(_) => {}
    }
}

/// Gives how many spans the runs had no room for.
fn apply(runs: &mut Runs, blocks: &[Arc<Block>], spans: &mut Vec<Span>) -> u64 {
    let mut left_out = 0;
    for block in blocks {
        if let Some(run) = runs.get_mut(&block.stream) {
            run.apply(block, now_ns(), spans);
            left_out += run.left_out();
            if block.terminal {
                runs.remove(&block.stream);
            }
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::run::tests::{began, terminal};
    use super::*;
    use crate::protocol::Failure;

    const MIB: usize = 1024 * 1024;

    fn inbox() -> (Inbox, UnboundedReceiver<Message>) {
        let (sender, receiver) = unbounded_channel();
        let waiting = Arc::default();
        (Inbox { sender, waiting }, receiver)
    }

    /// As many messages as may wait.
    fn fill(inbox: &Inbox) {
        for _ in 0..WAITING_MESSAGES_MAX {
            inbox.send(Message::Running(0, 0));
        }
    }

    /// What the telemetry thread would make of all that waits.
    fn observe_all(inbox: &Inbox, receiver: &mut UnboundedReceiver<Message>) -> (Runs, Vec<Span>) {
        let (mut runs, mut spans) = (Runs::new(), Vec::new());
        while let Ok(message) = receiver.try_recv() {
            inbox.waiting.messages.fetch_sub(1, Ordering::Relaxed);
            on(message, &mut runs, &inbox.waiting, &mut spans);
        }
        (runs, spans)
    }

    /// One block, of an event that a trace shows.
    fn block(data: &Bytes) -> Arc<Block> {
        Arc::new(Block::new(1, 7, 1, 1, data.clone(), false))
    }

    #[test]
    fn blocks_that_were_left_out_do_not_count_as_waiting_for_ever() {
        let (inbox, mut receiver) = inbox();
        let data = Bytes::from(vec![0; MIB]);
        fill(&inbox);
        let group: Vec<_> = (0..100).map(|_| block(&data)).collect();
        inbox.blocks(&group);
        assert_eq!(inbox.waiting.dropped.load(Ordering::Relaxed), 100);
        observe_all(&inbox, &mut receiver);
        // The next one finds all of the room.
        inbox.blocks(&[block(&data)]);
        assert!(matches!(receiver.try_recv(), Ok(Message::Blocks(_, MIB))));
        assert_eq!(inbox.waiting.dropped.load(Ordering::Relaxed), 100);
        // Of bytes there may be no more than these, and then they come back too.
        inbox.waiting.bytes.store(0, Ordering::Relaxed);
        (0..100).for_each(|_| inbox.blocks(&[block(&data)]));
        let left_out = inbox.waiting.dropped.load(Ordering::Relaxed) - 100;
        assert!((30..40).contains(&left_out), "{left_out} of 100");
        observe_all(&inbox, &mut receiver);
        assert_eq!(inbox.waiting.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_run_that_began_also_ends_where_nothing_else_fits() {
        for full in ["messages", "bytes"] {
            let (inbox, mut receiver) = inbox();
            for job in 0..50 {
                let began = began(&format!("job_{job}"));
                inbox.send(Message::Began(job, Box::new(began)));
            }
            match full {
                "messages" => fill(&inbox),
                _ => inbox.waiting.bytes.store(65 * MIB, Ordering::Relaxed),
            }
            for job in 0..50 {
                let failure = Some(Failure::invalid("no"));
                inbox.blocks(&[Arc::new(terminal(job, 3, failure))]);
            }
            let (runs, spans) = observe_all(&inbox, &mut receiver);
            assert!(runs.is_empty(), "{} never ended: {full}", runs.len());
            assert_eq!(spans.len(), 50);
            for span in spans {
                assert_eq!(span.error.as_deref(), Some("INVALID_REQUEST"));
                assert!(format!("{:?}", span.attributes).contains("arcp.job.events"));
            }
        }
    }

    #[test]
    fn what_a_panic_of_the_thread_leaves_is_counted() {
        let (inbox, _receiver) = inbox();
        (0..3).for_each(|_| inbox.send(Message::Running(0, 0)));
        inbox.waiting.lost(2);
        assert_eq!(inbox.waiting.dropped.load(Ordering::Relaxed), 3 + 1 + 2);
    }

    #[test]
    fn what_nobody_takes_any_more_is_counted() {
        let (inbox, receiver) = inbox();
        drop(receiver);
        let span = Span::within("4bf92f3577b34da6a3ce929d0e0e4736", "x", 1, 2);
        inbox.send(Message::Span(Box::new(span)));
        inbox.blocks(&[Arc::new(terminal(7, 1, None))]);
        assert_eq!(inbox.waiting.dropped.load(Ordering::Relaxed), 2);
        assert_eq!(inbox.waiting.messages.load(Ordering::Relaxed), 0);
    }
}
