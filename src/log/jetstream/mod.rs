//! The log of several replicas. One NATS JetStream stream commits; each replica applies
//! it, in its order, to its own file, and reads only from there.
//!
//! ```text
//!            gather ──▶ publisher ──▶ stream ──▶ tail ──▶ applier ──▶ file, answers, fan-out
//!  (what waits)   entry              (R3)    (every replica's)
//! ```
//!
//! What is sent is a group of commands and blocks, an *entry*, and what it does is decided
//! where it is applied, by the entry and the store alone: so it is the same on every
//! replica. Idempotency keys, compare-and-set and the fence against a replica that is
//! gone need nothing of the server but one order. That is also why no message has an
//! expected sequence: an entry of a replica that is gone is in the stream and does
//! nothing, and entries are sent many at a time. Their numbers find those that come
//! twice or too early.
//!
//! Positions are given while applying and are the same on all replicas; a file that is
//! gone is made again from the stream. It never does: read from the stream to serve,
//! depend on a clock, show anything that has not been acknowledged and applied.

mod applier;
mod connect;
mod entry;
mod followed;
mod gather;
mod news;
mod outstanding;
mod place;
mod publisher;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod simulation;
mod tail;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sqlite::queue::Queue;
use super::sqlite::{Files, tally, unavailable};
use super::{Block, Command, Error, KNOWS, Log, OpenOptions, Position, ReplicaNumber};
use applier::Applier;
use connect::{Absent, connect, goes_as_far};
pub use connect::{Access, Login, client};
pub use followed::Followed;
use gather::Gather;
pub use news::News;
use outstanding::Outstanding;
use publisher::Publisher;

/// Entries on their way from the gathering thread to the connection.
const HANDED_MAX: usize = 16;
/// Entries that were read and not applied.
const RECEIVED_MAX: usize = 1024;
const FORMAT_KEY: &str = "arcpd-cluster";

/// Which stream, and what it is to be.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `nats://host:port` or `tls://host:port`, several separated by commas.
    pub servers: String,
    /// Of the cell: its stream is `ARCP_LOG_<name>`.
    pub name: String,
    /// Of this replica, for people.
    pub replica: String,
    /// How many servers are to have each entry. A stream that has fewer is refused.
    pub replication: usize,
    pub access: Access,
}

/// What a replica has joined.
pub struct Joined {
    pub number: ReplicaNumber,
    pub news: mpsc::UnboundedReceiver<News>,
    pub client: async_nats::Client,
    pub followed: Arc<Followed>,
}

impl Log {
    /// Joins a cell: its store is brought up to what the stream has before this returns.
    /// Committed blocks, of all replicas, go to `committed` in order. A stream that is not
    /// there is made, unless the store has followed one.
    pub async fn join(
        options: OpenOptions,
        cluster: ClusterOptions,
        committed: mpsc::Sender<Vec<Arc<Block>>>,
    ) -> Result<(Self, Joined), Error> {
        let dir = options.dir.clone();
        let kept = tokio::task::spawn_blocking(move || place::is_kept(&dir));
        let absent = match kept.await.map_err(|_| closed())? {
            true => Absent::Lost,
            false => Absent::Made,
        };
        Self::join_with(options, cluster, committed, absent).await
    }

    /// The same of a cell that there is: a stream that is not there is an error.
    pub async fn join_existing(
        options: OpenOptions,
        cluster: ClusterOptions,
        committed: mpsc::Sender<Vec<Arc<Block>>>,
    ) -> Result<(Self, Joined), Error> {
        Self::join_with(options, cluster, committed, Absent::Refused).await
    }

    async fn join_with(
        options: OpenOptions,
        cluster: ClusterOptions,
        committed: mpsc::Sender<Vec<Arc<Block>>>,
        absent: Absent,
    ) -> Result<(Self, Joined), Error> {
        let (client, jetstream, mut stream) = connect(&cluster, absent).await?;
        let info = stream.cached_info().clone();
        let identity = info.config.metadata.get(FORMAT_KEY).cloned();
        let identity = identity.ok_or_else(|| refused(&cluster, "it is not a log of arcpd"))?;
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let dir = options.dir.clone();
        let files = tokio::task::spawn_blocking(move || Files::open(options));
        let files = files.await.map_err(|_| closed())??;
        let sequence = placed(&files.connection, &identity, files.tail, &dir)?;
        if sequence + 1 < first {
            return Err(refused(
                &cluster,
                &format!(
                    "it begins at {first} and {} is at {sequence}: start from a copy of another \
                     replica's data directory",
                    dir.display()
                ),
            ));
        }
        if sequence > last && !goes_as_far(&mut stream, sequence).await {
            return Err(refused(
                &cluster,
                &format!(
                    "it ends at {last} and {} is at {sequence}: the stream has lost what it \
                     acknowledged, restore it",
                    dir.display()
                ),
            ));
        }
        let origin = ulid::Ulid::generate().to_string();
        let outstanding = Arc::new(Outstanding::new());
        let (news_tx, mut news) = mpsc::unbounded_channel();
        let (received_tx, received) = mpsc::channel(RECEIVED_MAX);
        let (entries_tx, entries) = mpsc::channel(HANDED_MAX);
        let queue = Arc::new(Queue::default());
        let state = files.state.clone();
        (state.tally).change(tally::count(&files.connection).map_err(unavailable)?);
        let followed = Arc::new(Followed::new(sequence, last));
        let applier = Applier {
            connection: files.connection,
            state: state.clone(),
            outstanding: outstanding.clone(),
            followed: followed.clone(),
            committed,
            news: news_tx,
            tail: files.tail,
            sequence,
            origin: origin.clone(),
            me: None,
            has_joined: false,
        };
        let gather = Gather {
            origin,
            number: 0,
            queue: queue.clone(),
            state: state.clone(),
            outstanding: outstanding.clone(),
            entries: entries_tx,
        };
        let publisher = Publisher {
            client: client.clone(),
            jetstream,
            subject: subject(&cluster.name),
            state,
            outstanding,
            followed: followed.clone(),
        };
        let stopped = CancellationToken::new();
        let tail = tail::run(
            stream,
            sequence,
            received_tx,
            stopped.clone(),
            followed.clone(),
        );
        tokio::spawn(tail);
        tokio::spawn(async move {
            publisher.run(entries).await;
            stopped.cancel();
        });
        let threads = vec![
            thread("log-gather", move || gather.run()),
            thread("log-applier", move || applier.run(received)),
            files.checkpoint,
        ];
        let log = Self::assemble(queue, files.state, files.readers, threads, files.lock, true);
        if last > sequence {
            tracing::info!(entries = last - sequence, "reading what the log has");
        }
        // However long that takes: what is asked of the log meanwhile would be refused.
        tokio::select! {
            () = followed.until(last) => {}
            why = lost(&mut news) => return Err(why),
        }
        // Answered once it is applied: everything before it is then here.
        let name = cluster.replica;
        let knows = KNOWS;
        log.execute(Command::Join { name, knows }).await?;
        let number = loop {
            match news.recv().await {
                Some(News::Joined { replica, own: true }) => break replica,
                Some(News::Lost(why)) => return Err(Error::Unavailable(why)),
                // Of what was before: it is in the store.
                Some(_) => {}
                None => return Err(closed()),
            }
        };
        log.set_replica(number);
        Ok((
            log,
            Joined {
                number,
                news,
                client,
                followed,
            },
        ))
    }
}

/// Resolves when the log cannot be followed. Other news are of what was before.
async fn lost(news: &mut mpsc::UnboundedReceiver<News>) -> Error {
    loop {
        match news.recv().await {
            Some(News::Lost(why)) => return Error::Unavailable(why),
            Some(_) => {}
            None => return closed(),
        }
    }
}

/// Where the file is in the stream; a new one is at its beginning.
fn placed(
    connection: &Connection,
    identity: &str,
    tail: Position,
    dir: &Path,
) -> Result<u64, Error> {
    let known: Option<(String, u64)> = connection
        .query_row("SELECT cluster, sequence FROM replicated", [], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)? as u64))
        })
        .optional()
        .map_err(unavailable)?;
    let foreign = |detail: &str| Error::Foreign {
        path: dir.display().to_string(),
        detail: detail.into(),
    };
    match known {
        Some((cluster, sequence)) if cluster == identity => Ok(sequence),
        Some(_) => Err(foreign("it is of another cluster's stream")),
        None if tail > 0 => Err(foreign("it was written without --cluster")),
        None => {
            connection
                .execute("INSERT INTO replicated VALUES (?1, 0)", params![identity])
                .map_err(unavailable)?;
            Ok(0)
        }
    }
}

fn stream_name(cluster: &str) -> String {
    format!("ARCP_LOG_{cluster}")
}

fn subject(cluster: &str) -> String {
    format!("arcp.{cluster}.log")
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .expect("a thread can be started while the process starts")
}

fn refused(cluster: &ClusterOptions, why: &str) -> Error {
    let stream = stream_name(&cluster.name);
    Error::Unavailable(format!("cluster: stream {stream}: {why}"))
}

fn closed() -> Error {
    Error::Unavailable("the log is closed".into())
}
