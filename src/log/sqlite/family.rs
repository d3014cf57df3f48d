//! Jobs that other jobs delegated.

use rusqlite::{OptionalExtension, params};

use super::Log;
use super::decode::job_from_row;
use crate::log::{Error, JobRow, StreamId};

impl Log {
    /// The job that a parent delegated under a name.
    pub async fn child(&self, parent_id: &str, delegate_id: &str) -> Result<Option<JobRow>, Error> {
        let (parent, name) = (parent_id.to_owned(), delegate_id.to_owned());
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM job WHERE parent_id = ?1 AND delegate_id = ?2")?
                .query_row(params![parent, name], job_from_row)
                .optional()
        })
        .await
    }

    /// All that was delegated below a job, its children's children too, and however
    /// they ended: what they spent is the job's to answer for. Parents come first.
    pub async fn descendants(&self, job_id: &str) -> Result<Vec<JobRow>, Error> {
        let job_id = job_id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "WITH RECURSIVE below(id, depth) AS (
                       SELECT id, 1 FROM job WHERE parent_id = ?1
                       UNION ALL
                       SELECT job.id, depth + 1 FROM job JOIN below ON job.parent_id = below.id)
                     SELECT job.* FROM below JOIN job ON job.id = below.id
                     ORDER BY depth, job.stream",
                )?
                .query_map(params![job_id], job_from_row)?
                .collect()
        })
        .await
    }

    /// Jobs that were delegated in a session, in the order they were.
    pub async fn delegated_in(&self, session_id: &str) -> Result<Vec<StreamId>, Error> {
        let session_id = session_id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT stream FROM job WHERE session_id = ?1 AND parent_id IS NOT NULL
                       AND trimmed = 0 ORDER BY stream",
                )?
                .query_map(params![session_id], |row| row.get(0))?
                .collect()
        })
        .await
    }
}
