//! Why a replica cannot go on with its stream: what it has applied is not what the stream
//! begins with. Nothing mends that but an operator.

use std::time::Duration;

/// What is said of the stream. A server that has just become a leader may be wrong about
/// some of it for a moment: those are believed once they have been said for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("it is not there any more")]
    Gone,
    #[error("it is another one than before, with the same name")]
    Foreign,
    #[error(
        "it ends at {last} and {applied} is applied here: the stream has lost what it acknowledged"
    )]
    Short { last: u64, applied: u64 },
    #[error("its entry {0}, which is applied here, is missing in it")]
    Missing(u64),
    #[error(
        "its entry {0} is not the one that is applied here: the stream has lost what it \
         acknowledged, and has gone on"
    )]
    Other(u64),
    #[error(
        "it took an entry as {acknowledged} after {applied} had been applied here: the stream has \
         lost what it acknowledged"
    )]
    Behind { acknowledged: u64, applied: u64 },
}

impl Broken {
    /// For how long it has to be the answer until it is believed.
    pub fn sure_after(self) -> Duration {
        match self {
            Self::Gone => Duration::from_secs(10),
            Self::Short { .. } | Self::Missing(_) => Duration::from_secs(5),
            Self::Foreign | Self::Other(_) | Self::Behind { .. } => Duration::ZERO,
        }
    }

    /// Whether it is the same that is wrong, by whatever numbers.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// With what to do about it.
    pub fn advice(self, stream: &str) -> String {
        format!(
            "stream {stream}: {self}; stop all replicas and restore the cell from the data \
             directory that is furthest, see \"Backup and restore\" in docs/cluster.md"
        )
    }
}
