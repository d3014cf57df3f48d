//! Credentials of jobs: what is live, and what an upstream has still to revoke.
//!
//! A row is there before the upstream is asked and goes when it has confirmed the
//! revocation, so that nothing it may have made is ever forgotten. A terminal
//! makes its job's credentials due in its own transaction. One that is `issuing`
//! becomes due by itself: whoever asked for it may be gone.
//!
//! Of several replicas one has to see to each: the one that asked, then the one that
//! has its job, then whoever inherits from that.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Log;
use crate::log::{CredentialRow, CredentialState, Error, IssuedRow, ReplicaNumber, StreamId};

impl Log {
    /// Credentials, of all jobs or of one, in the order they were asked for.
    pub async fn credentials(&self, of: Option<StreamId>) -> Result<Vec<CredentialRow>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM credential WHERE ?1 IS NULL OR stream = ?1 ORDER BY issued_at_ms, handle",
                )?
                .query_map([of], from_row)?
                .collect()
        })
        .await
    }

    /// Those that this process is to revoke and the upstream refuses to.
    pub async fn credentials_refused(&self) -> Result<Vec<CredentialRow>, Error> {
        let replica = self.replica();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM credential WHERE state = 'unrevocable' AND replica = ?1",
                )?
                .query_map([replica], from_row)?
                .collect()
        })
        .await
    }

    /// Those of which this process is to do something by then, the longest due first.
    pub async fn credentials_due(
        &self,
        at_ms: i64,
        limit: usize,
    ) -> Result<Vec<CredentialRow>, Error> {
        let replica = self.replica();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM credential WHERE next_at_ms <= ?1 AND replica = ?3
                     ORDER BY next_at_ms LIMIT ?2",
                )?
                .query_map(params![at_ms, limit as i64, replica], from_row)?
                .collect()
        })
        .await
    }

    /// When the next one is due here.
    pub async fn credential_next_at(&self) -> Result<Option<i64>, Error> {
        let replica = self.replica();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT min(next_at_ms) FROM credential WHERE replica = ?1")?
                .query_row([replica], |row| row.get(0))
        })
        .await
    }

    /// How many are not revoked yet though no job has them, and how many of those
    /// the upstream refuses to revoke.
    pub async fn credentials_left(&self) -> Result<(u64, u64), Error> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FILTER (WHERE state IN ('revoking', 'unrevocable')),
                            count(*) FILTER (WHERE state = 'unrevocable') FROM credential",
                )?
                .query_row([], |row| {
                    Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
                })
        })
        .await
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<CredentialRow> {
    Ok(CredentialRow {
        handle: row.get(0)?,
        id: row.get(1)?,
        generation: row.get(2)?,
        stream: row.get(3)?,
        job_id: row.get(4)?,
        provisioner: row.get(5)?,
        state: row.get(6)?,
        issued_at_ms: row.get(7)?,
        settles_at_ms: row.get(8)?,
        expires_at_ms: row.get(9)?,
        next_at_ms: row.get(10)?,
        attempts: row.get(11)?,
        error: row.get(12)?,
        asked_json: row.get(13)?,
        issued_json: row.get(14)?,
        sealed: row.get(15)?,
    })
}

pub(super) fn insert(connection: &Connection, row: &CredentialRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO credential VALUES
               (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 0)",
        )?
        .execute(params![
            row.handle,
            row.id,
            row.generation,
            row.stream,
            row.job_id,
            row.provisioner,
            row.state,
            row.issued_at_ms,
            row.settles_at_ms,
            row.expires_at_ms,
            row.next_at_ms,
            row.attempts,
            row.error,
            row.asked_json,
            row.issued_json,
            row.sealed,
        ])?;
    Ok(())
}

/// False when it is no longer waited for: it is being revoked.
fn issued(connection: &Connection, issued: &IssuedRow) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached(
            "UPDATE credential SET state = 'live', settles_at_ms = 0, expires_at_ms = ?2,
               next_at_ms = ?3, issued_json = ?4, sealed = ?5
             WHERE handle = ?1 AND state = 'issuing'",
        )?
        .execute(params![
            issued.handle,
            issued.expires_at_ms,
            issued.next_at_ms,
            issued.issued_json,
            issued.sealed,
        ])?;
    Ok(changed == 1)
}

/// All of them, or none is changed.
pub(super) fn all_issued(connection: &Connection, rows: &[IssuedRow]) -> rusqlite::Result<bool> {
    for row in rows {
        let waited_for = connection
            .prepare_cached("SELECT 1 FROM credential WHERE handle = ?1 AND state = 'issuing'")?
            .exists(params![row.handle])?;
        if !waited_for {
            return Ok(false);
        }
    }
    for row in rows {
        issued(connection, row)?;
    }
    Ok(true)
}

pub(super) fn issued_for_live_job(
    connection: &Connection,
    row: &IssuedRow,
) -> rusqlite::Result<bool> {
    let live = connection
        .prepare_cached(
            "SELECT 1 FROM credential JOIN job USING (stream)
             WHERE handle = ?1 AND end_position IS NULL",
        )?
        .exists(params![row.handle])?;
    Ok(live && issued(connection, row)?)
}

pub(super) fn set(
    connection: &Connection,
    (handle, seen): (&str, Option<CredentialState>),
    state: CredentialState,
    attempts: u32,
    next_at_ms: Option<i64>,
    error: &str,
) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached(
            // A value that is to be void is not kept either.
            "UPDATE credential SET state = ?2, attempts = ?3, next_at_ms = ?4, error = ?5,
               sealed = iif(?2 = 'live', sealed, NULL)
             WHERE handle = ?1 AND (?6 IS NULL OR state = ?6)",
        )?
        .execute(params![handle, state, attempts, next_at_ms, error, seen])?;
    Ok(changed > 0)
}

pub(super) fn remove(connection: &Connection, handle: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM credential WHERE handle = ?1")?
        .execute(params![handle])?;
    Ok(())
}

/// Called for every terminal. Whether the job had any.
pub(super) fn end(
    connection: &Connection,
    stream: StreamId,
    ended_at_ms: i64,
) -> rusqlite::Result<bool> {
    let due = connection
        .prepare_cached(
            "UPDATE credential SET state = 'revoking', next_at_ms = ?2, sealed = NULL
             WHERE stream = ?1 AND state IN ('issuing', 'live')",
        )?
        .execute(params![stream, ended_at_ms])?;
    Ok(due > 0)
}

// --- which replica sees to it ---

/// Whether a replica may change a credential; of one that is not there any may say so.
pub(super) fn keeps(
    connection: &Connection,
    replica: ReplicaNumber,
    handle: &str,
) -> rusqlite::Result<bool> {
    let keeper: Option<ReplicaNumber> = connection
        .prepare_cached("SELECT replica FROM credential WHERE handle = ?1")?
        .query_row([handle], |row| row.get(0))
        .optional()?;
    Ok(keeper.is_none_or(|keeper| keeper == replica))
}

pub(super) fn keep(
    connection: &Connection,
    replica: ReplicaNumber,
    handle: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE credential SET replica = ?2 WHERE handle = ?1")?
        .execute(params![handle, replica])
        .map(drop)
}

/// They go where their job goes.
pub(super) fn follow(
    connection: &Connection,
    stream: StreamId,
    to: ReplicaNumber,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE credential SET replica = ?2 WHERE stream = ?1")?
        .execute(params![stream, to])
        .map(drop)
}

/// Of a store that came from elsewhere: all are one replica's, or, with 0, a process's.
pub(in crate::log) fn keep_all(
    connection: &Connection,
    replica: ReplicaNumber,
) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE credential SET replica = ?1", params![replica])
        .map(drop)
}

pub(super) fn inherit(
    connection: &Connection,
    of: ReplicaNumber,
    heir: ReplicaNumber,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE credential SET replica = ?2 WHERE replica = ?1")?
        .execute(params![of, heir])
        .map(drop)
}

// === impl CredentialState ===

impl CredentialState {
    // Kept stable: these words are on disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Live => "live",
            Self::Revoking => "revoking",
            Self::Unrevocable => "unrevocable",
        }
    }
}

impl ToSql for CredentialState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for CredentialState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        const ALL: [CredentialState; 4] = [
            CredentialState::Issuing,
            CredentialState::Live,
            CredentialState::Revoking,
            CredentialState::Unrevocable,
        ];
        let text = value.as_str()?;
        let found = ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or(FromSqlError::InvalidType)
    }
}
