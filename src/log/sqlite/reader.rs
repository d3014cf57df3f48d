//! Reads, on connections of their own; an append never waits for them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::decode::{job_from_row, session_from_row};
use super::{Log, schema, unavailable};
use crate::log::{Block, Error, JobRow, ListFilter, Position, SessionRow, StreamId};

const READERS: usize = 4;

pub(in crate::log) struct Pool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Pool {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let idle = (0..READERS)
            .map(|_| schema::open_reader(path))
            .collect::<rusqlite::Result<Vec<_>>>()
            .map_err(unavailable)?;
        Ok(Self {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(tokio::sync::Semaphore::new(READERS)),
        })
    }
}

impl Log {
    /// Runs a read off the async threads, on a connection nobody else has.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let pool = &self.shared.readers;
        let permit = pool.permits.clone().acquire_owned();
        let permit = permit
            .await
            .map_err(|_| Error::Unavailable("the log is closed".into()))?;
        let idle = pool.idle.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Held to the end of the read, also when nobody waits for it any more:
            // there are as many permits as connections.
            let _permit = permit;
            let connection = idle.lock().pop().expect("a permit stands for a connection");
            let result = read(&connection);
            idle.lock().push(connection);
            result
        });
        match task.await {
            Ok(result) => result.map_err(unavailable),
            Err(_) => Err(Error::Unavailable("a read was cut off".into())),
        }
    }

    /// Blocks of one stream with records after `after_seq`, up to a position.
    pub async fn read_stream(
        &self,
        stream: StreamId,
        after_seq: u64,
        up_to: Position,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Block>>, Error> {
        self.read(move |connection| {
            let after = block_start(connection, stream, after_seq + 1)?;
            blocks_from(connection, stream, after, 0, up_to, bytes_max)
        })
        .await
    }

    /// Where the newest block of a stream is.
    pub async fn last_position(&self, stream: StreamId) -> Result<Option<Position>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT position FROM block WHERE stream = ?1 ORDER BY first_seq DESC LIMIT 1",
                )?
                .query_row(params![stream], |row| row.get(0))
                .optional()
        })
        .await
    }

    pub async fn session(&self, id: &str) -> Result<Option<SessionRow>, Error> {
        let id = id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM session WHERE id = ?1")?
                .query_row(params![id], session_from_row)
                .optional()
        })
        .await
    }

    pub async fn job(&self, id: &str) -> Result<Option<JobRow>, Error> {
        let id = id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM job WHERE id = ?1 AND trimmed = 0")?
                .query_row(params![id], job_from_row)
                .optional()
        })
        .await
    }

    /// The principal's job with this idempotency key, expired or not.
    pub async fn job_by_key(&self, principal: &str, key: &str) -> Result<Option<JobRow>, Error> {
        let (principal, key) = (principal.to_owned(), key.to_owned());
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM job WHERE principal = ?1 AND idempotency_key = ?2")?
                .query_row(params![principal, key], job_from_row)
                .optional()
        })
        .await
    }

    /// The record a job ended with; none while it runs, or when it is no longer kept.
    pub async fn terminal(&self, job: &JobRow) -> Result<Option<Bytes>, Error> {
        let Some(position) = job.end_position else {
            return Ok(None);
        };
        let after = job.last_seq.saturating_sub(1);
        let blocks = self.read_stream(job.stream, after, position, 1).await?;
        let block = blocks.last().filter(|block| block.terminal);
        Ok(block.map(|block| Bytes::copy_from_slice(block.record(block.count as usize - 1))))
    }

    /// What is left of a job whose records have been removed.
    pub async fn trimmed_job(&self, id: &str) -> Result<Option<JobRow>, Error> {
        let id = id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM job WHERE id = ?1 AND trimmed = 1")?
                .query_row(params![id], job_from_row)
                .optional()
        })
        .await
    }

    pub async fn job_by_stream(&self, stream: StreamId) -> Result<Option<JobRow>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT * FROM job WHERE stream = ?1")?
                .query_row(params![stream], job_from_row)
                .optional()
        })
        .await
    }

    /// Whether the records of one of the streams have been removed.
    pub async fn any_trimmed(&self, streams: Vec<StreamId>) -> Result<bool, Error> {
        if streams.is_empty() {
            return Ok(false);
        }
        self.read(move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT trimmed FROM job WHERE stream = ?1")?;
            for stream in streams {
                let trimmed: Option<bool> = statement
                    .query_row(params![stream], |row| row.get(0))
                    .optional()?;
                if trimmed == Some(true) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    pub async fn unfinished_jobs(&self) -> Result<Vec<JobRow>, Error> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT * FROM job WHERE trimmed = 0 AND end_position IS NULL ORDER BY stream",
                )?
                .query_map([], job_from_row)?
                .collect()
        })
        .await
    }

    /// Where the oldest block that is kept is; 0 when there is none.
    pub async fn first_position(&self) -> Result<Position, Error> {
        self.read(|connection| {
            let first = "SELECT coalesce(min(position), 0) FROM block";
            connection.query_row(first, [], |row| row.get(0))
        })
        .await
    }

    /// Sessions that may be resumed and have no connection.
    pub async fn sessions_parked(&self) -> Result<i64, Error> {
        self.read(|connection| {
            let parked = "SELECT count(*) FROM session WHERE parked_at_ms IS NOT NULL";
            connection.query_row(parked, [], |row| row.get(0))
        })
        .await
    }

    /// The highest stream id in use.
    pub async fn last_stream(&self) -> Result<StreamId, Error> {
        self.read(|connection| {
            connection.query_row(
                "SELECT max(coalesce((SELECT max(stream) FROM job), 0),
                            coalesce((SELECT max(stream) FROM session), 0), stream)
                 FROM high_water",
                [],
                |row| row.get(0),
            )
        })
        .await
    }

    /// A principal's jobs by (created, id), after a place in that order.
    pub async fn list_jobs(
        &self,
        principal: &str,
        filter: ListFilter,
        limit: usize,
        after: Option<(i64, String)>,
    ) -> Result<Vec<JobRow>, Error> {
        let principal = principal.to_owned();
        self.read(move |connection| {
            let (after_ms, after_id) = after.unwrap_or((i64::MIN, String::new()));
            let mut statement = connection.prepare_cached(
                "SELECT stream, id, session_id, principal, agent, '' AS input_json, trace_id,
                   created_at_ms, status, ended_at_ms, last_seq, end_position, idempotency_key,
                   fingerprint, idempotency_expires_at_ms, trimmed, lease_json,
                   lease_expires_at_ms, parent_id, delegate_id, spent_json
                 FROM job WHERE principal = ?1 AND (created_at_ms, id) > (?2, ?3)
                   AND created_at_ms > ?4 AND created_at_ms < ?5 AND trimmed = 0
                 ORDER BY created_at_ms, id",
            )?;
            let rows = statement.query_map(
                params![
                    principal,
                    after_ms,
                    after_id,
                    filter.created_after_ms.unwrap_or(i64::MIN),
                    filter.created_before_ms.unwrap_or(i64::MAX),
                ],
                job_from_row,
            )?;
            rows.filter(|row| row.as_ref().map_or(true, |job| matches(&filter, job)))
                .take(limit)
                .collect()
        })
        .await
    }
}

fn matches(filter: &ListFilter, job: &JobRow) -> bool {
    let status = filter.statuses.is_empty() || filter.statuses.contains(&job.status);
    let agent = filter.agent.as_ref().is_none_or(|wanted| {
        *wanted == job.agent
            || job
                .agent
                .split_once('@')
                .is_some_and(|(name, _)| name == wanted)
    });
    status && agent
}

/// The `first_seq` of the block that holds `seq`, or `seq` where none does.
pub(super) fn block_start(
    connection: &Connection,
    stream: StreamId,
    seq: u64,
) -> rusqlite::Result<i64> {
    let start: Option<i64> = connection
        .prepare_cached(
            "SELECT first_seq FROM block WHERE stream = ?1 AND first_seq <= ?2
             ORDER BY first_seq DESC LIMIT 1",
        )?
        .query_row(params![stream, seq as i64], |row| row.get(0))
        .optional()?;
    Ok(start.unwrap_or(seq as i64))
}

fn blocks_from(
    connection: &Connection,
    stream: StreamId,
    first_seq: i64,
    after: Position,
    up_to: Position,
    bytes_max: usize,
) -> rusqlite::Result<Vec<Arc<Block>>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, first_seq, count, terminal, data FROM block
         WHERE stream = ?1 AND first_seq >= ?2 AND position > ?3 AND position <= ?4
         ORDER BY first_seq",
    )?;
    let mut rows = statement.query(params![stream, first_seq, after, up_to])?;
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    while bytes < bytes_max
        && let Some(row) = rows.next()?
    {
        let data: Vec<u8> = row.get(4)?;
        bytes += data.len();
        let (first_seq, count): (i64, u32) = (row.get(1)?, row.get(2)?);
        let block = Block::new(
            row.get(0)?,
            stream,
            first_seq as u64,
            count,
            Bytes::from(data),
            row.get(3)?,
        );
        blocks.push(Arc::new(block));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::{Durability, OpenOptions};

    /// A reader that was dropped in mid-read gave its place back before its
    /// connection, and the next reader found none.
    #[tokio::test]
    async fn a_read_nobody_waits_for_keeps_its_place_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        let (open_gate, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let started = Arc::new(tokio::sync::Semaphore::new(0));
        let mut reads = Vec::new();
        for _ in 0..READERS {
            let (log, gate, started) = (log.clone(), gate.clone(), started.clone());
            reads.push(tokio::spawn(async move {
                log.read(move |_| {
                    started.add_permits(1);
                    // Until the gate is dropped.
                    let _ = gate.lock().recv();
                    Ok(())
                })
                .await
            }));
        }
        let all = started.acquire_many(READERS as u32).await.unwrap();
        for read in reads {
            read.abort();
            assert!(read.await.unwrap_err().is_cancelled());
        }
        let mut next = tokio::spawn({
            let log = log.clone();
            async move { log.last_stream().await }
        });
        let early = tokio::time::timeout(Duration::from_millis(100), &mut next).await;
        assert!(early.is_err(), "no connection is free, yet: {early:?}");
        drop(open_gate);
        assert_eq!(next.await.unwrap().unwrap(), 0);
        drop(all);
        tokio::task::spawn_blocking(move || log.close())
            .await
            .unwrap();
    }
}
