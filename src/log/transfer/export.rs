//! Out of a data directory, into a file.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::mpsc;

use super::format::{FORMAT, FRAME_BYTES, Header, Writer};
use super::{Counts, Error, io};
use crate::log::jetstream::ClusterOptions;
use crate::log::sqlite::tables::{TABLES, read_all};
use crate::log::sqlite::{create_file, lock, schema, unavailable};
use crate::log::{self, Command, Durability, Log, OpenOptions, ReplicaRow};

/// What was written.
#[derive(Debug)]
pub struct Exported {
    pub counts: Counts,
    /// Where in its stream a replica's store was.
    pub sequence: Option<u64>,
    /// Other replicas that were in the cell then.
    pub others: usize,
}

/// Writes all that a store has, as it is at one moment, to a file that was not there. With
/// a cluster, once the store has what the cell's stream has; without, nobody may have it
/// open.
pub async fn export(
    dir: &Path,
    to: &Path,
    cluster: Option<ClusterOptions>,
) -> Result<Exported, Error> {
    if to.exists() {
        return Err(Error::Exists(to.display().to_string()));
    }
    let (dir, to) = (dir.to_owned(), to.to_owned());
    let Some(cluster) = cluster else {
        return blocking(move || {
            let store = store(&dir)?;
            let _held = lock(&dir)?;
            // Brings up an older one.
            schema::open_writer(&store, Durability::Process)?;
            written(&dir, &to)
        })
        .await;
    };
    // Nobody takes what is committed meanwhile, and nobody waits for that.
    let (committed, _) = mpsc::channel(1);
    let options = OpenOptions {
        dir: dir.clone(),
        durability: Durability::Process,
    };
    let denied = cluster.access.denied.clone();
    let joined = Log::join_existing(options, cluster, committed).await;
    let (log, joined) = joined.map_err(|error| denied.named(error))?;
    let others = log.replicas().await?;
    let other = |row: &&ReplicaRow| !row.gone && row.number != joined.number;
    let others = others.iter().filter(other).count();
    let exported = blocking(move || written(&dir, &to)).await;
    // Refused where the others have missed it meanwhile: it says nothing of itself to them.
    let _ = log.execute(Command::Leave).await;
    blocking(move || {
        log.close();
        Ok(())
    })
    .await?;
    let exported = exported?;
    Ok(Exported { others, ..exported })
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ran = tokio::task::spawn_blocking(run).await;
    ran.unwrap_or_else(|_| Err(log::Error::Unavailable("it was cut off".into()).into()))
}

fn store(dir: &Path) -> Result<PathBuf, Error> {
    let store = dir.join("arcpd.db");
    match store.is_file() {
        true => Ok(store),
        false => Err(Error::Nothing(dir.display().to_string())),
    }
}

/// Under its name once it is whole.
fn written(dir: &Path, to: &Path) -> Result<Exported, Error> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(dir, &partial).and_then(|exported| {
        std::fs::rename(&partial, to).map_err(io(to))?;
        sync_dir(to)?;
        Ok(exported)
    });
    if written.is_err() {
        // It is of no use; that it stays is no reason for another error.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn write(dir: &Path, to: &Path) -> Result<Exported, Error> {
    let reader = schema::open_reader(&store(dir)?).map_err(unavailable)?;
    // One moment, also where a replica goes on applying.
    let moment = reader.unchecked_transaction().map_err(unavailable)?;
    let (cell, sequence) = followed(&moment).map_err(unavailable)?.unzip();
    let _ = std::fs::remove_file(to);
    create_file(to).map_err(io(to))?;
    let file = File::options().append(true).open(to).map_err(io(to))?;
    let mut writer = Writer::new(BufWriter::new(file));
    let header = Header {
        arcpd_export: FORMAT,
        store: schema::FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        exported_at: jiff::Timestamp::now().to_string(),
        cell,
        sequence,
    };
    writer.header(&header).map_err(io(to))?;
    let mut counts: Counts = TABLES
        .iter()
        .map(|table| ((*table).to_owned(), 0))
        .collect();
    read_all(&moment, FRAME_BYTES, |rows| {
        let bytes = rows
            .encode()
            .map_err(|why| Failed(io(to)(std::io::Error::other(why))))?;
        *counts.entry(rows.table).or_default() += rows.rows.len() as u64;
        writer.frame(&bytes).map_err(|error| Failed(io(to)(error)))
    })
    .map_err(|Failed(error)| error)?;
    let file = writer.end().map_err(io(to))?;
    let file = file
        .into_inner()
        .map_err(|error| io(to)(error.into_error()))?;
    file.sync_all().map_err(io(to))?;
    Ok(Exported {
        counts,
        sequence,
        others: 0,
    })
}

struct Failed(Error);

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self(unavailable(error).into())
    }
}

/// Which cell's stream, and how far.
fn followed(connection: &Connection) -> rusqlite::Result<Option<(String, u64)>> {
    let followed = "SELECT cluster, sequence FROM replicated";
    connection
        .query_row(followed, [], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)? as u64))
        })
        .optional()
}

/// So that the name is there after a power cut.
pub(super) fn sync_dir(of: &Path) -> Result<(), Error> {
    let dir = match of.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io(dir))
}
