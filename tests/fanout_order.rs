//! The order of the fan-out, in every interleaving (loom).
//!
//! The runtime's promise is *index, committed position, send, `published`* on the
//! writing side; on the reading side *`published`, then drain* while live, and
//! *drain, then the committed position* when a channel lagged or a stream was
//! just joined. The orders are data here, and each wrong one is shown to lose a
//! block: the model can fail. A terminal is the last block of its job, and the
//! reader leaves there, so one that came early would lose what is before it.
//!
//! Modelled: the writer with its groups (`log/sqlite/writer.rs`, `publish`), the
//! dispatcher and the channels of a few blocks that forget the oldest
//! (`fanout`), and a reader that joins at any moment, lags, reads the log and
//! follows (`session/feed.rs`, where `take` has the same two refusals).
//!
//! Not modelled: the code itself, for tokio's channels run under loom only when
//! all of tokio is built for it; so whoever changes the order there changes it
//! here. Nor wake-ups (a waiting reader is woken by a condition variable), the
//! byte bound of one read of the log, leaving a job before its end, other sessions.

use std::collections::{BTreeMap, VecDeque};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex, mpsc};
use loom::thread;

type Position = usize;
type Job = usize;

const JOBS: usize = 2;
/// Threads stopped against their will in one run; loom takes every such run.
const PREEMPTIONS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    // The writer, for a group of blocks.
    Index,
    Commit,
    HandOver,
    // The dispatcher, for a block.
    Send,
    Publish,
    // The reader.
    Join,
    TakePublished,
    Drain,
    TakeCommitted,
    ReadLog,
}
use Step::*;

/// Who does what in which order.
#[derive(Clone, Copy)]
struct Order {
    writer: [Step; 3],
    dispatcher: [Step; 2],
    join: [Step; 2],
    live: [Step; 2],
    catch_up: [Step; 3],
}

/// As the runtime has it.
const RIGHT: Order = Order {
    writer: [Index, Commit, HandOver],
    dispatcher: [Send, Publish],
    join: [Join, ReadLog],
    live: [TakePublished, Drain],
    catch_up: [Drain, TakeCommitted, ReadLog],
};

/// What is written and how little the channels keep. A block's position is its
/// place in the script, from 1; the last block of a job is its terminal.
#[derive(Clone, Copy)]
struct Script {
    /// The jobs of the blocks, group by group.
    groups: &'static [&'static [Job]],
    channel_blocks: usize,
}

/// Three blocks of one job, two of them in a group larger than the channel.
const ONE_JOB: Script = Script {
    groups: &[&[0], &[0, 0]],
    channel_blocks: 1,
};

/// Two jobs, whose channels a reader drains one after the other.
const TWO_JOBS: Script = Script {
    groups: &[&[0, 1], &[0]],
    channel_blocks: 2,
};

// === impl Script ===

impl Script {
    /// The jobs in log order.
    fn blocks(&self) -> Vec<Job> {
        self.groups.concat()
    }

    /// The job that a block is the terminal of.
    fn ends(&self, position: Position) -> Option<Job> {
        let blocks = self.blocks();
        let job = blocks[position - 1];
        (!blocks[position..].contains(&job)).then_some(job)
    }
}

/// A broadcast channel: the newest blocks, and the number ever sent.
#[derive(Default)]
struct Channel {
    kept: VecDeque<Position>,
    sent: usize,
}

struct Shared {
    script: Script,
    index: Mutex<Vec<Position>>,
    committed: AtomicUsize,
    channels: Mutex<[Channel; JOBS]>,
    sent: Condvar,
    published: AtomicUsize,
}

// === impl Shared ===

impl Shared {
    fn write(&self, order: Order, dispatcher: mpsc::Sender<Vec<Position>>) {
        let mut tail = 0;
        for group in self.script.groups {
            let blocks: Vec<_> = (tail + 1..=tail + group.len()).collect();
            tail += group.len();
            for step in order.writer {
                match step {
                    Index => self.index.lock().unwrap().extend(&blocks),
                    Commit => self.committed.store(tail, Ordering::Release),
                    HandOver => dispatcher.send(blocks.clone()).unwrap(),
                    other => unreachable!("{other:?} in the writer"),
                }
            }
        }
    }

    fn dispatch(&self, order: Order, committed: mpsc::Receiver<Vec<Position>>) {
        let jobs = self.script.blocks();
        for _ in self.script.groups {
            for position in committed.recv().unwrap() {
                for step in order.dispatcher {
                    match step {
                        Send => self.send(jobs[position - 1], position),
                        Publish => self.published.store(position, Ordering::Release),
                        other => unreachable!("{other:?} in the dispatcher"),
                    }
                }
            }
        }
    }

    fn send(&self, job: Job, position: Position) {
        let mut channels = self.channels.lock().unwrap();
        let channel = &mut channels[job];
        channel.sent += 1;
        channel.kept.push_back(position);
        if channel.kept.len() > self.script.channel_blocks {
            channel.kept.pop_front();
        }
        self.sent.notify_all();
    }
}

/// What `session/feed.rs` does, for a session that watches every job.
struct Reader {
    shared: Arc<Shared>,
    order: Order,
    /// Blocks received or lost of each job; none before it joined.
    receivers: [Option<usize>; JOBS],
    held: BTreeMap<Position, Job>,
    behind: bool,
    cursor: Position,
    published: Position,
    committed: Position,
    delivered: Vec<Position>,
}

// === impl Reader ===

impl Reader {
    fn new(shared: Arc<Shared>, order: Order) -> Self {
        Self {
            shared,
            order,
            receivers: [None; JOBS],
            held: BTreeMap::new(),
            behind: true,
            cursor: 0,
            published: 0,
            committed: 0,
            delivered: Vec::new(),
        }
    }

    /// Reads to the last terminal and returns what came, in order.
    fn run(mut self) -> Vec<Position> {
        for step in self.order.join {
            match step {
                Join => self.join(),
                ReadLog => self.catch_up(),
                other => unreachable!("{other:?} in the join"),
            }
        }
        // A terminal is where a session leaves the job.
        while self.receivers.iter().any(Option::is_some) {
            if self.behind {
                self.catch_up();
            } else if !self.live() {
                self.wait();
            }
        }
        self.delivered
    }

    fn join(&mut self) {
        let channels = self.shared.channels.lock().unwrap();
        for job in self.shared.script.blocks() {
            self.receivers[job] = Some(channels[job].sent);
        }
    }

    /// False when nothing was there and nothing is held.
    fn live(&mut self) -> bool {
        let mut lagged = false;
        for step in self.order.live {
            match step {
                TakePublished => self.published = self.shared.published.load(Ordering::Acquire),
                Drain => lagged = self.drain(),
                other => unreachable!("{other:?} while live"),
            }
        }
        if lagged {
            self.behind = true;
            return true;
        }
        let newer = self.held.split_off(&(self.published + 1));
        let ready = std::mem::replace(&mut self.held, newer);
        let some = !ready.is_empty();
        ready.into_keys().for_each(|position| self.take(position));
        self.cursor = self.cursor.max(self.published);
        if !some && !self.held.is_empty() {
            // The dispatcher is between its send and its `published`.
            thread::yield_now();
        }
        some || !self.held.is_empty()
    }

    fn catch_up(&mut self) {
        for step in self.order.catch_up {
            match step {
                Drain => drop(self.drain()),
                TakeCommitted => self.committed = self.shared.committed.load(Ordering::Acquire),
                ReadLog => self.read_log(),
                other => unreachable!("{other:?} in a catch-up"),
            }
        }
    }

    /// From the cursor to the committed position, then level.
    fn read_log(&mut self) {
        let index = self.shared.index.lock().unwrap().clone();
        let wanted = self.cursor + 1..=self.committed;
        for position in index.into_iter().filter(|p| wanted.contains(p)) {
            self.take(position);
        }
        self.cursor = self.cursor.max(self.committed);
        self.held = self.held.split_off(&(self.cursor + 1));
        self.behind = false;
    }

    /// One job after the other, as a session polls its receivers.
    fn drain(&mut self) -> bool {
        let mut lagged = false;
        for job in 0..JOBS {
            let Some(received) = self.receivers[job] else {
                continue;
            };
            let channels = self.shared.channels.lock().unwrap();
            let Channel { kept, sent } = &channels[job];
            let oldest = sent - kept.len();
            lagged |= received < oldest;
            let skip = received.saturating_sub(oldest);
            self.held.extend(kept.iter().skip(skip).map(|p| (*p, job)));
            self.receivers[job] = Some(*sent);
        }
        lagged
    }

    /// Until a channel has something new.
    fn wait(&mut self) {
        let mut channels = self.shared.channels.lock().unwrap();
        let new = |(received, channel): (&Option<usize>, &Channel)| {
            received.is_some_and(|received| received < channel.sent)
        };
        while !self.receivers.iter().zip(channels.iter()).any(new) {
            let sent: usize = channels.iter().map(|channel| channel.sent).sum();
            let all = self.shared.script.blocks().len();
            assert!(sent < all, "lost: the reader waits for what has gone by");
            channels = self.shared.sent.wait(channels).unwrap();
        }
    }

    fn take(&mut self, position: Position) {
        // Seen in the log already; the real one knows by the job's own numbers.
        if self.delivered.contains(&position) {
            return;
        }
        let next = self.delivered.len() + 1;
        assert_eq!(position, next, "lost: a block came that was not the next");
        assert!(position > self.cursor, "lost: the cursor passed a block");
        self.cursor = position;
        self.delivered.push(position);
        if let Some(job) = self.shared.script.ends(position) {
            self.receivers[job] = None;
        }
    }
}

/// Runs every interleaving; panics in the first that breaks the promise.
fn explore(script: Script, order: Order) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        let shared = Arc::new(Shared {
            script,
            index: Mutex::default(),
            committed: AtomicUsize::new(0),
            channels: Mutex::default(),
            sent: Condvar::new(),
            published: AtomicUsize::new(0),
        });
        let (committed_tx, committed) = mpsc::channel();
        let dispatcher = shared.clone();
        thread::spawn(move || dispatcher.dispatch(order, committed));
        let reader = Reader::new(shared.clone(), order);
        let reader = thread::spawn(move || reader.run());
        shared.write(order, committed_tx);
        let everything: Vec<_> = (1..=script.blocks().len()).collect();
        assert_eq!(reader.join().unwrap(), everything, "a terminal came early");
    });
}

#[test]
fn the_order_we_have_loses_nothing_of_a_job_that_laps_its_reader() {
    explore(ONE_JOB, RIGHT);
}

#[test]
fn the_order_we_have_keeps_the_order_across_jobs() {
    explore(TWO_JOBS, RIGHT);
}

#[test]
#[should_panic(expected = "lost:")]
fn committed_after_the_send_loses_blocks_on_rejoin() {
    let writer = [Index, HandOver, Commit];
    explore(ONE_JOB, Order { writer, ..RIGHT });
}

#[test]
#[should_panic(expected = "lost:")]
fn committed_before_the_index_loses_what_the_log_cannot_give_yet() {
    let writer = [Commit, Index, HandOver];
    explore(ONE_JOB, Order { writer, ..RIGHT });
}

#[test]
#[should_panic(expected = "lost:")]
fn published_before_the_send_passes_a_block_by() {
    let dispatcher = [Publish, Send];
    explore(
        TWO_JOBS,
        Order {
            dispatcher,
            ..RIGHT
        },
    );
}

#[test]
#[should_panic(expected = "lost:")]
fn published_taken_after_the_drain_turns_the_order_across_jobs() {
    let live = [Drain, TakePublished];
    explore(TWO_JOBS, Order { live, ..RIGHT });
}

#[test]
#[should_panic(expected = "lost:")]
fn a_reset_after_committed_was_read_loses_what_lapped_it_between() {
    let catch_up = [TakeCommitted, Drain, ReadLog];
    explore(ONE_JOB, Order { catch_up, ..RIGHT });
}

#[test]
#[should_panic(expected = "lost:")]
fn a_receiver_that_comes_after_the_log_was_read_misses_what_came_between() {
    let join = [ReadLog, Join];
    explore(ONE_JOB, Order { join, ..RIGHT });
}
