//! `arcpd bench`: what the runtime does, beside what the raw library does.
//!
//! A runtime and a floor each run in a process of their own; this one is the
//! client of both, over gRPC and over WebSocket. The floor is bare tonic, or a
//! bare WebSocket, moving messages of the same size in the same pattern. Rounds of
//! the two are interleaved and the ratio of their medians is what counts: the
//! machine is the same for both. With `--cluster` it is several replicas and NATS
//! beside bare NATS: see [`cluster`]. Every stream is checked while it is measured; a wrong one fails the run.

mod aged;
mod authorize;
mod client;
mod cluster;
mod fanout;
mod floor;
mod hosts;
mod idle;
mod jobs;
mod many;
mod process;
mod replay;
mod report;
mod setup;
mod stopped;
mod stream;
mod telemetry;

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

pub use floor::Floor;
use process::Process;
use report::Report;

/// In the order of their rows.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Measure {
    Latency,
    Setup,
    Stream,
    Many,
    Replay,
    Fanout,
    Stopped,
    Stored,
    Aged,
    Hosts,
    Authorize,
    Telemetry,
    Idle,
    Replicated,
    Observed,
    Failover,
    Scale,
}

#[derive(clap::Args)]
pub struct Bench {
    /// Measure these only.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Interleaved rounds of each measure; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Small amounts and one round: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// With 100,000 stored jobs where fewer are the default.
    #[arg(long)]
    long: bool,
    /// Write the results to a file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    cluster: cluster::Flags,
}

/// What every measure is given.
struct Ground {
    runtime: Process,
    floor: Process,
    rounds: usize,
    quick: bool,
    long: bool,
    /// Removed after the processes are gone.
    _dir: tempfile::TempDir,
}

impl Ground {
    /// A smaller amount for a quick run.
    fn amount(&self, full: u64) -> u64 {
        amount(full, self.quick)
    }
}

fn amount(full: u64, quick: bool) -> u64 {
    match quick {
        true => (full / 50).max(20),
        false => full,
    }
}

impl Bench {
    /// Fails when a stream was wrong. Missed targets are shown, not failed: they
    /// depend on what else the machine does.
    pub async fn run(self) -> anyhow::Result<()> {
        process::raise_open_files();
        let mut report = Report::default();
        for measure in self.chosen()? {
            let run = measure.run(&self, &mut report).await;
            run.with_context(|| format!("{measure:?}"))?;
        }
        report.print();
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// What is to be measured, of that which can be.
    fn chosen(&self) -> anyhow::Result<Vec<Measure>> {
        let on = self.cluster.is_on();
        if let Some(other) = self.only.iter().find(|only| only.is_of_cluster() != on) {
            let without = if on { "without" } else { "with" };
            anyhow::bail!("--only: {other:?} is measured {without} --cluster");
        }
        let all = Measure::value_variants().iter().copied();
        let mut chosen: Vec<_> = all
            .filter(|measure| measure.is_of_cluster() == on)
            .collect();
        chosen.retain(|measure| self.only.is_empty() || self.only.contains(measure));
        Ok(chosen)
    }

    fn rounds(&self) -> usize {
        match self.quick {
            true => 1,
            false => self.rounds.max(1),
        }
    }

    /// New processes and a new store: one measure leaves the next nothing to clear up.
    fn ground(&self) -> anyhow::Result<Ground> {
        let dir = tempfile::tempdir()?;
        Ok(Ground {
            runtime: Process::runtime(dir.path()).context("the runtime")?,
            floor: Process::floor().context("the floor")?,
            rounds: self.rounds(),
            quick: self.quick,
            long: self.long,
            _dir: dir,
        })
    }

    /// New servers, unless they are somebody else's; replicas are started as needed.
    async fn cluster_ground(&self) -> anyhow::Result<cluster::Ground> {
        let ground = self.cluster.ground(self.rounds(), self.quick).await;
        ground.context("NATS")
    }
}

impl Measure {
    fn is_of_cluster(self) -> bool {
        matches!(
            self,
            Self::Replicated | Self::Observed | Self::Failover | Self::Scale
        )
    }

    async fn run(self, bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Latency => jobs::run(&bench.ground()?, report).await,
            Self::Setup => setup::run(&bench.ground()?, report).await,
            Self::Stream => stream::run(&bench.ground()?, report).await,
            Self::Many => many::run(&bench.ground()?, report).await,
            Self::Replay => replay::run(&bench.ground()?, report).await,
            Self::Fanout => fanout::run(&bench.ground()?, report).await,
            Self::Stopped => stopped::run(&bench.ground()?, report).await,
            Self::Stored => jobs::stored(&bench.ground()?, report).await,
            Self::Aged => aged::run(&bench.ground()?, report).await,
            Self::Hosts => hosts::run(&bench.ground()?, report).await,
            Self::Authorize => authorize::run(&bench.ground()?, report).await,
            Self::Telemetry => telemetry::run(&bench.ground()?, report).await,
            Self::Idle => idle::run(&bench.ground()?, report).await,
            Self::Replicated => cluster::replicated(&bench.cluster_ground().await?, report).await,
            Self::Observed => cluster::observed(&bench.cluster_ground().await?, report).await,
            Self::Failover => cluster::failover(&mut bench.cluster_ground().await?, report).await,
            Self::Scale => cluster::scale(&bench.cluster_ground().await?, report).await,
        }
    }
}

/// The middle of some values.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that a share of the values is at or below.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share).ceil() as usize;
    values
        .get(index.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}
