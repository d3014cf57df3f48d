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
/// After a silence of so long the stream is asked whether there is more.
const SILENCE: Duration = Duration::from_secs(1);
/// For one request. What a consumer needs is with one server, and another is chosen for
/// the next.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

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
    let consumer = tokio::time::timeout(ASK_TIMEOUT, stream.create_consumer(config)).await;
    let consumer = consumer.map_err(|_| "no consumer was made in time".to_owned())?;
    let consumer = consumer.map_err(|error| error.to_string())?;
    let messages = consumer.messages().await;
    let mut messages = messages.map_err(|error| error.to_string())?;
    loop {
        let message = match tokio::time::timeout(SILENCE, messages.next()).await {
            Ok(Some(message)) => message.map_err(|error| error.to_string())?,
            Ok(None) => return Err("it ended".into()),
            Err(_) if is_behind(stream, *last).await => {
                return Err("its consumer says nothing".into());
            }
            Err(_) => continue,
        };
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
}

/// Whether a stream that answers has more. The server that has the consumer may be gone
/// while the others go on, and the client library takes half a minute to see that.
async fn is_behind(stream: &Stream, last: u64) -> bool {
    let asked = tokio::time::timeout(ASK_TIMEOUT, stream.get_info()).await;
    matches!(asked, Ok(Ok(info)) if info.state.last_sequence > last)
}
