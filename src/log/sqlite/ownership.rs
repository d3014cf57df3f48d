//! Which replica may write what. Every replica decides the same of the same entry:
//! the fence is in the log, and no clock has a say in it.
//!
//! A stream, of a job or a session, is written by the replica that has it. A replica
//! that is gone writes nothing, whatever it had sent when it was declared gone. Each time
//! a stream changes hands its epoch grows, and a block counts only under the epoch of
//! which its writer took the job up: one that was on its way when the job went and came
//! back is not taken for one of what goes on.

use rusqlite::{Connection, OptionalExtension, params};

use super::decode::job_from_row;
use super::execute::execute;
use super::moves::may_move;
use super::replicas::{all_know, is_there};
use super::{Log, credential, dials, hosted, import, view_ops};
use crate::log::rows::{KNOWS_CLAIMS, KNOWS_EPOCHS};
use crate::log::{Command, Error, JobRow, Outcome, PendingBlock, ReplicaNumber, StreamId};

/// Whose a command is, and which entry of the stream it is in.
#[derive(Clone, Copy)]
pub(in crate::log) struct Origin {
    pub replica: ReplicaNumber,
    pub sequence: u64,
}

impl Log {
    /// Jobs that run and that a replica has.
    pub async fn unfinished_jobs_of(&self, replica: ReplicaNumber) -> Result<Vec<JobRow>, Error> {
        self.read(move |connection| {
            connection
                .prepare(
                    "SELECT job.* FROM job JOIN owner ON owner.stream = job.stream
                     WHERE owner.replica = ?1 AND end_position IS NULL ORDER BY job.stream",
                )?
                .query_map(params![replica], job_from_row)?
                .collect()
        })
        .await
    }

    /// The epoch under which this process may write a stream; none when it may not.
    pub async fn epoch(&self, stream: StreamId) -> Result<Option<u64>, Error> {
        if !self.is_replicated() {
            return Ok(Some(0));
        }
        let replica = self.replica();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT epoch FROM owner WHERE stream = ?1 AND replica = ?2")?
                .query_row(params![stream, replica], |row| row.get::<_, i64>(0))
                .optional()
        })
        .await
        .map(|epoch| epoch.map(|epoch| epoch as u64))
    }

    /// Those of these jobs that run and that a replica has.
    pub async fn unfinished_jobs_among(
        &self,
        replica: ReplicaNumber,
        ids: Vec<String>,
    ) -> Result<Vec<JobRow>, Error> {
        self.read(move |connection| {
            let mut find = connection.prepare(
                "SELECT job.* FROM job JOIN owner ON owner.stream = job.stream
                 WHERE job.id = ?1 AND owner.replica = ?2 AND end_position IS NULL",
            )?;
            let rows = ids.iter();
            let rows = rows.map(|id| {
                let row = find.query_row(params![id, replica], job_from_row);
                row.optional()
            });
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Whether this process may write what a session is.
    pub async fn has_session(&self, id: &str) -> Result<bool, Error> {
        if !self.is_replicated() {
            return Ok(true);
        }
        let (replica, id) = (self.replica(), id.to_owned());
        self.read(move |connection| {
            Ok(match session_stream(connection, &id)? {
                Some(stream) => owns(connection, replica, stream)?,
                None => false,
            })
        })
        .await
    }

    /// The replica that has a stream.
    pub async fn owner(&self, stream: StreamId) -> Result<Option<ReplicaNumber>, Error> {
        self.read(move |connection| owner(connection, stream)).await
    }
}

/// As [`execute`], of a replica's command: what is another's is left alone.
pub(super) fn execute_of(
    connection: &Connection,
    Origin { replica, sequence }: Origin,
    command: &Command,
) -> rusqlite::Result<Outcome> {
    if !may(connection, replica, command)? {
        return Ok(Outcome::Stale);
    }
    match command {
        Command::Leave => {
            connection
                .prepare_cached("UPDATE replica SET gone = 1 WHERE number = ?1")?
                .execute(params![replica])?;
            return Ok(Outcome::Done);
        }
        Command::Inherit { replica: of, at_ms } => {
            return inherit(connection, replica, *of, *at_ms);
        }
        Command::MoveJob {
            stream,
            to,
            token_hash,
            ..
        } => {
            take(connection, *to, *stream)?;
            credential::follow(connection, *stream, *to)?;
            if token_hash.is_none() {
                // Its replica gives it away as no host has it.
                hosted::withdraw(connection, *stream)?;
            }
        }
        Command::ImportEnd { import, parts, .. } => {
            return import::end(connection, replica, import, *parts);
        }
        Command::Forget {
            parked_before_ms, ..
        } => {
            connection
                .prepare_cached(
                    "DELETE FROM owner WHERE stream IN
                       (SELECT stream FROM session WHERE parked_at_ms < ?1)",
                )?
                .execute(params![parked_before_ms])?;
        }
        _ => {}
    }
    let outcome = execute(connection, command)?;
    if outcome == Outcome::Done {
        match command {
            Command::CreateSession(row) => take(connection, replica, row.stream)?,
            Command::CreateJob { job, owner, .. } => {
                take(connection, owner.unwrap_or(replica), job.stream)?;
                if let Some(owner) = owner {
                    credential::follow(connection, job.stream, *owner)?;
                }
            }
            Command::IntendCredential(row) => credential::keep(connection, replica, &row.handle)?,
            Command::ClaimSession { id, .. } => {
                if let Some(stream) = session_stream(connection, id)? {
                    take(connection, replica, stream)?;
                }
            }
            Command::KeepAgents(agents) if dials::note(connection, agents, sequence)? => {
                return Ok(Outcome::Dialled(sequence));
            }
            _ => {}
        }
    }
    Ok(outcome)
}

fn may(
    connection: &Connection,
    replica: ReplicaNumber,
    command: &Command,
) -> rusqlite::Result<bool> {
    let has = |stream| owns(connection, replica, stream);
    let has_session = |id: &str| match session_stream(connection, id)? {
        Some(stream) => owns(connection, replica, stream),
        None => Ok(false),
    };
    match command {
        Command::ClaimSession {
            id,
            seen_hash: Some(seen),
            ..
        } => Ok(has_token(connection, id, seen)? || !all_know(connection, KNOWS_CLAIMS)?),
        Command::ConfirmToken { id } | Command::ParkSession { id, .. } => has_session(id),
        Command::AddViewOps(ops) => match ops.first() {
            Some(op) => Ok(has_session(&op.session_id)? && view_ops::is_next(connection, op)?),
            None => Ok(true),
        },
        Command::AppendOwn { stream, .. }
        | Command::Activate { stream, .. }
        | Command::SetRunning { stream }
        | Command::SetCancelled { stream } => has(*stream),
        Command::CreateJob {
            owner: Some(other), ..
        } if !is_there(connection, *other)? => Ok(false),
        Command::CreateJob { job, op, .. } => {
            let parent = match &job.grant.parent_id {
                Some(parent) => job_stream(connection, parent)?.map_or(Ok(false), has)?,
                None => true,
            };
            // Its owner may not know of one that was applied late.
            let fits = match op {
                Some(op) => has_session(&job.session_id)? && view_ops::is_next(connection, op)?,
                None => true,
            };
            Ok(parent && fits)
        }
        Command::MoveJob {
            stream,
            to,
            token_hash,
            dial,
            ..
        } => Ok(is_there(connection, *to)?
            && may_move(connection, *stream)?
            && match token_hash {
                None => has(*stream)?,
                Some(hash) => *to == replica && is_at(connection, *stream, hash)?,
            }
            && match dial {
                Some(dial) => dials::is_last_of(connection, *stream, *dial)?,
                None => true,
            }),
        // A sooner revocation is everybody's to ask for; see `Applied::due`.
        Command::SetCredential { seen: None, .. } => Ok(true),
        Command::RemoveCredential { handle } | Command::SetCredential { handle, .. } => {
            credential::keeps(connection, replica, handle)
        }
        Command::CredentialIssued(row) => credential::keeps(connection, replica, &row.handle),
        // Of one process that has the file for itself.
        Command::ParkAll { .. } => Ok(false),
        _ => Ok(true),
    }
}

fn inherit(
    connection: &Connection,
    heir: ReplicaNumber,
    of: ReplicaNumber,
    at_ms: i64,
) -> rusqlite::Result<Outcome> {
    if heir == of {
        return Ok(Outcome::Stale);
    }
    let first = connection
        .prepare_cached(
            "UPDATE replica SET gone = 1, heir = ?2 WHERE number = ?1 AND heir IS NULL",
        )?
        .execute(params![of, heir])?;
    if first == 0 {
        return Ok(Outcome::Stale);
    }
    connection
        .prepare_cached(
            "UPDATE session SET parked_at_ms = ?2 WHERE parked_at_ms IS NULL
               AND stream IN (SELECT stream FROM owner WHERE replica = ?1)",
        )?
        .execute(params![of, at_ms])?;
    connection
        .prepare_cached("UPDATE owner SET replica = ?2, epoch = epoch + 1 WHERE replica = ?1")?
        .execute(params![of, heir])?;
    credential::inherit(connection, of, heir)?;
    Ok(Outcome::Done)
}

fn owner(connection: &Connection, stream: StreamId) -> rusqlite::Result<Option<ReplicaNumber>> {
    connection
        .prepare_cached("SELECT replica FROM owner WHERE stream = ?1")?
        .query_row(params![stream], |row| row.get(0))
        .optional()
}

fn owns(
    connection: &Connection,
    replica: ReplicaNumber,
    stream: StreamId,
) -> rusqlite::Result<bool> {
    Ok(owner(connection, stream)? == Some(replica))
}

/// Whether a block of a replica counts.
pub(super) fn accepts(
    connection: &Connection,
    replica: ReplicaNumber,
    block: &PendingBlock,
) -> rusqlite::Result<bool> {
    let epoch: Option<i64> = connection
        .prepare_cached("SELECT epoch FROM owner WHERE stream = ?1 AND replica = ?2")?
        .query_row(params![block.stream, replica], |row| row.get(0))
        .optional()?;
    match epoch {
        None => Ok(false),
        Some(epoch) if epoch == block.epoch as i64 => Ok(true),
        Some(_) => Ok(!all_know(connection, KNOWS_EPOCHS)?),
    }
}

fn take(connection: &Connection, replica: ReplicaNumber, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO owner VALUES (?1, ?2, 0)
             ON CONFLICT (stream) DO UPDATE SET replica = ?2, epoch = epoch + 1",
        )?
        .execute(params![stream, replica])
        .map(drop)
}

/// Nothing follows a terminal.
pub(super) fn release(connection: &Connection, stream: StreamId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM owner WHERE stream = ?1")?
        .execute(params![stream])
        .map(drop)
}

/// Whether a job's present activation has this token.
fn is_at(connection: &Connection, stream: StreamId, hash: &[u8]) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM hosted_job WHERE stream = ?1 AND token_hash = ?2)",
        )?
        .query_row(params![stream, hash], |row| row.get(0))
}

/// Whether a session's present token is this one.
fn has_token(connection: &Connection, id: &str, hash: &[u8]) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM session WHERE id = ?1 AND token_hash = ?2)")?
        .query_row(params![id, hash], |row| row.get(0))
}

fn session_stream(connection: &Connection, id: &str) -> rusqlite::Result<Option<StreamId>> {
    connection
        .prepare_cached("SELECT stream FROM session WHERE id = ?1")?
        .query_row(params![id], |row| row.get(0))
        .optional()
}

fn job_stream(connection: &Connection, id: &str) -> rusqlite::Result<Option<StreamId>> {
    connection
        .prepare_cached("SELECT stream FROM job WHERE id = ?1")?
        .query_row(params![id], |row| row.get(0))
        .optional()
}
