//! Sends entries, many at a time, and again from the first that is missing.
//!
//! An entry may arrive twice or ahead of one that was lost: whoever applies it sees
//! that by its number and leaves it alone, so all that is done here is to send those
//! that were not applied, in order, until they are. What the stream has taken and this
//! replica has not come to yet is not sent again: that would be more to come to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State as Connected;
use async_nats::jetstream::{self, context::PublishError, publish::PublishAck};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::STALL;
use super::broken::Broken;
use super::followed::Followed;
use super::gather::Sent;
use super::news::News;
use super::outstanding::{Outstanding, Trouble};
use crate::log::Error;
use crate::log::sqlite::State;
use crate::log::sqlite::health::Part;

/// Entries that were sent and not applied.
const WINDOW: usize = 64;
/// The same in bytes: what is lost is sent again, and behind it waits all else.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
const RETRY_MIN: Duration = Duration::from_millis(50);
/// One entry each time, until there is somebody.
const RETRY_MAX: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_millis(500);
/// To hand an entry to the connection, which has no room when it is down.
const HAND_OVER: Duration = Duration::from_secs(1);

pub(super) struct Publisher {
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
    pub stream: String,
    pub subject: String,
    pub state: Arc<State>,
    pub outstanding: Arc<Outstanding>,
    pub followed: Arc<Followed>,
    pub news: mpsc::UnboundedSender<News>,
    pub stopped: CancellationToken,
}

struct Unapplied {
    sent: Sent,
    /// Where the stream says that it is.
    taken_at: Option<u64>,
}

struct Sending {
    to: Publisher,
    unapplied: VecDeque<Unapplied>,
    acks: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// When they are sent again.
    again_at: Option<Instant>,
    /// The first of them, which was sent again; those behind it wait for its
    /// acknowledgement.
    probe: Option<u64>,
    retry: Duration,
    moved_at: Instant,
    /// The last of this replica's entries that was applied.
    own_applied: u64,
    seen: Trouble,
    /// The last entry of the stream that was applied when it was last looked, and when
    /// another one was, or none was missing.
    applied: u64,
    applied_at: Instant,
}

/// The number of an entry, what was applied when it was sent, and what was said to that.
type Answered = (u64, u64, Result<PublishAck, PublishError>);

impl Publisher {
    /// Ends once its sender has ended and all has been applied, or when it is stopped.
    pub async fn run(self, mut entries: mpsc::Receiver<Sent>) {
        let mut applied = self.outstanding.last_applied();
        let mut trouble = self.outstanding.trouble();
        let stopped = self.stopped.clone();
        let mut sending = Sending {
            to: self,
            unapplied: VecDeque::new(),
            acks: FuturesUnordered::new(),
            again_at: None,
            probe: None,
            retry: RETRY_MIN,
            moved_at: Instant::now(),
            own_applied: 0,
            seen: Trouble::default(),
            applied: 0,
            applied_at: Instant::now(),
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        while open || !sending.unapplied.is_empty() {
            sending.moved(*applied.borrow_and_update());
            let again_at = sending.again_at;
            tokio::select! {
                entry = entries.recv(), if open && sending.has_room() => match entry {
                    Some(entry) => sending.first(entry).await,
                    None => open = false,
                },
                Some((number, before, acked)) = sending.acks.next() => match acked {
                    Ok(ack) if ack.sequence <= before => {
                        sending.broken(ack.sequence, before);
                        break;
                    }
                    Ok(ack) => {
                        sending.taken(number, ack.sequence);
                        sending.rest().await;
                    }
                    Err(error) => sending.failed(&error.to_string()),
                },
                changed = applied.changed(), if sending.waits(open) => match changed {
                    Ok(()) => {}
                    Err(_) => break,
                },
                changed = trouble.changed() => match changed {
                    Ok(()) => sending.troubled(*trouble.borrow_and_update()),
                    Err(_) => break,
                },
                () = until(again_at) => sending.again().await,
                _ = look.tick() => sending.look(),
                () = stopped.cancelled() => break,
            }
            if sending.seen.fenced || sending.is_given_up() {
                break;
            }
        }
        // Before those that wait are refused: none is added after.
        drop(entries);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Sending {
    /// For one more, whatever its size.
    fn has_room(&self) -> bool {
        let bytes = self.unapplied.iter().map(|entry| entry.sent.bytes.len());
        self.unapplied.len() < WINDOW && bytes.sum::<usize>() < WINDOW_BYTES
    }

    /// Whether something is to be done once more of it is applied. Otherwise it is looked
    /// at when there is something else to do: nobody is woken for each entry.
    fn waits(&self, open: bool) -> bool {
        !open || !self.has_room() || self.probe.is_some() || self.again_at.is_some()
    }

    async fn first(&mut self, entry: Sent) {
        self.to.followed.published.inc();
        if self.unapplied.is_empty() {
            self.moved_at = Instant::now();
        }
        // Those before it are to be sent again, and it after them.
        if self.again_at.is_none() && self.probe.is_none() {
            self.publish(entry.number, entry.bytes.clone()).await;
        }
        self.unapplied.push_back(Unapplied {
            sent: entry,
            taken_at: None,
        });
    }

    async fn publish(&mut self, number: u64, bytes: bytes::Bytes) {
        let applied = self.to.followed.sequence();
        let published = self.to.jetstream.publish(self.to.subject.clone(), bytes);
        match tokio::time::timeout(HAND_OVER, published).await {
            Ok(Ok(ack)) => {
                let acked = ack.into_future();
                let acked = acked.map(move |acked| (number, applied, acked));
                self.acks.push(acked.boxed());
            }
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("the connection takes nothing"),
        }
    }

    /// The stream has an end that is before what was read of it.
    fn broken(&self, acknowledged: u64, applied: u64) {
        let broken = Broken::Behind {
            acknowledged,
            applied,
        };
        // Nobody to hear of it: the process ends.
        let _ = (self.to.news).send(News::Lost(broken.advice(&self.to.stream)));
    }

    fn taken(&mut self, number: u64, sequence: u64) {
        let mut unapplied = self.unapplied.iter_mut();
        if let Some(entry) = unapplied.find(|entry| entry.sent.number == number) {
            entry.taken_at = Some(sequence);
        }
    }

    /// Whether the first is in the stream, and this replica has not come to it.
    fn is_to_come(&self) -> bool {
        let taken_at = self.unapplied.front().and_then(|first| first.taken_at);
        taken_at.is_some_and(|sequence| self.to.followed.sequence() < sequence)
    }

    fn failed(&mut self, error: &str) {
        if self.again_at.is_none() {
            tracing::warn!(error, "an entry was not acknowledged; it is sent again");
            self.again_at = Some(Instant::now() + self.retry);
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
    }

    fn moved(&mut self, applied: u64) {
        if applied == self.own_applied {
            return;
        }
        while (self.unapplied.front()).is_some_and(|first| first.sent.number <= applied) {
            self.unapplied.pop_front();
        }
        self.own_applied = applied;
        self.moved_at = Instant::now();
        self.retry = RETRY_MIN;
        if self.probe.is_some_and(|probe| probe <= applied) {
            // Its acknowledgement was lost, or is behind.
            self.again_at = Some(Instant::now());
        }
    }

    fn troubled(&mut self, now: Trouble) {
        if now.gaps > self.seen.gaps && !self.unapplied.is_empty() && self.again_at.is_none() {
            self.again_at = Some(Instant::now());
        }
        self.seen = now;
    }

    async fn again(&mut self) {
        self.again_at = None;
        self.acks.clear();
        self.probe = None;
        if let Some(Unapplied { sent, .. }) = self.unapplied.front() {
            let (number, bytes) = (sent.number, sent.bytes.clone());
            self.probe = Some(number);
            self.publish(number, bytes).await;
        }
    }

    /// There is somebody: all behind the entry that found out.
    async fn rest(&mut self) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        for index in 0..self.unapplied.len() {
            let Sent { number, bytes } = &self.unapplied[index].sent;
            if *number <= probe {
                continue;
            }
            let (number, bytes) = (*number, bytes.clone());
            self.publish(number, bytes).await;
            if self.again_at.is_some() {
                return;
            }
        }
    }

    /// Whether the stream has entries, of whomever, and nothing was applied for a while.
    fn is_behind(&mut self) -> bool {
        let applied = self.to.followed.sequence();
        if applied != self.applied || self.to.followed.lag() == 0 {
            (self.applied, self.applied_at) = (applied, Instant::now());
        }
        self.applied_at.elapsed() > STALL
    }

    /// At the close what is on its way is waited for, but not for servers that are gone.
    /// Whoever would send more waits for room meanwhile, and is told by the end of this.
    fn is_given_up(&self) -> bool {
        let closing = self.to.state.closing.load(Ordering::Acquire);
        closing && !self.unapplied.is_empty() && self.moved_at.elapsed() > 2 * STALL
    }

    /// What no answer will tell.
    fn look(&mut self) {
        let connected = self.to.client.connection_state() == Connected::Connected;
        let stalled = !self.unapplied.is_empty() && self.moved_at.elapsed() > STALL;
        // What the stream has and this replica has not come to is no fault of the stream.
        let is_behind = stalled && self.is_to_come();
        let (health, answers) = (&self.to.state.health, connected && (!stalled || is_behind));
        if health.set(Part::Publish, answers) {
            match answers {
                true => tracing::info!("the replicated log answers again"),
                false => tracing::warn!(connected, "the replicated log does not answer"),
            }
        }
        // Before it has joined nobody asks, and a refusal would end the start.
        let keeps_up = self.own_applied == 0 || !(self.is_behind() || is_behind);
        if self.to.state.health.set(Part::Follow, keeps_up) {
            let lag = self.to.followed.lag();
            match keeps_up {
                true => tracing::info!(lag, "this replica keeps up with the log again"),
                false => tracing::warn!(lag, "this replica does not keep up with the log"),
            }
        }
        if stalled {
            self.to.outstanding.refuse_late();
            if !is_behind {
                self.failed("nothing was applied for a while");
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let error = Error::Unavailable("the log is closed".into());
        self.to.outstanding.refuse_all(&error);
    }
}
