//! The audit log: one line for each decision about authority, under the target
//! `arcpd::audit` (docs/authority.md has the fields). Names and rules, no secrets.
//! Refusals cost a peer nothing, so their lines are bounded, and the rest summed up.
//! What is asked for an operation is counted here too.

use super::{Child, Delegation, JobContext};
use crate::authority::Rule;
use crate::protocol::Failure;
use crate::telemetry::Bounded;

const TEXT_CHARS: usize = 256;
const LEASE_BYTES: usize = 64 * 1024;

/// What others wrote, kept to a length.
fn short(text: &str) -> String {
    text.chars().take(TEXT_CHARS).collect()
}

/// A lease request, which is refused where it is longer, but written down too.
fn short_lease(text: &str) -> &str {
    let mut end = text.len().min(LEASE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(super) fn authorized(
    job: &JobContext,
    capability: &str,
    target: &str,
    decided: &Result<Rule, Failure>,
) {
    let metrics = &job.telemetry().metrics;
    metrics.authorized(capability, decided.is_ok());
    if !tracing::enabled!(target: "arcpd::audit", tracing::Level::INFO) {
        return;
    }
    let lines = &job.telemetry().lines;
    if decided.is_err() && !lines.admits("authorize", job.principal()) {
        return;
    }
    let (decision, rule, code) = match decided {
        Ok(rule) => ("allowed", rule.to_string(), ""),
        Err(failure) => ("refused", failure.message.clone(), failure.code.as_str()),
    };
    tracing::info!(
        target: "arcpd::audit",
        operation = "authorize",
        principal = job.principal(),
        session_id = job.session_id(),
        job_id = job.job_id(),
        agent = job.agent(),
        trace_id = job.trace_id(),
        capability = short(capability),
        target = short(target),
        decision,
        rule,
        code,
    );
}

/// What became of a delegation; the check of `agent.delegate` has a line of its own.
pub(super) fn delegated(job: &JobContext, asked: &Delegation, made: &Result<Child, Failure>) {
    let lines = &job.telemetry().lines;
    if made.is_err() && !lines.admits("delegate", job.principal()) {
        return;
    }
    let (decision, child_job_id, rule, code) = match made {
        Ok(child) => ("allowed", &*child.job_id, "", ""),
        Err(failure) => ("refused", "", &*failure.message, failure.code.as_str()),
    };
    tracing::info!(
        target: "arcpd::audit",
        operation = "delegate",
        principal = job.principal(),
        session_id = job.session_id(),
        job_id = job.job_id(),
        agent = job.agent(),
        trace_id = job.trace_id(),
        delegate_id = short(&asked.delegate_id),
        target = short(&asked.agent),
        asked = short_lease(&asked.lease_request_json),
        child_job_id,
        decision,
        rule,
        code,
    );
}

/// Who wanted to watch whose job (§14, cross-session subscription audit); without an
/// owner there is no such job. One's own is nothing to write down.
pub(crate) fn subscribed(lines: &Bounded, principal: &str, job_id: &str, owner: Option<&str>) {
    if owner == Some(principal) || !lines.admits("subscribe", principal) {
        return;
    }
    tracing::info!(
        target: "arcpd::audit",
        operation = "subscribe",
        principal,
        job_id = short(job_id),
        owner,
        decision = "refused",
        rule = "same_principal",
    );
}

/// What a policy made of a lease request.
pub(super) fn bounded(
    lines: &Bounded,
    principal: &str,
    agent: &str,
    asked: &str,
    decided: Result<&str, &Failure>,
) {
    if decided.is_err() && !lines.admits("grant", principal) {
        return;
    }
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
        asked = short_lease(asked),
        effective = short_lease(effective),
        decision,
        rule,
    );
}
