//! The one writer: takes what is ready, commits it as one group, publishes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::execute::{Due, execute, insert_block};
use super::{State, unavailable, view_ops};
use crate::log::{Block, BlockSource, Command, Error, Outcome, PendingBlock, Position};

type Answer = oneshot::Sender<Result<Outcome, Error>>;

/// Blocks in one group; a group is one transaction.
const GROUP_BLOCKS_MAX: usize = 4096;
/// A group of this many records is followed by a pause of `GATHER`.
const BUSY_RECORDS: u32 = 128;
const GATHER: Duration = Duration::from_micros(150);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What waits for the writer. Its length is bounded by who may wait: one entry
/// a job, one command a session.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    sources: Vec<Arc<dyn BlockSource>>,
    commands: Vec<(Command, Answer)>,
    woken: bool,
}

impl Waiting {
    /// A wake is the close, and stays: what was taken with it comes first.
    fn drain(&mut self) -> Self {
        let woken = self.woken;
        let taken = std::mem::take(self);
        self.woken = woken;
        taken
    }
}

impl Queue {
    pub fn push_source(&self, source: Arc<dyn BlockSource>) {
        self.waiting.lock().sources.push(source);
        self.more.notify_one();
    }

    pub fn push_command(&self, command: Command, answer: Answer) {
        self.waiting.lock().commands.push((command, answer));
        self.more.notify_one();
    }

    pub fn wake(&self) {
        self.waiting.lock().woken = true;
        self.more.notify_one();
    }

    /// Everything that waits; blocks while there is nothing, unless woken. When
    /// busy, records are given a moment to become larger blocks; a command is not
    /// made to wait.
    fn take(&self, busy: bool) -> Waiting {
        let mut waiting = self.waiting.lock();
        if busy && !waiting.woken {
            let until = std::time::Instant::now() + GATHER;
            while waiting.commands.is_empty()
                && !self.more.wait_until(&mut waiting, until).timed_out()
            {}
        }
        while waiting.sources.is_empty() && waiting.commands.is_empty() && !waiting.woken {
            self.more.wait(&mut waiting);
        }
        waiting.drain()
    }

    /// Everything that waits now.
    fn take_now(&self) -> Waiting {
        self.waiting.lock().drain()
    }
}

struct Writer {
    connection: Connection,
    queue: Arc<Queue>,
    state: Arc<State>,
    committed: mpsc::Sender<Vec<Arc<Block>>>,
    tail: Position,
    /// Taken from their jobs, not yet committed: what a failed group leaves.
    blocks: Vec<Taken>,
}

/// A block and who is told when it is durable.
struct Taken {
    block: PendingBlock,
    source: Option<Arc<dyn BlockSource>>,
}

pub(super) fn spawn(
    connection: Connection,
    queue: Arc<Queue>,
    state: Arc<State>,
    committed: mpsc::Sender<Vec<Arc<Block>>>,
    tail: Position,
) -> std::thread::JoinHandle<()> {
    let mut writer = Writer {
        connection,
        queue,
        state,
        committed,
        tail,
        blocks: Vec::new(),
    };
    std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || writer.run())
        .expect("a thread can be started while the process starts")
}

impl Taken {
    fn from_source(source: Arc<dyn BlockSource>) -> Option<Self> {
        let block = source.take()?;
        // Kept only where there is something to tell.
        let source = block.mark.is_some().then_some(source);
        Some(Self { block, source })
    }
}

impl Writer {
    fn run(&mut self) {
        let (mut retry, mut busy) = (RETRY_MIN, false);
        loop {
            let waiting = if self.blocks.is_empty() {
                self.queue.take(busy)
            } else {
                // A failed group is tried again whether or not there is more.
                std::thread::sleep(retry);
                retry = (retry * 2).min(RETRY_MAX);
                self.queue.take_now()
            };
            // Read after the wait, which the close ends.
            let closing = self.state.closing.load(Ordering::Acquire);
            let idle = waiting.sources.is_empty() && waiting.commands.is_empty();
            if closing && (idle || !self.state.healthy.load(Ordering::Relaxed)) {
                return;
            }
            let mut sources = waiting.sources.into_iter();
            let room = GROUP_BLOCKS_MAX.saturating_sub(self.blocks.len());
            self.blocks
                .extend(sources.by_ref().take(room).filter_map(Taken::from_source));
            for source in sources {
                self.queue.push_source(source);
            }
            for (command, _) in &waiting.commands {
                self.take_own(command);
            }
            let records: u32 = self.blocks.iter().map(|taken| taken.block.count).sum();
            busy = records >= BUSY_RECORDS;
            if self.commit(waiting.commands) {
                retry = RETRY_MIN;
            }
        }
    }

    /// Numbers a record for a session's own stream and adds it to the group.
    fn take_own(&mut self, command: &Command) {
        let Command::AppendOwn { stream, record } = command else {
            return;
        };
        let pending = self
            .blocks
            .iter()
            .rev()
            .find(|taken| taken.block.stream == *stream);
        let last_seq = match pending {
            Some(Taken { block, .. }) => Ok(block.first_seq + u64::from(block.count) - 1),
            None => super::seek::seq_at(&self.connection, *stream, Position::MAX),
        };
        match last_seq {
            Ok(last_seq) => {
                let block = PendingBlock {
                    stream: *stream,
                    first_seq: last_seq + 1,
                    count: 1,
                    data: record.clone(),
                    terminal: None,
                    mark: None,
                    spent_json: None,
                    traced: false,
                };
                let source = None;
                self.blocks.push(Taken { block, source });
            }
            Err(error) => tracing::warn!(%error, "a session's own record was dropped"),
        }
    }

    /// Commits one group; false when it failed and the blocks are kept.
    fn commit(&mut self, commands: Vec<(Command, Answer)>) -> bool {
        let (commands, answers): (Vec<_>, Vec<_>) = commands.into_iter().unzip();
        let began = std::time::Instant::now();
        match write_group(&mut self.connection, &commands, &self.blocks, self.tail) {
            Ok((outcomes, Due(due))) => {
                let stats = &self.state.stats;
                stats.commit_seconds.observe(began.elapsed().as_secs_f64());
                let records = self
                    .blocks
                    .iter()
                    .map(|taken| taken.block.count)
                    .sum::<u32>();
                stats.commit_records.observe(f64::from(records));
                self.publish(outcomes, answers);
                if due {
                    self.state.credentials_due.notify_one();
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, blocks = self.blocks.len(), "a commit failed");
                self.state.healthy.store(false, Ordering::Relaxed);
                self.state.stats.commit_failures.inc();
                for answer in answers {
                    // A caller that went away needs no answer.
                    let _ = answer.send(Err(Error::Unavailable(error.to_string())));
                }
                false
            }
        }
    }

    fn publish(&mut self, outcomes: Vec<Outcome>, answers: Vec<Answer>) {
        let mut position = self.tail;
        let mut marks = Vec::new();
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for Taken { block, source } in self.blocks.drain(..) {
            let terminal = block.terminal.is_some();
            let PendingBlock {
                stream,
                first_seq,
                count,
                data,
                mark,
                traced,
                ..
            } = block;
            if let (Some(mark), Some(source)) = (mark, source) {
                marks.push((source, mark.seq));
            }
            if count > 0 {
                position += 1;
                let mut block = Block::new(position, stream, first_seq, count, data, terminal);
                block.traced = traced;
                blocks.push(Arc::new(block));
            }
        }
        self.tail = position;
        self.state.healthy.store(true, Ordering::Relaxed);
        self.state.recent.extend(&blocks);
        // The order is the contract: committed, then answers, then fan-out.
        self.state.committed.store(position, Ordering::Release);
        for (outcome, answer) in outcomes.into_iter().zip(answers) {
            let _ = answer.send(Ok(outcome));
        }
        for (source, report_seq) in marks {
            source.committed(report_seq);
        }
        if !blocks.is_empty() {
            // No dispatcher is no reason not to commit.
            let _ = self.committed.blocking_send(blocks);
        }
    }
}

fn write_group(
    connection: &mut Connection,
    commands: &[Command],
    blocks: &[Taken],
    tail: Position,
) -> Result<(Vec<Outcome>, Due), Error> {
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(unavailable)?;
    let outcomes = commands
        .iter()
        .map(|command| execute(&transaction, command))
        .collect::<rusqlite::Result<Vec<_>>>()
        .map_err(unavailable)?;
    let (mut position, mut due) = (tail, false);
    for Taken { block, .. } in blocks {
        position += Position::from(block.count > 0);
        let Due(left) = insert_block(&transaction, position, block).map_err(unavailable)?;
        due |= left;
    }
    view_ops::settle(&transaction).map_err(unavailable)?;
    transaction.commit().map_err(unavailable)?;
    Ok((outcomes, Due(due)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A close that came together with a last command was forgotten with it: the
    /// writer waited for ever, and the process with it.
    #[test]
    fn a_close_beside_a_command_is_not_forgotten() {
        let queue = Arc::new(Queue::default());
        let (answer, _answered) = oneshot::channel();
        queue.push_command(Command::ParkAll { at_ms: 0 }, answer);
        queue.wake();
        assert_eq!(queue.take(false).commands.len(), 1);
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(queue.take(false).commands.len()));
        assert_eq!(ended.recv_timeout(Duration::from_secs(5)), Ok(0));
    }
}
