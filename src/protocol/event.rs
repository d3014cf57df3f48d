//! What a job reports (§8) and how it ends (§7.4).

use super::{Failure, Timestamp};

/// The phase of a status that tells of a new credential (§9.8.2).
pub const ROTATED: &str = "credential_rotated";
/// The phase with which the runtime tells that a job goes to another host. Agents may say
/// it too, of tries of their own.
pub const RETRYING: &str = "retrying";
/// A metric that only the runtime reports: what is left of a budget (§9.6).
pub const REMAINING: &str = "cost.budget.remaining";

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

impl EventBody {
    /// The rules of each kind (§8.2, §8.3): what a client could not use is
    /// refused where it is made. The text names the member.
    pub fn check(&self) -> Result<(), String> {
        let filled = |member: &str, text: &str| match text {
            "" => Err(format!("{member}: must not be empty")),
            _ => Ok(()),
        };
        match self {
            Self::Log { level, message, .. } => {
                const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "critical"];
                filled("message", message)?;
                match LEVELS.contains(&&**level) {
                    true => Ok(()),
                    false => Err(format!("level: must be one of {}", LEVELS.join(", "))),
                }
            }
            Self::Thought { text } => filled("text", text),
            Self::ToolCall { tool, call_id, .. } => {
                filled("tool", tool)?;
                filled("call_id", call_id)
            }
            Self::ToolResult { call_id, .. } => filled("call_id", call_id),
            Self::Status { phase, .. } => filled("phase", phase),
            Self::Metric { name, value, .. } => {
                filled("name", name)?;
                finite("value", *value)
            }
            Self::ArtifactRef { uri, content_type, .. } => {
                filled("uri", uri)?;
                filled("content_type", content_type)
            }
            Self::Delegate { delegate_id, agent, .. } => {
                filled("delegate_id", delegate_id)?;
                filled("agent", agent)
            }
            Self::Progress { current, total, .. } => check_progress(*current, *total),
            Self::ResultChunk { result_id, .. } => filled("result_id", result_id),
            Self::Other { kind, .. } => match kind.strip_prefix("x-vendor.") {
                Some(rest) if !rest.is_empty() && kind.len() <= 128 => Ok(()),
                _ => Err("kind: must be one of the draft's ten or x-vendor.<vendor>.<name>, at most 128 bytes".into()),
            },
        }
    }
}

fn finite(member: &str, value: f64) -> Result<(), String> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(format!("{member}: must be a finite number")),
    }
}

fn check_progress(current: f64, total: Option<f64>) -> Result<(), String> {
    finite("current", current)?;
    finite("total", total.unwrap_or(0.0))?;
    if current < 0.0 || total.is_some_and(|total| total < 0.0) {
        return Err("current, total: must not be negative".into());
    }
    if total.is_some_and(|total| current > total) {
        return Err("current: must not be above total".into());
    }
    Ok(())
}
