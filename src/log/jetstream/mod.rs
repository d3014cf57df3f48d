//! The log of several replicas. One NATS JetStream stream commits; each replica applies
//! it, in its order, to its own file, and reads only from there.
//!
//! ```text
//!            gather ──▶ publisher ──▶ stream ──▶ tail ──▶ applier ──▶ file, answers, fan-out
//!  (what waits)   entry              (R3)    (every replica's)
//! ```
//!
//! All are tasks among the sessions and jobs: a task that is woken by the one before it runs
//! on the same thread, so an event wakes one thread on its way to the stream's socket, and
//! one on its way from there to its client's. Each that is to be woken costs tens of
//! microseconds, and more where all are busy.
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
mod broken;
mod collect;
mod connect;
mod entry;
mod followed;
mod gather;
mod news;
mod outstanding;
mod place;
mod publisher;
mod reading;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod simulation;
mod tail;
mod takers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::sqlite::queue::Queue;
use super::sqlite::{End, Files, State, end_of, tally, unavailable};
use super::{Block, Command, Error, KNOWS, Log, OpenOptions, ReplicaNumber};
use applier::Applier;
use collect::Collect;
use connect::{Absent, connect};
pub use connect::{Access, Login, Purpose, client};
pub use followed::Followed;
use gather::Gather;
pub use news::News;
use outstanding::Outstanding;
use place::Place;
use publisher::Publisher;
use reading::Reading;
use tail::Tail;
use takers::Takers;

/// Entries on their way from where they are made to the connection.
const HANDED_MAX: usize = 16;
/// Entries that were read and not applied, and their bytes.
const RECEIVED_MAX: usize = 1024;
const RECEIVED_KIB: usize = 32 * 1024;
/// Nothing applied or heard for so long: something was lost, or nobody is there.
const STALL: Duration = Duration::from_secs(2);
/// From a start until the stream is read, where its servers have just begun too.
const READ_WITHIN: Duration = Duration::from_secs(30);
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
    /// Turns when this replica may not go on; why is in the log.
    pub fenced: CancellationToken,
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
        let (client, jetstream, stream) = connect(&cluster, Purpose::Write, absent).await?;
        let info = stream.cached_info().clone();
        let identity = info.config.metadata.get(FORMAT_KEY).cloned();
        let identity = identity.ok_or_else(|| refused(&cluster, "it is not a log of arcpd"))?;
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let (dir, durability) = (options.dir.clone(), options.durability);
        let files = tokio::task::spawn_blocking(move || Files::open(options));
        let files = files.await.map_err(|_| closed())??;
        let place = place::load(&files.connection, &identity, files.tail, &dir)?;
        let sequence = place.sequence;
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
        let state = files.state.clone();
        let followed = Arc::new(Followed::new(sequence, last));
        let begun = begin(
            cluster.clone(),
            identity,
            place,
            state.clone(),
            followed.clone(),
            dir,
        );
        let (tail, reading) = begun.await?;
        let origin = ulid::Ulid::generate().to_string();
        let outstanding = Arc::new(Outstanding::new());
        let (news_tx, mut news) = mpsc::unbounded_channel();
        let (received_tx, received) = mpsc::channel(RECEIVED_MAX);
        let room = Arc::new(Semaphore::new(RECEIVED_KIB));
        let (entries_tx, entries) = mpsc::channel(HANDED_MAX);
        let queue = Arc::new(Queue::default());
        let fenced = CancellationToken::new();
        (state.tally).change(tally::count(&files.connection).map_err(unavailable)?);
        let applier = Applier {
            connection: files.connection,
            durability,
            state: state.clone(),
            outstanding: outstanding.clone(),
            followed: followed.clone(),
            committed,
            news: news_tx.clone(),
            tail: files.tail,
            took: Duration::ZERO,
            sequence,
            origin: origin.clone(),
            me: None,
            has_joined: false,
            fenced: fenced.clone(),
        };
        let collect = Collect {
            received,
            room: room.clone(),
            state: state.clone(),
            origin: origin.clone(),
            sequence,
            taken: 0,
        };
        let gather = Gather {
            origin,
            number: 0,
            queue: queue.clone(),
            state: state.clone(),
            outstanding: outstanding.clone(),
            entries: entries_tx,
        };
        let stopped = CancellationToken::new();
        let publisher = Publisher {
            client: client.clone(),
            jetstream,
            stream: stream_name(&cluster.name),
            subject: subject(&cluster.name),
            state,
            outstanding,
            followed: followed.clone(),
            news: news_tx.clone(),
            stopped: stopped.clone(),
        };
        let takers = Takers {
            received: received_tx,
            room,
            news: news_tx,
            stopped: stopped.clone(),
        };
        tokio::spawn(gather.run());
        tokio::spawn(async move {
            publisher.run(entries).await;
            stopped.cancel();
        });
        // Where joining is given up, too.
        let stops = takers.stopped.clone().drop_guard();
        let (ended, end) = oneshot::channel::<()>();
        tokio::spawn(async move {
            // One task: what is read is applied without another being woken.
            tokio::join!(tail.run(reading, takers), applier.run(collect));
            drop(ended);
        });
        let follower: End = Box::new(move || drop(end.blocking_recv()));
        let ends = vec![follower, end_of(files.checkpoint)];
        let log = Self::assemble(queue, files.state, files.readers, ends, files.lock, true);
        if last > sequence {
            tracing::info!(entries = last - sequence, "reading what the log has");
        }
        // However long that takes: what is asked of the log meanwhile would be refused.
        tokio::select! {
            () = followed.reached(last) => {}
            why = lost(&mut news) => return Err(why),
        }
        let name = cluster.replica;
        let knows = KNOWS;
        let refused = async {
            match log.execute(Command::Join { name, knows }).await {
                // Then there is news of it, and everything before it is here.
                Ok(_) => std::future::pending().await,
                Err(error) => error,
            }
        };
        let number = tokio::select! {
            // Why the log cannot be followed is known before anything is refused for it.
            biased;
            number = own_number(&mut news) => number?,
            error = refused => return Err(error),
        };
        log.set_replica(number);
        stops.disarm();
        Ok((
            log,
            Joined {
                number,
                news,
                client,
                followed,
                fenced,
            },
        ))
    }
}

/// Over a connection of its own, from where the file is.
async fn begin(
    cluster: ClusterOptions,
    identity: String,
    place: Place,
    state: Arc<State>,
    followed: Arc<Followed>,
    dir: PathBuf,
) -> Result<(Tail, Reading), Error> {
    let (_, jetstream, stream) = connect(&cluster, Purpose::Follow, Absent::Refused).await?;
    let mut tail = Tail::new((jetstream, stream), identity, place, state, followed);
    match tokio::time::timeout(READ_WITHIN, tail.begin()).await {
        Ok(Ok(reading)) => Ok((tail, reading)),
        Ok(Err(broken)) => {
            let (dir, stream) = (dir.display(), stream_name(&cluster.name));
            let why = broken.advice(&stream);
            Err(Error::Unavailable(format!("cluster: {dir}: {why}")))
        }
        Err(_) => {
            let why = "it cannot be read: the lines before say why";
            Err(refused(&cluster, why))
        }
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

/// Resolves once this replica has joined. Other news are of what was before: it is in the
/// store.
async fn own_number(news: &mut mpsc::UnboundedReceiver<News>) -> Result<ReplicaNumber, Error> {
    loop {
        match news.recv().await {
            Some(News::Joined { replica, own: true }) => return Ok(replica),
            Some(News::Lost(why)) => return Err(Error::Unavailable(why)),
            Some(_) => {}
            None => return Err(closed()),
        }
    }
}

fn stream_name(cluster: &str) -> String {
    format!("ARCP_LOG_{cluster}")
}

fn subject(cluster: &str) -> String {
    format!("arcp.{cluster}.log")
}

fn refused(cluster: &ClusterOptions, why: &str) -> Error {
    let stream = stream_name(&cluster.name);
    Error::Unavailable(format!("cluster: stream {stream}: {why}"))
}

fn closed() -> Error {
    Error::Unavailable("the log is closed".into())
}
