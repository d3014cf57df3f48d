//! Which dial of a host is its last, in a cell: a host may be let in at two replicas that do
//! not hear of each other, and the stream has an order for it.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Log, replicas};
use crate::log::rows::KNOWS_DIALS;
use crate::log::{Error, HostKey, HostedAgentRow, StreamId};

/// Entries for which a dial is kept: minutes of a busy cell. What a dial has to ask it
/// asks at once.
const KEPT_FOR: u64 = 1_000_000;

impl Log {
    /// Whether no later dial of the host is known here.
    pub async fn is_last_dial(&self, host: HostKey, dial: u64) -> Result<bool, Error> {
        self.read(move |connection| is_last(connection, &host, dial))
            .await
    }
}

/// That a host has dialled with these agents; whether that counts.
pub(super) fn note(
    connection: &Connection,
    agents: &[HostedAgentRow],
    sequence: u64,
) -> rusqlite::Result<bool> {
    let Some(agent) = agents.first().filter(|agent| !agent.instance_id.is_empty()) else {
        return Ok(false);
    };
    if !replicas::all_know(connection, KNOWS_DIALS)? {
        return Ok(false);
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO host_dial VALUES (?1, ?2, ?3)")?
        .execute(params![agent.principal, agent.instance_id, sequence as i64])?;
    connection
        .prepare_cached("DELETE FROM host_dial WHERE sequence < ?1")?
        .execute(params![sequence as i64 - KEPT_FOR as i64])?;
    Ok(true)
}

/// A replica begins. It may have read what was before as a version that takes no note of
/// dials: from here on it has what the others have.
pub(super) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM host_dial", []).map(drop)
}

/// Whether the host that has a job has not dialled again since.
pub(super) fn is_last_of(
    connection: &Connection,
    stream: StreamId,
    dial: u64,
) -> rusqlite::Result<bool> {
    let host = connection
        .prepare_cached("SELECT host_principal, host_instance FROM hosted_job WHERE stream = ?1")?
        .query_row(params![stream], |row| {
            Ok(HostKey {
                principal: row.get(0)?,
                instance_id: row.get(1)?,
            })
        })
        .optional()?;
    // Only where all know of dials there are any.
    host.map_or(Ok(true), |host| is_last(connection, &host, dial))
}

fn is_last(connection: &Connection, host: &HostKey, dial: u64) -> rusqlite::Result<bool> {
    let last = connection
        .prepare_cached("SELECT sequence FROM host_dial WHERE principal = ?1 AND instance_id = ?2")?
        .query_row(params![host.principal, host.instance_id], |row| {
            row.get::<_, i64>(0)
        })
        .optional()?;
    Ok(last.is_none_or(|last| last as u64 <= dial))
}
