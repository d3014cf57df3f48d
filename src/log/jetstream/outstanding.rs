//! What this replica has sent and not seen applied, and who waits for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::log::Error;
use crate::log::sqlite::group::Told;

/// How long a command waits for a log that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What whoever sends has to act on at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    /// How often one arrived before those that it follows.
    pub gaps: u64,
    /// Nothing of this replica is applied any more.
    pub fenced: bool,
}

pub(super) struct Outstanding {
    waiting: Mutex<VecDeque<Waits>>,
    /// One of them has been applied.
    fewer: Notify,
    /// The last of this replica's entries.
    applied: watch::Sender<u64>,
    trouble: watch::Sender<Trouble>,
}

struct Waits {
    number: u64,
    told: Told,
    since: Instant,
}

impl Outstanding {
    pub fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            fewer: Notify::new(),
            applied: watch::Sender::default(),
            trouble: watch::Sender::default(),
        }
    }

    /// The number of the last of this replica's entries that has been applied.
    pub fn last_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub fn trouble(&self) -> watch::Receiver<Trouble> {
        self.trouble.subscribe()
    }

    pub fn add(&self, number: u64, told: Told) {
        let since = Instant::now();
        let waits = Waits {
            number,
            told,
            since,
        };
        self.waiting.lock().push_back(waits);
    }

    /// Resolves once fewer than so many entries are on their way, or after so long. For
    /// one waiter.
    pub async fn until_fewer(&self, than: usize, limit: Duration) {
        let fewer = async {
            while self.waiting.lock().len() >= than {
                self.fewer.notified().await;
            }
        };
        // Late is well, too.
        let _ = tokio::time::timeout(limit, fewer).await;
    }

    /// Who waits for an entry that has been applied, and since when.
    pub fn take(&self, number: u64) -> Option<(Told, Instant)> {
        let mut waiting = self.waiting.lock();
        while waiting.front().is_some_and(|first| first.number < number) {
            waiting.pop_front();
        }
        let told = match waiting.front() {
            Some(first) if first.number == number => {
                waiting.pop_front().map(|first| (first.told, first.since))
            }
            _ => None,
        };
        self.fewer.notify_one();
        told
    }

    pub fn applied(&self, number: u64) {
        self.applied
            .send_modify(|applied| *applied = number.max(*applied));
    }

    pub fn gap(&self) {
        self.trouble.send_modify(|trouble| trouble.gaps += 1);
    }

    pub fn fenced(&self) {
        self.trouble.send_modify(|trouble| trouble.fenced = true);
    }

    /// Tells those who have waited for long that it is not known what became of their
    /// commands: they may still take effect.
    pub fn refuse_late(&self) {
        let error = Error::Unavailable(format!(
            "the replicated log has not answered in {} s; what was asked for may still be done",
            ANSWER_WITHIN.as_secs()
        ));
        let mut waiting = self.waiting.lock();
        for waits in waiting.iter_mut() {
            if waits.since.elapsed() < ANSWER_WITHIN {
                break;
            }
            waits.told.refuse(&error);
        }
    }

    /// There will be no answer.
    pub fn refuse_all(&self, error: &Error) {
        for mut waits in self.waiting.lock().drain(..) {
            waits.told.refuse(error);
        }
    }
}
