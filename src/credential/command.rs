//! A program that makes and voids credentials, for upstreams of every sort.
//!
//! It is started for each call, reads one JSON object from its stdin and, for an
//! `issue`, writes one to its stdout:
//! ```text
//! {"op": "issue", "handle": …, "id": …, "job_id": …, "principal": …, "agent": …,
//!  "traceparent": …, "budget": {"USD": "5.00"}, "models": [patterns],
//!  "expires_at": RFC 3339 or null, "replaces": a handle or null}
//!   → {"value": …, "endpoint": …, "profile": …, "constraints": {"cost.budget":
//!      ["USD:5.00"], "model.use": […], "expires_at": …}}
//! {"op": "revoke", "handle": …}
//! ```
//! Exit status 0 is yes; 2 is no, whenever it is asked; 3 says that the budget is
//! spent; anything else, and no answer in time, that nobody knows. What it writes
//! to stderr is dropped: it may be anything. Secrets are never in its arguments
//! or its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{
    Asked, Budget, Constraints, IssueError, Issued, Provisioner, Request, RevokeError, Revoked,
    Terms,
};
use crate::protocol::Timestamp;
use crate::wire::rfc3339;

const ANSWER_BYTES_MAX: u64 = 256 * 1024;
const STATUS_NO: i32 = 2;
const STATUS_BUDGET: i32 = 3;
/// The rest of the runtime's environment may be secret.
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

#[derive(Clone, Debug)]
pub struct CommandProvisioner {
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    pub working_dir: Option<PathBuf>,
    /// For one call.
    pub timeout: Duration,
}

enum CallError {
    NotStarted(String),
    Status(Option<i32>),
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    value: String,
    endpoint: String,
    profile: Option<String>,
    #[serde(default)]
    constraints: AnswerConstraints,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AnswerConstraints {
    #[serde(rename = "cost.budget")]
    budget: Vec<String>,
    #[serde(rename = "model.use")]
    models: Vec<String>,
    expires_at: Option<String>,
}

impl Provisioner for CommandProvisioner {
    fn name(&self) -> &'static str {
        "command"
    }

    fn applies(&self, request: &Request) -> bool {
        !request.models.is_empty() || !request.budget.is_empty()
    }

    fn issue(&self, request: Request) -> Asked {
        let program = self.clone();
        Box::pin(async move {
            let answer = program.call(issue_json(&request)).await?;
            issued(&answer)
        })
    }

    fn revoke(&self, handle: String) -> Revoked {
        let program = self.clone();
        Box::pin(async move {
            let asked = json!({ "op": "revoke", "handle": handle });
            match program.call(asked).await {
                Ok(_) => Ok(()),
                Err(CallError::Status(Some(STATUS_NO))) => {
                    Err(RevokeError::permanent("the program says no"))
                }
                Err(error) => Err(RevokeError::transient(error.to_string())),
            }
        })
    }
}

impl CommandProvisioner {
    async fn call(&self, asked: Value) -> Result<Vec<u8>, CallError> {
        tokio::time::timeout(self.timeout, self.run(asked.to_string()))
            .await
            // The program is killed with the future that waits for it.
            .unwrap_or_else(|_| Err(CallError::Unknown("not answered in time".into())))
    }

    async fn run(&self, asked: String) -> Result<Vec<u8>, CallError> {
        let not_started = |error: std::io::Error| CallError::NotStarted(error.kind().to_string());
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| CallError::NotStarted("there is no program".into()))?;
        let passed_on = PASSED_ON.iter();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(passed_on.filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if let Some(dir) = &self.working_dir {
            command.current_dir(dir);
        }
        let mut child = command.spawn().map_err(not_started)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input answers all the same.
                let _ = stdin.write_all(asked.as_bytes()).await;
            }
        };
        let read = async {
            let mut answer = Vec::new();
            match stdout {
                Some(stdout) => stdout
                    .take(ANSWER_BYTES_MAX)
                    .read_to_end(&mut answer)
                    .await
                    .map(|_| answer),
                None => Ok(answer),
            }
        };
        let ((), answer, status) = tokio::join!(write, read, child.wait());
        let broken = |error: std::io::Error| CallError::Unknown(error.kind().to_string());
        let (answer, status) = (answer.map_err(broken)?, status.map_err(broken)?);
        match status.success() {
            true => Ok(answer),
            false => Err(CallError::Status(status.code())),
        }
    }
}

fn issue_json(request: &Request) -> Value {
    let amount = |budget: &Budget| (budget.currency.clone(), budget.amount.clone());
    let budget: BTreeMap<_, _> = request.budget.iter().map(amount).collect();
    json!({
        "op": "issue", "handle": request.handle, "id": request.id, "job_id": request.job_id,
        "principal": request.principal, "agent": request.agent,
        "traceparent": request.traceparent, "budget": budget, "models": request.models,
        "expires_at": request.expires_at.map(rfc3339), "replaces": request.replaces,
    })
}

fn issued(answer: &[u8]) -> Result<Issued, IssueError> {
    // Where the text is wrong is not said: the error would repeat some of it.
    let unknown = |what: &str| IssueError::Unknown(format!("the program's answer {what}"));
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|_| unknown("is not a credential"))?;
    if answer.value.is_empty() || answer.endpoint.is_empty() {
        return Err(unknown("has an empty value or endpoint"));
    }
    let budget = answer.constraints.budget.iter();
    let budget = budget.map(|text| {
        let (currency, amount) = text.split_once(':')?;
        let (currency, amount) = (currency.into(), amount.into());
        Some(Budget { currency, amount })
    });
    let budget: Option<Vec<_>> = budget.collect();
    let expires_at = answer.constraints.expires_at.as_deref();
    let expires_at = expires_at.map(|text| {
        let instant = text.parse::<jiff::Timestamp>();
        instant.map(|instant| Timestamp(instant.as_millisecond()))
    });
    Ok(Issued {
        value: answer.value.into(),
        terms: Terms {
            endpoint: answer.endpoint,
            profile: answer.profile,
            constraints: Constraints {
                budget: budget.ok_or_else(|| unknown("has a cost.budget that is none"))?,
                models: answer.constraints.models,
                expires_at: expires_at
                    .transpose()
                    .map_err(|_| unknown("has an expires_at that is no time"))?,
            },
        },
    })
}

// === impl CallError ===

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(Some(status)) => write!(f, "the program ended with status {status}"),
            Self::Status(None) => f.write_str("the program was killed"),
            Self::NotStarted(reason) | Self::Unknown(reason) => write!(f, "the program: {reason}"),
        }
    }
}

impl From<CallError> for IssueError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Status(Some(STATUS_BUDGET)) => Self::BudgetExhausted,
            CallError::Status(Some(STATUS_NO)) | CallError::NotStarted(_) => {
                Self::Refused(error.to_string())
            }
            CallError::Status(_) | CallError::Unknown(_) => Self::Unknown(error.to_string()),
        }
    }
}
