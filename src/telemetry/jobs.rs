//! What happens to jobs, said by those who do it: a span each, or a word to the
//! observer that makes the job's spans.

use std::sync::Arc;

use super::job::JobTrace;
use super::observer::Message;
use super::run::{self, Began, LeaseOf};
use super::span::{self, Kind, Span, Value, now_ns, now_of_records, random_id};
use super::{Telemetry, Via, names};
use crate::log::{Block, GrantRow, JobRow, StreamId};
use crate::protocol::{ErrorCode, SpanId, SpanRef, Timestamp, TraceContext};
use crate::wire;

impl Telemetry {
    /// A job that is durable and has not begun. Before its first record.
    pub fn submitted(&self, trace: &Arc<JobTrace>, submit: &Submitted<'_>) {
        if !trace.recorded {
            return;
        }
        let row = submit.row;
        let mut began = began(trace, row, submit.hosted);
        began.submit = Some(run::Submit {
            via: submit.via,
            start_ns: submit.start_ns,
            end_ns: now_ns(),
            link: submit.context.link.clone(),
            ignored: submit.context.ignored,
        });
        self.send(Message::Began(row.stream, began));
    }

    /// A submit that made no job: refused, or an earlier one's again. `own` is what
    /// others were told of it before that was known.
    pub fn not_submitted(
        &self,
        context: &TraceContext,
        how: Via,
        start_ns: u64,
        ended: Result<&JobRow, ErrorCode>,
        own: Option<&JobTrace>,
    ) {
        let mut context = context.clone();
        if let Some(own) = own {
            context.trace_id = Some(own.trace_id.clone());
        }
        let Some(mut span) = self.asked(names::SUBMIT, &context, start_ns) else {
            return;
        };
        if let Some(own) = own {
            span.of = own.submit();
        }
        via(&mut span, how, "job.submit");
        match ended {
            Err(code) => span.fail(code.as_str()),
            Ok(earlier) => {
                span.attributes.extend(of_job(
                    &earlier.id,
                    &earlier.agent,
                    earlier.grant.parent_id.as_deref(),
                    &earlier.session_id,
                ));
                span.set(names::DUPLICATE, true);
                span.links.push(run_of(earlier));
            }
        }
        self.span(span);
    }

    /// A job of an earlier run of the runtime, with its records so far, and the attempt
    /// of one that hosts have.
    pub fn taken_up(
        &self,
        trace: &Arc<JobTrace>,
        row: &JobRow,
        attempt: Option<u32>,
        earlier: Vec<Arc<Block>>,
    ) {
        if trace.recorded {
            let mut began = began(trace, row, attempt.is_some());
            began.earlier_attempts = attempt.map_or(0, u64::from);
            self.send(Message::Began(row.stream, began));
            self.send(Message::Earlier(row.stream, earlier));
        }
    }

    /// A host has accepted a job that it was offered then.
    pub fn running(&self, trace: &JobTrace, stream: StreamId, since_ns: u64) {
        if trace.recorded {
            self.send(Message::Running(stream, since_ns));
        }
    }

    /// A cancel that a job was told; `asked` is who did.
    pub fn cancelled(&self, trace: &JobTrace, asked: &TraceContext, how: Via) {
        if !trace.recorded {
            return;
        }
        let now = now_of_records();
        let mut span = trace.in_run(names::CANCEL, now, now);
        via(&mut span, how, "job.cancel");
        span.links.extend(asked.span());
        self.span(span);
    }

    /// Before the runtime's record that the job is tried again, if it is.
    pub fn host_lost(
        &self,
        (trace, stream): (&JobTrace, StreamId),
        host: &str,
        attempt: u32,
        policy: &'static str,
    ) {
        self.metrics.host_losses.inc();
        tracing::warn!(
            trace_id = trace.trace_id,
            job_id = trace.job_id,
            host,
            attempt,
            policy,
            "the host of a job is lost"
        );
        if !trace.recorded {
            return;
        }
        let now = now_of_records();
        let mut span = trace.in_run(names::HOST_LOST, now, now);
        if !host.is_empty() {
            span.set(names::HOST_NAME, host);
        }
        span.set(names::ATTEMPT, u64::from(attempt));
        span.set(names::LOSS_POLICY, policy);
        span.fail(run::HOST_LOST);
        self.span(span);
        self.send(Message::Lost(stream, u64::from(attempt), now));
    }

    /// An operation that a job's lease does not allow. `capability` is a name of the
    /// protocol; what it was asked for is the agent's and may be anything.
    pub fn authorization_refused(&self, trace: &JobTrace, capability: &str, code: ErrorCode) {
        if !trace.recorded {
            return;
        }
        let now = now_of_records();
        let mut span = trace.in_run(names::AUTHORIZE, now, now);
        span.set(names::LEASE_CAPABILITY, capability);
        span.fail(code.as_str());
        self.span(span);
    }

    /// A call of the provisioner of credentials; `call` is what it was told.
    pub fn credential_issued(
        &self,
        trace: &JobTrace,
        call: SpanId,
        start_ns: u64,
        refused: Option<ErrorCode>,
    ) {
        if !trace.recorded {
            return;
        }
        let mut span = Span::new(trace.span(call), names::ISSUE, start_ns, now_ns());
        span.kind = Kind::Client;
        span.parent = Some(trace.submit().span_id);
        span.tracestate.clone_from(&trace.tracestate);
        span.set(names::JOB_ID, &*trace.job_id);
        if let Some(code) = refused {
            span.fail(code.as_str());
        }
        self.span(span);
    }

    /// A short span of somebody's request, in the caller's trace or one of its own.
    pub(super) fn asked(
        &self,
        name: &'static str,
        context: &TraceContext,
        start_ns: u64,
    ) -> Option<Span> {
        let sampler = self.sampler()?;
        let trace_id = context.trace_id.clone();
        let trace_id = trace_id.unwrap_or_else(crate::protocol::id::trace_id);
        if !sampler.samples(&trace_id, context) {
            return None;
        }
        let of = SpanRef {
            trace_id,
            span_id: random_id(),
        };
        let mut span = Span::new(of, name, start_ns, now_ns());
        span.parent = context.span_id;
        span.tracestate.clone_from(&context.tracestate);
        span.links.extend(context.link.clone());
        Some(span)
    }
}

/// What a submit span says.
pub struct Submitted<'a> {
    pub row: &'a JobRow,
    pub hosted: bool,
    pub context: &'a TraceContext,
    pub via: Via,
    pub start_ns: u64,
}

fn began(trace: &Arc<JobTrace>, row: &JobRow, hosted: bool) -> Box<Began> {
    Box::new(Began {
        trace: trace.clone(),
        submit: None,
        session_id: row.session_id.clone(),
        agent: row.agent.clone(),
        hosted,
        pending: row.status == "pending",
        created_ms: row.created_at_ms,
        lease: lease(&row.grant),
        parent_id: row.grant.parent_id.clone(),
        earlier_attempts: 0,
    })
}

fn lease(grant: &GrantRow) -> LeaseOf {
    // Of the runtime's own making; most jobs have none.
    let lease = match &*grant.lease_json {
        "{}" => serde_json::Value::Null,
        json => serde_json::from_str(json).unwrap_or_default(),
    };
    let amounts = lease["cost.budget"].as_array().into_iter().flatten();
    let amounts = amounts.filter_map(|amount| amount.as_str()?.split_once(':'));
    LeaseOf {
        expires_at: grant.expires_at_ms.map(|ms| wire::rfc3339(Timestamp(ms))),
        budget: amounts
            .filter_map(|(currency, amount)| Some((currency.to_owned(), amount.parse().ok()?)))
            .collect(),
    }
}

/// For the attributes of more than one span; `agent` is `name@version`.
pub(super) fn of_job(
    job_id: &str,
    agent: &str,
    parent_id: Option<&str>,
    session_id: &str,
) -> Vec<opentelemetry::KeyValue> {
    let (name, version) = agent.split_once('@').unwrap_or((agent, ""));
    // The run's span has three more at the least.
    let mut attributes = Vec::with_capacity(9);
    let mut set = |name, value| attributes.push(span::attribute(name, value));
    set(names::JOB_ID, Value::shared(job_id));
    set(names::AGENT_NAME, Value::shared(name));
    set(names::AGENT_VERSION, Value::shared(version));
    if let Some(parent_id) = parent_id {
        set(names::PARENT_JOB_ID, Value::shared(parent_id));
    }
    if !session_id.is_empty() {
        let session_id = Value::shared(session_id);
        set(names::SESSION_ID, session_id.clone());
        set(names::CONVERSATION, session_id);
    }
    attributes
}

pub(super) fn run_of(row: &JobRow) -> SpanRef {
    SpanRef {
        trace_id: row.trace_id.clone(),
        span_id: span::span_id(&row.id, "run"),
    }
}

pub(super) fn via(span: &mut Span, via: Via, message: &'static str) {
    let (system, method) = match via {
        Via::Session => ("grpc", "arcp.v1.RuntimeService/Session"),
        Via::JobService(method) => ("grpc", method),
        Via::WebSocket => ("arcp", message),
        Via::Inside => return,
    };
    span.kind = Kind::Server;
    span.set(names::RPC_SYSTEM, Value::word(system));
    span.set(names::RPC_METHOD, Value::word(method));
}
