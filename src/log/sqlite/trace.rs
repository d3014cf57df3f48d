//! The trace context of jobs that have one.

use rusqlite::{Connection, OptionalExtension, params};

use super::Log;
use crate::log::{Error, StreamId, TraceRow};

impl Log {
    pub async fn job_trace(&self, stream: StreamId) -> Result<Option<TraceRow>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM job_trace WHERE stream = ?1")?
                .query_row(params![stream], |row| {
                    Ok(TraceRow {
                        parent_span_id: row.get(1)?,
                        sampled: row.get(2)?,
                        tracestate: row.get(3)?,
                        baggage: row.get(4)?,
                    })
                })
                .optional()
        })
        .await
    }
}

pub(super) fn insert(
    connection: &Connection,
    stream: StreamId,
    row: &TraceRow,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO job_trace VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            stream,
            row.parent_span_id,
            row.sampled,
            row.tracestate,
            row.baggage
        ])
        .map(drop)
}

/// With the job's end nothing needs it any more.
pub(super) fn end(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM job_trace WHERE stream = ?1")?
        .execute(params![stream])
        .map(drop)
}
