//! The fifteen error codes of §12 and the failure every error message carries.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    PermissionDenied,
    LeaseSubsetViolation,
    JobNotFound,
    DuplicateKey,
    AgentNotAvailable,
    AgentVersionNotAvailable,
    Cancelled,
    Timeout,
    ResumeWindowExpired,
    HeartbeatLost,
    LeaseExpired,
    BudgetExhausted,
    InvalidRequest,
    Unauthenticated,
    InternalError,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 15] = [
        Self::PermissionDenied,
        Self::LeaseSubsetViolation,
        Self::JobNotFound,
        Self::DuplicateKey,
        Self::AgentNotAvailable,
        Self::AgentVersionNotAvailable,
        Self::Cancelled,
        Self::Timeout,
        Self::ResumeWindowExpired,
        Self::HeartbeatLost,
        Self::LeaseExpired,
        Self::BudgetExhausted,
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::InternalError,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::LeaseSubsetViolation => "LEASE_SUBSET_VIOLATION",
            Self::JobNotFound => "JOB_NOT_FOUND",
            Self::DuplicateKey => "DUPLICATE_KEY",
            Self::AgentNotAvailable => "AGENT_NOT_AVAILABLE",
            Self::AgentVersionNotAvailable => "AGENT_VERSION_NOT_AVAILABLE",
            Self::Cancelled => "CANCELLED",
            Self::Timeout => "TIMEOUT",
            Self::ResumeWindowExpired => "RESUME_WINDOW_EXPIRED",
            Self::HeartbeatLost => "HEARTBEAT_LOST",
            Self::LeaseExpired => "LEASE_EXPIRED",
            Self::BudgetExhausted => "BUDGET_EXHAUSTED",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// Whether the same request may succeed later. INTERNAL_ERROR must say so
    /// (§12), LEASE_EXPIRED and BUDGET_EXHAUSTED must not.
    pub fn retryable(self) -> bool {
        match self {
            Self::InternalError | Self::Timeout => true,
            Self::PermissionDenied
            | Self::LeaseSubsetViolation
            | Self::JobNotFound
            | Self::DuplicateKey
            | Self::AgentNotAvailable
            | Self::AgentVersionNotAvailable
            | Self::Cancelled
            | Self::ResumeWindowExpired
            | Self::HeartbeatLost
            | Self::LeaseExpired
            | Self::BudgetExhausted
            | Self::InvalidRequest
            | Self::Unauthenticated => false,
        }
    }

    /// Whether §12 leaves `retryable` to nobody.
    pub fn fixes_retryable(self) -> bool {
        matches!(
            self,
            Self::InternalError | Self::LeaseExpired | Self::BudgetExhausted
        )
    }
}

/// Longest message of a refusal that says what was wrong with a request.
const INVALID_BYTES_MAX: usize = 2_048;

/// What went wrong, in words a user can act on. `message` is never empty.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
    pub retryable: bool,
    /// A JSON object for programs; the message says the same to people.
    pub details_json: Option<String>,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retryable: code.retryable(),
            details_json: None,
        }
    }

    pub fn with_details(mut self, details_json: String) -> Self {
        self.details_json = Some(details_json);
        self
    }

    /// The message may repeat what a peer sent, escaped: it is cut to a bound.
    pub fn invalid(message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > INVALID_BYTES_MAX {
            let mut end = INVALID_BYTES_MAX;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InternalError, message)
    }

    pub fn job_not_found() -> Self {
        Self::new(
            ErrorCode::JobNotFound,
            "no such job is visible to this principal",
        )
    }
}
