//! The trace context of jobs that have one: in the job's row, until its end.

use rusqlite::{OptionalExtension, params};

use super::Log;
use crate::log::{Error, StreamId, TraceRow};

impl Log {
    pub async fn job_trace(&self, stream: StreamId) -> Result<Option<TraceRow>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT parent_span_id, sampled, tracestate, baggage FROM job
                     WHERE stream = ?1 AND sampled IS NOT NULL",
                )?
                .query_row(params![stream], |row| {
                    Ok(TraceRow {
                        parent_span_id: row.get(0)?,
                        sampled: row.get(1)?,
                        tracestate: row.get(2)?,
                        baggage: row.get(3)?,
                    })
                })
                .optional()
        })
        .await
    }
}
