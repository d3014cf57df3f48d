//! One call of the gateway: its answer, or how it failed and what that means.

use reqwest::RequestBuilder;
use serde::Deserialize;

use crate::credential::IssueError;

const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const BUDGET_EXCEEDED: &str = "budget_exceeded";
pub(super) const NO_DATABASE: &str = "no_db_connection";
pub(super) const NONE_FOUND: &str = "none_found";

/// How a call ended, if not well. Bodies are not repeated: they may hold keys.
pub(super) enum CallError {
    /// Nothing was done.
    Refused {
        status: u16,
        kind: String,
    },
    NotSent(String),
    Unknown(String),
}

#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    error: ErrorKind,
}

#[derive(Default, Deserialize)]
struct ErrorKind {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

pub(super) async fn answer(request: RequestBuilder) -> Result<Vec<u8>, CallError> {
    let mut response = request.send().await.map_err(CallError::from)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(CallError::from)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(CallError::Unknown("an answer that is too large".into()));
        }
        body.extend_from_slice(&chunk);
    }
    let status = response.status();
    match (status.is_success(), status.is_client_error()) {
        (true, _) => Ok(body),
        (_, true) => Err(CallError::Refused {
            status: status.as_u16(),
            kind: kind_of(&body),
        }),
        _ => Err(CallError::Unknown(format!("HTTP {}", status.as_u16()))),
    }
}

/// The gateway's word for what is wrong, if it is one.
fn kind_of(body: &[u8]) -> String {
    let ErrorBody { error } = serde_json::from_slice(body).unwrap_or_default();
    // Its 404 says only in words whether it is the key, the team or the address.
    let words = ["No keys found", "Team not found"];
    if words.iter().any(|words| error.message.contains(words)) {
        return NONE_FOUND.into();
    }
    let is_word = error.kind.len() <= 64
        && error
            .kind
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match is_word {
        true => error.kind,
        false => String::new(),
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { status, kind } => write!(f, "HTTP {status} {kind}"),
            Self::NotSent(reason) | Self::Unknown(reason) => f.write_str(reason),
        }
    }
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_connect() {
            Self::NotSent("no connection".into())
        } else if error.is_timeout() {
            Self::Unknown("not answered in time".into())
        } else {
            Self::Unknown("the connection broke".into())
        }
    }
}

impl From<CallError> for IssueError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { kind, .. } if kind == BUDGET_EXCEEDED => Self::BudgetExhausted,
            CallError::Refused { .. } | CallError::NotSent(_) => Self::Refused(error.to_string()),
            CallError::Unknown(reason) => Self::Unknown(reason),
        }
    }
}
