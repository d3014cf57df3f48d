//! What an agent may ask in the name of its job: leave for an operation, and for
//! another job. Refusals are written into the job's stream.

use super::delegation::{Child, Delegation, NAME_BYTES_MAX, check_shape, tool_result};
use super::grant::{Cost, refused};
use super::{JobContext, audit};
use crate::authority::{Amounts, Capability, Denied, Rule, Target};
use crate::protocol::{ErrorCode, EventBody, Failure, Outcome, Timestamp};

impl JobContext {
    /// What the draft calls emitting a `delegate` event (§10): the child is made, or a
    /// `tool_result` says why not.
    pub(super) async fn emit_delegate(&self, body: EventBody) -> Result<(), Failure> {
        let EventBody::Delegate {
            delegate_id,
            agent,
            input_json,
            lease_request_json,
            ..
        } = body
        else {
            return Ok(());
        };
        let asked = Delegation {
            delegate_id,
            agent,
            input_json: input_json.unwrap_or_default(),
            lease_request_json: lease_request_json.unwrap_or_default(),
            expires_at: None,
        };
        self.delegate(asked).await.map(drop)
    }

    /// Asks before an operation whether the lease allows it (§9.3). A refusal is also
    /// a `tool_result` of the call in the job's stream, which the agent does not write.
    pub async fn authorize(
        &self,
        call_id: &str,
        capability: &str,
        target: &str,
    ) -> Result<(), Failure> {
        let checked = match call_id.len() <= NAME_BYTES_MAX {
            true => self.check(capability, target),
            false => {
                let text = format!("call_id: longer than {NAME_BYTES_MAX} bytes");
                let refused = Err(Failure::invalid(text));
                audit::authorized(self, capability, target, &refused);
                refused
            }
        };
        if let Err(failure) = &checked {
            self.refused(call_id, failure).await;
        }
        checked.map(drop)
    }

    /// The same without a word in the stream; says what let it pass.
    pub(crate) fn check(&self, capability: &str, target: &str) -> Result<Rule, Failure> {
        let decided = self.decide(capability, target);
        audit::authorized(self, capability, target, &decided);
        if let Err(failure) = &decided {
            self.trace_refused(capability, failure);
        }
        decided
    }

    fn trace_refused(&self, capability: &str, failure: &Failure) {
        // What is no capability is text of the agent's.
        let known = Capability::parse(capability).is_ok();
        let capability = if known { capability } else { "" };
        let telemetry = self.telemetry();
        telemetry.authorization_refused(self.trace(), capability, failure.code);
    }

    fn decide(&self, capability: &str, target: &str) -> Result<Rule, Failure> {
        if capability.len() > NAME_BYTES_MAX {
            let text = format!("capability: longer than {NAME_BYTES_MAX} bytes");
            return Err(Failure::invalid(text));
        }
        let capability = Capability::parse(capability)
            .map_err(|why| Failure::invalid(format!("capability: {why}")))?;
        let target = Target::parse(&capability, target)
            .map_err(|why| Failure::new(ErrorCode::PermissionDenied, format!("target: {why}")))?;
        match self.grant() {
            Some(grant) => grant.check(self.stream(), &capability, &target),
            None => Err(refused(&Denied::NotGranted { capability })),
        }
    }

    /// Makes a child job (§10). A refusal is also a `tool_result` in this job's stream.
    pub async fn delegate(&self, asked: Delegation) -> Result<Child, Failure> {
        let jobs = self.grant().and_then(|grant| grant.jobs.upgrade());
        match jobs {
            Some(jobs) => jobs.delegate(self, asked).await,
            None => {
                let capability = Capability::AgentDelegate;
                let failure = match check_shape(&asked) {
                    Err(failure) => failure,
                    Ok(()) => refused(&Denied::NotGranted { capability }),
                };
                audit::authorized(self, "agent.delegate", &asked.agent, &Err(failure.clone()));
                self.trace_refused("agent.delegate", &failure);
                self.refused(&asked.delegate_id, &failure).await;
                Err(failure)
            }
        }
    }

    /// Resolves when a child is over and that is durable: when that was, and how it
    /// ended unless its records are no longer kept.
    pub async fn child_ended(
        &self,
        child: &Child,
    ) -> Result<(Timestamp, Option<Outcome>), Failure> {
        let jobs = self.grant().and_then(|grant| grant.jobs.upgrade());
        let jobs = jobs.ok_or_else(Failure::job_not_found)?;
        let row = jobs.ended(&child.job_id).await?;
        if let Some(grant) = self.grant() {
            // Who hears of it may ask for what it has left.
            grant.family.settled(row.stream).await;
        }
        let at = Timestamp(row.ended_at_ms.unwrap_or_default());
        Ok((at, jobs.outcome(&row).await?))
    }

    /// Writes a refusal into the stream; a job that is over has no more to say.
    pub(crate) async fn refused(&self, call_id: &str, failure: &Failure) {
        // A call without a name is nobody's; one that is too long is no name.
        if (1..=NAME_BYTES_MAX).contains(&call_id.len()) {
            let _ = self.emit_own(tool_result(call_id, failure).body).await;
        }
    }

    /// The effective lease, a JSON object.
    pub fn lease_json(&self) -> String {
        self.grant()
            .map_or_else(|| "{}".into(), |grant| grant.lease.to_json())
    }

    pub fn lease_expires_at(&self) -> Option<Timestamp> {
        self.grant().and_then(|grant| grant.lease.expires_at)
    }

    /// The job that delegated this one.
    pub fn parent_id(&self) -> Option<&str> {
        self.grant().and_then(|grant| grant.parent_id.as_deref())
    }

    /// Its parent runs at another replica.
    pub(super) fn is_apart(&self) -> bool {
        self.grant().is_some_and(|grant| grant.is_apart)
    }

    /// Whether another replica may run it. Who spends of a budget above it, or has a key
    /// that counts against one, stays where that is.
    pub(crate) fn may_leave(&self) -> bool {
        let Some(grant) = self.grant().filter(|grant| grant.parent_id.is_some()) else {
            return true;
        };
        let shares = grant.family.shares(self.stream(), &grant.lease.budget);
        !shares && self.holding().is_none()
    }

    /// What is left of each budget of the job.
    pub fn remaining(&self) -> Amounts {
        let grant = self.grant();
        grant
            .map(|grant| grant.remaining(self.stream()))
            .unwrap_or_default()
    }

    pub(super) fn cost(&self, body: &EventBody) -> Result<Option<Cost>, Failure> {
        match self.grant() {
            Some(grant) => grant.cost(self.stream(), body),
            None => Ok(None),
        }
    }
}
