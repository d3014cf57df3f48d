//! What an import that was killed has left in a data directory.
//!
//! The staged store goes when an import ends, however it does, and no import begins where
//! there is a store: while both are there, the store is what an import into a cell had of
//! the cell's stream, and nobody has served from it since.

use std::path::Path;

use super::stage::staged_at;
use super::{Error, io};
use crate::log::sqlite::lock;

/// For whoever is about to serve from a directory: removes what an import has left beside
/// a store. Where there is no store yet it was to be one, and an empty one is not begun
/// in its place.
pub fn sweep(dir: &Path) -> Result<(), Error> {
    let staged = staged_at(dir);
    if !staged.exists() {
        return Ok(());
    }
    // While an import runs it is no leftover.
    let _held = lock(dir)?;
    if !dir.join("arcpd.db").exists() {
        return Err(Error::CutOff(staged.display().to_string()));
    }
    std::fs::remove_file(&staged).map_err(io(&staged))?;
    tracing::warn!(
        file = %staged.display(),
        "removed what an import has left that was killed; what a cell has is in its stream"
    );
    Ok(())
}

/// For an import, which holds the directory: the store of one that was killed goes.
pub(super) fn clear(dir: &Path) {
    if staged_at(dir).exists() {
        remove_store(dir);
    }
}

pub(super) fn remove_store(dir: &Path) {
    for name in ["arcpd.db", "arcpd.db-wal", "arcpd.db-shm"] {
        // It may never have been made.
        let _ = std::fs::remove_file(dir.join(name));
    }
}
