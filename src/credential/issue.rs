//! A credential for a job that is about to be.
//!
//! ```text
//!  intent stored ─▶ upstream asked ─▶ live, in the transaction that makes the job ─▶ held
//!        └── no answer, no job, process killed: due by itself, and revoked
//! ```

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::held::{Held, HeldMap, Holding};
use super::{Budget, Credential, IssueError, Issued, Provisioner, Request, Sealer, agents};
use crate::authority::{Capability, Lease, Pattern};
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
    /// When the job was submitted: what its end is counted from, so that a job of one
    /// second has one.
    pub at: Timestamp,
    /// The effective one.
    pub lease: &'a Lease,
    pub deadline: Option<Timestamp>,
}

/// Issued and of no job yet: given back when dropped.
pub struct Fresh {
    credentials: Arc<Credentials>,
    handle: String,
    stream: StreamId,
    issued: Option<(IssuedRow, Held)>,
    /// Whether the upstream may have made it.
    armed: bool,
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
        let request = self.request(&ask);
        let wanted = agents::listed(&self.options.agents, ask.agent);
        if !wanted || !self.provisioner.applies(&request) {
            return Ok(None);
        }
        let session_id = ask.session_id.to_owned();
        let asked = self.ask(request, 1, ask.stream, session_id).await;
        asked.map(Some)
    }

    /// What the session that submitted a job, or the same principal again, is shown
    /// of it.
    pub fn of(&self, stream: StreamId) -> Option<Arc<Held>> {
        self.held.get(stream)
    }

    fn request(&self, ask: &Ask<'_>) -> Request {
        let lease = ask.lease;
        let models = lease.patterns(&Capability::ModelUse).iter();
        let budget = lease.budget.iter().map(|(currency, amount)| Budget {
            currency: currency.to_string(),
            amount: amount.to_string(),
        });
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
            budget: budget.collect(),
            models: models.map(Pattern::to_string).collect(),
            expires_at: self.expiry(asked_at, ends_at),
            ends_at,
            replaces: None,
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
    ) -> Result<Fresh, Failure> {
        let timeout = self.options.issue_timeout;
        let settles_at_ms = request.asked_at.0 + (timeout * SETTLES_AFTER).as_millis() as i64;
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
            asked_json: serde_json::to_string(&request).unwrap_or_default(),
            issued_json: String::new(),
            sealed: None,
        };
        let stored = self.log.execute(Command::IntendCredential(row)).await;
        stored.map_err(|error| {
            tracing::error!(%error, "the store refused a credential");
            Failure::internal("the store is not available; try again")
        })?;
        let mut fresh = Fresh {
            credentials: self.clone(),
            handle: request.handle.clone(),
            stream,
            issued: None,
            armed: true,
        };
        let (id, ends_at) = (request.id.clone(), request.ends_at);
        let (job_id, handle) = (request.job_id.clone(), request.handle.clone());
        let asked = tokio::time::timeout(timeout, self.provisioner.issue(request)).await;
        let asked = asked.unwrap_or_else(|_| {
            let text = format!("nothing within {} s", timeout.as_secs_f32());
            Err(IssueError::Unknown(text))
        });
        match asked {
            Ok(issued) => {
                tracing::info!(job_id, credential = handle, "issued a credential");
                fresh.issued =
                    Some(self.issued(handle, id, issued, ends_at, generation, session_id));
                Ok(fresh)
            }
            Err(error) => {
                tracing::warn!(%error, job_id, credential = handle, "no credential was issued");
                fresh.armed = error.may_exist();
                if !fresh.armed {
                    let removed = self.log.execute(Command::RemoveCredential { handle });
                    // If it stays it is revoked in a while: there is none, which is fine.
                    let _ = removed.await;
                }
                Err(error.failure())
            }
        }
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
            handle,
            expires_at_ms: expires_at.map(|at| at.0),
            next_at_ms: outlived.map(rotate_at),
            issued_json: serde_json::to_string(&terms).unwrap_or_default(),
        };
        let held = Held {
            credential: Credential { id, value, terms },
            generation,
            session_id,
        };
        (row, held)
    }
}

// === impl Fresh ===

impl Fresh {
    /// To be stored with the job.
    pub fn row(&self) -> Option<IssuedRow> {
        self.issued.as_ref().map(|(row, _)| row.clone())
    }

    /// The job is durable, and this is its credential.
    pub fn keep(mut self) -> Holding {
        self.armed = false;
        let held = self.issued.take().map(|(_, held)| held);
        self.credentials.wanted.notify_one();
        self.credentials.held.put(self.stream, held)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (credentials, handle) = (self.credentials.clone(), self.handle.clone());
        // If this cannot be stored either, the intent is due by itself.
        tokio::spawn(async move { credentials.revoke_at(handle, now().0).await });
    }
}
