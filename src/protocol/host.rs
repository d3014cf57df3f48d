//! What an agent host says and what it is told (`agent_host_service.proto`).

use std::time::Duration;

use secrecy::SecretString;

use super::{Departure, EventBody, Failure, Outcome, Timestamp};

/// One activation of one job.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AssignmentRef {
    pub job_id: String,
    pub lease_token: String,
}

impl std::fmt::Debug for AssignmentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        write!(f, "AssignmentRef({})", self.job_id)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum HostRequest {
    Register(Register),
    Heartbeat {
        nonce: u64,
    },
    Accept(AssignmentRef),
    Decline {
        of: AssignmentRef,
        reason: String,
    },
    Reports {
        of: AssignmentRef,
        reports: Vec<Report>,
    },
    Authorize {
        of: AssignmentRef,
        call_id: String,
        capability: String,
        target: String,
    },
    Delegate {
        of: AssignmentRef,
        delegate_id: String,
        agent: String,
        input_json: String,
        lease_request_json: String,
        expires_at: Option<Timestamp>,
    },
    Capacity {
        max_in_flight: u32,
    },
    Draining {
        deadline: Duration,
    },
    RefreshAuth {
        bearer_token: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    pub host_name: String,
    pub instance_id: String,
    pub agents: Vec<HostedAgent>,
    pub max_in_flight: u32,
    pub labels: Vec<(String, String)>,
    pub resume: Vec<AssignmentRef>,
    pub sdk: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HostedAgent {
    pub name: String,
    pub version: String,
    /// 0 is no bound of its own.
    pub max_in_flight: u32,
    pub loss_policy: LossPolicy,
    pub description: String,
    pub input_schema_json: String,
}

/// What becomes of a job whose host is lost in the middle of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossPolicy {
    #[default]
    Fail,
    Retry,
    Checkpoint,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub seq: u64,
    /// Or why it cannot be used.
    pub body: Result<ReportBody, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReportBody {
    Event {
        ts: Option<Timestamp>,
        body: EventBody,
    },
    Text(String),
    Data(Vec<u8>),
    Checkpoint(Vec<u8>),
    Complete(Completion),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// The parts reported before are the result.
    Parts { summary: Option<String> },
    /// Inline, failed or cancelled.
    Outcome(Outcome),
}

#[derive(Clone, Debug)]
pub enum HostReply {
    Registered(Registered),
    HeartbeatAck {
        nonce: u64,
    },
    Assign(Box<Assign>),
    Cancel {
        of: AssignmentRef,
        reason: String,
        grace: Duration,
    },
    Ack {
        of: AssignmentRef,
        seq: u64,
    },
    Revoked {
        of: AssignmentRef,
        reason: String,
    },
    Rejected {
        of: Option<AssignmentRef>,
        seq: u64,
        message: String,
    },
    AuthorizeResult {
        of: AssignmentRef,
        call_id: String,
        refused: Option<Failure>,
    },
    DelegateResult {
        of: AssignmentRef,
        delegate_id: String,
        /// The child's id.
        made: Result<String, Failure>,
    },
    ChildEnded {
        of: AssignmentRef,
        delegate_id: String,
        child_job_id: String,
        outcome: Outcome,
        at: Timestamp,
    },
    Drain {
        reconnect_after: Duration,
        reason: String,
    },
    AuthRefreshed,
    Credentials {
        of: AssignmentRef,
        json: SecretString,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    pub host_id: String,
    pub heartbeat_interval: Duration,
    pub lost_after: Duration,
    pub accept_within: Duration,
    pub message_bytes_max: u32,
    pub unacked_reports_max: u32,
    pub unacked_bytes_max: u32,
    pub keep: Vec<Kept>,
    pub drop: Vec<AssignmentRef>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub of: AssignmentRef,
    pub acked_seq: u64,
    pub cancelled: bool,
}

#[derive(Clone, Debug)]
pub struct Assign {
    pub of: AssignmentRef,
    pub attempt: u32,
    pub agent: String,
    pub version: String,
    pub input_json: String,
    pub principal: String,
    pub traceparent: String,
    pub tracestate: String,
    pub baggage: String,
    pub deadline: Option<Timestamp>,
    pub lease_json: String,
    pub lease_expires_at: Option<Timestamp>,
    pub parent_job_id: Option<String>,
    pub checkpoint: Option<Vec<u8>>,
    pub credentials_json: Option<SecretString>,
}

/// Why the runtime ends a host's stream.
#[derive(Clone, Debug, PartialEq)]
pub enum HostRefusal {
    /// Who is this?
    Unauthenticated(String),
    /// Not allowed to host, or not under that name.
    PermissionDenied(String),
    Invalid(String),
    TooMany(String),
    /// Dial again.
    Unavailable(String),
    /// Dial again when it is time to.
    Away(Departure),
}
