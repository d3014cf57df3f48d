//! Spans that wait for the collector, in the SDK's batch processor. It drops what does
//! not fit without saying how much, so what goes in is bounded and counted here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};
use tokio::sync::{Notify, Semaphore};

use super::span::Span;

/// How long the observer waits for room while the collector takes what it is given.
const ROOM_TIMEOUT: Duration = Duration::from_millis(200);
/// How long something urgent waits for what comes in the same moment.
const GATHER: Duration = Duration::from_millis(20);
/// The last batch of a runtime that is dropped; one that ends by itself flushes first.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of spans, as both ends of the queue count it.
#[derive(Debug)]
pub(super) struct Counts {
    /// A permit for each span that the processor may still be given.
    pub room: Semaphore,
    /// The last export went well.
    pub healthy: AtomicBool,
    /// Waiting for room was in vain, and there has been none since.
    stalled: AtomicBool,
    pub dropped: AtomicU64,
    pub exported: AtomicU64,
}

/// On the telemetry thread.
pub(super) struct Queue {
    counts: Arc<Counts>,
    processor: Arc<BatchSpanProcessor>,
    /// Something must not wait, or nothing comes any more.
    due: Notify,
    closed: AtomicBool,
}

impl Counts {
    pub fn new(spans_max: usize) -> Self {
        Self {
            room: Semaphore::new(spans_max),
            healthy: AtomicBool::new(true),
            stalled: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
        }
    }

    /// Once for all spans that a collector which hangs has no room for: to wait for each
    /// would let everything behind them pile up.
    fn may_wait(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && !self.stalled.load(Ordering::Relaxed)
    }

    /// Makes room used, or counts a span as dropped.
    async fn admit(&self) -> bool {
        let permit = match self.room.try_acquire() {
            Err(_) if self.may_wait() => {
                let room = tokio::time::timeout(ROOM_TIMEOUT, self.room.acquire());
                room.await.ok().and_then(Result::ok)
            }
            permit => permit.ok(),
        };
        self.stalled.store(permit.is_none(), Ordering::Relaxed);
        match permit {
            // The exporter gives it back, when it takes the span.
            Some(permit) => permit.forget(),
            None => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        }
        true
    }
}

impl Queue {
    pub fn new(counts: Arc<Counts>, processor: BatchSpanProcessor) -> Self {
        Self {
            counts,
            processor: Arc::new(processor),
            due: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Adds a span, or counts it as dropped.
    pub async fn push(&self, span: Span) {
        let urgent = span.urgent;
        if self.counts.admit().await {
            self.processor.on_end(span.into());
            if urgent {
                self.due.notify_one();
            }
        }
    }

    /// Sees to what is urgent: one export at a time, and what comes in the same
    /// moment goes with it. Ends after `close`, with what was left.
    pub async fn hurry(&self) {
        loop {
            self.due.notified().await;
            if self.closed.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(GATHER).await;
            self.flush().await;
        }
        let processor = self.processor.clone();
        let last = move || processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
        // What it could not do in time is counted by the exporter.
        let _ = tokio::task::spawn_blocking(last).await;
    }

    /// Resolves when what was pushed is exported or lost. Not on this thread: the
    /// exporter needs it.
    pub async fn flush(&self) {
        loop {
            let processor = self.processor.clone();
            let flushed = tokio::task::spawn_blocking(move || processor.force_flush()).await;
            // The processor's patience is 5 s, an export may take longer.
            if !matches!(flushed, Ok(Err(OTelSdkError::Timeout(_)))) {
                return;
            }
        }
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.due.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Or a hanging collector would have the observer take five messages a second.
    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_waited_for_once_and_not_by_each_span() {
        let counts = Counts::new(1);
        assert!(counts.admit().await);
        let began = tokio::time::Instant::now();
        for _ in 0..1_000 {
            assert!(!counts.admit().await);
        }
        assert_eq!(began.elapsed(), ROOM_TIMEOUT);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 1_000);
        // The exporter has taken one: the next that finds none waits again.
        counts.room.add_permits(1);
        assert!(counts.admit().await && !counts.admit().await);
        assert_eq!(began.elapsed(), 2 * ROOM_TIMEOUT);
    }
}
