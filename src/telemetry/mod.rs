//! Traces and metrics on their way out: spans made of the committed log, and the
//! thread that hands them to a collector.
//!
//! The rest of the runtime says what happened through a [`Telemetry`], and waits for
//! nothing: what does not fit a queue is dropped and counted. Jobs' spans come from
//! their records ([`run`]), so that a trace shows what a client is shown, costs an
//! agent nothing, and can be ended by another run of the runtime. Nothing here ever
//! holds a span open.
//! OpenTelemetry's SDK has what is not particular to jobs: sampler, batches, OTLP.
//! `tracing-opentelemetry` is for what agents in this process do ([`agents`]) and
//! nothing else: a call that is worth a span (a submit, a cancel, a provisioner's)
//! has one whose id others must know before it is over, and stores or derives it;
//! the layer gives ids of its own, and a second span would say the same twice.
//!
//! ```text
//! caller ─▶ arcp.job submit ─▶ invoke_agent <name> ─▶ execute_tool <tool>
//!                                                 ├─▶ arcp.job submit (of a child) ─▶ …
//!                                                 └─▶ arcp.job cancel, arcp.host lost, …
//! arcp.session resume, arcp.job subscribe: traces of their own, with links to runs
//! ```

mod agents;
mod authentication;
mod bounded;
mod by_transport;
mod encode;
mod env;
mod exporter;
mod http;
mod job;
pub mod logs;
pub mod metrics;
pub mod names;
mod observer;
mod openmetrics;
mod otlp;
mod pem;
mod push;
mod queue;
mod refused;
mod run;
mod sampler;
mod session;
mod span;
mod thread;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

pub use agents::AgentSpans;
pub(crate) use agents::context_of;
pub use authentication::Service;
pub use bounded::Bounded;
pub use env::{Batch, Config};
pub use job::JobTrace;
pub use metrics::Metrics;
pub use otlp::{Endpoint, Protocol};
pub use pem::PemFile;
pub use push::{Push, Text};
pub use sampler::Sampler;
pub use session::{Asked, LINKS_MAX};
pub use span::{now_ns, random_id};

use crate::log::{Block, GrantRow, JobRow, StreamId};
use crate::protocol::{ErrorCode, SpanId, SpanRef, Timestamp, TraceContext};
use crate::wire;
use observer::{Inbox, Message, Waiting};
use queue::Counts;
use run::{Began, LeaseOf};
use span::{Kind, Span, Value, now_of_records};

/// Cheap to clone. The default exports nothing; instruments count in any case.
#[derive(Clone, Default)]
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    /// Which refusals have a line of the log.
    pub lines: Arc<Bounded>,
    shared: Option<Arc<Shared>>,
}

struct Shared {
    inbox: Inbox,
    waiting: Arc<Waiting>,
    counts: Arc<Counts>,
    sampler: Sampler,
}

/// How spans have fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub exported: u64,
    pub dropped: u64,
}

/// How a request reached the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Session,
    WebSocket,
    JobService(&'static str),
    /// A job of another job, or of the program that embeds the runtime.
    Inside,
}

impl Telemetry {
    /// Off when the configuration says nowhere to. Must not be given a certificate
    /// that cannot be read.
    pub fn start(config: Config) -> Result<Self, String> {
        let Some(endpoint) = config.traces.clone() else {
            return Ok(Self::default());
        };
        let counts = Arc::new(Counts::new(config.batch.queue_max));
        let waiting = Arc::new(Waiting::default());
        let sampler = config.sampler.clone();
        let sender = exporter::spawn(config, endpoint, counts.clone(), waiting.clone())?;
        let inbox = Inbox {
            sender,
            waiting: waiting.clone(),
        };
        let shared = Shared {
            inbox,
            waiting,
            counts,
            sampler,
        };
        Ok(Self {
            metrics: Arc::default(),
            lines: Arc::default(),
            shared: Some(Arc::new(shared)),
        })
    }

    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    fn sampler(&self) -> Option<&Sampler> {
        self.shared.as_ref().map(|shared| &shared.sampler)
    }

    pub fn fate(&self) -> Fate {
        self.shared.as_ref().map_or(Fate::default(), |shared| Fate {
            exported: shared.counts.exported.load(Ordering::Relaxed),
            dropped: shared.counts.dropped.load(Ordering::Relaxed)
                + shared.waiting.dropped.load(Ordering::Relaxed),
        })
    }

    fn send(&self, message: Message) {
        if let Some(shared) = &self.shared {
            shared.inbox.send(message);
        }
    }

    fn span(&self, span: Span) {
        self.send(Message::Span(Box::new(span)));
    }

    /// Committed blocks, in order.
    pub fn committed(&self, group: &[Arc<Block>]) {
        let records = group.iter().map(|block| u64::from(block.count)).sum();
        let bytes = group.iter().map(|block| block.data.len() as u64).sum();
        self.metrics.records.inc_by(records);
        self.metrics.record_bytes.inc_by(bytes);
        if let Some(shared) = &self.shared {
            shared.inbox.blocks(group);
        }
    }

    /// Waits until what was said so far is with the collector, but no longer.
    pub async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        self.send(Message::Flush(done));
        if self.is_on() && tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }

    // --- what happens to jobs ---

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
    fn asked(&self, name: &'static str, context: &TraceContext, start_ns: u64) -> Option<Span> {
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
fn of_job(
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

fn run_of(row: &JobRow) -> SpanRef {
    SpanRef {
        trace_id: row.trace_id.clone(),
        span_id: span::span_id(&row.id, "run"),
    }
}

fn via(span: &mut Span, via: Via, message: &'static str) {
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
