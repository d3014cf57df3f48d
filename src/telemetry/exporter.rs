//! Observes, and exports what the SDK's batch processor hands on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::env::{Batch, Config};
use super::observer::{Message, Waiting, observe};
use super::otlp::Endpoint;
use super::queue::{Counts, Queue};
use super::refused::Refused;
use super::{encode, thread};

/// Most collectors take 4 MiB over gRPC; what is counted is not quite what is sent.
const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Returns once the endpoint's files are read.
pub(super) fn spawn(
    config: Config,
    endpoint: Endpoint,
    counts: Arc<Counts>,
    waiting: Arc<Waiting>,
) -> Result<UnboundedSender<Message>, String> {
    let (sender, inbox) = unbounded_channel();
    thread::spawn("telemetry", move || {
        let mut exporter = endpoint.spans(config.batch.export_timeout)?;
        let resource = encode::resource(&config.resource);
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource);
        let processor = processor(exporter, &config.batch, counts.clone());
        let queue = Arc::new(Queue::new(counts, processor));
        Ok(async move {
            tokio::join!(observe(inbox, waiting, queue.clone()), queue.hurry());
        })
    })?;
    Ok(sender)
}

fn processor(exporter: SpanExporter, batch: &Batch, counts: Arc<Counts>) -> BatchSpanProcessor {
    let refused = Refused::default();
    let counted = Counted {
        exporter: Arc::new(exporter),
        limit: batch.export_timeout,
        counts,
        runtime: Handle::current(),
        heard: Dispatch::new(refused.clone()),
        refused,
    };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(batch.queue_max)
        .with_max_export_batch_size(batch.batch_max)
        .with_scheduled_delay(batch.schedule_delay)
        .build();
    BatchSpanProcessor::new(counted, config)
}

/// Exports on the telemetry thread (the processor's own drives no sockets), no longer
/// than said, and counts what became of it.
#[derive(Debug)]
struct Counted {
    exporter: Arc<SpanExporter>,
    limit: Duration,
    counts: Arc<Counts>,
    runtime: Handle,
    heard: Dispatch,
    refused: Refused,
}

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        self.counts.room.add_permits(spans.len());
        // One limit for all of the batch.
        let began = Instant::now();
        for request in encode::requests(spans, REQUEST_BYTES_MAX) {
            let left = self.limit.saturating_sub(began.elapsed());
            self.request(request, left).await;
        }
        // The processor would log each failure, and there may be one every second.
        Ok(())
    }
}

impl Counted {
    async fn request(&self, spans: Vec<SpanData>, limit: Duration) {
        let count = spans.len();
        let exporter = self.exporter.clone();
        let sent = async move {
            let export = opentelemetry_sdk::trace::SpanExporter::export(&*exporter, spans);
            match tokio::time::timeout(limit, export).await {
                Ok(sent) => sent.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".into()),
            }
        };
        let sent = self.runtime.spawn(sent.with_subscriber(self.heard.clone()));
        let sent = sent.await.unwrap_or_else(|error| Err(error.to_string()));
        let refused = self.refused.take().min(count as u64);
        self.ended(count as u64 - refused, refused, sent);
    }

    fn ended(&self, count: u64, refused: u64, sent: Result<(), String>) {
        let healthy = self.counts.healthy.swap(sent.is_ok(), Ordering::Relaxed);
        // Once for each time that it changes, not for each batch.
        match &sent {
            Err(reason) if healthy => {
                tracing::warn!(reason, "spans cannot be exported and are dropped")
            }
            Ok(()) if !healthy => tracing::info!("spans are exported again"),
            _ => {}
        }
        if refused > 0 {
            tracing::warn!(refused, "the collector refused spans");
        }
        let total = match sent {
            Ok(()) => &self.counts.exported,
            Err(_) => &self.counts.dropped,
        };
        total.fetch_add(count, Ordering::Relaxed);
        self.counts.dropped.fetch_add(refused, Ordering::Relaxed);
    }
}
