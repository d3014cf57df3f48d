//! The seam to an upstream: what is asked of it, and what it answers.

use std::pin::Pin;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::protocol::{ErrorCode, Failure, Timestamp};
use crate::wire::rfc3339;

pub type Asked = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send>>;
pub type Opened = Pin<Box<dyn Future<Output = Result<(), IssueError>> + Send>>;
pub type Revoked = Pin<Box<dyn Future<Output = Result<(), RevokeError>> + Send>>;

/// Makes credentials at an upstream and voids them there.
///
/// 1. A credential holds its user to the request: never to more.
/// 2. It answers to `handle` alone: `revoke` needs nothing else, may be called
///    for one that never came to be, and again for one that is gone.
/// 3. Errors repeat nothing of what an upstream said but its own short codes:
///    gateways put keys into their messages.
pub trait Provisioner: Send + Sync + 'static {
    /// In the store, for people.
    fn name(&self) -> &'static str;

    /// Whether a job with this lease gets a credential at all.
    fn applies(&self, request: &Request) -> bool;

    fn issue(&self, request: Request) -> Asked;

    /// Whether the credentials of a job that was granted so much and of all below it
    /// can be held to that together.
    fn has_purses(&self, _granted: &[Budget]) -> bool {
        false
    }

    /// Makes that cap, of the root's budget, under `handle`; closed by `revoke`.
    fn open_purse(&self, _root: Request) -> Opened {
        Box::pin(std::future::ready(Ok(())))
    }

    fn revoke(&self, handle: String) -> Revoked;
}

/// A currency and what a job may still spend of it, as decimal text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    pub currency: String,
    pub amount: String,
}

/// A credential for one job. It is stored as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// What the upstream is to know it by, unique for ever.
    pub handle: String,
    /// What the job's peers know it by; stays when it is rotated.
    pub id: String,
    pub job_id: String,
    pub principal: String,
    /// `name@version`.
    pub agent: String,
    pub traceparent: String,
    pub asked_at: Timestamp,
    /// What is left of `cost.budget`; empty when the lease has none.
    pub budget: Vec<Budget>,
    /// Patterns of `model.use`.
    pub models: Vec<String>,
    pub expires_at: Option<Timestamp>,
    /// When the job ends at the latest; never before `expires_at`.
    pub ends_at: Option<Timestamp>,
    /// What the first was made for, where it takes the place of another.
    #[serde(default)]
    pub first_budget: Vec<Budget>,
    /// The handle of the one that it takes the place of; what was spent with that
    /// is spent.
    pub replaces: Option<String>,
    /// The handle of what its spending counts against as well.
    #[serde(default)]
    pub purse: Option<String>,
}

/// What an upstream made.
pub struct Issued {
    pub value: SecretString,
    pub terms: Terms,
}

/// All of a credential that is no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    pub endpoint: String,
    pub profile: Option<String>,
    /// What the upstream enforces, and no more.
    pub constraints: Constraints,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Constraints {
    pub budget: Vec<Budget>,
    pub models: Vec<String>,
    pub expires_at: Option<Timestamp>,
}

/// What the job's peers are given (§9.8.1).
#[derive(Clone, Debug)]
pub struct Credential {
    pub id: String,
    pub value: SecretString,
    pub terms: Terms,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum IssueError {
    /// The upstream cannot hold anybody to this lease; the text names the field.
    #[error("{0}")]
    Unsuitable(String),
    /// What the upstream would allow is spent there.
    #[error("the upstream says that the budget is exhausted")]
    BudgetExhausted,
    /// Nothing was made.
    #[error("refused: {0}")]
    Refused(String),
    /// Whether anything was made is not known.
    #[error("no answer: {0}")]
    Unknown(String),
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct RevokeError {
    /// The upstream will say the same next time, unless somebody changes something.
    pub permanent: bool,
    pub reason: String,
}

// === impl IssueError ===

impl IssueError {
    /// Whether there may be a credential all the same.
    pub fn may_exist(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Unsuitable(_) | Self::BudgetExhausted | Self::Refused(_) => false,
        }
    }

    /// What the submitter is told; the log has the rest.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Unsuitable(text) => Failure::invalid(text.clone()),
            Self::BudgetExhausted => Failure::new(ErrorCode::BudgetExhausted, self.to_string()),
            Self::Refused(_) | Self::Unknown(_) => {
                Failure::internal("no credential could be had for this job; try again")
            }
        }
    }
}

// === impl RevokeError ===

impl RevokeError {
    pub fn transient(reason: impl Into<String>) -> Self {
        let (permanent, reason) = (false, reason.into());
        Self { permanent, reason }
    }

    pub fn permanent(reason: impl Into<String>) -> Self {
        let (permanent, reason) = (true, reason.into());
        Self { permanent, reason }
    }
}

// === impl Constraints ===

impl Constraints {
    fn to_json(&self) -> Value {
        let mut members = Map::new();
        if !self.budget.is_empty() {
            let text = |budget: &Budget| format!("{}:{}", budget.currency, budget.amount);
            let budget: Vec<_> = self.budget.iter().map(text).collect();
            members.insert("cost.budget".into(), budget.into());
        }
        if !self.models.is_empty() {
            members.insert("model.use".into(), self.models.clone().into());
        }
        if let Some(at) = self.expires_at {
            members.insert("expires_at".into(), rfc3339(at).into());
        }
        Value::Object(members)
    }
}

// === impl Credential ===

impl Credential {
    /// Secret and all. For the edge: a submitter's reply, the agent itself.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "id": self.id, "scheme": "bearer", "value": self.value.expose_secret(),
            "endpoint": self.terms.endpoint, "constraints": self.terms.constraints.to_json(),
        });
        if let Some(profile) = &self.terms.profile {
            json["profile"] = profile.clone().into();
        }
        json
    }
}
