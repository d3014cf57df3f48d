//! A store as one file: for a backup, and for a move into a cell and back.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::Serialize;

use super::serve::ClusterFlags;
use crate::log::jetstream::ClusterOptions;
use crate::log::transfer::{self, Counts};
use crate::server::config::Settings;

/// Every one may also be in the file and, as ARCPD_<NAME>, in the environment.
#[derive(clap::Args, Serialize)]
struct Store {
    /// TOML file, as serve has it; the rest of it is not looked at.
    #[arg(long, env = "ARCPD_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where the store is [default: arcpd-data]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(clap::Args)]
pub(super) struct Export {
    /// Where to write it; must not be there. It has inputs, results and hashes of tokens.
    file: PathBuf,
    #[command(flatten)]
    store: Store,
    /// What the data directory has, without reading on in the cell's stream: for when
    /// that is lost.
    #[arg(long)]
    offline: bool,
    /// Then remove older exports of the same cell (or like this one of none) beside it whose
    /// names end like its own, but for so many of the newest, this one among them.
    #[arg(long, value_name = "NUMBER")]
    keep: Option<NonZeroUsize>,
}

#[derive(clap::Args)]
pub(super) struct Import {
    /// What export wrote.
    file: PathBuf,
    #[command(flatten)]
    store: Store,
}

impl Store {
    fn settings(&self) -> anyhow::Result<(PathBuf, Option<ClusterOptions>)> {
        let settings = Settings::load(self, self.config.as_deref())?;
        Ok((settings.data_dir.clone(), settings.cluster.options()?))
    }
}

impl Export {
    pub async fn run(self) -> anyhow::Result<()> {
        let (dir, cluster) = self.store.settings()?;
        let cluster = cluster.filter(|_| !self.offline);
        let exported = transfer::export(&dir, &self.file, cluster).await?;
        show("exported", &exported.counts);
        if let Some(sequence) = exported.sequence {
            eprintln!("arcpd: as of entry {sequence} of the cell's stream");
        }
        if exported.others > 0 {
            eprintln!(
                "arcpd: {} replicas are in the cell: what they write from now on is not in it",
                exported.others
            );
        }
        if let Some(keep) = self.keep {
            for gone in transfer::prune(&self.file, keep)? {
                eprintln!("arcpd: removed {}", gone.display());
            }
        }
        Ok(())
    }
}

impl Import {
    pub async fn run(self) -> anyhow::Result<()> {
        let (dir, cluster) = self.store.settings()?;
        let counts = transfer::import(&self.file, &dir, cluster).await?;
        show("imported", &counts);
        Ok(())
    }
}

fn show(done: &str, counts: &Counts) {
    let of = |table: &str| counts.get(table).copied().unwrap_or(0);
    eprintln!(
        "arcpd: {done} {} jobs, {} sessions, {} blocks of records",
        of("job"),
        of("session"),
        of("block")
    );
}
