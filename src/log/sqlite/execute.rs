//! What each command and each block writes, inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::decode::job_from_row;
use super::{cancel, credential, hosted, import, replicas, tokens, trim, view_ops};
use crate::log::rows::KNOWS_CANCELS;
use crate::log::{Command, JobRow, Outcome, PendingBlock, Position, TraceRow};

/// Whether there are credentials to be revoked after this.
pub(super) struct Due(pub bool);

pub(super) fn insert_block(
    connection: &Connection,
    position: Position,
    block: &PendingBlock,
) -> rusqlite::Result<Due> {
    if let Some(mark) = &block.mark {
        if block.first_seq == 1 {
            // Whoever sees a job's records sees that it runs.
            hosted::set_running(connection, block.stream)?;
        }
        hosted::mark(connection, block.stream, mark, block.terminal.is_some())?;
    }
    if let Some(spent) = &block.spent_json {
        connection
            .prepare_cached("UPDATE job SET spent_json = ?2 WHERE stream = ?1")?
            .execute(params![block.stream, spent])?;
    }
    if block.count == 0 {
        return Ok(Due(false));
    }
    connection
        .prepare_cached(
            "INSERT INTO block (position, stream, first_seq, count, terminal, data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            position,
            block.stream,
            block.first_seq as i64,
            block.count,
            block.terminal.is_some(),
            &block.data[..],
        ])?;
    let mut due = false;
    if let Some(end) = &block.terminal {
        hosted::end(connection, block.stream)?;
        due = credential::end(connection, block.stream, end.ended_at_ms)?;
        let last_seq = block.first_seq + u64::from(block.count) - 1;
        connection
            .prepare_cached(
                // Nothing needs its trace context any more, nor that it was to stop.
                "UPDATE job SET status = ?2, ended_at_ms = ?3, last_seq = ?4, end_position = ?5,
                   cancelled = 0, parent_span_id = NULL, sampled = NULL, tracestate = NULL, baggage = NULL
                 WHERE stream = ?1",
            )?
            .execute(params![
                block.stream,
                end.status,
                end.ended_at_ms,
                last_seq as i64,
                position
            ])?;
    }
    Ok(Due(due))
}

pub(super) fn execute(connection: &Connection, command: &Command) -> rusqlite::Result<Outcome> {
    match command {
        Command::CreateSession(row) => {
            connection
                .prepare_cached("INSERT INTO session VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
                .execute(params![
                    row.id,
                    row.stream,
                    row.principal,
                    row.token_hash,
                    row.earlier_token_hash,
                    row.created_at_ms,
                    row.parked_at_ms,
                    row.features,
                ])?;
        }
        Command::ClaimSession {
            id,
            presented_hash,
            token_hash,
            seen_hash: _,
        } => return tokens::claim(connection, id, presented_hash, token_hash),
        Command::ConfirmToken { id } => tokens::confirm(connection, id)?,
        Command::ParkAll { at_ms } => {
            connection
                .prepare_cached("UPDATE session SET parked_at_ms = ?1 WHERE parked_at_ms IS NULL")?
                .execute(params![at_ms])?;
        }
        Command::ParkSession { id, at_ms } => {
            connection
                .prepare_cached("UPDATE session SET parked_at_ms = ?2 WHERE id = ?1")?
                .execute(params![id, at_ms])?;
        }
        Command::AddViewOps(ops) => {
            for op in ops {
                view_ops::insert(connection, op)?;
            }
        }
        // Its record is among the blocks of the group.
        Command::AppendOwn { .. } => {}
        Command::CreateJob {
            job,
            op,
            hosted,
            credentials,
            trace,
            owner: _,
        } => {
            let earlier = match &job.grant.parent_id {
                Some(_) => same_child(connection, job)?,
                None => same_key(connection, job)?,
            };
            if let Some(earlier) = earlier {
                return Ok(Outcome::Duplicate(Box::new(earlier)));
            }
            if !credential::all_issued(connection, credentials)? {
                return Ok(Outcome::Stale);
            }
            insert_job(connection, job, trace.as_deref())?;
            if let Some(op) = op {
                view_ops::insert(connection, op)?;
            }
            if let Some(row) = hosted {
                hosted::insert(connection, row)?;
            }
        }
        Command::IntendCredential(row) => credential::insert(connection, row)?,
        Command::RemoveCredential { handle } => credential::remove(connection, handle)?,
        Command::CredentialIssued(issued) => {
            if !credential::issued_for_live_job(connection, issued)? {
                return Ok(Outcome::Stale);
            }
        }
        Command::SetCredential {
            handle,
            seen,
            state,
            attempts,
            next_at_ms,
            error,
        } => {
            let seen = (handle.as_str(), *seen);
            if !credential::set(connection, seen, *state, *attempts, *next_at_ms, error)? {
                return Ok(Outcome::Stale);
            }
        }
        Command::Activate {
            stream,
            attempt,
            token_hash,
            loss_policy,
            host,
        } => hosted::activate(
            connection,
            *stream,
            *attempt,
            token_hash,
            *loss_policy,
            host,
        )?,
        Command::SetRunning { stream } => hosted::accept(connection, *stream)?,
        Command::SetCancelled { stream } => cancel::keep(connection, *stream)?,
        Command::KeepAgents(agents) => hosted::keep_agents(connection, agents)?,
        // What they do is of several replicas only: see `ownership`.
        Command::Barrier
        | Command::Join { .. }
        | Command::Leave
        | Command::Inherit { .. }
        | Command::MoveJob { .. }
        | Command::ImportEnd { .. } => {}
        // Its replica may be gone by now: whoever inherits the job sees that it stops.
        Command::AskCancel { stream, .. } => {
            if replicas::all_know(connection, KNOWS_CANCELS)? {
                cancel::keep(connection, *stream)?;
            }
        }
        Command::ImportPart {
            import,
            number,
            rows,
        } => import::part(connection, import, *number, rows)?,
        Command::TrimJobs { streams } => trim::jobs(connection, streams)?,
        Command::Forget {
            parked_before_ms,
            ended_before_ms,
        } => trim::forget(connection, *parked_before_ms, *ended_before_ms)?,
    }
    Ok(Outcome::Done)
}

/// The principal's job with this key, unless the key has expired.
fn same_key(connection: &Connection, job: &JobRow) -> rusqlite::Result<Option<JobRow>> {
    let Some(key) = &job.idempotency_key else {
        return Ok(None);
    };
    let earlier = connection
        .prepare_cached("SELECT * FROM job WHERE principal = ?1 AND idempotency_key = ?2")?
        .query_row(params![job.principal, key], job_from_row)
        .optional()?;
    let Some(earlier) = earlier else {
        return Ok(None);
    };
    if earlier
        .idempotency_expires_at_ms
        .is_some_and(|at| at > job.created_at_ms)
    {
        return Ok(Some(earlier));
    }
    connection
        .prepare_cached("UPDATE job SET idempotency_key = NULL WHERE stream = ?1")?
        .execute(params![earlier.stream])?;
    Ok(None)
}

/// The parent's job of this name.
fn same_child(connection: &Connection, job: &JobRow) -> rusqlite::Result<Option<JobRow>> {
    connection
        .prepare_cached("SELECT * FROM job WHERE parent_id = ?1 AND delegate_id = ?2")?
        .query_row(
            params![job.grant.parent_id, job.grant.delegate_id],
            job_from_row,
        )
        .optional()
}

fn insert_job(
    connection: &Connection,
    job: &JobRow,
    trace: Option<&TraceRow>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO job VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 0,
               ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, 0)",
        )?
        .execute(params![
            job.stream,
            job.id,
            job.session_id,
            job.principal,
            job.agent,
            job.input_json,
            job.trace_id,
            job.created_at_ms,
            job.status,
            job.ended_at_ms,
            job.last_seq as i64,
            job.end_position,
            job.idempotency_key,
            job.fingerprint,
            job.idempotency_expires_at_ms,
            job.grant.lease_json,
            job.grant.expires_at_ms,
            job.grant.parent_id,
            job.grant.delegate_id,
            job.grant.spent_json,
            trace.and_then(|trace| trace.parent_span_id.as_ref()),
            trace.map(|trace| trace.sampled),
            trace.map(|trace| &trace.tracestate),
            trace.map(|trace| &trace.baggage),
        ])?;
    Ok(())
}
