//! The floor: bare async-nats. One connection publishes, and each reader has one too, with
//! an ordered pull consumer, as a replica has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, StorageType};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::observed::Pace;
use super::{Ground, connect};
use crate::bench::process::Process;

/// Messages that are on their way: what the floor is tried with; the better counts.
const WINDOWS: [usize; 2] = [64, 256];
const TICK: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(200);
/// One alone; a reader whose consumer is lost would wait for ever.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// A stream like a cell's log.
pub struct Bare {
    servers: String,
    pub name: String,
    publisher: jetstream::Context,
    /// Runs so far. Messages begin with their run's: a server that has just become the
    /// leader may not yet know what the last one has acknowledged, and where a reader
    /// begins is then too early.
    runs: AtomicU64,
}

/// What the messages of a run are.
#[derive(Clone)]
struct Payload(Bytes);

impl Payload {
    fn is(&self, message: &[u8]) -> bool {
        message.len() == self.0.len() && message[..8] == self.0[..8]
    }
}

impl Bare {
    pub async fn start(ground: &Ground) -> anyhow::Result<Self> {
        let name = ground.name();
        let config = Config {
            name: name.clone(),
            subjects: vec![name.clone()],
            storage: StorageType::File,
            num_replicas: ground.copies,
            ..Config::default()
        };
        ground.jetstream.create_stream(config).await?;
        Ok(Self {
            servers: ground.servers.clone(),
            name,
            publisher: jetstream::new(connect(&ground.servers).await?),
            runs: AtomicU64::new(0),
        })
    }

    fn payload(&self, bytes: usize) -> Payload {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let mut payload = vec![b'.'; bytes.max(8)];
        payload[..8].copy_from_slice(&run.to_be_bytes());
        Payload(payload.into())
    }

    /// Messages a second, from the first publish until every reader has the last.
    pub async fn rate(&self, messages: u64, bytes: usize, readers: usize) -> anyhow::Result<f64> {
        let mut best: f64 = 0.0;
        for window in WINDOWS {
            let payload = self.payload(bytes);
            let mut reading = JoinSet::new();
            for _ in 0..readers {
                let (mut reader, payload) = (self.reader().await?, payload.clone());
                reading.spawn(async move {
                    for _ in 0..messages {
                        next(&mut reader, &payload).await?;
                    }
                    anyhow::Ok(())
                });
            }
            let started = Instant::now();
            self.publish(messages, &payload, window).await?;
            while let Some(read) = reading.join_next().await {
                read??;
            }
            best = best.max(messages as f64 / started.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    async fn publish(&self, messages: u64, payload: &Payload, window: usize) -> anyhow::Result<()> {
        let mut acks = FuturesUnordered::new();
        for _ in 0..messages {
            if acks.len() >= window {
                let acked: Result<_, _> = acks.next().await.context("an ack is due")?;
                acked?;
            }
            acks.push(self.send(payload.0.clone()).await?.into_future());
        }
        while let Some(acked) = acks.next().await {
            acked?;
        }
        Ok(())
    }

    async fn send(&self, payload: Bytes) -> anyhow::Result<PublishAckFuture> {
        Ok(self.publisher.publish(self.name.clone(), payload).await?)
    }

    /// Others that read it, each a process as a replica is.
    pub fn read_by(&self, others: usize) -> anyhow::Result<Vec<Process>> {
        let others = (0..others).map(|_| Process::reader(&self.servers, &self.name));
        others.collect()
    }

    /// Milliseconds from a publish to a reader. Connections are new each time: how many
    /// servers are on the way is luck.
    pub async fn trips(&self, count: u64, bytes: usize, pace: Pace) -> anyhow::Result<Vec<f64>> {
        let publisher = jetstream::new(connect(&self.servers).await?);
        let mut reader = self.reader().await?;
        let (mut times, mut beat) = (Vec::new(), pace.beat());
        for _ in 0..count {
            beat.due().await;
            let payload = self.payload(bytes);
            let started = Instant::now();
            let ack = publisher.publish(self.name.clone(), payload.0.clone());
            let ack = ack.await?;
            let arrived = tokio::time::timeout(ARRIVES_WITHIN, next(&mut reader, &payload));
            arrived.await.context("a message was not read")??;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            ack.await?;
        }
        Ok(times)
    }

    /// When it began, and when messages arrived of those that are published all the while
    /// from then on, until it is stopped.
    pub async fn arrivals(self, mut reader: Ordered, stopped: CancellationToken) -> Vec<Instant> {
        let mut seen = vec![Instant::now()];
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = stopped.cancelled() => return seen,
                // Lost without a leader; the next ones tell when there is one.
                _ = ticks.tick() => drop(self.send(Bytes::from_static(b".")).await),
                message = reader.next() => match message {
                    Some(Ok(_)) => seen.push(Instant::now()),
                    // Consumers die with their server.
                    _ => loop {
                        tokio::time::sleep(RETRY).await;
                        if let Ok(next) = self.reader().await {
                            reader = next;
                            break;
                        }
                    },
                },
            }
        }
    }

    pub async fn reader(&self) -> anyhow::Result<Ordered> {
        reader(&self.servers, &self.name).await
    }
}

/// Reads a stream until it is killed.
pub async fn read_all(servers: &str, name: &str) -> anyhow::Result<()> {
    let mut reader = reader(servers, name).await?;
    let ready = serde_json::json!({ "fields": { "listen": name } });
    eprintln!("{ready}");
    while let Some(message) = reader.next().await {
        message?;
    }
    Ok(())
}

/// What comes from now on.
async fn reader(servers: &str, name: &str) -> anyhow::Result<Ordered> {
    let own = jetstream::new(connect(servers).await?);
    let stream = own.get_stream(name).await?;
    let start_sequence = stream.cached_info().state.last_sequence + 1;
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await?;
    Ok(consumer.messages().await?)
}

/// The next message of a run.
async fn next(reader: &mut Ordered, payload: &Payload) -> anyhow::Result<()> {
    while !payload.is(&reader.next().await.context("it ended")??.payload) {}
    Ok(())
}
