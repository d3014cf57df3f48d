//! The records a session is to see next: from the log while behind, from the
//! broadcast channels while level with it. One order, `position`, for both.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{FutureExt, Stream};
use tokio_stream::StreamMap;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::view::Cursor;
use crate::fanout::{self, Hub};
use crate::log::{Block, Log, Position, StreamId};

/// Bytes of blocks, about, that one look brings.
const READ_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Feed {
    log: Log,
    hub: Arc<Hub>,
    pub cursor: Cursor,
    /// Last record delivered per watched stream.
    watched: HashMap<StreamId, u64>,
    receivers: StreamMap<StreamId, BroadcastStream<Arc<Block>>>,
    /// Received, not yet known to be in order.
    held: BTreeMap<Position, Arc<Block>>,
    mode: Mode,
    /// What is watched and not followed, while nobody reads.
    resting: Option<(Vec<fanout::Pin>, fanout::Rest)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Live,
    /// Behind: the log is read first.
    CatchUp,
}

/// A block and the number of its first record that is new to the session.
pub(super) struct Next {
    pub block: Arc<Block>,
    pub after_seq: u64,
}

impl Feed {
    pub fn new(log: Log, hub: Arc<Hub>, cursor: Cursor) -> Self {
        Self {
            log,
            hub,
            cursor,
            watched: HashMap::new(),
            receivers: StreamMap::new(),
            held: BTreeMap::new(),
            mode: Mode::CatchUp,
            resting: None,
        }
    }

    pub fn is_resting(&self) -> bool {
        self.resting.is_some()
    }

    /// For a session whose peer has stopped reading: gives back what the channels
    /// keep for it, and leaves the rest to the log.
    pub fn rest(&mut self) {
        let place = fanout::Place {
            watched: self.watched().collect(),
            position: self.cursor.position,
        };
        let streams = self.watched.keys();
        let pins = streams.map(|stream| self.hub.pin_one(*stream)).collect();
        self.resting = Some((pins, self.hub.rest(place)));
        self.drop_receivers();
        self.held.clear();
    }

    /// Follows again; what was missed is read from the log.
    fn wake(&mut self) {
        for stream in self.watched.keys() {
            let receiver = BroadcastStream::new(self.hub.subscribe(*stream));
            self.receivers.insert(*stream, receiver);
        }
        self.resting = None;
        self.hub.count_catch_up();
        self.mode = Mode::CatchUp;
    }

    fn drop_receivers(&mut self) {
        let streams: Vec<_> = self.receivers.keys().copied().collect();
        self.receivers.clear();
        for stream in streams {
            self.hub.release(stream);
        }
    }

    pub fn watches(&self, stream: StreamId) -> bool {
        self.watched.contains_key(&stream)
    }

    pub fn watched(&self) -> impl Iterator<Item = (StreamId, u64)> {
        self.watched.iter().map(|(stream, seq)| (*stream, *seq))
    }

    /// The log is read before the channels.
    pub fn is_behind(&self) -> bool {
        self.mode == Mode::CatchUp
    }

    pub fn watch_count(&self) -> usize {
        self.watched.len()
    }

    /// The watched stream that began last, other than `own`.
    pub fn newest(&self, own: StreamId) -> Option<StreamId> {
        self.watched.keys().copied().filter(|s| *s != own).max()
    }

    /// Follows a stream after `after_seq`. The receiver is there before the log
    /// is read again, so nothing falls between the two.
    pub fn watch(&mut self, stream: StreamId, after_seq: u64, behind: bool) {
        if self.watched.contains_key(&stream) {
            return;
        }
        self.watched.insert(stream, after_seq);
        self.receivers
            .insert(stream, BroadcastStream::new(self.hub.subscribe(stream)));
        if behind {
            self.mode = Mode::CatchUp;
        }
    }

    pub fn unwatch(&mut self, stream: StreamId) {
        self.watched.remove(&stream);
        if self.receivers.remove(&stream).is_some() {
            self.hub.release(stream);
        }
    }

    /// The next blocks in order, at most up to `limit`. Empty means level with
    /// the log, or with the limit.
    pub async fn next(&mut self, limit: Option<Position>) -> Result<Vec<Next>, crate::log::Error> {
        if self.is_resting() {
            self.wake();
        }
        if self.mode == Mode::CatchUp || limit.is_some() {
            return self.catch_up(limit).await;
        }
        let published = self.hub.published();
        if self.drain() {
            self.hub.count_catch_up();
            self.mode = Mode::CatchUp;
            return self.catch_up(None).await;
        }
        let newer = self.held.split_off(&(published + 1));
        let ready = std::mem::replace(&mut self.held, newer);
        let (mut next, mut bytes) = (Vec::new(), 0);
        for block in ready.into_values() {
            if bytes >= READ_BYTES_MAX {
                // Many channels may hold much together; the log has the rest.
                self.mode = Mode::CatchUp;
                return Ok(next);
            }
            bytes += block.data.len();
            next.extend(self.take(block)?);
        }
        self.cursor.position = self.cursor.position.max(published);
        Ok(next)
    }

    /// Whether blocks are in hand that the dispatcher has not yet published past.
    pub fn holds_newer(&self) -> bool {
        !self.held.is_empty() || self.mode == Mode::CatchUp
    }

    async fn catch_up(&mut self, limit: Option<Position>) -> Result<Vec<Next>, crate::log::Error> {
        // Reset what lagged first; every block sent from here on is received.
        self.drain();
        let committed = self.log.committed();
        // The log is going to serve these; only what is newer needs holding.
        self.held = self.held.split_off(&(committed + 1));
        let bound = limit.map_or(committed, |limit| limit.min(committed));
        if bound <= self.cursor.position {
            self.level(limit);
            return Ok(Vec::new());
        }
        let after = self.cursor.position;
        let blocks = self
            .log
            .read_merged(&self.watched, after, bound, READ_BYTES_MAX)
            .await?;
        if blocks.is_empty() {
            self.cursor.position = bound;
            self.level(limit);
            return Ok(Vec::new());
        }
        let mut next = Vec::new();
        for block in blocks {
            next.extend(self.take(block)?);
        }
        Ok(next)
    }

    fn level(&mut self, limit: Option<Position>) {
        let position = self.cursor.position;
        self.held = self.held.split_off(&(position + 1));
        if limit.is_none() {
            self.mode = Mode::Live;
        }
    }

    /// Moves what the channels have into `held`; true when one lagged. Without
    /// a budget: a receiver that says "later" while it has a block would make
    /// `published` a lie.
    fn drain(&mut self) -> bool {
        let mut lagged = false;
        let all = std::future::poll_fn(|cx| {
            while let Poll::Ready(more) = self.poll_receive(cx) {
                lagged |= more;
            }
            Poll::Ready(())
        });
        // Always ready at once.
        let _ = tokio::task::unconstrained(all).now_or_never();
        lagged
    }

    /// Waits for a block; resolves with it held. The tokio budget is lifted:
    /// a receiver that yields while it has a block would break the order.
    pub async fn woken(&mut self) {
        let lagged = tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll_receive(cx)));
        if lagged.await {
            self.hub.count_catch_up();
            self.mode = Mode::CatchUp;
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match Pin::new(&mut self.receivers).poll_next(cx) {
            Poll::Ready(Some((_, Ok(block)))) => {
                self.held.insert(block.position, block);
                Poll::Ready(false)
            }
            Poll::Ready(Some((_, Err(BroadcastStreamRecvError::Lagged(_))))) => Poll::Ready(true),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// The part of a block that is new to the session, if it is the next part.
    /// A hole would be a loss that the numbers do not show, so it is an error.
    fn take(&mut self, block: Arc<Block>) -> Result<Option<Next>, crate::log::Error> {
        let Some(after_seq) = self.watched.get(&block.stream).copied() else {
            self.cursor.position = self.cursor.position.max(block.position);
            return Ok(None);
        };
        if block.last_seq() <= after_seq {
            self.cursor.position = self.cursor.position.max(block.position);
            return Ok(None);
        }
        if block.first_seq > after_seq + 1 || block.position <= self.cursor.position {
            return Err(crate::log::Error::Unavailable(format!(
                "records {} to {} of stream {} came out of order",
                after_seq + 1,
                block.last_seq(),
                block.stream
            )));
        }
        self.cursor.position = block.position;
        if block.terminal {
            self.unwatch(block.stream);
        } else {
            self.watched.insert(block.stream, block.last_seq());
        }
        Ok(Some(Next { block, after_seq }))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.drop_receivers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{BlockSource, Durability, OpenOptions, PendingBlock};
    use parking_lot::Mutex;

    struct Once(Mutex<Option<PendingBlock>>);

    impl BlockSource for Once {
        fn take(&self) -> Option<PendingBlock> {
            self.0.lock().take()
        }
    }

    fn append(log: &Log, stream: StreamId, first_seq: u64) {
        let block = PendingBlock {
            stream,
            first_seq,
            count: 1,
            data: bytes::Bytes::from_static(&[1, 7]),
            terminal: None,
            mark: None,
            spent_json: None,
            traced: false,
            epoch: 0,
        };
        log.ready(Arc::new(Once(Mutex::new(Some(block)))));
    }

    /// Tokio makes a receiver wait when its task has done much; the blocks it
    /// held back were skipped, and the numbers went on without them.
    #[tokio::test]
    async fn a_task_without_budget_left_still_receives_every_block() {
        let dir = tempfile::tempdir().unwrap();
        let (committed_tx, committed) = tokio::sync::mpsc::channel(64);
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, committed_tx).unwrap();
        let hub = Hub::new(log.committed());
        tokio::spawn(crate::fanout::dispatch(
            hub.clone(),
            committed,
            Default::default(),
        ));
        let mut feed = Feed::new(log.clone(), hub.clone(), Cursor::START);
        feed.watch(1, 0, false);
        // Level, so that the channels serve.
        while feed.mode != Mode::Live {
            feed.next(None).await.unwrap();
        }
        for seq in 1..=5 {
            append(&log, 1, seq);
            while hub.published() < seq as Position {
                tokio::task::yield_now().await;
            }
        }
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        while tokio::task::coop::has_budget_remaining() {
            tx.send(()).unwrap();
            rx.recv().await;
        }
        let seen = feed.next(None).await.unwrap();
        let seqs: Vec<_> = seen.iter().map(|next| next.block.first_seq).collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5]);
        tokio::task::spawn_blocking(move || log.close())
            .await
            .unwrap();
    }
}
