//! The one writer: takes what is ready, commits it as one group, publishes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::apply::{Applied, apply};
use super::group::Group;
use super::health::Part;
use super::queue::Queue;
use super::{State, unavailable, view_ops};
use crate::log::{Block, Error, Position};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

struct Writer {
    connection: Connection,
    queue: Arc<Queue>,
    state: Arc<State>,
    committed: mpsc::Sender<Vec<Arc<Block>>>,
    tail: Position,
    /// Blocks that a failed group left are in it.
    group: Group,
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
        group: Group::default(),
    };
    std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || writer.run())
        .expect("a thread can be started while the process starts")
}

impl Writer {
    fn run(&mut self) {
        let (mut retry, mut busy) = (RETRY_MIN, false);
        loop {
            let waiting = if self.group.blocks.is_empty() {
                self.queue.take(busy)
            } else {
                // A failed group is tried again whether or not there is more.
                std::thread::sleep(retry);
                retry = (retry * 2).min(RETRY_MAX);
                self.queue.take_now()
            };
            // Read after the wait, which the close ends.
            let closing = self.state.closing.load(Ordering::Acquire);
            if closing && (waiting.is_empty() || self.state.health.failing().is_some()) {
                return;
            }
            self.queue
                .put_back(self.group.add(waiting.items, usize::MAX));
            busy = self.group.is_large();
            if self.commit() {
                retry = RETRY_MIN;
            }
        }
    }

    /// Commits the group; false when it failed and its blocks are kept.
    fn commit(&mut self) -> bool {
        let began = std::time::Instant::now();
        self.state.health.commit_begins();
        let written = write(&mut self.connection, &self.group, self.tail);
        self.state.health.commit_has_ended();
        match written {
            Ok(applied) => {
                let group = std::mem::take(&mut self.group);
                let stats = &self.state.stats;
                stats.commit_seconds.observe(began.elapsed().as_secs_f64());
                stats.commit_records.observe(f64::from(group.records()));
                self.tail = applied.tail(self.tail);
                self.state.health.set(Part::Commit, true);
                let blocks = applied.publish(&self.state, Some(group.told));
                if !blocks.is_empty() {
                    // No dispatcher is no reason not to commit.
                    let _ = self.committed.blocking_send(blocks);
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, blocks = self.group.blocks.len(), "a commit failed");
                self.state.health.set(Part::Commit, false);
                self.state.stats.commit_failures.inc();
                self.group.refuse(&error);
                // Those that did not fit have no better chance.
                self.queue.refuse(&error);
                false
            }
        }
    }
}

fn write(connection: &mut Connection, group: &Group, tail: Position) -> Result<Applied, Error> {
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(unavailable)?;
    let applied =
        apply(&transaction, None, &group.commands, &group.blocks, tail).map_err(unavailable)?;
    view_ops::settle(&transaction).map_err(unavailable)?;
    transaction.commit().map_err(unavailable)?;
    Ok(applied)
}
