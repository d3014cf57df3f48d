//! A credential for a job that is about to be.
//!
//! ```text
//!  intent stored ─▶ upstream asked ─▶ live, in the transaction that makes the job ─▶ held
//!        └── no answer, no job, process killed: due by itself, and revoked
//! ```
//! A job that may delegate gets a [`super::purse`] before it, in the same way.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::held::{Held, HeldMap, Holding};
use super::purse::{self, Owed};
use super::{Budget, Credential, IssueError, Issued, Provisioner, Request, Sealer, agents};
use crate::authority::{Amounts, Capability, Lease, Pattern};
use crate::clock::now;
use crate::log::{Command, CredentialRow, CredentialState, IssuedRow, Log, StreamId};
use crate::protocol::{Failure, Timestamp, id};

/// An upstream may still be at what it was asked when nobody waits any more: for
/// so many times as long as was waited, from the start.
const SETTLES_AFTER: u32 = 4;

/// What an operator says of credentials, whoever makes them.
#[derive(Clone, Debug)]
pub struct Options {
    /// A submit waits so long, then it is refused.
    pub issue_timeout: Duration,
    /// A credential's own life, if its job is to live longer.
    pub ttl: Option<Duration>,
    /// It is replaced so long before its end.
    pub rotate_before: Duration,
    /// Patterns of names.
    pub agents: Vec<String>,
}

/// The credentials of all jobs. The runtime has one, or none if there is nobody to
/// ask for them.
pub struct Credentials {
    pub(super) provisioner: Arc<dyn Provisioner>,
    pub(super) sealer: Option<Sealer>,
    pub(super) options: Options,
    pub(super) log: Log,
    pub(super) held: HeldMap,
    /// Somebody wants something done now.
    pub(super) wanted: tokio::sync::Notify,
}

/// A job that may be given one.
pub struct Ask<'a> {
    pub stream: StreamId,
    pub job_id: &'a str,
    pub session_id: &'a str,
    pub principal: &'a str,
    /// `name@version`.
    pub agent: &'a str,
    pub traceparent: String,
    /// When the job was submitted: what a credential's own life is counted from.
    pub at: Timestamp,
    /// The effective one.
    pub lease: &'a Lease,
    /// What it may spend, of its own budgets and of those that it shares.
    pub budget: Amounts,
    pub deadline: Option<Timestamp>,
    pub tree: Tree,
}

/// Whom a job shares a purse with.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// Nobody.
    Alone,
    /// Those that it may delegate to.
    Root,
    /// All below that job, which was granted so much.
    Below(String, StreamId, Vec<Budget>),
}

/// Issued and of no job yet: given back when dropped.
pub struct Fresh {
    credentials: Arc<Credentials>,
    stream: StreamId,
    held: Option<Held>,
    rows: Vec<IssuedRow>,
    owed: Vec<Owed>,
}

// === impl Tree ===

impl Tree {
    pub fn below(root_id: &str, stream: StreamId, granted: &Amounts) -> Self {
        Self::Below(root_id.into(), stream, budget(granted))
    }
}

fn budget(amounts: &Amounts) -> Vec<Budget> {
    let budget = amounts.iter().map(|(currency, amount)| Budget {
        currency: currency.to_string(),
        amount: amount.to_string(),
    });
    budget.collect()
}

// === impl Credentials ===

impl Credentials {
    pub fn new(
        provisioner: Arc<dyn Provisioner>,
        sealer: Option<Sealer>,
        options: Options,
        log: Log,
    ) -> Arc<Self> {
        Arc::new(Self {
            provisioner,
            sealer,
            options,
            log,
            held: HeldMap::default(),
            wanted: Default::default(),
        })
    }

    /// None for a job that gets none; a failure refuses the submit.
    pub async fn issue(self: &Arc<Self>, ask: Ask<'_>) -> Result<Option<Fresh>, Failure> {
        let mut request = self.request(&ask);
        let listed = agents::listed(&self.options.agents, ask.agent);
        let applies = listed && self.provisioner.applies(&request);
        let opens = ask.tree == Tree::Root && self.provisioner.has_purses(&request.budget);
        let until = Instant::now() + self.options.issue_timeout;
        request.purse = match &ask.tree {
            Tree::Below(root, _, granted) => self.provisioner.has_purses(granted).then_some(root),
            Tree::Root => opens.then_some(&request.job_id),
            Tree::Alone => None,
        }
        .map(|root| purse::handle(root));
        let opened = match opens {
            true => Some(self.open_purse(&request, ask.stream, until).await?),
            false => None,
        };
        let mut fresh = match applies {
            true => {
                if let Tree::Below(_, root, _) = ask.tree {
                    self.check_purse(&request, root).await?;
                }
                let session_id = ask.session_id.to_owned();
                self.ask(request, 1, ask.stream, session_id, until).await?
            }
            false if opens => self.fresh(ask.stream),
            false => return Ok(None),
        };
        if let Some((owed, row)) = opened {
            fresh.owed.push(owed);
            fresh.rows.push(row);
        }
        Ok(Some(fresh))
    }

    /// What the session that submitted a job, or the same principal again, is shown
    /// of it. Of a job that another replica runs it is read from the log.
    pub async fn of(&self, stream: StreamId) -> Option<Arc<Held>> {
        let held = self.held.get(stream);
        if held.is_some() || !self.log.is_replicated() {
            return held;
        }
        match self.stored(stream).await {
            Ok(held) => held.map(Arc::new),
            Err(error) => {
                tracing::warn!(%error, "a credential is not shown");
                None
            }
        }
    }

    fn request(&self, ask: &Ask<'_>) -> Request {
        let lease = ask.lease;
        let models = lease.patterns(&Capability::ModelUse).iter();
        let id = id::credential_id();
        let asked_at = ask.at;
        let ends = [lease.expires_at, ask.deadline].into_iter().flatten();
        let ends_at = ends.min();
        Request {
            handle: id.clone(),
            id,
            job_id: ask.job_id.into(),
            principal: ask.principal.into(),
            agent: ask.agent.into(),
            traceparent: ask.traceparent.clone(),
            asked_at,
            budget: budget(&ask.budget),
            models: models.map(Pattern::to_string).collect(),
            expires_at: self.expiry(asked_at, ends_at),
            ends_at,
            first_budget: Vec::new(),
            replaces: None,
            purse: None,
        }
    }

    /// When a credential asked for now is to end.
    pub(super) fn expiry(&self, at: Timestamp, ends_at: Option<Timestamp>) -> Option<Timestamp> {
        let own = self
            .options
            .ttl
            .map(|ttl| Timestamp(at.0 + ttl.as_millis() as i64));
        [own, ends_at].into_iter().flatten().min()
    }

    /// Stores the intent, asks the upstream, and waits for so long.
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: Request,
        generation: u32,
        stream: StreamId,
        session_id: String,
        until: Instant,
    ) -> Result<Fresh, Failure> {
        let owed = self.intend(&request, generation, stream).await?;
        let (id, ends_at) = (request.id.clone(), request.ends_at);
        let (job_id, handle) = (request.job_id.clone(), request.handle.clone());
        match self
            .within_time(until, self.provisioner.issue(request))
            .await
        {
            Ok(issued) => {
                tracing::info!(job_id, credential = handle, "issued a credential");
                let (row, held) = self.issued(handle, id, issued, ends_at, generation, session_id);
                let mut fresh = self.fresh(stream);
                fresh.held = Some(held);
                fresh.rows.push(row);
                fresh.owed.push(owed);
                Ok(fresh)
            }
            Err(error) => Err(self.not_issued(&job_id, owed, error).await),
        }
    }

    fn fresh(self: &Arc<Self>, stream: StreamId) -> Fresh {
        Fresh {
            credentials: self.clone(),
            stream,
            held: None,
            rows: Vec::new(),
            owed: Vec::new(),
        }
    }

    /// Before the upstream is asked.
    pub(super) async fn intend(
        self: &Arc<Self>,
        request: &Request,
        generation: u32,
        stream: StreamId,
    ) -> Result<Owed, Failure> {
        let settles_after = self.options.issue_timeout * SETTLES_AFTER;
        let settles_at_ms = request.asked_at.0 + settles_after.as_millis() as i64;
        let row = CredentialRow {
            handle: request.handle.clone(),
            id: request.id.clone(),
            generation,
            stream,
            job_id: request.job_id.clone(),
            provisioner: self.provisioner.name().into(),
            state: CredentialState::Issuing,
            issued_at_ms: request.asked_at.0,
            settles_at_ms,
            expires_at_ms: None,
            next_at_ms: Some(settles_at_ms),
            attempts: 0,
            error: String::new(),
            asked_json: serde_json::to_string(request).unwrap_or_default(),
            issued_json: String::new(),
            sealed: None,
        };
        let stored = self
            .log
            .execute(Command::IntendCredential(row.clone()))
            .await;
        stored.map_err(|error| {
            tracing::error!(%error, "the store refused a credential");
            Failure::internal("the store is not available; try again")
        })?;
        Ok(Owed::new(self.clone(), row))
    }

    /// What an upstream answers, if it does in time.
    pub(super) async fn within_time<T>(
        &self,
        until: Instant,
        asked: impl Future<Output = Result<T, IssueError>>,
    ) -> Result<T, IssueError> {
        let answer = tokio::time::timeout_at(until, asked).await;
        answer.unwrap_or_else(|_| {
            let timeout = self.options.issue_timeout;
            let text = format!("nothing within {} s", timeout.as_secs_f32());
            Err(IssueError::Unknown(text))
        })
    }

    fn issued(
        &self,
        handle: String,
        id: String,
        issued: Issued,
        ends_at: Option<Timestamp>,
        generation: u32,
        session_id: String,
    ) -> (IssuedRow, Held) {
        let Issued { value, terms } = issued;
        let expires_at = terms.constraints.expires_at;
        // One that ends with its job needs no other after it.
        let outlived = expires_at.filter(|at| ends_at.is_none_or(|end| *at < end));
        let rotate_before = self.options.rotate_before.as_millis() as i64;
        // Of a life that is shorter than that, half is used.
        let rotate_at = |at: Timestamp| (at.0 - rotate_before).max(now().0.midpoint(at.0));
        let sealer = self.sealer.as_ref();
        let row = IssuedRow {
            sealed: sealer.and_then(|sealer| sealer.seal(&handle, value.expose_secret())),
            handle: handle.clone(),
            expires_at_ms: expires_at.map(|at| at.0),
            next_at_ms: outlived.map(rotate_at),
            issued_json: serde_json::to_string(&terms).unwrap_or_default(),
        };
        let held = Held {
            credential: Credential { id, value, terms },
            handle,
            generation,
            session_id,
        };
        (row, held)
    }
}

// === impl Fresh ===

impl Fresh {
    /// To be stored with the job.
    pub fn rows(&self) -> Vec<IssuedRow> {
        self.rows.clone()
    }

    /// The job is durable and another replica's, which reads the credential from the log.
    pub fn leave(self) {
        for owed in self.owed {
            owed.release();
        }
    }

    /// The job is durable, and this is its credential; none if it got a purse alone.
    pub fn keep(self) -> Option<Holding> {
        for owed in self.owed {
            owed.release();
        }
        self.credentials.wanted.notify_one();
        let held = self.held?;
        Some(self.credentials.held.put(self.stream, Some(held)))
    }
}
