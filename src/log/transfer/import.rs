//! Out of a file, into an empty data directory or an empty cell.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::format::FRAME_BYTES;
use super::left::{self, remove_store};
use super::stage::Staged;
use super::{Counts, Error, io};
use crate::log::jetstream::{ClusterOptions, Joined, News};
use crate::log::sqlite::tables::read_all;
use crate::log::sqlite::{create_dir, lock, schema};
use crate::log::{self, Command, Durability, Log, OpenOptions, Outcome, ReplicaRow};

/// Parts on their way at once.
const PARTS_MAX: usize = 16;
/// Of an entry, beside a part.
const ENTRY_HEAD: usize = 64 * 1024;

/// Brings a file into a data directory that has no store; with a cluster, also into its
/// stream. Nothing is changed when the file or the target is not as it must be.
pub async fn import(
    file: &Path,
    dir: &Path,
    cluster: Option<ClusterOptions>,
) -> Result<Counts, Error> {
    let (file, at) = (file.to_owned(), dir.to_owned());
    let staged = tokio::task::spawn_blocking(move || stage(&file, &at)).await;
    let (staged, held) = staged.map_err(cut_off)??;
    match cluster {
        None => staged.settle(&dir.join("arcpd.db")),
        Some(cluster) => {
            // For the replica that this is in the cell.
            drop(held);
            into_cell(staged, dir.to_owned(), cluster).await
        }
    }
}

/// And the directory's lock.
fn stage(file: &Path, dir: &Path) -> Result<(Staged, File), Error> {
    create_dir(dir).map_err(io(dir))?;
    let held = lock(dir)?;
    left::clear(dir);
    if dir.join("arcpd.db").exists() {
        let dir = dir.display();
        return Err(Error::NotEmpty(format!(
            "{dir} has a store already; give an empty --data-dir"
        )));
    }
    Ok((Staged::load(file, dir)?, held))
}

async fn into_cell(staged: Staged, dir: PathBuf, cluster: ClusterOptions) -> Result<Counts, Error> {
    // Nobody takes what is committed meanwhile, and nobody waits for that.
    let (committed, _) = mpsc::channel(1);
    let options = OpenOptions {
        dir: dir.clone(),
        durability: Durability::Process,
    };
    let denied = cluster.access.denied.clone();
    let joined = Log::join(options, cluster, committed).await;
    let (log, mut joined) = match joined {
        Ok(joined) => joined,
        Err(error) => {
            // Another process's, which has begun here meanwhile, is left alone.
            if !matches!(error, log::Error::InUse { .. }) {
                remove_store(&dir);
            }
            return Err(denied.named(error).into());
        }
    };
    let brought = bring(&log, &mut joined, staged).await;
    // Also after a failure: a replica that is there keeps the next import out.
    let left = log.execute(Command::Leave).await;
    let closed = tokio::task::spawn_blocking(move || log.close()).await;
    if brought.is_err() {
        remove_store(&dir);
    }
    let counts = brought?;
    if let Err(error) = left {
        tracing::warn!(%error, "all of it is in the cell; the first replica that starts waits 3 s for this process");
    }
    closed.map_err(cut_off)?;
    Ok(counts)
}

async fn bring(log: &Log, joined: &mut Joined, staged: Staged) -> Result<Counts, Error> {
    let others = log.replicas().await?;
    let other = |row: &&ReplicaRow| !row.gone && row.number != joined.number;
    if let Some(other) = others.iter().find(other) {
        return Err(Error::NotEmpty(format!(
            "replica {} ({}) is in the cell; stop all of them. Of one that was killed the others \
             learn within seconds: start one, wait ten, and stop it. Where it was an import that \
             was killed there are no others: remove the stream, or choose another cluster.name",
            other.number, other.name
        )));
    }
    if !log.is_unused().await? {
        let why = "the cell has jobs or sessions, or had; give an empty stream, by another \
                   cluster.name";
        return Err(Error::NotEmpty(why.into()));
    }
    let import = ulid::Ulid::generate().to_string();
    let counts = staged.counts.clone();
    let (parts_tx, parts) = mpsc::channel(PARTS_MAX);
    let read = tokio::task::spawn_blocking(move || read(&staged, &parts_tx).map(|()| staged));
    let part_bytes_max = joined.client.server_info().max_payload - ENTRY_HEAD;
    let sent = send(log, &import, parts, part_bytes_max).await;
    // To the end: its file tells an import that was killed from one that was not.
    let _staged = read.await.map_err(cut_off)??;
    let end = Command::ImportEnd {
        import,
        parts: sent?,
        store: schema::FORMAT,
    };
    let is_in = match log.execute(end).await {
        Ok(outcome) => outcome == Outcome::Done,
        // All of it is applied at once, which takes longer than a command waits.
        Err(error) => {
            tracing::info!(%error, "the end of the import is waited for");
            settled(log, joined).await?;
            !log.is_unused().await?
        }
    };
    match is_in {
        true => Ok(counts),
        false => Err(Error::NotEmpty(
            "somebody has used the cell meanwhile".into(),
        )),
    }
}

/// Resolves once all that was sent is applied, or never will be.
async fn settled(log: &Log, joined: &mut Joined) -> Result<(), Error> {
    let given_up = async {
        loop {
            match joined.news.recv().await {
                Some(News::Lost(why)) => return why,
                Some(_) => {}
                None => return "the log has ended".into(),
            }
        }
    };
    let fenced = joined.fenced.clone();
    tokio::select! {
        () = log.until_settled() => Ok(()),
        () = fenced.cancelled() => {
            let why = "a replica of the cell has given this one up".to_owned();
            Err(log::Error::Unavailable(why).into())
        }
        why = given_up => Err(log::Error::Unavailable(why).into()),
    }
}

fn read(staged: &Staged, parts: &mpsc::Sender<Bytes>) -> Result<(), Error> {
    let read = read_all(&staged.connection, FRAME_BYTES, |rows| {
        let bytes = rows.encode().map_err(|why| Stopped(Some(why)))?;
        // Whoever takes them says why it does not any more.
        parts.blocking_send(bytes.into()).map_err(|_| Stopped(None))
    });
    match read {
        Ok(()) | Err(Stopped(None)) => Ok(()),
        Err(Stopped(Some(why))) => Err(log::Error::Unavailable(why).into()),
    }
}

/// Why, unless that is known elsewhere.
struct Stopped(Option<String>);

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        Self(Some(error.to_string()))
    }
}

/// How many there were.
async fn send(
    log: &Log,
    import: &str,
    parts: mpsc::Receiver<Bytes>,
    bytes_max: usize,
) -> Result<u32, Error> {
    let parts = ReceiverStream::new(parts).zip(futures_util::stream::iter(0..));
    let sent = parts.map(|(rows, number)| async move {
        if rows.len() > bytes_max {
            return Err(log::Error::Unavailable(format!(
                "a row of {} bytes is more than the servers take: raise their max_payload",
                rows.len()
            )));
        }
        let import = import.to_owned();
        let part = Command::ImportPart {
            import,
            number,
            rows,
        };
        log.execute(part).await
    });
    let sent = sent
        .buffered(PARTS_MAX)
        .try_fold(0, async |count, _| Ok(count + 1));
    Ok(sent.await?)
}

fn cut_off(_: tokio::task::JoinError) -> log::Error {
    log::Error::Unavailable("it was cut off".into())
}
