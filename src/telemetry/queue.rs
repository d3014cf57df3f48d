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
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
        }
    }

    /// Makes room used, or counts a span as dropped.
    async fn admit(&self) -> bool {
        let permit = match self.room.try_acquire() {
            Err(_) if self.healthy.load(Ordering::Relaxed) => {
                let room = tokio::time::timeout(ROOM_TIMEOUT, self.room.acquire());
                room.await.ok().and_then(Result::ok)
            }
            permit => permit.ok(),
        };
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
