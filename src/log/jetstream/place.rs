//! Where a replica is in its stream.

use std::path::Path;

use crate::log::sqlite::{ownership, schema};

/// Whether a data directory is a replica's that has been in a cell. One that has no store,
/// or whatever else, is not: it is looked at again when it is opened.
pub(super) fn is_kept(dir: &Path) -> bool {
    let store = dir.join("arcpd.db");
    let opened = store.is_file().then(|| schema::open_reader(&store));
    matches!(opened, Some(Ok(store)) if ownership::is_replica(&store).unwrap_or(false))
}
