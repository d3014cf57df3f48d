//! What is known of the other replicas: who is there, what their hosts have room for, and
//! who was not heard of for too long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::presence::Presence;
use crate::log::ReplicaNumber;

/// Silence after which a replica is declared gone.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// A replica that has not heard itself for so long may have missed the others too.
const UNHEARD_MAX: Duration = Duration::from_secs(2);

struct Peer {
    heard_at: Instant,
    free: BTreeMap<String, u32>,
}

/// That this replica hears itself: so far back it could have heard the others.
#[derive(Clone, Copy)]
struct Hearing {
    since: Instant,
    last: Instant,
}

#[derive(Default)]
pub(in crate::server) struct Peers {
    others: Mutex<HashMap<ReplicaNumber, Peer>>,
    /// When any of them was heard of.
    heard_at: Mutex<Option<Instant>>,
    hearing: Mutex<Option<Hearing>>,
    /// Whether it was without hearing itself when it last looked.
    deaf: AtomicBool,
    takeovers: AtomicU64,
    /// A replica has room that had none.
    more: Notify,
}

impl Peers {
    /// Where a job of an agent should run, if not here: where most room is, by what was
    /// said last and what was sent there since. A place here is as good as one there, and
    /// so is the line.
    pub fn choose(&self, agent: &str, here: Option<u32>) -> Option<ReplicaNumber> {
        let mut others = self.others.lock();
        let with = others.iter_mut();
        let with = with.filter_map(|(replica, peer)| Some((peer.free.get_mut(agent)?, *replica)));
        let (free, replica) = with.max_by_key(|(free, replica)| (**free, *replica))?;
        if here.is_some_and(|here| here >= *free) {
            return None;
        }
        *free = free.saturating_sub(1);
        Some(replica)
    }

    /// Whether it offers other agents than it did.
    pub(super) fn heard(&self, presence: Presence) -> bool {
        let (replica, free) = (presence.replica, presence.free);
        let mut others = self.others.lock();
        let before = others.get(&replica);
        let had = |agent: &str| before.and_then(|peer| peer.free.get(agent)).copied();
        let more = (free.iter()).any(|(agent, free)| *free > 0 && had(agent).unwrap_or(0) == 0);
        let same = before.is_some_and(|peer| peer.free.keys().eq(free.keys()));
        let heard_at = Instant::now();
        *self.heard_at.lock() = Some(heard_at);
        others.insert(replica, Peer { heard_at, free });
        drop(others);
        if more {
            self.more.notify_waiters();
        }
        !same
    }

    /// What this replica says of itself comes back to it as to the others.
    pub fn heard_own(&self) {
        let now = Instant::now();
        let mut hearing = self.hearing.lock();
        let since = match *hearing {
            Some(before) if before.last.elapsed() <= UNHEARD_MAX => before.since,
            _ => now,
        };
        *hearing = Some(Hearing { since, last: now });
    }

    /// Whether it does not: then it may not be heard, and what it does not hear says nothing.
    pub fn is_deaf(&self) -> bool {
        let hearing = *self.hearing.lock();
        hearing.is_some_and(|hearing| hearing.last.elapsed() > LOST_AFTER)
    }

    /// Whether that is new since it was last asked.
    pub fn is_newly_deaf(&self) -> bool {
        let deaf = self.is_deaf();
        !self.deaf.swap(deaf, Ordering::Relaxed) && deaf
    }

    /// Resolves when a replica has room that had none.
    pub async fn more_room(&self) {
        self.more.notified().await;
    }

    /// `name@version` of what their hosts offer.
    pub fn offered(&self) -> BTreeSet<String> {
        let others = self.others.lock();
        others
            .values()
            .flat_map(|peer| peer.free.keys().cloned())
            .collect()
    }

    /// One that is to be waited for from now on, or was just not listened to.
    pub fn expect(&self, replica: ReplicaNumber) {
        let mut others = self.others.lock();
        let peer = others.entry(replica).or_insert_with(|| Peer {
            heard_at: Instant::now(),
            free: BTreeMap::new(),
        });
        peer.heard_at = Instant::now();
    }

    pub fn forget(&self, replica: ReplicaNumber) {
        self.others.lock().remove(&replica);
    }

    /// Other replicas that are there, as far as it is known here.
    pub fn count(&self) -> usize {
        self.others.lock().len()
    }

    /// Whether none of them is heard of, since this replica listens.
    pub fn all_silent(&self) -> bool {
        let listens_since = (*self.hearing.lock()).map(|hearing| hearing.since);
        let heard_at = (*self.heard_at.lock()).or(listens_since);
        self.count() > 0 && heard_at.is_some_and(|at| at.elapsed() > LOST_AFTER)
    }

    /// Replicas whose work went to this one.
    pub fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    pub fn took_over(&self) {
        self.takeovers.fetch_add(1, Ordering::Relaxed);
    }

    /// While this one heard itself, not before: its connection may have been down.
    pub fn silent(&self) -> Vec<ReplicaNumber> {
        let since = (*self.hearing.lock()).map(|hearing| hearing.since);
        let others = self.others.lock();
        let silent = others.iter();
        let waited = |peer: &Peer| since.map_or(peer.heard_at, |since| since.max(peer.heard_at));
        silent
            .filter(|(_, peer)| waited(peer).elapsed() > LOST_AFTER)
            .map(|(replica, _)| *replica)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::presence::INTERVAL;
    use super::*;

    const OTHER: ReplicaNumber = 2;

    async fn pass(time: Duration, mut each: impl FnMut()) {
        for _ in 0..time.as_secs() {
            tokio::time::advance(INTERVAL).await;
            each();
        }
    }

    fn presence() -> Presence {
        Presence {
            replica: OTHER,
            free: BTreeMap::new(),
        }
    }

    /// Its way to the servers was cut before the first word of another, and it never knew
    /// that it was cut off.
    #[tokio::test(start_paused = true)]
    async fn who_has_heard_nobody_since_it_listens_knows_that_all_are_silent() {
        let peers = Peers::default();
        peers.heard_own();
        pass(2 * LOST_AFTER, || {}).await;
        assert!(!peers.all_silent(), "there is nobody");
        peers.expect(OTHER);
        assert!(peers.all_silent());
        peers.heard(presence());
        assert!(!peers.all_silent());
    }

    /// It heard itself again a moment before the other, which then had been silent for too
    /// long: a replica that had not stood still for a moment was given up.
    #[tokio::test(start_paused = true)]
    async fn who_was_deaf_waits_anew_for_the_others() {
        let peers = Peers::default();
        peers.heard(presence());
        pass(LOST_AFTER, || {
            peers.heard_own();
            peers.heard(presence());
        })
        .await;
        // Its connection is down.
        pass(2 * LOST_AFTER, || {}).await;
        assert!(peers.is_deaf());
        peers.heard_own();
        assert!(!peers.is_deaf() && peers.silent().is_empty());
        pass(LOST_AFTER, || peers.heard_own()).await;
        assert!(peers.silent().is_empty());
        pass(INTERVAL, || peers.heard_own()).await;
        assert_eq!(peers.silent(), [OTHER]);
    }
}
