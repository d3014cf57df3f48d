//! Moves the write-ahead log into the file, apart from the writer.
//!
//! A passive pass holds nobody up, but beside a busy writer it never reaches the
//! end, and the log grows. So a long log gets two passive passes, which leave
//! little, and then a restart, for whose short rest the writer does wait.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use super::{State, schema, unavailable};
use crate::log::Error;

const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// A pass for each so many bytes: a page that changed often is moved once, and the
/// commits beside it, which feel its fsync, are fewer than one in a thousand.
const PASSIVE_BYTES: u64 = 64 * 1024 * 1024;
/// Above this the log starts over.
const RESTART_BYTES: u64 = 192 * 1024 * 1024;
/// A store at rest for so many checks is moved whatever its size.
const IDLE_CHECKS: u32 = 20;

pub(super) fn spawn(
    path: PathBuf,
    state: Arc<State>,
) -> Result<std::thread::JoinHandle<()>, Error> {
    let connection = Connection::open(&path).map_err(unavailable)?;
    connection
        .busy_timeout(Duration::from_millis(200))
        .map_err(unavailable)?;
    schema::open_all(&connection).map_err(unavailable)?;
    let wal = path.with_file_name("arcpd.db-wal");
    let run = move || {
        let (mut moved_bytes, mut moved_at, mut seen_at, mut idle) = (0, 0, 0, 0);
        while !state.closing.load(Ordering::Acquire) {
            std::thread::park_timeout(CHECK_INTERVAL);
            let bytes = std::fs::metadata(&wal).map_or(0, |file| file.len());
            let committed = state.committed.load(Ordering::Acquire);
            idle = if committed == std::mem::replace(&mut seen_at, committed) {
                idle + 1
            } else {
                0
            };
            if bytes > RESTART_BYTES {
                checkpoint(&connection, "PASSIVE");
                checkpoint(&connection, "PASSIVE");
                checkpoint(&connection, "TRUNCATE");
                (moved_bytes, moved_at) = (0, committed);
            } else if bytes >= moved_bytes + PASSIVE_BYTES
                || (idle == IDLE_CHECKS && moved_at != committed)
            {
                checkpoint(&connection, "PASSIVE");
                (moved_bytes, moved_at) = (bytes, committed);
            }
        }
    };
    std::thread::Builder::new()
        .name("log-checkpoint".into())
        .spawn(run)
        .map_err(|e| Error::Unavailable(e.to_string()))
}

fn checkpoint(connection: &Connection, mode: &str) {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    if let Err(error) = connection.query_row(&sql, [], |_| Ok(())) {
        tracing::warn!(%error, "a checkpoint failed; the next one tries again");
    }
}
