//! The floor: bare async-nats. One connection publishes, and each reader has one too, with
//! an ordered pull consumer, as a replica has.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Ground, connect};

/// Messages that are on their way: what the floor is tried with; the better counts.
const WINDOWS: [usize; 2] = [64, 256];
const TICK: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(200);

/// A stream like a cell's log.
pub struct Bare {
    servers: String,
    pub name: String,
    publisher: jetstream::Context,
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
        })
    }

    /// Messages a second, from the first publish until every reader has the last.
    pub async fn rate(&self, messages: u64, bytes: usize, readers: usize) -> anyhow::Result<f64> {
        let mut best: f64 = 0.0;
        for window in WINDOWS {
            let mut reading = JoinSet::new();
            for _ in 0..readers {
                let mut reader = self.reader().await?;
                reading.spawn(async move {
                    for _ in 0..messages {
                        let message = reader.next().await.context("it ended")??;
                        ensure!(message.payload.len() == bytes, "another message");
                    }
                    anyhow::Ok(())
                });
            }
            let started = Instant::now();
            self.publish(messages, bytes, window).await?;
            while let Some(read) = reading.join_next().await {
                read??;
            }
            best = best.max(messages as f64 / started.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    async fn publish(&self, messages: u64, bytes: usize, window: usize) -> anyhow::Result<()> {
        let payload = Bytes::from(vec![b'.'; bytes]);
        let mut acks = FuturesUnordered::new();
        for _ in 0..messages {
            if acks.len() >= window {
                let acked: Result<_, _> = acks.next().await.context("an ack is due")?;
                acked?;
            }
            acks.push(self.send(payload.clone()).await?.into_future());
        }
        while let Some(acked) = acks.next().await {
            acked?;
        }
        Ok(())
    }

    async fn send(&self, payload: Bytes) -> anyhow::Result<PublishAckFuture> {
        Ok(self.publisher.publish(self.name.clone(), payload).await?)
    }

    /// Milliseconds from a publish to the reader, one after the other.
    pub async fn trips(&self, count: u64, bytes: usize) -> anyhow::Result<Vec<f64>> {
        let payload = Bytes::from(vec![b'.'; bytes]);
        let mut reader = self.reader().await?;
        let mut times = Vec::new();
        for _ in 0..count {
            let started = Instant::now();
            let ack = self.send(payload.clone()).await?;
            reader.next().await.context("it ended")??;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            ack.await?;
        }
        Ok(times)
    }

    /// When messages arrived of those that are published all the while, until it is stopped.
    pub async fn arrivals(self, stopped: CancellationToken) -> anyhow::Result<Vec<Instant>> {
        let mut seen = Vec::new();
        let mut reader = self.reader().await?;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = stopped.cancelled() => return Ok(seen),
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

    /// What comes from now on.
    async fn reader(&self) -> anyhow::Result<Ordered> {
        let own = jetstream::new(connect(&self.servers).await?);
        let stream = own.get_stream(&self.name).await?;
        let start_sequence = stream.cached_info().state.last_sequence + 1;
        let config = OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await?;
        Ok(consumer.messages().await?)
    }
}
