//! The telemetry thread: an async runtime of its own, so that a runtime with one
//! worker that is busy, or waits for the last flush, cannot stand in its own way.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::env::{Batch, Config};
use super::observer::{Message, Waiting, observe};
use super::otlp::{Client, Endpoint, Signal};
use super::queue::Queue;
use super::{encode, span::Span};

/// How long something urgent waits for what comes in the same moment.
const GATHER: Duration = Duration::from_millis(20);

/// Returns once the endpoint's files are read.
pub(super) fn spawn(
    config: Config,
    endpoint: Endpoint,
    queue: Arc<Queue>,
    waiting: Arc<Waiting>,
) -> Result<UnboundedSender<Message>, String> {
    let (sender, inbox) = unbounded_channel();
    let (started_tx, started) = std::sync::mpsc::sync_channel(1);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(started_tx.send(Err(error.to_string()))),
        };
        runtime.block_on(async {
            let client = match Client::new(endpoint, Signal::Traces) {
                Ok(client) => client,
                Err(error) => return drop(started_tx.send(Err(error))),
            };
            drop(started_tx.send(Ok(())));
            let resource = encode::resource(&config.resource);
            tokio::join!(
                observe(inbox, waiting, queue.clone()),
                export(client, resource, config.batch, &queue),
            );
        });
    };
    std::thread::Builder::new()
        .name("telemetry".into())
        .spawn(run)
        .map_err(|error| error.to_string())?;
    match started.recv() {
        Ok(Ok(())) => Ok(sender),
        Ok(Err(error)) => Err(error),
        Err(_) => Err("the telemetry thread ended while it started".into()),
    }
}

async fn export(client: Client, resource: Resource, batch: Batch, queue: &Queue) {
    let mut down = false;
    while let Some(spans) = queue.next(batch.schedule_delay, GATHER).await {
        let count = spans.len();
        let sent = send(&client, &resource, spans, batch.export_timeout).await;
        // Once for each time that it changes, not for each batch.
        match &sent {
            Err(reason) if !down => {
                tracing::warn!(reason, "spans cannot be exported and are dropped")
            }
            Ok(_) if down => tracing::info!("spans are exported again"),
            _ => {}
        }
        down = sent.is_err();
        let refused = sent.as_ref().map_or(0, |refused| *refused).min(count);
        if refused > 0 {
            tracing::warn!(refused, "the collector refused spans");
            queue
                .dropped
                .fetch_add(refused as u64, std::sync::atomic::Ordering::Relaxed);
        }
        queue.done(count - refused, sent.is_ok());
    }
}

/// Returns how many spans the collector did not want.
async fn send(
    client: &Client,
    resource: &Resource,
    spans: Vec<Span>,
    limit: Duration,
) -> Result<usize, String> {
    let request = encode::request(resource, spans);
    let answer: ExportTraceServiceResponse = client.send(&request, limit).await?;
    let refused = answer
        .partial_success
        .map_or(0, |partial| partial.rejected_spans);
    Ok(usize::try_from(refused).unwrap_or(0))
}
