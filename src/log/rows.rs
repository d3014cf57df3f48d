//! The rows that are committed in the same transaction as the records.

use serde::{Deserialize, Serialize};

use super::{Position, ReplicaNumber, ResultMark, StreamId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    pub id: String,
    pub stream: StreamId,
    pub principal: String,
    /// SHA-256 of the resume token; the token itself is never stored.
    pub token_hash: Vec<u8>,
    /// The token that was presented for the present one; good until the client
    /// has shown that it received the present one.
    pub earlier_token_hash: Option<Vec<u8>>,
    pub created_at_ms: i64,
    /// When its last connection went; none while it has one.
    pub parked_at_ms: Option<i64>,
    /// JSON array of strings.
    pub features: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    pub id: String,
    pub stream: StreamId,
    /// Empty for a job that no session submitted.
    pub session_id: String,
    pub principal: String,
    /// `name@version`.
    pub agent: String,
    pub input_json: String,
    pub trace_id: String,
    pub created_at_ms: i64,
    /// pending, running, success, error, cancelled or timed_out.
    pub status: String,
    pub ended_at_ms: Option<i64>,
    pub last_seq: u64,
    pub end_position: Option<Position>,
    pub idempotency_key: Option<String>,
    /// Of the submit's parameters, to tell a retry from a reuse.
    pub fingerprint: Vec<u8>,
    pub idempotency_expires_at_ms: Option<i64>,
    pub grant: GrantRow,
}

/// What a job may do, who gave it that, and what it has spent of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantRow {
    /// The effective lease, a JSON object.
    pub lease_json: String,
    pub expires_at_ms: Option<i64>,
    /// The job that delegated it.
    pub parent_id: Option<String>,
    /// The parent's name for it.
    pub delegate_id: Option<String>,
    /// Currency to decimal text, a JSON object: what this job itself has reported.
    pub spent_json: Option<String>,
}

impl Default for GrantRow {
    fn default() -> Self {
        Self {
            lease_json: "{}".into(),
            expires_at_ms: None,
            parent_id: None,
            delegate_id: None,
            spent_json: None,
        }
    }
}

/// The trace a job is in, beyond its id: what its spans and whoever works on it
/// are told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceRow {
    /// 16 hex digits: the span that the job's first span is a child of.
    pub parent_span_id: Option<String>,
    pub sampled: bool,
    pub tracestate: String,
    pub baggage: String,
}

/// What a job that an agent host runs needs to go on after a restart. Gone with
/// the job's terminal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostedRow {
    pub stream: StreamId,
    pub deadline_ms: Option<i64>,
    pub cancelled: bool,
    /// Activations so far, the present one included.
    pub attempt: u32,
    /// SHA-256 of the present activation's token; none while it has not been offered.
    pub token_hash: Option<Vec<u8>>,
    /// Who it was offered to.
    pub host: HostKey,
    /// Its host has said that it begins.
    pub accepted: bool,
    /// `agent::host`'s number of the loss policy.
    pub loss_policy: u8,
    /// The present activation's.
    pub reported: u64,
    pub result: ResultMark,
    /// Of any activation.
    pub checkpoint: Option<bytes::Bytes>,
}

/// One life of an agent host's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostKey {
    pub principal: String,
    pub instance_id: String,
}

/// An agent that hosts have registered, and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostedAgentRow {
    pub name: String,
    pub version: String,
    pub principal: String,
    pub seen_at_ms: i64,
    /// Of the host that offers it; not kept with the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
}

/// A credential that an upstream has, or may have, made for a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CredentialRow {
    /// What the upstream knows it by.
    pub handle: String,
    /// What the job's peers know it by: the same for each generation.
    pub id: String,
    pub generation: u32,
    pub stream: StreamId,
    pub job_id: String,
    pub provisioner: String,
    pub state: CredentialState,
    pub issued_at_ms: i64,
    /// The upstream may still be making it until then.
    pub settles_at_ms: i64,
    pub expires_at_ms: Option<i64>,
    /// When something is to be done about it.
    pub next_at_ms: Option<i64>,
    pub attempts: u32,
    /// Why it could not be revoked.
    pub error: String,
    /// What was asked for, JSON.
    pub asked_json: String,
    /// All of it but its value, JSON; empty while it is not issued.
    pub issued_json: String,
    /// The value, encrypted; none without a key.
    pub sealed: Option<Vec<u8>>,
}

/// issuing ──▶ live ──▶ revoking ──▶ gone
///     └──────────────────▲ │
///                        └─┴─▶ unrevocable
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialState {
    /// Asked for; of no job yet.
    Issuing,
    /// A job has it.
    Live,
    Revoking,
    /// The upstream refuses to revoke it.
    Unrevocable,
}

/// What is to be stored of a credential that was issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IssuedRow {
    pub handle: String,
    pub expires_at_ms: Option<i64>,
    pub next_at_ms: Option<i64>,
    pub issued_json: String,
    pub sealed: Option<Vec<u8>>,
}

/// One operation on a session's view; see `session::view`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// With several replicas it is what they agree on; one that the oldest of them does
/// not know is not to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    CreateSession(SessionRow),
    /// A new resume token for the one presented; [`Outcome::Stale`] when that is
    /// no longer the session's.
    ClaimSession {
        id: String,
        presented_hash: Vec<u8>,
        token_hash: Vec<u8>,
        /// The token that the session had where this was decided. In a cell another is
        /// left alone: it was given since, and whoever waits for this one has gone.
        #[serde(default)]
        seen_hash: Option<Vec<u8>>,
    },
    /// The client has the present token: the one before it is void.
    ConfirmToken {
        id: String,
    },
    /// Every session that has no parking time: their connections died with the
    /// process that had them.
    ParkAll {
        at_ms: i64,
    },
    ParkSession {
        id: String,
        at_ms: i64,
    },
    /// A job and its place in the submitter's view, if a session submitted it.
    CreateJob {
        job: Box<JobRow>,
        op: Option<ViewOpRow>,
        /// Of a job that is for an agent host.
        hosted: Option<HostedRow>,
        /// What was issued for it: live with it, or neither is.
        credentials: Vec<IssuedRow>,
        trace: Option<Box<TraceRow>>,
        /// The replica that is to have it, when that is not the sender.
        #[serde(default)]
        owner: Option<ReplicaNumber>,
    },
    /// Before it is asked for.
    IntendCredential(CredentialRow),
    /// Nothing was made.
    RemoveCredential {
        handle: String,
    },
    /// Another generation of a live one; [`Outcome::Stale`] when the job has ended.
    CredentialIssued(IssuedRow),
    /// To be revoked, or tried again, at a time. Nothing is done when it is in
    /// another state than was seen: a terminal may have come first.
    SetCredential {
        handle: String,
        seen: Option<CredentialState>,
        state: CredentialState,
        attempts: u32,
        next_at_ms: Option<i64>,
        error: String,
    },
    /// A new activation of a job: the token of the one before is void.
    Activate {
        stream: StreamId,
        attempt: u32,
        token_hash: Vec<u8>,
        loss_policy: u8,
        host: HostKey,
    },
    /// A host has accepted the job.
    SetRunning {
        stream: StreamId,
    },
    /// A job was asked to stop, also if the runtime restarts.
    SetCancelled {
        stream: StreamId,
    },
    /// A host has dialled with them; with its instance, in a cell, [`Outcome::Dialled`]: what
    /// it dialled before has no say in where its jobs are any more.
    KeepAgents(Vec<HostedAgentRow>),
    AddViewOps(Vec<ViewOpRow>),
    /// One record, length-prefixed, for a session's own stream.
    AppendOwn {
        stream: StreamId,
        record: bytes::Bytes,
    },
    /// Removes the records of ended jobs; a small row of each stays for a while,
    /// so that a resume that would need them is refused instead of cut short.
    TrimJobs {
        streams: Vec<StreamId>,
    },
    /// Nothing: everything before it has been applied here once it is answered.
    Barrier,
    /// A replica begins. The first command of its first entry.
    Join {
        name: String,
        /// What it knows to decide by: [`KNOWS`] of its version.
        #[serde(default)]
        knows: u32,
    },
    /// The replica that says it writes nothing after this.
    Leave,
    /// What a replica had is the sender's; it writes nothing any more. [`Outcome::Stale`]
    /// when another was first.
    Inherit {
        replica: ReplicaNumber,
        at_ms: i64,
    },
    /// A running job is another replica's from now on: the sender's to give, or, with the
    /// token of its activation, to take, because its host has come there.
    MoveJob {
        stream: StreamId,
        job_id: String,
        to: ReplicaNumber,
        token_hash: Option<Vec<u8>>,
        /// Of the host that has come: [`Outcome::Stale`] after a later one of it.
        #[serde(default)]
        dial: Option<u64>,
    },
    /// For the replica that has the job, or will: as its submitter's cancel. Nothing of a
    /// job that is over.
    AskCancel {
        stream: StreamId,
        job_id: String,
    },
    /// A part of another store, [`Rows`](super::sqlite::tables::Rows): nothing before the
    /// import's end.
    ImportPart {
        import: String,
        /// From 0.
        number: u32,
        rows: bytes::Bytes,
    },
    /// All parts become the cell's store; [`Outcome::Stale`] where it has another, where
    /// other replicas are there, or where a part is missing.
    ImportEnd {
        import: String,
        parts: u32,
        /// The version of the tables that the parts are of.
        store: i64,
    },
    /// Removes sessions parked before, and what trimmed jobs ended before left.
    Forget {
        parked_before_ms: i64,
        ended_before_ms: i64,
    },
}

impl Command {
    /// Whether it changes more rows than it names.
    pub(super) fn is_wide(&self) -> bool {
        matches!(
            self,
            Self::TrimJobs { .. }
                | Self::Inherit { .. }
                | Self::ImportEnd { .. }
                | Self::Forget { .. }
        )
    }

    /// About how large it is; what is small whoever sends it counts nothing.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::CreateJob { job, .. } => job.input_json.len() + job.grant.lease_json.len(),
            Self::AppendOwn { record, .. } => record.len(),
            Self::ImportPart { rows, .. } => rows.len(),
            _ => 0,
        }
    }
}

/// What the rules of a cell are: those up to here. All replicas of a cell decide as the
/// one that knows least.
pub const KNOWS: u32 = KNOWS_GIVEN;
/// Blocks have the epoch of their job.
pub(super) const KNOWS_EPOCHS: u32 = 1;
/// Claims have the token that was seen.
pub(super) const KNOWS_CLAIMS: u32 = 2;
/// A cancel that is asked for is kept with the job of a host.
pub(super) const KNOWS_CANCELS: u32 = 3;
/// Of the same version: a store that is in use keeps no parts of an import.
pub(super) const KNOWS_PARTS: u32 = 3;
/// A cancel is kept with a job that no host runs, too.
pub(super) const KNOWS_ALL_CANCELS: u32 = 4;
/// The dials of a host have numbers.
pub(super) const KNOWS_DIALS: u32 = 5;
/// The tokens count that were given since the one that is presented.
pub(super) const KNOWS_GIVEN: u32 = 6;

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// The principal used the idempotency key before, or the parent job its name for
    /// a child; nothing was written.
    Duplicate(Box<JobRow>),
    /// The number of a host's dial: greater than that of any at another replica before.
    Dialled(u64),
    /// What the command was based on has changed; nothing was written.
    Stale,
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
