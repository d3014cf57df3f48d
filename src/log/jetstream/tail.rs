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
use crate::protocol::Timestamp;

const RETRY: Duration = Duration::from_millis(100);
/// After a silence of so long the stream is asked whether there is more, and then again
/// and again: it may have no leader for a while, and nobody says when it has one.
const SILENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);
/// For one request. One that is made while nobody leads is never answered, so that each
/// waits little; and on a machine that has much to do the next one waits longer.
const ASK_TIMEOUT_MIN: Duration = Duration::from_millis(500);
const ASK_TIMEOUT_MAX: Duration = Duration::from_secs(4);

pub(super) struct Received {
    pub sequence: u64,
    /// When the servers had it.
    pub published: Timestamp,
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
    let mut patience = ASK_TIMEOUT_MIN;
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            read = follow(&stream, &mut last, &mut patience, &received, &followed) => match read {
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
    patience: &mut Duration,
    received: &mpsc::Sender<Received>,
    followed: &Followed,
) -> Result<(), String> {
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: *last + 1,
        },
        ..OrderedConfig::default()
    };
    // What a consumer needs is with one server, and another is chosen for the next.
    let consumer = tokio::time::timeout(*patience, stream.create_consumer(config)).await;
    let consumer = consumer.map_err(|_| {
        *patience = longer(*patience);
        "no consumer was made in time".to_owned()
    })?;
    let consumer = consumer.map_err(|error| error.to_string())?;
    let messages = consumer.messages().await;
    let mut messages = messages.map_err(|error| error.to_string())?;
    *patience = ASK_TIMEOUT_MIN;
    loop {
        let message = tokio::select! {
            biased;
            message = messages.next() => message,
            () = overtaken(stream, *last) => return Err("its consumer says nothing".into()),
        };
        let message = message.ok_or("it ended")?;
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let sequence = info.stream_sequence;
        if sequence <= *last {
            continue;
        }
        *last = sequence;
        followed.seen(sequence + info.pending);
        let read = Received {
            sequence,
            published: Timestamp((info.published.unix_timestamp_nanos() / 1_000_000) as i64),
            bytes: message.message.payload.clone(),
        };
        if received.send(read).await.is_err() {
            return Ok(());
        }
    }
}

/// Resolves once the stream has more than was read, after a silence. The server that has
/// the consumer may be gone while the others go on, and the client library takes half a
/// minute to see that.
async fn overtaken(stream: &Stream, last: u64) {
    tokio::time::sleep(SILENCE).await;
    let mut patience = ASK_TIMEOUT_MIN;
    loop {
        match tokio::time::timeout(patience, stream.get_info()).await {
            Ok(Ok(info)) if info.state.last_sequence > last => return,
            Ok(_) => patience = ASK_TIMEOUT_MIN,
            Err(_) => patience = longer(patience),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn longer(patience: Duration) -> Duration {
    (patience * 2).min(ASK_TIMEOUT_MAX)
}
