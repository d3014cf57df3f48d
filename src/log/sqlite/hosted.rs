//! What jobs of agent hosts keep beside their records, and which agents hosts
//! have registered.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Log;
use crate::log::{Error, HostKey, HostedAgentRow, HostedRow, ReportMark, ResultMark, StreamId};

impl Log {
    /// Those of these jobs that are for agent hosts and have no terminal.
    pub async fn hosted_jobs(&self, streams: Vec<StreamId>) -> Result<Vec<HostedRow>, Error> {
        self.read(move |connection| {
            let mut find = connection.prepare("SELECT * FROM hosted_job WHERE stream = ?1")?;
            let rows = streams.iter();
            let rows = rows.map(|stream| find.query_row(params![stream], from_row).optional());
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }

    pub async fn hosted_agents(&self) -> Result<Vec<HostedAgentRow>, Error> {
        self.read(|connection| {
            connection
                .prepare("SELECT name, version, principal, seen_at_ms FROM hosted_agent")?
                .query_map([], |row| {
                    Ok(HostedAgentRow {
                        name: row.get(0)?,
                        version: row.get(1)?,
                        principal: row.get(2)?,
                        seen_at_ms: row.get(3)?,
                        instance_id: String::new(),
                    })
                })?
                .collect()
        })
        .await
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<HostedRow> {
    Ok(HostedRow {
        stream: row.get(0)?,
        deadline_ms: row.get(1)?,
        cancelled: row.get(2)?,
        attempt: row.get(3)?,
        token_hash: row.get(4)?,
        loss_policy: row.get(5)?,
        reported: row.get::<_, i64>(6)? as u64,
        result: ResultMark {
            result_id: row.get(7)?,
            is_text: row.get(8)?,
            chunks: row.get::<_, i64>(9)? as u64,
            bytes: row.get::<_, i64>(10)? as u64,
        },
        checkpoint: row.get::<_, Option<Vec<u8>>>(11)?.map(Into::into),
        accepted: row.get(12)?,
        host: HostKey {
            principal: row.get(13)?,
            instance_id: row.get(14)?,
        },
    })
}

pub(super) fn insert(connection: &Connection, row: &HostedRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO hosted_job
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, '', 0, 0, 0, NULL, ?7, ?8, ?9)",
        )?
        .execute(params![
            row.stream,
            row.deadline_ms,
            row.cancelled,
            row.attempt,
            row.token_hash,
            row.loss_policy,
            row.accepted,
            row.host.principal,
            row.host.instance_id,
        ])?;
    Ok(())
}

/// Reports are numbered anew with each activation; a checkpoint outlives it.
pub(super) fn activate(
    connection: &Connection,
    stream: StreamId,
    attempt: u32,
    token_hash: &[u8],
    loss_policy: u8,
    host: &HostKey,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE hosted_job SET attempt = ?2, token_hash = ?3, loss_policy = ?4, reported = 0,
               result_id = '', result_is_text = 0, result_chunks = 0, result_bytes = 0,
               accepted = 0, host_principal = ?5, host_instance = ?6
             WHERE stream = ?1",
        )?
        .execute(params![
            stream,
            attempt,
            token_hash,
            loss_policy,
            host.principal,
            host.instance_id
        ])?;
    Ok(())
}

/// Moves the mark with the records it speaks of; a terminal ends it all. Who reports
/// has begun.
pub(super) fn mark(
    connection: &Connection,
    stream: StreamId,
    mark: &ReportMark,
    terminal: bool,
) -> rusqlite::Result<()> {
    if terminal {
        return Ok(());
    }
    connection
        .prepare_cached(
            "UPDATE hosted_job SET reported = ?2, result_id = ?3, result_is_text = ?4,
               result_chunks = ?5, result_bytes = ?6, checkpoint = coalesce(?7, checkpoint),
               accepted = 1
             WHERE stream = ?1",
        )?
        .execute(params![
            stream,
            mark.seq as i64,
            mark.result.result_id,
            mark.result.is_text,
            mark.result.chunks as i64,
            mark.result.bytes as i64,
            mark.checkpoint.as_deref(),
        ])?;
    Ok(())
}

/// No host has it: it is offered anew, wherever it is then.
pub(super) fn withdraw(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE hosted_job SET attempt = attempt - (accepted = 0), token_hash = NULL,
               accepted = 0
             WHERE stream = ?1 AND token_hash IS NOT NULL",
        )?
        .execute(params![stream])?;
    Ok(())
}

/// The present activation was accepted.
pub(super) fn accept(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE hosted_job SET accepted = 1 WHERE stream = ?1")?
        .execute(params![stream])?;
    set_running(connection, stream)
}

pub(super) fn set_running(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE job SET status = 'running' WHERE stream = ?1 AND status = 'pending'",
        )?
        .execute(params![stream])?;
    Ok(())
}

/// Called for every terminal: of a job that has no such row it does nothing.
pub(super) fn end(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM hosted_job WHERE stream = ?1")?
        .execute(params![stream])?;
    Ok(())
}

pub(super) fn keep_agents(
    connection: &Connection,
    agents: &[HostedAgentRow],
) -> rusqlite::Result<()> {
    for agent in agents {
        connection
            .prepare_cached("INSERT OR REPLACE INTO hosted_agent VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                agent.name,
                agent.version,
                agent.principal,
                agent.seen_at_ms
            ])?;
    }
    Ok(())
}
