//! Requests of a client and the runtime's replies outside the numbered stream.

use std::time::Duration;

use secrecy::SecretString;

use super::{Failure, Timestamp, TraceContext};

/// One envelope from a client, its shape checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub id: String,
    pub session_id: Option<String>,
    pub job_id: Option<String>,
    pub trace: TraceContext,
    /// `extensions.optional`: an unknown message may be dropped.
    pub optional: bool,
    pub body: RequestBody,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RequestBody {
    Hello(Hello),
    Ping {
        nonce: String,
    },
    Pong {
        nonce: String,
    },
    Ack {
        last_processed_seq: u64,
    },
    ListJobs(ListJobs),
    Close,
    Bye,
    Submit(Submit),
    Cancel {
        reason: Option<String>,
    },
    Subscribe {
        history: bool,
        from_event_seq: u64,
        from_job_seq: u64,
    },
    Unsubscribe,
    /// A message only the runtime may send, or one this runtime does not know.
    Other {
        type_name: String,
    },
}

/// `session.hello`, and `session.resume` of the draft read as one.
#[derive(Clone, PartialEq)]
pub struct Hello {
    pub client: String,
    pub auth_scheme: String,
    pub auth_token: String,
    pub features: Vec<String>,
    pub resume: Option<Resume>,
    pub profile: Profile,
}

/// Whose reading of the draft a peer follows where two readings exclude each
/// other; told by what its hello looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The draft's; Go and gRPC clients follow it.
    #[default]
    Draft,
    /// Reads `job.error` as the answer to its oldest open submit, and any later
    /// `session.error` as the end of every job handle.
    TypeScript,
    /// Knows only `final_status: "error"` on `job.error`, drops what comes before
    /// its subscribe call returned, and ends all handles on `session.error`.
    Python,
}

impl Hello {
    /// `session.resume` may name its session in the envelope.
    pub fn named_by_envelope(&mut self, session_id: Option<&str>) {
        if let (Some(resume), Some(id)) = (&mut self.resume, session_id)
            && resume.session_id.is_empty()
        {
            resume.session_id = id.into();
        }
    }
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("Hello")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq)]
pub struct Resume {
    /// Empty in the draft's `session.resume`: then the token names the session.
    pub session_id: String,
    pub resume_token: String,
    pub last_event_seq: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListJobs {
    pub statuses: Vec<String>,
    pub agent: Option<String>,
    pub created_after: Option<Timestamp>,
    pub created_before: Option<Timestamp>,
    pub limit: u32,
    pub cursor: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Submit {
    pub agent: String,
    pub input_json: String,
    pub lease_request_json: String,
    pub lease_expires_at: Option<Timestamp>,
    pub idempotency_key: Option<String>,
    pub max_runtime_sec: u64,
}

/// One envelope to a client without an `event_seq`.
#[derive(Clone, Debug)]
pub struct Reply {
    pub session_id: String,
    pub job_id: Option<String>,
    pub trace_id: Option<String>,
    pub body: ReplyBody,
}

#[derive(Clone, Debug)]
pub enum ReplyBody {
    Welcome(Welcome),
    Error {
        request_id: Option<String>,
        failure: Failure,
    },
    Ping {
        nonce: String,
        sent_at: Timestamp,
    },
    Pong {
        nonce: String,
        received_at: Timestamp,
    },
    Jobs {
        request_id: String,
        jobs: Vec<JobSummary>,
        next_cursor: Option<String>,
    },
    Closed {
        reason: String,
    },
    Bye {
        reason: String,
        /// When the session can be resumed, and should not be at once.
        reconnect_after: Option<Duration>,
    },
    Accepted {
        request_id: String,
        agent: String,
        accepted_at: Timestamp,
        grant: Granted,
        /// For the submitting principal alone.
        credentials_json: Option<SecretString>,
    },
    Cancelled {
        reason: Option<String>,
    },
    /// Refuses a submit in the form two SDK clients can tell apart; it ends no
    /// job, has no number and is in nobody's stream.
    Rejected {
        failure: Failure,
        at: Timestamp,
    },
    Subscribed {
        request_id: String,
        agent: String,
        status: String,
        subscribed_from: u64,
        replayed: bool,
        grant: Granted,
    },
}

/// What a job may do (§9) and who gave it that, as its submitter and its
/// observers are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// The effective lease, a JSON object.
    pub lease_json: String,
    pub expires_at: Option<Timestamp>,
    pub parent_job_id: Option<String>,
    pub delegate_id: Option<String>,
}

impl Default for Granted {
    fn default() -> Self {
        Self {
            lease_json: "{}".into(),
            expires_at: None,
            parent_job_id: None,
            delegate_id: None,
        }
    }
}

#[derive(Clone, PartialEq)]
pub struct Welcome {
    pub resume_token: String,
    pub resume_window_sec: u32,
    pub heartbeat_interval_sec: u32,
    pub features: Vec<String>,
    pub agents: Vec<AgentInfo>,
    pub accepted_at: Timestamp,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Welcome")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct AgentInfo {
    pub name: String,
    pub versions: Vec<String>,
    pub default_version: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobSummary {
    pub job_id: String,
    pub agent: String,
    pub status: String,
    pub created_at: Timestamp,
    pub last_event_seq: u64,
    pub trace_id: String,
    pub grant: Granted,
}
