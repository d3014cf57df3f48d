//! Who has joined a cell: which of its entries are applied, and which rules are in force.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Log, dials, tokens};
use crate::log::{Command, Error, ReplicaNumber};

/// A replica that has joined.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaRow {
    pub number: ReplicaNumber,
    pub name: String,
    pub gone: bool,
}

/// What becomes of an entry of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Verdict {
    Apply(ReplicaNumber),
    /// It has been applied: its sender did not know.
    Again,
    /// Those before it are missing: they are sent again, and it after them.
    Gap,
    /// Its sender is gone.
    Fenced,
}

impl Log {
    /// Those that are not gone, and those whose work nobody has taken over.
    pub async fn replicas(&self) -> Result<Vec<ReplicaRow>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT number, name, gone FROM replica WHERE heir IS NULL")?
                .query_map([], |row| {
                    Ok(ReplicaRow {
                        number: row.get(0)?,
                        name: row.get(1)?,
                        gone: row.get(2)?,
                    })
                })?
                .collect()
        })
        .await
    }
}

/// Whether the store follows a stream.
pub(in crate::log) fn is_replica(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM replicated)", [], |row| {
        row.get(0)
    })
}

/// Takes note of an entry.
pub(in crate::log) fn receive(
    connection: &Connection,
    origin: &str,
    number: u64,
    commands: &[Command],
) -> rusqlite::Result<Verdict> {
    let known = connection
        .prepare_cached("SELECT number, last_entry, gone FROM replica WHERE id = ?1")?
        .query_row(params![origin], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?))
        })
        .optional()?;
    let (replica, last, gone): (ReplicaNumber, u64, bool) = match (known, commands.first()) {
        (Some(known), _) => known,
        (None, Some(Command::Join { name, knows })) if number == 1 => {
            connection
                .prepare_cached(
                    "INSERT INTO replica (id, name, last_entry, knows) VALUES (?1, ?2, 0, ?3)",
                )?
                .execute(params![origin, name, knows])?;
            dials::forget(connection)?;
            tokens::forget_all(connection)?;
            (connection.last_insert_rowid(), 0, false)
        }
        (None, _) => return Ok(Verdict::Gap),
    };
    if gone {
        return Ok(Verdict::Fenced);
    }
    if number <= last {
        return Ok(Verdict::Again);
    }
    if number > last + 1 {
        return Ok(Verdict::Gap);
    }
    connection
        .prepare_cached("UPDATE replica SET last_entry = ?2 WHERE number = ?1")?
        .execute(params![replica, number as i64])?;
    Ok(Verdict::Apply(replica))
}

/// Whether a rule is in force: every replica that may be there knows it.
pub(super) fn all_know(connection: &Connection, rule: u32) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM replica WHERE gone = 0 AND knows < ?1)")?
        .query_row([rule], |row| row.get(0))
}

pub(super) fn is_there(connection: &Connection, replica: ReplicaNumber) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM replica WHERE number = ?1 AND gone = 0)")?
        .query_row(params![replica], |row| row.get(0))
}

/// Whether a replica beside one has joined and is not gone.
pub(super) fn others_are_there(
    connection: &Connection,
    replica: ReplicaNumber,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM replica WHERE number <> ?1 AND gone = 0)")?
        .query_row(params![replica], |row| row.get(0))
}
