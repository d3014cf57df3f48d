//! The tables, their version, and how the file is opened.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::Durability;
use crate::log::{Error, Position};

/// `PRAGMA application_id`: "arcp".
const APPLICATION_ID: i64 = 0x6172_6370;
/// The writer's pages.
const CACHE_KIB: i64 = 16 * 1024;
/// What each version of the format added to the one before. A store is brought
/// up step by step when it is opened; a step, once released, is never changed.
const STEPS: [&str; 17] = [
    FIRST,
    RECENT_VIEW_OPS,
    HOSTED,
    GRANTS,
    OFFERED,
    CREDENTIALS,
    JOB_TRACE,
    REPLICAS,
    TRACE_OF_JOB,
    KEEPER,
    IMPORT,
    EPOCHS,
    RULES,
    LAST_ENTRY,
    CANCELS,
    DIALS,
    GIVEN_TOKENS,
];
/// `PRAGMA user_version`: how many of the steps a store has.
pub(in crate::log) const FORMAT: i64 = STEPS.len() as i64;

const FIRST: &str = "
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

const RECENT_VIEW_OPS: &str = "
CREATE TABLE view_op_recent (
  session_id TEXT NOT NULL, op_no INTEGER NOT NULL, at_position INTEGER NOT NULL,
  at_seq INTEGER NOT NULL, kind INTEGER NOT NULL, stream INTEGER NOT NULL,
  from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL);
";

const HOSTED: &str = "
CREATE TABLE hosted_job (
  stream INTEGER PRIMARY KEY, deadline_ms INTEGER, cancelled INTEGER NOT NULL,
  attempt INTEGER NOT NULL, token_hash BLOB, loss_policy INTEGER NOT NULL, reported INTEGER NOT NULL,
  result_id TEXT NOT NULL, result_is_text INTEGER NOT NULL, result_chunks INTEGER NOT NULL,
  result_bytes INTEGER NOT NULL, checkpoint BLOB);
CREATE TABLE hosted_agent (
  name TEXT NOT NULL, version TEXT NOT NULL, principal TEXT NOT NULL, seen_at_ms INTEGER NOT NULL,
  PRIMARY KEY (name, version)) WITHOUT ROWID;
";

// The index also finds the children of a job.
const GRANTS: &str = "
ALTER TABLE job ADD COLUMN lease_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE job ADD COLUMN lease_expires_at_ms INTEGER;
ALTER TABLE job ADD COLUMN parent_id TEXT;
ALTER TABLE job ADD COLUMN delegate_id TEXT;
ALTER TABLE job ADD COLUMN spent_json TEXT;
CREATE UNIQUE INDEX job_child ON job (parent_id, delegate_id) WHERE parent_id IS NOT NULL;
CREATE INDEX job_delegated ON job (session_id) WHERE parent_id IS NOT NULL;
";

/// Of what was offered before, nobody knows whether it was accepted: it counts as begun.
const OFFERED: &str = "
ALTER TABLE hosted_job ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosted_job ADD COLUMN host_principal TEXT NOT NULL DEFAULT '';
ALTER TABLE hosted_job ADD COLUMN host_instance TEXT NOT NULL DEFAULT '';
UPDATE hosted_job SET accepted = token_hash IS NOT NULL, host_principal = coalesce((
  SELECT hosted_agent.principal FROM job JOIN hosted_agent ON job.agent = name || '@' || version
  WHERE job.stream = hosted_job.stream), '');
";

// No index of what is due: only credentials that are live or to be revoked are
// here, and the table is looked through when one of the latter is.
const CREDENTIALS: &str = "
CREATE TABLE credential (
  handle TEXT PRIMARY KEY, id TEXT NOT NULL, generation INTEGER NOT NULL, stream INTEGER NOT NULL,
  job_id TEXT NOT NULL, provisioner TEXT NOT NULL, state TEXT NOT NULL, issued_at_ms INTEGER NOT NULL,
  settles_at_ms INTEGER NOT NULL, expires_at_ms INTEGER, next_at_ms INTEGER, attempts INTEGER NOT NULL,
  error TEXT NOT NULL, asked_json TEXT NOT NULL, issued_json TEXT NOT NULL, sealed BLOB) WITHOUT ROWID;
CREATE INDEX credential_job ON credential (stream);
";

const JOB_TRACE: &str = "
CREATE TABLE job_trace (
  stream INTEGER PRIMARY KEY, parent_span_id TEXT, sampled INTEGER NOT NULL,
  tracestate TEXT NOT NULL, baggage TEXT NOT NULL);
";

/// Of a store that several replicas keep alike; in one of a single process all are
/// empty. A stream, of a job or a session, has at most one owner.
const REPLICAS: &str = "
CREATE TABLE replica (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  last_entry INTEGER NOT NULL, gone INTEGER NOT NULL DEFAULT 0, heir INTEGER);
CREATE TABLE owner (stream INTEGER PRIMARY KEY, replica INTEGER NOT NULL);
CREATE INDEX owner_replica ON owner (replica);
CREATE TABLE replicated (cluster TEXT NOT NULL, sequence INTEGER NOT NULL);
";

/// The replica that is to replace and revoke it; 0 where there is one process only.
const KEEPER: &str = "
ALTER TABLE credential ADD COLUMN replica INTEGER NOT NULL DEFAULT 0;
";

/// Of an owner, how often the stream had another before. Of a replica, what it knows to
/// decide by: while there is one that does not know epochs, nobody looks at them.
const EPOCHS: &str = "
ALTER TABLE owner ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE replica ADD COLUMN knows INTEGER NOT NULL DEFAULT 0;
CREATE INDEX replica_without_epochs ON replica (number) WHERE gone = 0 AND knows = 0;
";

/// For each rule, whether a replica that is there does not know it.
const RULES: &str = "
DROP INDEX replica_without_epochs;
CREATE INDEX replica_knows ON replica (knows) WHERE gone = 0;
";

/// Which entry of the stream the last one is: a number may be another's one day.
const LAST_ENTRY: &str = "
ALTER TABLE replicated ADD COLUMN origin TEXT;
ALTER TABLE replicated ADD COLUMN number INTEGER;
ALTER TABLE replicated ADD COLUMN published_at_ns INTEGER;
";

/// Of a job that no host runs; that of a host's is in `hosted_job`.
const CANCELS: &str = "
ALTER TABLE job ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
";

/// The last dial of each host: its entry in the stream.
const DIALS: &str = "
CREATE TABLE host_dial (
  principal TEXT NOT NULL, instance_id TEXT NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY (principal, instance_id)) WITHOUT ROWID;
CREATE INDEX host_dial_sequence ON host_dial (sequence);
";

/// Resume tokens that count beside the two of the session's row, in the order in which
/// they were given.
const GIVEN_TOKENS: &str = "
CREATE TABLE given_token (
  hash BLOB PRIMARY KEY, session_id TEXT NOT NULL, no INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX given_token_session ON given_token (session_id, no);
";

// A row of its own cost a job two writes more.
const TRACE_OF_JOB: &str = "
ALTER TABLE job ADD COLUMN parent_span_id TEXT;
ALTER TABLE job ADD COLUMN sampled INTEGER;
ALTER TABLE job ADD COLUMN tracestate TEXT;
ALTER TABLE job ADD COLUMN baggage TEXT;
UPDATE job SET (parent_span_id, sampled, tracestate, baggage) = (
  SELECT parent_span_id, sampled, tracestate, baggage FROM job_trace WHERE job_trace.stream = job.stream)
WHERE stream IN (SELECT stream FROM job_trace);
DROP TABLE job_trace;
";

/// What a cell is given of another store, until all of it is there.
const IMPORT: &str = "
CREATE TABLE import_part (
  import TEXT NOT NULL, number INTEGER NOT NULL, rows BLOB NOT NULL,
  PRIMARY KEY (import, number)) WITHOUT ROWID;
";

/// The last position in use.
pub(super) const TAIL: &str =
    "SELECT max(coalesce((SELECT max(position) FROM block), 0), position) FROM high_water";

/// The writer's connection and the last position in use.
pub(in crate::log) fn open_writer(
    path: &Path,
    durability: Durability,
) -> Result<(Connection, Position), Error> {
    let foreign = |detail: String| Error::Foreign {
        path: path.display().to_string(),
        detail,
    };
    // A disk that fails says nothing of what is on it.
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly) => {
            let why = format!("{error}: make room, or look at the disk, and start again");
            Error::Io {
                path: path.display().to_string(),
                source: std::io::Error::other(why),
            }
        }
        _ => foreign(error.to_string()),
    };
    let connection = Connection::open(path).map_err(failed)?;
    prepare(&connection, durability).map_err(failed)?;
    let query = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(failed)
    };
    let (application, found) = (query("application_id")?, query("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(foreign("it is another program's database".into()));
    }
    // Of a younger version, or of none that ever was.
    if found > FORMAT || (tables > 0 && found < 1) {
        let path = path.display().to_string();
        return Err(Error::Version {
            path,
            found,
            expected: FORMAT,
        });
    }
    bring_up(&connection, found).map_err(failed)?;
    let tail = connection
        .query_row(TAIL, [], |row| row.get(0))
        .map_err(failed)?;
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
    // KiB. The pages of every commit are among the newest; they stay at hand.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// All steps a store lacks, in one transaction.
pub(in crate::log) fn bring_up(connection: &Connection, found: i64) -> rusqlite::Result<()> {
    steps(connection, found, FORMAT)
}

/// A new store as an earlier version made it.
pub(in crate::log) fn begin_at(connection: &Connection, format: i64) -> rusqlite::Result<()> {
    steps(connection, 0, format)
}

fn steps(connection: &Connection, found: i64, wanted: i64) -> rusqlite::Result<()> {
    let missing = STEPS.into_iter().take(wanted as usize);
    let missing: String = missing.skip(found as usize).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let script = format!(
        "BEGIN; {missing} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {wanted}; COMMIT;"
    );
    connection.execute_batch(&script)
}

pub(in crate::log) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    use rusqlite::OpenFlags;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    open_all(&connection)?;
    Ok(connection)
}

/// SQLite opens the WAL with a connection's first read: now, so that a store that cannot
/// be read fails the start, and a busy hour takes no more descriptors than a quiet one.
pub(super) fn open_all(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_store_is_brought_up_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arcpd.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!(
            "{FIRST} {RECENT_VIEW_OPS} {HOSTED}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 3;
             INSERT INTO block VALUES (7, 1, 1, 1, 0, x'0107');
             INSERT INTO job (stream, id, session_id, principal, agent, input_json, trace_id,
               created_at_ms, status, last_seq, fingerprint)
             VALUES (1, 'job', '', 'alice', 'a@1.0.0', '1', '', 0, 'pending', 0, x'');
             INSERT INTO hosted_agent VALUES ('a', '1.0.0', 'workers', 0);
             INSERT INTO hosted_job VALUES (1, NULL, 0, 1, x'01', 1, 0, '', 0, 0, 0, NULL);"
        ))
        .unwrap();
        drop(old);
        let (connection, tail) = open_writer(&path, Durability::Process).unwrap();
        assert_eq!(tail, 7);
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, FORMAT);
        let recent = connection.query_row("SELECT count(*) FROM view_op_recent", [], |row| {
            row.get::<_, i64>(0)
        });
        assert_eq!(recent.unwrap(), 0);
        // An activation of which it is not known whether it was accepted has begun.
        let (accepted, principal): (bool, String) = connection
            .query_row(
                "SELECT accepted, host_principal FROM hosted_job",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        assert_eq!((accepted, &*principal), (true, "workers"));
        // What a younger version wrote is left as it is.
        connection
            .pragma_update(None, "user_version", FORMAT + 1)
            .unwrap();
        drop(connection);
        let Err(refused) = open_writer(&path, Durability::Process) else {
            panic!("a younger store was opened");
        };
        assert!(matches!(refused, Error::Version { found, .. } if found == FORMAT + 1));
    }

    #[test]
    fn a_live_jobs_trace_outlives_the_table_it_was_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arcpd.db");
        let old = Connection::open(&path).unwrap();
        let steps = STEPS[..7].concat();
        old.execute_batch(&format!(
            "{steps} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 7;
             INSERT INTO job (stream, id, session_id, principal, agent, input_json, trace_id,
               created_at_ms, status, last_seq, fingerprint)
             VALUES (1, 'traced', '', 'alice', 'a@1.0.0', '1', '', 0, 'running', 0, x''),
                    (2, 'untraced', '', 'alice', 'a@1.0.0', '1', '', 0, 'running', 0, x'');
             INSERT INTO job_trace VALUES (1, '00000000000000ab', 0, 'a=b', 'c=d');"
        ))
        .unwrap();
        drop(old);
        let (connection, _) = open_writer(&path, Durability::Process).unwrap();
        let mut found = connection
            .prepare("SELECT parent_span_id, sampled, tracestate, baggage FROM job ORDER BY stream")
            .unwrap();
        type Trace = (Option<String>, Option<bool>, Option<String>, Option<String>);
        let found: Vec<Trace> = found
            .query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let text = |text: &str| Some(text.to_owned());
        let traced = (
            text("00000000000000ab"),
            Some(false),
            text("a=b"),
            text("c=d"),
        );
        assert_eq!(found, [traced, (None, None, None, None)]);
    }
}
