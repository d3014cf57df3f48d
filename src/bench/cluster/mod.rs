//! Several replicas over one stream of NATS, and what bare NATS does with messages of
//! the same size: published many at a time, read by as many ordered consumers as
//! there are replicas, kept as often.
//!
//! Everything shares one machine: three servers, the replicas, and this process, which
//! is all clients, agent hosts and the floor.

mod cell;
mod crew;
mod failover;
mod floor;
mod nats;
mod observed;
mod replicated;
mod scale;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream;

use cell::Cell;
pub use failover::run as failover;
use floor::Bare;
pub use floor::read_all;
use nats::Nodes;
pub use observed::run as observed;
pub use replicated::run as replicated;
pub use scale::run as scale;

/// For what servers agree on; an election takes up to nine seconds of it.
const AGREE_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Of a cell where nothing else is said.
const REPLICAS: usize = 3;

#[derive(clap::Args)]
pub struct Flags {
    /// Measure replicas over NATS: over that of a URL, else over three servers of its own
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    cluster: Option<Option<String>>,
    /// What those three are
    #[arg(long, value_name = "PATH", default_value = "nats-server")]
    nats_server: PathBuf,
    /// How many servers have each entry: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3)]
    cluster_replication: usize,
}

/// What every measure of a cluster is given.
pub struct Ground {
    servers: String,
    /// None where they are somebody else's: then none is killed.
    own: Option<Nodes>,
    jetstream: jetstream::Context,
    copies: usize,
    rounds: usize,
    quick: bool,
    named: AtomicUsize,
}

impl Flags {
    pub fn is_on(&self) -> bool {
        self.cluster.is_some()
    }

    pub async fn ground(&self, rounds: usize, quick: bool) -> anyhow::Result<Ground> {
        let given = self.cluster.as_ref().context("it needs --cluster")?;
        let (servers, own) = match given {
            Some(servers) => (servers.clone(), None),
            None => {
                let nodes = Nodes::start(&self.nats_server).await?;
                (nodes.urls(), Some(nodes))
            }
        };
        let client = connect(&servers).await?;
        Ok(Ground {
            servers,
            own,
            jetstream: jetstream::new(client),
            copies: self.cluster_replication,
            rounds,
            quick,
            named: AtomicUsize::new(0),
        })
    }
}

impl Ground {
    fn amount(&self, full: u64) -> u64 {
        super::amount(full, self.quick)
    }

    /// For a cell or a stream: nobody else's, and none of an earlier run.
    fn name(&self) -> String {
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        format!("bench-{}-{number}", std::process::id())
    }

    async fn cell(&self, replicas: usize) -> anyhow::Result<Cell> {
        Cell::start(self, replicas).await
    }

    async fn bare(&self) -> anyhow::Result<Bare> {
        Bare::start(self).await
    }

    /// Messages of a stream so far, and their bytes.
    async fn written(&self, stream: &str) -> anyhow::Result<(u64, u64)> {
        let stream = self.jetstream.get_stream(stream).await?;
        let state = &stream.cached_info().state;
        Ok((state.messages, state.bytes))
    }

    /// Who leads a stream; waits for an election to end.
    async fn leader(&self, stream: &str) -> anyhow::Result<String> {
        let asked = async {
            loop {
                // No answer or a refusal: it has no leader yet.
                if let Ok(found) = self.jetstream.get_stream(stream).await
                    && let Some(cluster) = &found.cached_info().cluster
                    && let Some(leader) = &cluster.leader
                {
                    return leader.clone();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let led = tokio::time::timeout(AGREE_TIMEOUT, asked).await;
        led.with_context(|| format!("nobody leads {stream}"))
    }

    async fn remove(&self, stream: &str) -> anyhow::Result<()> {
        let removed = self.jetstream.delete_stream(stream).await;
        removed.with_context(|| format!("removing {stream}"))?;
        Ok(())
    }
}

async fn connect(servers: &str) -> anyhow::Result<async_nats::Client> {
    let all: Vec<_> = servers.split(',').map(str::trim).collect();
    let client = async_nats::connect(all).await;
    client.with_context(|| servers.to_owned())
}
