//! Follows the committed log and makes spans of it, on the telemetry thread.
//!
//! It is told of a job before the job's first record, and of every block after it
//! was committed; nobody waits for it. What does not fit its queue is left out and
//! counted, terminals last, so that a run that began also ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::queue::Queue;
use super::run::{Began, Run};
use super::span::{Span, now_ns};
use crate::log::{Block, StreamId};

/// Bytes of blocks that may wait; they are shared with whoever else reads them.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
const WAITING_MESSAGES_MAX: usize = 65_536;
/// Jobs followed at once; more are counted as dropped.
const RUNS_MAX: usize = 200_000;

/// Messages taken at a time.
const RECEIVED_MAX: usize = 1_024;
/// How long messages are let come together when all are dealt with: to be woken for
/// each would cost those who send them more than the spans do.
const GATHER: Duration = Duration::from_millis(5);

type Runs = HashMap<StreamId, Box<Run>>;

pub(super) enum Message {
    Began(StreamId, Box<Began>),
    /// Records of a job from before this run of the runtime: their spans are out.
    Earlier(Vec<Arc<Block>>),
    Running(StreamId, u64),
    Blocks(Vec<Arc<Block>>, usize),
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

impl Inbox {
    pub fn send(&self, message: Message) {
        let flush = matches!(message, Message::Flush(_));
        let waiting = self.waiting.messages.fetch_add(1, Ordering::Relaxed);
        if (waiting >= WAITING_MESSAGES_MAX && !flush) || self.sender.send(message).is_err() {
            self.waiting.messages.fetch_sub(1, Ordering::Relaxed);
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn blocks(&self, group: &[Arc<Block>]) {
        let full = self.waiting.bytes.load(Ordering::Relaxed) > WAITING_BYTES_MAX;
        // Most blocks have nothing that a trace shows, and are not even looked at.
        let shown = group.iter().filter(|block| block.traced || block.terminal);
        let mut kept: Vec<_> = shown.cloned().collect();
        let all = kept.len();
        if full {
            kept.retain(|block| block.terminal);
        }
        let left_out = (all - kept.len()) as u64;
        self.waiting.dropped.fetch_add(left_out, Ordering::Relaxed);
        if kept.is_empty() {
            return;
        }
        let bytes = kept.iter().map(|block| block.data.len()).sum();
        self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.send(Message::Blocks(kept, bytes));
    }
}

/// Runs until every sender is gone.
pub(super) async fn observe(
    mut inbox: UnboundedReceiver<Message>,
    waiting: Arc<Waiting>,
    queue: Arc<Queue>,
) {
    let mut runs = Runs::new();
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
            on(message, &mut runs, &waiting, &mut spans);
            for span in spans.drain(..) {
                queue.push(span).await;
            }
        }
        if received < RECEIVED_MAX {
            tokio::time::sleep(GATHER).await;
        }
    }
    queue.close();
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
        Message::Earlier(blocks) => {
            apply(runs, &blocks, spans);
            spans.clear();
        }
        Message::Running(stream, at_ns) => {
            if let Some(run) = runs.get_mut(&stream) {
                run.running(at_ns);
            }
        }
        Message::Blocks(blocks, bytes) => {
            apply(runs, &blocks, spans);
            waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Message::Span(span) => spans.push(*span),
        // Waited for where it was received.
        Message::Flush(_) => {}
    }
}

fn apply(runs: &mut Runs, blocks: &[Arc<Block>], spans: &mut Vec<Span>) {
    for block in blocks {
        if let Some(run) = runs.get_mut(&block.stream) {
            run.apply(block, now_ns(), spans);
            if block.terminal {
                runs.remove(&block.stream);
            }
        }
    }
}
