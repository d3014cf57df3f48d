//! Reads the stream from where this replica's file is.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::followed::Followed;

const RETRY: Duration = Duration::from_millis(200);

pub(super) struct Received {
    pub sequence: u64,
    pub bytes: Bytes,
}

/// Runs until it is stopped or nobody takes what it reads.
pub(super) async fn run(
    stream: Stream,
    mut last: u64,
    received: mpsc::Sender<Received>,
    stopped: CancellationToken,
    followed: Arc<Followed>,
) {
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            read = follow(&stream, &mut last, &received, &followed) => match read {
                Ok(()) => return,
                Err(error) => tracing::warn!(error, after = last, "reading the stream was cut off"),
            },
        }
        tokio::select! {
            () = stopped.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// `Ok` when nobody takes what is read any more.
async fn follow(
    stream: &Stream,
    last: &mut u64,
    received: &mpsc::Sender<Received>,
    followed: &Followed,
) -> Result<(), String> {
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: *last + 1,
        },
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await;
    let consumer = consumer.map_err(|error| error.to_string())?;
    let messages = consumer.messages().await;
    let mut messages = messages.map_err(|error| error.to_string())?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let sequence = info.stream_sequence;
        if sequence <= *last {
            continue;
        }
        *last = sequence;
        followed.seen(sequence + info.pending);
        let bytes = message.message.payload.clone();
        if received.send(Received { sequence, bytes }).await.is_err() {
            return Ok(());
        }
    }
    Err("it ended".into())
}
