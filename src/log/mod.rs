//! The durable, ordered log, and the rows committed with it.
//!
//! Sessions and jobs read and append through [`Log`]; it knows nothing of what
//! a record means. The contract:
//!
//! 1. An append is all or nothing, and durable before anyone can read it.
//! 2. Positions only grow; what was read once is read again the same.
//! 3. Records of one stream are numbered 1, 2, 3… without a gap.
//! 4. After a commit: the committed position moves, then callers are answered,
//!    then the blocks are handed to the dispatcher. Nothing else publishes.
//! 5. An append never blocks a reader. A store that fails keeps what it was
//!    given of running jobs, refuses commands, and tries again.

mod block;
pub mod denied;
pub mod jetstream;
mod rows;
mod sqlite;
pub mod transfer;

pub use block::{Block, BlockSource, JobEnd, PendingBlock, ReportMark, ResultMark};
pub use rows::{
    Command, CredentialRow, CredentialState, GrantRow, HostKey, HostedAgentRow, HostedRow,
    IssuedRow, JobRow, KNOWS, ListFilter, Outcome, SessionRow, TraceRow, ViewOpRow,
};
pub use sqlite::replicas::ReplicaRow;
pub use sqlite::view_ops::PastOpRow;
pub use sqlite::{Durability, Log, OpenOptions, Reached, Stats, Trimmable, Watched};

/// Orders all blocks of the log.
pub type Position = i64;
/// A job's records, numbered 1, 2, 3…
pub type StreamId = i64;
/// Numbers the lives of replicas, from 1. 0 where there is one process only.
pub type ReplicaNumber = i64;

/// Streams of a replica's life are numbered from here.
const REPLICA_SHIFT: u32 = 40;

/// The stream before the first that a replica may make.
pub fn first_stream(replica: ReplicaNumber) -> StreamId {
    replica << REPLICA_SHIFT
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} is in use by another arcpd; stop it or choose another --data-dir")]
    InUse { path: String },
    #[error(
        "{path} is not an arcpd store ({detail}); choose an empty --data-dir or restore a backup"
    )]
    Foreign { path: String, detail: String },
    #[error(
        "{path} has store format {found}, this arcpd reads {expected}; run the arcpd that wrote it"
    )]
    Version {
        path: String,
        found: i64,
        expected: i64,
    },
    #[error("{path}: {source}")]
    Io {
        path: String,
        source: std::io::Error,
    },
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

impl Error {
    /// What the store is not available for.
    fn why(&self) -> String {
        match self {
            Self::Unavailable(why) => why.clone(),
            other => other.to_string(),
        }
    }
}
