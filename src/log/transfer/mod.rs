//! A store as one file: out of a data directory that nobody serves, into one that is
//! empty, or into a cell that is.
//!
//! ```text
//!            data directory ──▶ export ──▶ file ──▶ staged ──▶ data directory   (renamed)
//!   cell ──▶ data directory                            └─────▶ cell             (parts, then the end)
//! ```
//!
//! The file has all rows of all tables but those that say which replica has what. Rows
//! and not SQLite's own file: they are what a stream can carry, they name their columns,
//! so that a later arcpd reads what an earlier one wrote, and a page that was damaged on
//! the way is noticed. Nothing is half brought in: a file is read to its end, checksum
//! included, into a staged store before anything of the target is touched.

mod export;
mod format;
mod import;
mod left;
mod prune;
mod stage;

pub use export::{Exported, export};
pub use import::import;
pub use left::sweep;
pub use prune::prune;

/// What a file has of each table.
pub type Counts = std::collections::BTreeMap<String, u64>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] super::Error),
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{0}: is there already, and is left as it is; give the export another name")]
    Exists(String),
    #[error("{path} is no export of arcpd: {why}")]
    Foreign { path: String, why: String },
    #[error("{path} is cut off or damaged: {why}; nothing was imported")]
    Damaged { path: String, why: String },
    #[error(
        "{path} is of a newer arcpd ({what} {found}, this one reads up to {known}); upgrade first"
    )]
    Newer {
        path: String,
        what: &'static str,
        found: i64,
        known: i64,
    },
    #[error("{0}; nothing was imported")]
    NotEmpty(String),
    #[error(
        "{0}: an import was cut off, and nothing of it is in the store; run arcpd import again, \
         or remove this file to begin with an empty store"
    )]
    CutOff(String),
    #[error("{0}: there is no store to export")]
    Nothing(String),
}

fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::Io {
        path: path.clone(),
        error,
    }
}
