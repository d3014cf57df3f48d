//! Live delivery: one broadcast channel per watched job, fed from the committed
//! log by one dispatcher.
//!
//! The order is *index, committed position, send, `published`* (the log does the
//! first two before it hands a group over). A reader takes `published` first and
//! drains its receivers after: it then holds every block up to there. A reader
//! that lagged reads the log up to the *committed* position and follows from it.

mod stalled;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockWriteGuard, broadcast, mpsc};

pub use stalled::{Place, Rest};

use crate::log::{Block, Position, StreamId};
use crate::telemetry::Telemetry;
use stalled::Stalled;

/// Blocks a channel keeps for a slow receiver; beyond it the log serves.
const CHANNEL_BLOCKS: usize = 32;

#[derive(Default)]
pub struct Hub {
    channels: Mutex<HashMap<StreamId, Channel>>,
    published: AtomicI64,
    catch_ups: AtomicU64,
    stalled: Stalled,
    /// Written to while streams are looked at and trimmed.
    trimming: RwLock<()>,
}

struct Channel {
    sender: broadcast::Sender<Arc<Block>>,
    /// Who has still to read the stream and does not follow it: a receiver that is
    /// never looked at would keep the channel's blocks.
    pins: usize,
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(CHANNEL_BLOCKS),
            pins: 0,
        }
    }
}

impl Channel {
    fn is_wanted(&self) -> bool {
        self.pins > 0 || self.sender.receiver_count() > 0
    }
}

impl Hub {
    pub fn new(published: Position) -> Arc<Self> {
        Arc::new(Self {
            published: AtomicI64::new(published),
            ..Default::default()
        })
    }

    /// Follows a stream from now on.
    pub fn subscribe(&self, stream: StreamId) -> broadcast::Receiver<Arc<Block>> {
        let mut channels = self.channels.lock();
        channels.entry(stream).or_default().sender.subscribe()
    }

    /// Has streams count as followed while only the log is read. Waits for a trim
    /// that has begun: what is there afterwards stays.
    pub async fn pin(self: &Arc<Self>, streams: impl IntoIterator<Item = StreamId>) -> Vec<Pin> {
        let _none = self.trimming.read().await;
        streams
            .into_iter()
            .map(|stream| self.pin_one(stream))
            .collect()
    }

    /// While it is held nothing is pinned.
    pub async fn trimming(&self) -> RwLockWriteGuard<'_, ()> {
        self.trimming.write().await
    }

    /// For a stream that is pinned already.
    pub fn pin_one(self: &Arc<Self>, stream: StreamId) -> Pin {
        self.channels.lock().entry(stream).or_default().pins += 1;
        Pin {
            hub: self.clone(),
            stream,
        }
    }

    /// Forgets a channel nobody follows; called after a receiver was dropped.
    pub fn release(&self, stream: StreamId) {
        let mut channels = self.channels.lock();
        if channels
            .get(&stream)
            .is_some_and(|channel| !channel.is_wanted())
        {
            channels.remove(&stream);
        }
    }

    /// Whether a connected session has still to see the end of a stream.
    pub fn is_followed(&self, stream: StreamId) -> bool {
        let channels = self.channels.lock();
        channels.get(&stream).is_some_and(Channel::is_wanted)
    }

    /// Who follows a stream, or has still to.
    pub fn watchers(&self, stream: StreamId) -> usize {
        let channels = self.channels.lock();
        let channel = channels.get(&stream);
        channel.map_or(0, |channel| channel.pins + channel.sender.receiver_count())
    }

    #[cfg(test)]
    pub fn channels(&self) -> usize {
        self.channels.lock().len()
    }

    /// Every block up to here has been sent.
    pub fn published(&self) -> Position {
        self.published.load(Ordering::Acquire)
    }

    /// A reader lagged and goes back to the log.
    pub fn count_catch_up(&self) {
        self.catch_ups.fetch_add(1, Ordering::Relaxed);
    }

    pub fn catch_ups(&self) -> u64 {
        self.catch_ups.load(Ordering::Relaxed)
    }

    fn send(&self, block: Arc<Block>) {
        let (position, stream, terminal) = (block.position, block.stream, block.terminal);
        let sender = {
            let mut channels = self.channels.lock();
            // Nothing follows a terminal; the channel goes with its last receiver.
            match channels.get(&stream) {
                Some(channel) if terminal && !channel.is_wanted() => {
                    channels.remove(&stream);
                    None
                }
                channel => channel.map(|channel| channel.sender.clone()),
            }
        };
        if let Some(sender) = sender {
            // An error means that nobody follows just now.
            let _ = sender.send(block);
        }
        self.published.store(position, Ordering::Release);
    }
}

/// A stream of which something has still to be read; retention leaves it alone.
pub struct Pin {
    hub: Arc<Hub>,
    stream: StreamId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(channel) = self.hub.channels.lock().get_mut(&self.stream) {
            channel.pins -= 1;
        }
        self.hub.release(self.stream);
    }
}

/// Runs until the log closes its end.
pub async fn dispatch(
    hub: Arc<Hub>,
    mut committed: mpsc::Receiver<Vec<Arc<Block>>>,
    telemetry: Telemetry,
) {
    while let Some(group) = committed.recv().await {
        telemetry.committed(&group);
        for block in group {
            hub.send(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A stream that was found to be followed by nobody went although somebody
    /// began to read it before it had gone.
    #[tokio::test]
    async fn a_pin_waits_for_a_trim_that_has_begun() {
        let hub = Hub::new(0);
        let trimming = hub.trimming().await;
        assert!(!hub.is_followed(1));
        let mut pin = Box::pin(hub.pin([1]));
        assert!((&mut pin).now_or_never().is_none());
        drop(trimming);
        let pins = pin.await;
        assert!(hub.is_followed(1));
        drop(pins);
        assert!(!hub.is_followed(1));
    }
}
