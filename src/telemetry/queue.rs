//! Spans that wait for the collector: bounded, and what does not fit is counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::span::Span;

/// How long the observer waits for room while the collector takes what it is given.
const ROOM_TIMEOUT: Duration = Duration::from_millis(200);

pub(super) struct Queue {
    state: Mutex<State>,
    spans_max: usize,
    batch_max: usize,
    /// There is a batch, or something that must not wait.
    due: Notify,
    /// Something was taken, or is over.
    moved: Notify,
    /// The last export went well.
    pub healthy: AtomicBool,
    pub dropped: AtomicU64,
    pub exported: AtomicU64,
}

#[derive(Default)]
struct State {
    spans: Vec<Span>,
    urgent: bool,
    exporting: bool,
    closed: bool,
}

impl Queue {
    pub fn new(spans_max: usize, batch_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            spans_max: spans_max.max(1),
            batch_max: batch_max.clamp(1, spans_max.max(1)),
            due: Notify::new(),
            moved: Notify::new(),
            healthy: AtomicBool::new(true),
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
        }
    }

    /// Adds a span, or counts it as dropped.
    pub async fn push(&self, span: Span) {
        if self.state.lock().spans.len() >= self.spans_max && self.healthy.load(Ordering::Relaxed) {
            let room = self.until(|state| state.spans.len() < self.spans_max);
            let _ = tokio::time::timeout(ROOM_TIMEOUT, room).await;
        }
        let mut state = self.state.lock();
        if state.spans.len() >= self.spans_max {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.urgent |= span.urgent;
        state.spans.push(span);
        if state.urgent || state.spans.len() >= self.batch_max {
            self.due.notify_one();
        }
    }

    /// The next batch, when it is due: full, urgent, or `delay` after the last.
    /// `None` at the end.
    pub async fn next(&self, delay: Duration, gather: Duration) -> Option<Vec<Span>> {
        loop {
            // A permit of an earlier push makes this return at once, and that is right.
            let waited = tokio::time::timeout(delay, self.due.notified()).await;
            let urgent = {
                let state = self.state.lock();
                state.urgent && state.spans.len() < self.batch_max && !state.closed
            };
            if waited.is_ok() && urgent {
                // What comes in the same moment goes in the same request.
                tokio::time::sleep(gather).await;
            }
            let mut state = self.state.lock();
            if state.spans.is_empty() {
                if state.closed {
                    return None;
                }
                continue;
            }
            let count = state.spans.len().min(self.batch_max);
            let batch = state.spans.drain(..count).collect();
            state.exporting = true;
            state.urgent = state.urgent && !state.spans.is_empty();
            if state.spans.len() >= self.batch_max || state.urgent || state.closed {
                self.due.notify_one();
            }
            return Some(batch);
        }
    }

    /// The batch that was taken is with the collector, or lost.
    pub fn done(&self, count: usize, exported: bool) {
        let total = if exported {
            &self.exported
        } else {
            &self.dropped
        };
        total.fetch_add(count as u64, Ordering::Relaxed);
        self.healthy.store(exported, Ordering::Relaxed);
        self.state.lock().exporting = false;
        self.moved.notify_waiters();
    }

    /// Resolves when nothing waits and nothing is under way.
    pub async fn flush(&self) {
        self.until(|state| {
            state.urgent = !state.spans.is_empty();
            if state.urgent {
                self.due.notify_one();
            }
            state.spans.is_empty() && !state.exporting
        })
        .await;
    }

    pub fn close(&self) {
        self.state.lock().closed = true;
        self.due.notify_one();
    }

    async fn until(&self, mut reached: impl FnMut(&mut State) -> bool) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Registered before the look, so a move in between is not missed.
            moved.as_mut().enable();
            if reached(&mut self.state.lock()) {
                return;
            }
            moved.await;
        }
    }
}
