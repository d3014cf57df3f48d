//! A consumer of the stream, and what comes by it.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream::{ConsumerError, Stream};
use futures_util::StreamExt;

use super::place::Received;

/// Asked for at once.
const BATCH: usize = 500;
/// The same in bytes: a server has room for four times as many before it counts its client as
/// too slow, and leaves out what comes.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// A server says so often that it has nothing.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Its server forgets a consumer that nobody reads by.
const INACTIVE: Duration = Duration::from_secs(30);

/// Of one server, in its memory: whatever happens to it, another is made. The client
/// library has one that makes itself again; here that is for who looks first whether the
/// stream is still what it was.
pub(super) struct Reading {
    messages: Messages,
    /// What its consumer has delivered.
    delivered: u64,
}

/// At an entry; where the server has not got so far yet, before it.
pub(super) async fn consumer_at(
    stream: &Stream,
    start_sequence: u64,
) -> Result<Consumer<Config>, ConsumerError> {
    let config = Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        max_deliver: 1,
        inactive_threshold: INACTIVE,
        num_replicas: 1,
        memory_storage: true,
        ..Config::default()
    };
    stream.create_consumer(config).await
}

impl Reading {
    pub async fn by(consumer: &Consumer<Config>) -> Result<Self, String> {
        let messages = consumer.stream().max_messages_per_batch(BATCH);
        let messages = messages.max_bytes_per_batch(BATCH_BYTES);
        let messages = messages.heartbeat(HEARTBEAT).messages().await;
        Ok(Self {
            messages: messages.map_err(|error| error.to_string())?,
            delivered: 0,
        })
    }

    /// The next entry, and how many there are behind it.
    pub async fn next(&mut self) -> Result<(Received, u64), String> {
        let message = self.messages.next().await.ok_or("it ended")?;
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        // What was lost on the way does not come again; and a server that begins anew
        // with a consumer counts from 1.
        if info.consumer_sequence != self.delivered + 1 {
            return Err("its consumer has left something out".into());
        }
        self.delivered += 1;
        let published_at_ns = info.published.unix_timestamp_nanos() as i64;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let received = Received {
            sequence,
            published_at_ns,
            bytes: message.message.payload,
        };
        Ok((received, pending))
    }
}
