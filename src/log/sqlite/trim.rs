//! Retention: which ended jobs and gone sessions leave the file, and how.

use rusqlite::{Connection, params};

use super::{Log, tokens, view_ops};
use crate::log::{Error, Position, StreamId};

/// Ended jobs the file could do without, oldest end first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trimmable {
    pub stream: StreamId,
    pub end_position: Position,
    pub ended_at_ms: i64,
    pub bytes: u64,
}

impl Log {
    /// Bytes the file uses; pages a trim freed are not counted.
    pub async fn bytes_used(&self) -> Result<u64, Error> {
        self.read(|connection| {
            let query = |pragma: &str| {
                connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            };
            Ok((query("page_size")? * (query("page_count")? - query("freelist_count")?)) as u64)
        })
        .await
    }

    /// Up to `limit` jobs that ended after a position, in the order they ended.
    pub async fn trimmable(&self, after: Position, limit: usize) -> Result<Vec<Trimmable>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT stream, end_position, ended_at_ms,
                       (SELECT coalesce(sum(length(data)), 0) FROM block WHERE block.stream = job.stream)
                     FROM job WHERE trimmed = 0 AND end_position > ?1
                     ORDER BY end_position LIMIT ?2",
                )?
                .query_map(params![after, limit as i64], |row| {
                    Ok(Trimmable {
                        stream: row.get(0)?,
                        end_position: row.get(1)?,
                        ended_at_ms: row.get(2)?,
                        bytes: row.get::<_, i64>(3)? as u64,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Removes the records of ended jobs. A job that runs is left alone.
    pub async fn trim(&self, streams: Vec<StreamId>) -> Result<(), Error> {
        let command = crate::log::Command::TrimJobs { streams };
        self.execute(command).await.map(drop)
    }
}

/// Numbers once given are never given again, whatever is removed.
fn keep_high_water(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE high_water SET
               position = max(position, coalesce((SELECT max(position) FROM block), 0)),
               stream = max(stream, coalesce((SELECT max(stream) FROM job), 0),
                            coalesce((SELECT max(stream) FROM session), 0))",
        )?
        .execute([])
        .map(drop)
}

pub(super) fn jobs(connection: &Connection, streams: &[StreamId]) -> rusqlite::Result<()> {
    keep_high_water(connection)?;
    for stream in streams {
        let ended = connection
            .prepare_cached(
                "UPDATE job SET trimmed = 1, input_json = '', idempotency_key = NULL
                 WHERE stream = ?1 AND end_position IS NOT NULL",
            )?
            .execute(params![stream])?;
        if ended == 1 {
            connection
                .prepare_cached("DELETE FROM block WHERE stream = ?1")?
                .execute(params![stream])?;
        }
    }
    Ok(())
}

pub(super) fn forget(
    connection: &Connection,
    parked_before_ms: i64,
    ended_before_ms: i64,
) -> rusqlite::Result<()> {
    keep_high_water(connection)?;
    // A session's own records go with it.
    connection
        .prepare_cached(
            "DELETE FROM block WHERE stream IN (SELECT stream FROM session WHERE parked_at_ms < ?1)",
        )?
        .execute(params![parked_before_ms])?;
    view_ops::forget(connection, parked_before_ms)?;
    tokens::forget(connection, parked_before_ms)?;
    connection
        .prepare_cached("DELETE FROM session WHERE parked_at_ms < ?1")?
        .execute(params![parked_before_ms])?;
    connection
        .prepare_cached(
            // What a job has spent is answered for by all above it, to their end: it is
            // forgotten after them, and so those between are there to lead to it.
            "DELETE FROM job WHERE trimmed = 1 AND ended_at_ms < ?1 AND NOT EXISTS
               (SELECT 1 FROM job AS parent WHERE parent.id = job.parent_id)",
        )?
        .execute(params![ended_before_ms])?;
    Ok(())
}
