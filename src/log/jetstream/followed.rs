//! How far this replica has followed the stream, and what it measures of that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

pub struct Followed {
    /// The last entry of the stream that this replica knows of.
    last: AtomicU64,
    /// The last that is applied here.
    applied: watch::Sender<u64>,
    /// Sent by this replica, each once.
    pub published: Counter,
    /// Of all replicas.
    pub entries: Counter,
    /// Of an entry of this replica, from its making until it is applied here.
    pub entry_seconds: Histogram,
}

impl Followed {
    pub(super) fn new(applied: u64, last: u64) -> Self {
        let seconds = [
            0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
        ];
        Self {
            last: last.into(),
            applied: watch::Sender::new(applied),
            published: Counter::default(),
            entries: Counter::default(),
            entry_seconds: Histogram::new(seconds),
        }
    }

    /// The stream has an entry.
    pub(super) fn seen(&self, sequence: u64) {
        self.last.fetch_max(sequence, Ordering::Relaxed);
    }

    pub(super) fn applied(&self, sequence: u64, entries: usize) {
        self.entries.inc_by(entries as u64);
        self.applied.send_replace(sequence);
    }

    pub(super) fn took(&self, since: Duration) {
        self.entry_seconds.observe(since.as_secs_f64());
    }

    /// Resolves once an entry, and all before it, is applied here.
    pub async fn reached(&self, sequence: u64) {
        let mut applied = self.applied.subscribe();
        // Its sender is in self.
        let _ = applied.wait_for(|applied| *applied >= sequence).await;
    }

    /// The sequence in the stream of the last entry that is applied here.
    pub fn sequence(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Entries that the stream has and that are not applied here.
    pub fn lag(&self) -> u64 {
        let last = self.last.load(Ordering::Relaxed);
        last.saturating_sub(self.sequence())
    }
}
