//! What a job reports (§8) and how it ends (§7.4).

use super::{Failure, Timestamp};

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub ts: Timestamp,
    pub body: EventBody,
}

/// Free JSON is kept as text: what the agent wrote is what the client reads.
#[derive(Clone, Debug, PartialEq)]
pub enum EventBody {
    Log {
        level: String,
        message: String,
        attributes_json: Option<String>,
    },
    Thought {
        text: String,
    },
    ToolCall {
        tool: String,
        call_id: String,
        args_json: Option<String>,
    },
    ToolResult {
        call_id: String,
        result: Result<String, String>,
    },
    Status {
        phase: String,
        message: Option<String>,
        details_json: Option<String>,
    },
    Metric {
        name: String,
        value: f64,
        unit: Option<String>,
        dimensions: Vec<(String, String)>,
    },
    ArtifactRef {
        uri: String,
        content_type: String,
        byte_size: Option<u64>,
        sha256: Option<String>,
    },
    Delegate {
        delegate_id: String,
        child_job_id: Option<String>,
        agent: String,
        input_json: Option<String>,
        lease_request_json: Option<String>,
    },
    Progress {
        current: f64,
        total: Option<f64>,
        units: Option<String>,
        message: Option<String>,
    },
    ResultChunk {
        result_id: String,
        chunk_seq: u64,
        data: String,
        encoding: String,
        more: bool,
    },
    /// A vendor's kind, or one younger than this runtime.
    Other {
        kind: String,
        body_json: String,
    },
}

/// The terminal of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// JSON text.
    Inline {
        result_json: String,
    },
    Chunked {
        result_id: String,
        result_size: u64,
        summary: Option<String>,
    },
    Failed(Failure),
    Cancelled {
        message: String,
    },
    TimedOut {
        message: String,
    },
}

impl Outcome {
    /// The job status it leaves behind.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Inline { .. } | Self::Chunked { .. } => "success",
            Self::Failed(_) => "error",
            Self::Cancelled { .. } => "cancelled",
            Self::TimedOut { .. } => "timed_out",
        }
    }
}
