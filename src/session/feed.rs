//! The records a session is to see next: from the log while behind, from the
//! broadcast channels while level with it. One order, `position`, for both.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::view::Cursor;
use crate::fanout::Hub;
use crate::log::{Block, Log, Position, StreamId};

/// Bytes of blocks one catch-up read brings.
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
        }
    }

    pub fn watches(&self, stream: StreamId) -> bool {
        self.watched.contains_key(&stream)
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
        if self.mode == Mode::CatchUp || limit.is_some() {
            return self.catch_up(limit).await;
        }
        let published = self.hub.published();
        if self.drain() {
            self.mode = Mode::CatchUp;
            return self.catch_up(None).await;
        }
        let newer = self.held.split_off(&(published + 1));
        let ready = std::mem::replace(&mut self.held, newer);
        let next = ready
            .into_values()
            .filter_map(|block| self.take(block))
            .collect();
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
        let streams: Vec<_> = self
            .watched
            .iter()
            .map(|(stream, seq)| (*stream, *seq))
            .collect();
        let after = self.cursor.position;
        let blocks = self
            .log
            .read_merged(&streams, after, bound, READ_BYTES_MAX)
            .await?;
        if blocks.is_empty() {
            self.cursor.position = bound;
            self.level(limit);
            return Ok(Vec::new());
        }
        Ok(blocks
            .into_iter()
            .filter_map(|block| self.take(block))
            .collect())
    }

    fn level(&mut self, limit: Option<Position>) {
        let position = self.cursor.position;
        self.held = self.held.split_off(&(position + 1));
        if limit.is_none() {
            self.mode = Mode::Live;
        }
    }

    /// Moves what the channels have into `held`; true when one lagged.
    fn drain(&mut self) -> bool {
        let mut lagged = false;
        let waker = futures_util::task::noop_waker();
        let mut context = Context::from_waker(&waker);
        while let Poll::Ready(more) = self.poll_receive(&mut context) {
            lagged |= more;
        }
        lagged
    }

    /// Waits for a block; resolves with it held. The tokio budget is lifted:
    /// a receiver that yields while it has a block would break the order.
    pub async fn woken(&mut self) {
        let lagged = tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll_receive(cx)));
        if lagged.await {
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

    fn take(&mut self, block: Arc<Block>) -> Option<Next> {
        if block.position <= self.cursor.position {
            return None;
        }
        self.cursor.position = block.position;
        let after_seq = *self.watched.get(&block.stream)?;
        if block.last_seq() <= after_seq {
            return None;
        }
        if block.terminal {
            self.unwatch(block.stream);
        } else {
            self.watched.insert(block.stream, block.last_seq());
        }
        Some(Next { block, after_seq })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let streams: Vec<_> = self.receivers.keys().copied().collect();
        self.receivers.clear();
        for stream in streams {
            self.hub.release(stream);
        }
    }
}
