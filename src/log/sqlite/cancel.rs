//! Cancels that were acknowledged: whoever has the job after a crash finds them here.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Log, replicas};
use crate::log::rows::KNOWS_ALL_CANCELS;
use crate::log::{Error, StreamId};

impl Log {
    /// Those of these jobs that were asked to stop.
    pub async fn cancelled_jobs(&self, streams: Vec<StreamId>) -> Result<HashSet<StreamId>, Error> {
        self.read(move |connection| {
            let mut find = connection.prepare(
                "SELECT stream FROM job LEFT JOIN hosted_job USING (stream)
                 WHERE stream = ?1 AND (job.cancelled OR hosted_job.cancelled)",
            )?;
            let rows = streams.iter();
            let rows = rows.map(|stream| find.query_row(params![stream], |row| row.get(0)));
            let rows = rows.map(OptionalExtension::optional);
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }
}

/// With the rest of what a host's job keeps, or with the job itself; nothing of one that
/// is over.
pub(super) fn keep(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    let hosted = connection
        .prepare_cached("UPDATE hosted_job SET cancelled = 1 WHERE stream = ?1")?
        .execute(params![stream])?;
    if hosted == 0 && replicas::all_know(connection, KNOWS_ALL_CANCELS)? {
        connection
            .prepare_cached(
                "UPDATE job SET cancelled = 1 WHERE stream = ?1 AND end_position IS NULL",
            )?
            .execute(params![stream])?;
    }
    Ok(())
}
