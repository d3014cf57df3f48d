//! A row of each table as the struct it was made from, in the tables' order of columns.

use rusqlite::Row;

use crate::log::{GrantRow, JobRow, SessionRow};

pub(super) fn session_from_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        id: row.get(0)?,
        stream: row.get(1)?,
        principal: row.get(2)?,
        token_hash: row.get(3)?,
        earlier_token_hash: row.get(4)?,
        created_at_ms: row.get(5)?,
        parked_at_ms: row.get(6)?,
        features: row.get(7)?,
    })
}

pub(super) fn job_from_row(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    Ok(JobRow {
        stream: row.get(0)?,
        id: row.get(1)?,
        session_id: row.get(2)?,
        principal: row.get(3)?,
        agent: row.get(4)?,
        input_json: row.get(5)?,
        trace_id: row.get(6)?,
        created_at_ms: row.get(7)?,
        status: row.get(8)?,
        ended_at_ms: row.get(9)?,
        last_seq: row.get::<_, i64>(10)? as u64,
        end_position: row.get(11)?,
        idempotency_key: row.get(12)?,
        fingerprint: row.get(13)?,
        idempotency_expires_at_ms: row.get(14)?,
        grant: GrantRow {
            lease_json: row.get(16)?,
            expires_at_ms: row.get(17)?,
            parent_id: row.get(18)?,
            delegate_id: row.get(19)?,
            spent_json: row.get(20)?,
        },
    })
}
