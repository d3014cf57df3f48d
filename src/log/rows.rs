//! The rows that are committed in the same transaction as the records.

use super::{Position, StreamId};

#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    pub id: String,
    pub stream: StreamId,
    pub principal: String,
    /// SHA-256 of the resume token; the token itself is never stored.
    pub token_hash: Vec<u8>,
    pub created_at_ms: i64,
    /// When its last connection went; none while it has one.
    pub parked_at_ms: Option<i64>,
    /// JSON array of strings.
    pub features: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub id: String,
    pub stream: StreamId,
    pub session_id: String,
    pub principal: String,
    /// `name@version`.
    pub agent: String,
    pub input_json: String,
    pub trace_id: String,
    pub created_at_ms: i64,
    /// running, success, error, cancelled or timed_out.
    pub status: String,
    pub ended_at_ms: Option<i64>,
    pub last_seq: u64,
    pub end_position: Option<Position>,
    pub idempotency_key: Option<String>,
    /// Of the submit's parameters, to tell a retry from a reuse.
    pub fingerprint: Vec<u8>,
    pub idempotency_expires_at_ms: Option<i64>,
}

/// One operation on a session's view; see `session::view`.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewOpRow {
    pub session_id: String,
    pub op_no: u32,
    pub at_position: Position,
    pub at_seq: u64,
    pub kind: u8,
    pub stream: StreamId,
    pub from_seq: u64,
    pub to_seq: u64,
}

pub enum Command {
    CreateSession(SessionRow),
    /// A new resume token, and whether it is parked.
    UpdateSession {
        id: String,
        token_hash: Vec<u8>,
        parked_at_ms: Option<i64>,
    },
    ParkSession {
        id: String,
        at_ms: i64,
    },
    /// A job and its place in the submitter's view.
    CreateJob {
        job: Box<JobRow>,
        op: ViewOpRow,
    },
    AddViewOp(ViewOpRow),
}

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// The principal used the idempotency key before; nothing was written.
    Duplicate(Box<JobRow>),
}

#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Empty means all.
    pub statuses: Vec<String>,
    /// A bare name matches every version.
    pub agent: Option<String>,
    pub created_after_ms: Option<i64>,
    pub created_before_ms: Option<i64>,
}
