//! The audit log: one line for each decision about authority, under the target
//! `arcpd::audit` (docs/authority.md has the fields). Names and rules, no secrets.

use super::{Child, Delegation, JobContext};
use crate::authority::Rule;
use crate::protocol::Failure;

const TARGET_CHARS: usize = 256;

pub(super) fn authorized(
    job: &JobContext,
    capability: &str,
    target: &str,
    decided: &Result<Rule, Failure>,
) {
    if !tracing::enabled!(target: "arcpd::audit", tracing::Level::INFO) {
        return;
    }
    let target: String = target.chars().take(TARGET_CHARS).collect();
    let capability: String = capability.chars().take(TARGET_CHARS).collect();
    let (decision, rule, code) = match decided {
        Ok(rule) => ("allowed", rule.to_string(), ""),
        Err(failure) => ("refused", failure.message.clone(), failure.code.as_str()),
    };
    tracing::info!(
        target: "arcpd::audit",
        operation = "authorize",
        principal = job.principal(),
        job_id = job.job_id(),
        agent = job.agent(),
        trace_id = job.trace_id(),
        capability,
        target,
        decision,
        rule,
        code,
    );
}

/// What became of a delegation; the check of `agent.delegate` has a line of its own.
pub(super) fn delegated(job: &JobContext, asked: &Delegation, made: &Result<Child, Failure>) {
    let short = |text: &str| text.chars().take(TARGET_CHARS).collect::<String>();
    let (decision, child_job_id, rule, code) = match made {
        Ok(child) => ("allowed", &*child.job_id, "", ""),
        Err(failure) => ("refused", "", &*failure.message, failure.code.as_str()),
    };
    tracing::info!(
        target: "arcpd::audit",
        operation = "delegate",
        principal = job.principal(),
        job_id = job.job_id(),
        agent = job.agent(),
        trace_id = job.trace_id(),
        delegate_id = short(&asked.delegate_id),
        target = short(&asked.agent),
        asked = asked.lease_request_json,
        child_job_id,
        decision,
        rule,
        code,
    );
}

/// Who watches whose job (§14, cross-session subscription audit); without an owner
/// there is no such job.
pub(crate) fn subscribed(principal: &str, job_id: &str, owner: Option<&str>) {
    let job_id: String = job_id.chars().take(TARGET_CHARS).collect();
    let allowed = owner == Some(principal);
    tracing::info!(
        target: "arcpd::audit",
        operation = "subscribe",
        principal,
        job_id,
        owner,
        decision = if allowed { "allowed" } else { "refused" },
        rule = "same_principal",
    );
}

/// What a policy made of a lease request.
pub(super) fn bounded(principal: &str, agent: &str, asked: &str, decided: Result<&str, &Failure>) {
    let (decision, effective, rule) = match decided {
        Ok(effective) if effective == asked => ("allowed", effective, ""),
        Ok(effective) => ("cut", effective, ""),
        Err(failure) => ("refused", "", &*failure.message),
    };
    tracing::info!(
        target: "arcpd::audit",
        operation = "grant",
        principal,
        agent,
        asked,
        effective,
        decision,
        rule,
    );
}
