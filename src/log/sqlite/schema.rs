//! The tables, their version, and how the file is opened.

use std::path::Path;

use rusqlite::Connection;

use super::Durability;
use crate::log::{Error, Position};

/// `PRAGMA application_id`: "arcp".
const APPLICATION_ID: i64 = 0x6172_6370;
const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE block (
  position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL,
  count INTEGER NOT NULL, terminal INTEGER NOT NULL, data BLOB NOT NULL,
  UNIQUE (stream, first_seq));
CREATE TABLE session (
  id TEXT PRIMARY KEY, stream INTEGER NOT NULL, principal TEXT NOT NULL, token_hash BLOB NOT NULL,
  earlier_token_hash BLOB, created_at_ms INTEGER NOT NULL, parked_at_ms INTEGER,
  features TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX session_token ON session (token_hash);
CREATE INDEX session_earlier_token ON session (earlier_token_hash) WHERE earlier_token_hash IS NOT NULL;
CREATE INDEX session_parked ON session (parked_at_ms) WHERE parked_at_ms IS NOT NULL;
CREATE TABLE job (
  stream INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, session_id TEXT NOT NULL,
  principal TEXT NOT NULL, agent TEXT NOT NULL, input_json TEXT NOT NULL, trace_id TEXT NOT NULL,
  created_at_ms INTEGER NOT NULL, status TEXT NOT NULL, ended_at_ms INTEGER,
  last_seq INTEGER NOT NULL, end_position INTEGER, idempotency_key TEXT, fingerprint BLOB NOT NULL,
  idempotency_expires_at_ms INTEGER, trimmed INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX job_key ON job (principal, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX job_list ON job (principal, created_at_ms, id);
CREATE INDEX job_end ON job (trimmed, end_position);
CREATE TABLE high_water (position INTEGER NOT NULL, stream INTEGER NOT NULL);
INSERT INTO high_water VALUES (0, 0);
CREATE TABLE view_op (
  session_id TEXT NOT NULL, op_no INTEGER NOT NULL, at_position INTEGER NOT NULL,
  at_seq INTEGER NOT NULL, kind INTEGER NOT NULL, stream INTEGER NOT NULL,
  from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL,
  PRIMARY KEY (session_id, op_no)) WITHOUT ROWID;
";

/// The writer's connection and the last position in use.
pub(super) fn open_writer(
    path: &Path,
    durability: Durability,
) -> Result<(Connection, Position), Error> {
    let foreign = |detail: String| Error::Foreign {
        path: path.display().to_string(),
        detail,
    };
    let connection = Connection::open(path).map_err(|e| foreign(e.to_string()))?;
    prepare(&connection, durability).map_err(|e| foreign(e.to_string()))?;
    let query = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|e| foreign(e.to_string()))
    };
    let (application, found) = (query("application_id")?, query("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| foreign(e.to_string()))?;
    if tables == 0 {
        create(&connection).map_err(|e| foreign(e.to_string()))?;
    } else if application != APPLICATION_ID {
        return Err(foreign("it is another program's database".into()));
    } else if found != FORMAT {
        let path = path.display().to_string();
        return Err(Error::Version {
            path,
            found,
            expected: FORMAT,
        });
    }
    let tail = connection
        .query_row(
            "SELECT max(coalesce((SELECT max(position) FROM block), 0), position) FROM high_water",
            [],
            |row| row.get(0),
        )
        .map_err(|e| foreign(e.to_string()))?;
    Ok((connection, tail))
}

fn prepare(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // The writer never checkpoints: it would hold up every commit behind it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    let script = format!(
        "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
    );
    connection.execute_batch(&script)
}

pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    use rusqlite::OpenFlags;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
