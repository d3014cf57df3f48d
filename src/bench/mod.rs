//! `arcpd bench`: what the runtime does, beside what the raw library does.
//!
//! A runtime and a floor each run in a process of their own; this one is the
//! client of both, over gRPC and over WebSocket. The floor is bare tonic, or a
//! bare WebSocket, moving messages of the same size in the same pattern. Rounds of
//! the two are interleaved and the ratio of their medians is what counts: the
//! machine is the same for both. Every stream is checked while it is measured; a wrong one fails the run.

mod authorize;
mod client;
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
    Hosts,
    Authorize,
    Telemetry,
    Idle,
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
        if self.quick {
            (full / 50).max(20)
        } else {
            full
        }
    }
}

impl Bench {
    /// Fails when a stream was wrong. Missed targets are shown, not failed: they
    /// depend on what else the machine does.
    pub async fn run(self) -> anyhow::Result<()> {
        process::raise_open_files();
        let mut report = Report::default();
        for measure in Measure::value_variants() {
            if self.only.is_empty() || self.only.contains(measure) {
                let run = measure.run(&self.ground()?, &mut report).await;
                run.with_context(|| format!("{measure:?}"))?;
            }
        }
        report.print();
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&report)?;
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// New processes and a new store: one measure leaves the next nothing to clear up.
    fn ground(&self) -> anyhow::Result<Ground> {
        let dir = tempfile::tempdir()?;
        Ok(Ground {
            runtime: Process::runtime(dir.path()).context("the runtime")?,
            floor: Process::floor().context("the floor")?,
            rounds: if self.quick { 1 } else { self.rounds.max(1) },
            quick: self.quick,
            long: self.long,
            _dir: dir,
        })
    }
}

impl Measure {
    async fn run(self, ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Latency => jobs::run(ground, report).await,
            Self::Setup => setup::run(ground, report).await,
            Self::Stream => stream::run(ground, report).await,
            Self::Many => many::run(ground, report).await,
            Self::Replay => replay::run(ground, report).await,
            Self::Fanout => fanout::run(ground, report).await,
            Self::Stopped => stopped::run(ground, report).await,
            Self::Stored => jobs::stored(ground, report).await,
            Self::Hosts => hosts::run(ground, report).await,
            Self::Authorize => authorize::run(ground, report).await,
            Self::Telemetry => telemetry::run(ground, report).await,
            Self::Idle => idle::run(ground, report).await,
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
