//! The log in one SQLite file: a writer thread with group commit, a checkpoint
//! thread, and read-only connections beside them.

mod apply;
mod checkpoint;
mod credential;
mod decode;
mod execute;
mod family;
mod group;
mod hosted;
mod merged;
mod queue;
mod reader;
mod recent;
mod schema;
mod seek;
mod stats;
mod trace;
mod trim;
mod view_ops;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{Block, BlockSource, Command, Error, Outcome, Position};
use queue::Queue;
pub use seek::Reached;
pub use stats::Stats;
pub use trim::Trimmable;

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
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// Held for its lock: one process has the file.
    _lock: File,
}

/// What the writer tells the rest.
struct State {
    committed: AtomicI64,
    healthy: AtomicBool,
    closing: AtomicBool,
    recent: recent::Recent,
    /// Told when a terminal left credentials to be revoked.
    credentials_due: tokio::sync::Notify,
    stats: Stats,
}

impl Log {
    /// Opens or creates the store in a folder. Committed blocks go to
    /// `committed` in order.
    pub fn open(
        options: OpenOptions,
        committed: mpsc::Sender<Vec<Arc<Block>>>,
    ) -> Result<Self, Error> {
        let dir = options.dir;
        create_dir(&dir).map_err(|e| io(&dir, e))?;
        let lock = lock(&dir)?;
        let path = dir.join("arcpd.db");
        create_file(&path).map_err(|e| io(&path, e))?;
        let (connection, tail) = schema::open_writer(&path, options.durability)?;
        let state = Arc::new(State {
            committed: AtomicI64::new(tail),
            healthy: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            recent: recent::Recent::default(),
            credentials_due: tokio::sync::Notify::new(),
            stats: Stats::default(),
        });
        let queue = Arc::new(Queue::default());
        let readers = reader::Pool::open(&path)?;
        let threads = vec![
            writer::spawn(connection, queue.clone(), state.clone(), committed, tail),
            checkpoint::spawn(path, state.clone())?,
        ];
        let threads = Mutex::new(threads);
        let shared = Shared {
            queue,
            state,
            readers,
            threads,
            _lock: lock,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Everything at or below is durable.
    pub fn committed(&self) -> Position {
        self.shared.state.committed.load(Ordering::Acquire)
    }

    /// False while commits fail.
    pub fn healthy(&self) -> bool {
        self.shared.state.healthy.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> &Stats {
        &self.shared.state.stats
    }

    /// Resolves once a terminal has left credentials to be revoked. For one waiter.
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

    /// Commits what is pending and ends the threads. Blocks; call it off the runtime.
    pub fn close(&self) {
        self.shared.state.closing.store(true, Ordering::Release);
        self.shared.queue.wake();
        for thread in self.shared.threads.lock().drain(..) {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

/// A new one is for nobody else: it has what agents are given and what they answer.
fn create_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// SQLite gives the files beside it the same mode. One that is there stays as it is.
fn create_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn lock(dir: &Path) -> Result<File, Error> {
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

fn unavailable(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}
