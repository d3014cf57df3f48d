//! Moves the write-ahead log into the file, apart from the writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use super::{State, unavailable};
use crate::log::Error;

const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Above this a passive checkpoint runs beside the writer.
const PASSIVE_BYTES: u64 = 16 * 1024 * 1024;
/// Above this the writer is held until the log starts over, so it stays bounded.
const RESTART_BYTES: u64 = 256 * 1024 * 1024;

pub(super) fn spawn(
    path: PathBuf,
    state: Arc<State>,
) -> Result<std::thread::JoinHandle<()>, Error> {
    let connection = Connection::open(&path).map_err(unavailable)?;
    connection
        .busy_timeout(Duration::from_millis(200))
        .map_err(unavailable)?;
    let wal = path.with_file_name("arcpd.db-wal");
    let run = move || {
        while !state.closing.load(Ordering::Acquire) {
            std::thread::park_timeout(CHECK_INTERVAL);
            let bytes = std::fs::metadata(&wal).map_or(0, |file| file.len());
            let mode = match bytes {
                _ if bytes > RESTART_BYTES => "TRUNCATE",
                _ if bytes > PASSIVE_BYTES => "PASSIVE",
                _ => continue,
            };
            checkpoint(&connection, mode);
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
