//! The log in one SQLite file: a writer thread with group commit, a checkpoint
//! thread, and read-only connections beside them.

pub(in crate::log) mod apply;
mod cancel;
mod checkpoint;
pub(in crate::log) mod credential;
mod decode;
mod dials;
mod ends;
mod execute;
mod family;
pub(in crate::log) mod group;
pub(in crate::log) mod health;
mod hosted;
mod import;
mod merged;
mod moves;
pub(in crate::log) mod ownership;
pub(in crate::log) mod queue;
mod reader;
mod recent;
pub(in crate::log) mod replicas;
pub(in crate::log) mod schema;
mod seek;
mod stats;
pub(in crate::log) mod tables;
pub(in crate::log) mod tally;
mod tokens;
mod trace;
mod trim;
pub(in crate::log) mod view_ops;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::denied::Denied;
use super::{Block, BlockSource, Command, Error, Outcome, Position, ReplicaNumber, StreamId};
use health::{Health, Part};
use queue::Queue;
pub use seek::{Reached, Watched};
pub use stats::Stats;
pub use trim::Trimmable;

/// How often a log that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What survives what.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Everything visible survives a killed process.
    #[default]
    Process,
    /// Everything visible survives a power cut: fsync before visible.
    Power,
}

pub struct OpenOptions {
    pub dir: PathBuf,
    pub durability: Durability,
}

/// Cheap to clone; [`Log::close`] ends it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue>,
    state: Arc<State>,
    readers: reader::Pool,
    ends: Mutex<Vec<End>>,
    /// 0 where nobody else writes to it.
    replica: AtomicI64,
    is_replicated: bool,
    /// Of the servers of a cell.
    denied: OnceLock<Denied>,
    /// Held for its lock: one process has the file.
    _lock: File,
}

/// Waits for the end of what works for the log, once that was told to end.
pub(in crate::log) type End = Box<dyn FnOnce() + Send>;

pub(in crate::log) fn end_of(thread: JoinHandle<()>) -> End {
    Box::new(move || {
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!("a thread of the log panicked");
        }
    })
}

/// What the writer tells the rest.
pub(in crate::log) struct State {
    committed: AtomicI64,
    pub(in crate::log) health: Health,
    pub(in crate::log) closing: AtomicBool,
    recent: recent::Recent,
    ends: ends::Ends,
    /// Told when there may be a credential that is due.
    credentials_due: tokio::sync::Notify,
    pub(in crate::log) stats: Stats,
    pub(in crate::log) tally: tally::Tally,
    /// Whether somebody here waits for a stream's records. Nobody has said: somebody does.
    pub(in crate::log) watched: OnceLock<Box<dyn Fn(StreamId) -> bool + Send + Sync>>,
}

/// An open store that nobody writes to yet.
pub(in crate::log) struct Files {
    pub connection: Connection,
    pub tail: Position,
    pub state: Arc<State>,
    pub readers: reader::Pool,
    pub checkpoint: JoinHandle<()>,
    pub lock: File,
}

impl Files {
    /// Opens or creates the store in a folder.
    pub fn open(options: OpenOptions) -> Result<Self, Error> {
        let dir = options.dir;
        create_dir(&dir).map_err(|e| io(&dir, e))?;
        let lock = lock(&dir)?;
        let path = dir.join("arcpd.db");
        create_file(&path).map_err(|e| io(&path, e))?;
        let (connection, tail) = schema::open_writer(&path, options.durability)?;
        let state = Arc::new(State {
            committed: AtomicI64::new(tail),
            health: Health::default(),
            closing: AtomicBool::new(false),
            recent: recent::Recent::default(),
            ends: ends::Ends::default(),
            credentials_due: tokio::sync::Notify::new(),
            stats: Stats::default(),
            tally: tally::Tally::default(),
            watched: OnceLock::new(),
        });
        let readers = reader::Pool::open(&path)?;
        Ok(Self {
            connection,
            tail,
            readers,
            checkpoint: checkpoint::spawn(path, state.clone())?,
            state,
            lock,
        })
    }
}

impl Log {
    /// Opens or creates the store in a folder, for this process alone. Committed blocks
    /// go to `committed` in order.
    pub fn open(
        options: OpenOptions,
        committed: mpsc::Sender<Vec<Arc<Block>>>,
    ) -> Result<Self, Error> {
        let dir = options.dir.clone();
        let files = Files::open(options)?;
        if replicas::is_replica(&files.connection).map_err(unavailable)? {
            return Err(Error::Foreign {
                path: dir.display().to_string(),
                detail: "it is a replica's, start it with --cluster".into(),
            });
        }
        let (queue, state) = (Arc::new(Queue::default()), files.state);
        let writer = writer::spawn(
            files.connection,
            queue.clone(),
            state.clone(),
            committed,
            files.tail,
        );
        let ends = vec![end_of(writer), end_of(files.checkpoint)];
        let (readers, lock) = (files.readers, files.lock);
        Ok(Self::assemble(queue, state, readers, ends, lock, false))
    }

    pub(in crate::log) fn assemble(
        queue: Arc<Queue>,
        state: Arc<State>,
        readers: reader::Pool,
        ends: Vec<End>,
        lock: File,
        is_replicated: bool,
    ) -> Self {
        let shared = Shared {
            queue,
            state,
            readers,
            ends: Mutex::new(ends),
            replica: AtomicI64::new(0),
            is_replicated,
            denied: OnceLock::new(),
            _lock: lock,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether other replicas write to it too.
    pub fn is_replicated(&self) -> bool {
        self.shared.is_replicated
    }

    /// This one of them, once it has joined; 0 where there are no others.
    pub fn replica(&self) -> ReplicaNumber {
        self.shared.replica.load(Ordering::Acquire)
    }

    /// What the cell's servers do not let this user do is why a part fails.
    pub fn set_denied(&self, denied: Denied) {
        let _ = self.shared.denied.set(denied);
    }

    pub(in crate::log) fn set_replica(&self, number: ReplicaNumber) {
        self.shared.replica.store(number, Ordering::Release);
    }

    /// Resolves once all that any replica was told is durable can be read here.
    pub async fn caught_up(&self) -> Result<(), Error> {
        match self.shared.is_replicated {
            true => self.settled().await,
            false => Ok(()),
        }
    }

    /// Everything at or below is durable.
    pub fn committed(&self) -> Position {
        self.shared.state.committed.load(Ordering::Acquire)
    }

    /// False while commits fail or one stands still, and in a cell while its log does not
    /// answer, cannot be read, or is not followed.
    pub fn healthy(&self) -> bool {
        self.shared.state.health.not_well().is_none()
    }

    /// Why it is not healthy, if so.
    pub fn failing(&self) -> Option<String> {
        let part = self.shared.state.health.not_well()?;
        let failing = part.failing();
        let denied = self.shared.denied.get().filter(|_| part != Part::Commit);
        Some(match denied.and_then(Denied::lately) {
            Some(denied) => format!("{failing}: {denied}"),
            None => failing.into(),
        })
    }

    /// What others append to streams that nobody watches may be applied a little later, with
    /// more of it. To be set once; before, all are watched.
    pub fn set_watched(&self, watched: impl Fn(StreamId) -> bool + Send + Sync + 'static) {
        // A second time changes nothing.
        let _ = self.shared.state.watched.set(Box::new(watched));
    }

    pub fn stats(&self) -> &Stats {
        &self.shared.state.stats
    }

    /// Resolves once there may be a credential that is due sooner than was known. For one
    /// waiter.
    pub async fn until_credentials_due(&self) {
        self.shared.state.credentials_due.notified().await;
    }

    /// Tells the writer that a source has records.
    pub fn ready(&self, source: Arc<dyn BlockSource>) {
        self.shared.queue.push_source(source);
    }

    /// Resolves once the command is durable, or refused.
    pub async fn execute(&self, command: Command) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push_command(command, answer);
        answered
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable("the log is closed".into())))
    }

    /// Resolves once the records are durable that were ready before, or the store has
    /// failed. In a cell it has then caught up, too.
    pub async fn settled(&self) -> Result<(), Error> {
        self.execute(Command::Barrier).await.map(drop)
    }

    /// Resolves once the log answers: what was sent before is applied, or never will be.
    /// Not at all where it answers no more.
    pub async fn until_settled(&self) {
        while self.settled().await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Commits what is pending and ends what works for it. Blocks; call it off the runtime.
    pub fn close(&self) {
        self.shared.state.closing.store(true, Ordering::Release);
        self.shared.queue.wake();
        let ends = std::mem::take(&mut *self.shared.ends.lock());
        ends.into_iter().for_each(|end| end());
    }
}

/// A new one is for nobody else: it has what agents are given and what they answer.
pub(in crate::log) fn create_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// SQLite gives the files beside it the same mode. One that is there stays as it is.
pub(in crate::log) fn create_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

pub(in crate::log) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse {
            path: dir.display().to_string(),
        }),
        Err(std::fs::TryLockError::Error(e)) => Err(io(&path, e)),
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.display().to_string(),
        source,
    }
}

pub(in crate::log) fn unavailable(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}
