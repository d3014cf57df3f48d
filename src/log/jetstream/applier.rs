//! Applies what the stream has, in its order, to this replica's file, and publishes it
//! here. It is a task among the sessions': what is short it does at once, and for what may
//! be long the runtime gets another thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::collect::{Collect, Read};
use super::followed::Followed;
use super::news::{self, News};
use super::outstanding::Outstanding;
use super::place::{self, Mark};
use crate::clock;
use crate::log::sqlite::apply::Applied;
use crate::log::sqlite::health::Part;
use crate::log::sqlite::replicas::Verdict;
use crate::log::sqlite::{State, unavailable, view_ops};
use crate::log::{Block, Command, Durability, Error, Position, ReplicaNumber};
use crate::protocol::Timestamp;

/// Applied where it is: some hundred records. More is worth a thread that is woken.
const SHORT_BYTES: usize = 16 * 1024;
/// A commit that took longer says that the next one may, however short: the disk is slow.
const SHORT_TIME: Duration = Duration::from_millis(10);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

pub(super) struct Applier {
    pub connection: Connection,
    pub durability: Durability,
    pub state: Arc<State>,
    pub outstanding: Arc<Outstanding>,
    pub followed: Arc<Followed>,
    pub committed: mpsc::Sender<Vec<Arc<Block>>>,
    pub news: mpsc::UnboundedSender<News>,
    pub tail: Position,
    /// How long the last commit took.
    pub took: Duration,
    /// Of the last entry that was applied.
    pub sequence: u64,
    /// This replica's life.
    pub origin: String,
    /// Its number, from its first entry until it leaves.
    pub me: Option<ReplicaNumber>,
    /// Blocks are handed on: until it has joined nobody takes them, they are in the file.
    pub has_joined: bool,
    /// Turns when another has declared this replica gone.
    pub fenced: CancellationToken,
}

/// What became of an entry.
struct Done {
    verdict: Verdict,
    applied: Applied,
}

impl Applier {
    /// Ends when there is nobody to read the stream any more.
    pub async fn run(mut self, mut collect: Collect) {
        while let Some(entries) = collect.next().await {
            let entries = match entries {
                Ok(entries) => entries,
                Err(why) => {
                    // Going on without it would make this replica differ from the rest.
                    tracing::error!(why, after = self.sequence, "the log cannot be followed");
                    let _ = self.news.send(News::Lost(why));
                    return;
                }
            };
            let mut retry = RETRY_MIN;
            let done = loop {
                self.state.health.commit_begins();
                let committed = self.commit_aside(&entries);
                self.state.health.commit_has_ended();
                match committed {
                    Ok(done) => {
                        self.state.health.set(Part::Commit, true);
                        break done;
                    }
                    Err(error) => {
                        tracing::error!(%error, entries = entries.len(), "a commit failed");
                        self.state.health.set(Part::Commit, false);
                        self.state.stats.commit_failures.inc();
                        if self.state.closing.load(Ordering::Acquire) {
                            return;
                        }
                        tokio::time::sleep(retry).await;
                        retry = (retry * 2).min(RETRY_MAX);
                    }
                }
            };
            for (read, done) in entries.into_iter().zip(done) {
                self.publish(read, done).await;
            }
        }
    }

    /// What may take long holds up nobody else's task.
    fn commit_aside(&mut self, entries: &[Read]) -> Result<Vec<Done>, Error> {
        let bytes: usize = entries.iter().map(|read| read.bytes).sum();
        let mut commands = entries.iter().flat_map(|read| &read.entry.commands);
        let is_short = bytes <= SHORT_BYTES
            && self.took <= SHORT_TIME
            && self.durability == Durability::Process
            && !commands.any(Command::is_wide);
        // On a runtime of one thread there is no other.
        let began = std::time::Instant::now();
        let done =
            match is_short || Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
                true => self.commit(entries),
                false => tokio::task::block_in_place(|| self.commit(entries)),
            };
        self.took = began.elapsed();
        done
    }

    fn commit(&mut self, entries: &[Read]) -> Result<Vec<Done>, Error> {
        let began = std::time::Instant::now();
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(unavailable)?;
        let mut tail = self.tail;
        let mut done = Vec::with_capacity(entries.len());
        let mut records = 0;
        for read in entries {
            let applied = read.entry.apply(&transaction, tail, read.sequence);
            let (verdict, applied) = applied.map_err(unavailable)?;
            tail = applied.tail(tail);
            records += applied.blocks.iter().map(|block| block.count).sum::<u32>();
            done.push(Done { verdict, applied });
        }
        view_ops::settle(&transaction).map_err(unavailable)?;
        let mut sequence = self.sequence;
        if let Some(last) = entries.last() {
            let mark = Mark {
                origin: last.entry.origin.clone(),
                number: last.entry.number,
                published_at_ns: last.published_at_ns,
            };
            sequence = last.sequence;
            place::store(&transaction, sequence, &mark).map_err(unavailable)?;
        }
        transaction.commit().map_err(unavailable)?;
        (self.tail, self.sequence) = (tail, sequence);
        let stats = &self.state.stats;
        stats.commit_seconds.observe(began.elapsed().as_secs_f64());
        stats.commit_records.observe(f64::from(records));
        self.followed.applied(sequence, entries.len());
        Ok(done)
    }

    async fn publish(&mut self, read: Read, Done { verdict, applied }: Done) {
        let entry = read.entry;
        let own = entry.origin == self.origin;
        let told = match (own, verdict) {
            (true, Verdict::Apply(_)) => self.outstanding.take(entry.number),
            _ => None,
        };
        let told = told.map(|(told, since)| {
            let took = since.elapsed();
            self.followed.took(took);
            clock::follow(Timestamp(read.published_at_ns / 1_000_000), took);
            told
        });
        if let Verdict::Apply(replica) = verdict {
            if own {
                // Before whoever waited goes on, and asks for more.
                if self.state.health.set(Part::Publish, true) {
                    tracing::info!("the replicated log answers again");
                }
                if self.state.health.set(Part::Follow, true) {
                    tracing::info!("this replica keeps up with the log again");
                }
                // Who has left is inherited from, and that is no news for it.
                let leaves = entry
                    .commands
                    .iter()
                    .any(|command| matches!(command, Command::Leave));
                self.me = (!leaves).then_some(replica);
            }
            for news in news::of(&entry, replica, own, self.me, &applied.outcomes) {
                if news == News::Fenced {
                    self.fence();
                }
                // Nobody to hear of it: the process ends.
                let _ = self.news.send(news);
            }
        }
        self.has_joined |= own && matches!(entry.commands.first(), Some(Command::Join { .. }));
        let blocks = applied.publish(&self.state, told);
        if self.has_joined && !blocks.is_empty() {
            // No dispatcher is no reason not to commit.
            let _ = self.committed.send(blocks).await;
        }
        match verdict {
            Verdict::Apply(_) | Verdict::Again if own => self.outstanding.applied(entry.number),
            Verdict::Gap if own => self.outstanding.gap(),
            Verdict::Fenced if own => match self.me {
                Some(_) => self.fence(),
                // What was on its way when this replica left.
                None => self.outstanding.fenced(),
            },
            _ => {}
        }
    }

    /// Nothing of this replica counts any more: it stops at once, whatever is still to be
    /// done about what it heard before.
    fn fence(&self) {
        self.outstanding.fenced();
        if !self.fenced.is_cancelled() {
            tracing::error!("another replica has taken over from this one; it stops");
            self.fenced.cancel();
        }
    }
}
