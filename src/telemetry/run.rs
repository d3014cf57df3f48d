//! One job's run, read off its committed records: the spans of its tools as they
//! end, its own when the terminal comes. Pure; the observer calls it.
//!
//! Times are the agent's own where they can be: not before the run, not in the future.
//! Those of a clock that is out are replaced by when the runtime had the record.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry::KeyValue;

use super::job::JobTrace;
use super::jobs::{of_job, via};
use super::span::{Dropped, Kind, Mark, Span, Value, attribute, cut, ms_to_ns, span_id};
use super::{Via, names};
use crate::authority::Currency;
use crate::log::Block;
use crate::protocol::{SpanId, SpanRef};
use crate::wire::{self, Traced, What};

/// Calls of tools that may be open at once; more are in the log and not in the trace.
const OPEN_TOOLS_MAX: usize = 256;
/// Of a call that is followed; what is longer is left out as well.
const CALL_ID_BYTES_MAX: usize = 256;
/// Events of the run's span: OpenTelemetry's default.
const MARKS_MAX: usize = 128;
const LINKS_MAX: usize = 128;
/// An attribute for each, that an agent or a submitter names: the first that are told.
const CURRENCIES_MAX: usize = 16;

/// Why a tool failed that a host had.
pub(super) const HOST_LOST: &str = "host_lost";
/// Of a tool whose `call_id` came again before it was back.
const REPLACED: &str = "call_id_reused";

pub(super) struct Run {
    trace: Arc<JobTrace>,
    /// Of its submit.
    parent: SpanId,
    agent: String,
    /// What its own span and that of its submit say of the job alike.
    of_job: Vec<KeyValue>,
    hosted: bool,
    created_ns: u64,
    /// None while no host has accepted it.
    started_ns: Option<u64>,
    events: u64,
    tools: BTreeMap<String, OpenTool>,
    costs: BTreeMap<String, f64>,
    /// Of each budget; at first all of it.
    remaining: BTreeMap<String, f64>,
    lease: LeaseOf,
    attempt: u64,
    /// When the host of this attempt was lost. Only the runtime says that: a status which
    /// tells of a retry is the runtime's if it names the attempt after this.
    lost_ns: Option<u64>,
    /// Up to here a retry in the records of before this run of the runtime was one.
    earlier_attempts: u64,
    left_out: u64,
    marks: Vec<Mark>,
    children: Vec<SpanRef>,
    dropped: Dropped,
}

struct OpenTool {
    tool: String,
    seq: u64,
    start_ns: u64,
}

/// What the observer is told of a job that begins.
pub(super) struct Began {
    pub trace: Arc<JobTrace>,
    /// None when an earlier run of the runtime has shown its submit.
    pub submit: Option<Submit>,
    pub session_id: String,
    /// `name@version`.
    pub agent: String,
    pub hosted: bool,
    /// No host has accepted it yet.
    pub pending: bool,
    pub created_ms: i64,
    pub lease: LeaseOf,
    /// The job that delegated it.
    pub parent_id: Option<String>,
    /// The last attempt of an earlier run of the runtime.
    pub earlier_attempts: u64,
}

/// What the span of a submit says that the run's does not.
pub(super) struct Submit {
    pub via: Via,
    pub start_ns: u64,
    pub end_ns: u64,
    pub link: Option<SpanRef>,
    /// A `trace_id` was there and could not be read.
    pub ignored: bool,
}

/// What a span says of a lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LeaseOf {
    /// RFC 3339.
    pub expires_at: Option<String>,
    pub budget: BTreeMap<String, f64>,
}

impl Run {
    /// With the span of its submit, which is over.
    pub fn new(began: Began) -> (Self, Option<Span>) {
        let created_ns = ms_to_ns(began.created_ms);
        let submitted = began.trace.submit();
        let of_job = of_job(
            &began.trace.job_id,
            &began.agent,
            began.parent_id.as_deref(),
            &began.session_id,
        );
        let parent = submitted.span_id;
        let submit = began.submit.map(|submit| {
            // The run begins at a whole millisecond, and no child before its parent.
            let start_ns = submit.start_ns.min(created_ns);
            let mut span = Span::new(submitted, names::SUBMIT, start_ns, submit.end_ns);
            span.parent = began.trace.parent;
            span.tracestate.clone_from(&began.trace.tracestate);
            span.links.extend(submit.link);
            span.urgent = true;
            span.attributes.clone_from(&of_job);
            via(&mut span, submit.via, "job.submit");
            if submit.ignored {
                span.set(names::TRACE_ID_IGNORED, true);
            }
            span
        });
        let run = Self {
            trace: began.trace,
            parent,
            agent: began.agent,
            of_job,
            hosted: began.hosted,
            created_ns,
            started_ns: (!began.pending).then_some(created_ns),
            events: 0,
            tools: BTreeMap::new(),
            costs: BTreeMap::new(),
            remaining: began.lease.budget.clone(),
            lease: began.lease,
            attempt: 1,
            lost_ns: None,
            earlier_attempts: began.earlier_attempts,
            left_out: 0,
            marks: Vec::new(),
            children: Vec::new(),
            dropped: Dropped::default(),
        };
        (run, submit)
    }

    /// A host has accepted it. The first time counts.
    pub fn running(&mut self, at_ns: u64) {
        // As precise as what its records say, or it would begin after its first tool.
        let at_ns = at_ns / 1_000_000 * 1_000_000;
        self.started_ns.get_or_insert(at_ns.max(self.created_ns));
    }

    /// What hosts had of the job is gone, and it ends or goes to another.
    pub fn host_lost(&mut self, attempt: u64, at_ns: u64) {
        self.attempt = attempt;
        self.lost_ns = Some(at_ns);
    }

    /// From here on only what this run of the runtime saw counts.
    pub fn earlier_is_over(&mut self) {
        self.attempt = self.attempt.max(self.earlier_attempts);
        self.earlier_attempts = 0;
    }

    /// How many spans it had no room for since it was last asked.
    pub fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Adds a block; gives what is over with it. `now_ns` is for records without a time.
    pub fn apply(&mut self, block: &Block, now_ns: u64, out: &mut Vec<Span>) {
        // Not all of its blocks come here: only those that have something to show.
        self.events = block.last_seq();
        for (seq, record) in block.records() {
            if let Some(traced) = wire::traced(record) {
                self.record(seq, traced, now_ns, out);
            }
        }
    }

    /// The last of its records, where the block that has it is not there.
    pub fn ended(&mut self, seq: u64, end: Traced, now_ns: u64, out: &mut Vec<Span>) {
        self.events = seq;
        self.record(seq, end, now_ns, out);
    }

    fn record(&mut self, seq: u64, traced: Traced, now_ns: u64, out: &mut Vec<Span>) {
        let at_ns = self.time_of(traced.at_ms, now_ns);
        match traced.what {
            What::ToolCall { tool, call_id } => {
                // A host's first reports may come before it is known to run.
                self.started_ns.get_or_insert(at_ns);
                self.call(call_id, tool, (seq, at_ns), out);
            }
            What::ToolResult { call_id, error } => {
                if let Some(open) = self.tools.remove(&call_id) {
                    let in_order = at_ns >= open.start_ns;
                    let end_ns = if in_order { at_ns } else { now_ns };
                    let mut span = self.tool(&call_id, open, end_ns);
                    if let Some(code) = error {
                        span.fail(code);
                    }
                    out.push(span);
                }
            }
            What::Status { phase, attempt } => {
                let again = attempt.filter(|attempt| self.is_next(*attempt));
                if let Some(attempt) = again {
                    self.retry(attempt, at_ns, out);
                } else {
                    self.mark("status", at_ns, vec![attribute(names::PHASE, phase)]);
                }
            }
            What::Cost { unit, value } => self.cost(unit, value),
            What::Remaining { currency, value } => {
                // Only of what was granted: a name per currency, and no others.
                if let Some(left) = self.remaining.get_mut(&currency) {
                    *left = value;
                }
            }
            What::Delegate {
                agent,
                child_job_id,
            } => {
                let mut attributes = vec![attribute(names::AGENT_NAME, agent)];
                if !child_job_id.is_empty() {
                    self.link(&child_job_id);
                    attributes.push(attribute(names::CHILD_JOB_ID, child_job_id));
                }
                self.mark("delegate", at_ns, attributes);
            }
            What::Success => self.end("success", None, now_ns, out),
            What::Failure { status, code } => self.end(&status, Some(code), now_ns, out),
        }
    }

    fn mark(&mut self, name: &'static str, at_ns: u64, attributes: Vec<KeyValue>) {
        if self.marks.len() == MARKS_MAX {
            self.dropped.events = self.dropped.events.saturating_add(1);
            return;
        }
        self.marks.push(Mark {
            name,
            at_ns,
            attributes,
        });
    }

    fn link(&mut self, child_job_id: &str) {
        if self.children.len() == LINKS_MAX {
            self.dropped.links = self.dropped.links.saturating_add(1);
            return;
        }
        self.children.push(SpanRef {
            trace_id: self.trace.trace_id.clone(),
            span_id: span_id(child_job_id, "run"),
        });
    }

    /// A unit becomes the name of an attribute, so it has to be one that a budget may have.
    fn cost(&mut self, unit: String, value: f64) {
        let known = self.costs.get(&unit).copied();
        let sum = known.unwrap_or(0.0) + value;
        let room = known.is_some() || self.costs.len() < CURRENCIES_MAX;
        if room && sum.is_finite() && Currency::parse(&unit).is_ok() {
            self.costs.insert(unit, sum);
        }
    }

    fn call(&mut self, call_id: String, tool: String, at: (u64, u64), out: &mut Vec<Span>) {
        let (seq, start_ns) = at;
        if let Some(first) = self.tools.remove(&call_id) {
            let end_ns = start_ns.max(first.start_ns);
            out.push(self.unfinished(&call_id, first, end_ns, REPLACED));
        }
        if self.tools.len() == OPEN_TOOLS_MAX || call_id.len() > CALL_ID_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        let open = OpenTool {
            tool: cut(&tool).to_owned(),
            seq,
            start_ns,
        };
        self.tools.insert(call_id, open);
    }

    /// Whether the runtime has said that the job is tried again, this often.
    fn is_next(&self, attempt: u64) -> bool {
        let known = self.lost_ns.is_some() || attempt <= self.earlier_attempts;
        known && attempt == self.attempt + 1
    }

    fn retry(&mut self, attempt: u64, at_ns: u64, out: &mut Vec<Span>) {
        let lost_ns = self.lost_ns.take().unwrap_or(at_ns);
        self.end_tools(lost_ns, HOST_LOST, out);
        self.attempt = attempt;
        let mut span = self.trace.in_run(names::RETRY, at_ns, at_ns);
        span.set(names::ATTEMPT, attempt);
        out.push(span);
    }

    /// What is open ends here, or where it began if that was later.
    fn end_tools(&mut self, at_ns: u64, error: &str, out: &mut Vec<Span>) {
        for (call_id, open) in std::mem::take(&mut self.tools) {
            let end_ns = at_ns.max(open.start_ns);
            out.push(self.unfinished(&call_id, open, end_ns, error));
        }
    }

    fn unfinished(&self, call_id: &str, open: OpenTool, end_ns: u64, error: &str) -> Span {
        let mut span = self.tool(call_id, open, end_ns);
        span.set(names::TOOL_UNFINISHED, true);
        span.fail(error);
        span
    }

    fn time_of(&self, at_ms: Option<i64>, now_ns: u64) -> u64 {
        let since_ns = self.started_ns.unwrap_or(self.created_ns);
        let said = at_ms.map(ms_to_ns);
        let possible = said.filter(|at_ns| (since_ns..=now_ns).contains(at_ns));
        possible.unwrap_or(now_ns)
    }

    fn tool(&self, call_id: &str, open: OpenTool, end_ns: u64) -> Span {
        // A call's id may come twice in a job, its number may not.
        let part = format!("tool/{}", open.seq);
        let of = SpanRef {
            trace_id: self.trace.trace_id.clone(),
            span_id: span_id(&self.trace.job_id, &part),
        };
        let name = format!("{} {}", names::EXECUTE_TOOL, cut(&open.tool));
        let mut span = Span::new(of, name, open.start_ns, end_ns);
        span.parent = Some(self.trace.run().span_id);
        span.tracestate.clone_from(&self.trace.tracestate);
        span.set(names::JOB_ID, &*self.trace.job_id);
        span.set(names::OPERATION, Value::word(names::EXECUTE_TOOL));
        span.set(names::TOOL_NAME, open.tool);
        span.set(names::TOOL_CALL_ID, call_id);
        span
    }

    fn end(&mut self, status: &str, code: Option<String>, now_ns: u64, out: &mut Vec<Span>) {
        // What a job left open ended with it, or with the host that had it.
        match self.lost_ns.take() {
            Some(lost_ns) => self.end_tools(lost_ns, HOST_LOST, out),
            None => self.end_tools(now_ns, status, out),
        }
        let name = self.agent.split('@').next().unwrap_or("");
        let start_ns = self.started_ns.unwrap_or(self.created_ns);
        let title = format!("{} {name}", names::INVOKE_AGENT);
        let mut span = Span::new(self.trace.run(), title, start_ns, now_ns);
        span.kind = if self.hosted {
            Kind::Client
        } else {
            Kind::Internal
        };
        span.parent = Some(self.parent);
        span.tracestate.clone_from(&self.trace.tracestate);
        span.attributes = std::mem::take(&mut self.of_job);
        span.set(names::JOB_STATUS, status);
        span.set(names::JOB_EVENTS, self.events);
        span.set(names::OPERATION, Value::word(names::INVOKE_AGENT));
        if self.hosted {
            let waited_ns = start_ns.saturating_sub(self.created_ns);
            span.set(names::QUEUE_SECONDS, waited_ns as f64 / 1e9);
        }
        if self.attempt > 1 {
            span.set(names::ATTEMPT, self.attempt);
        }
        if let Some(at) = &self.lease.expires_at {
            span.set(names::LEASE_EXPIRES_AT, &**at);
        }
        for (currency, granted) in self.lease.budget.iter().take(CURRENCIES_MAX) {
            span.set(format!("{}{currency}", names::BUDGET_GRANTED), *granted);
        }
        let remaining = std::mem::take(&mut self.remaining).into_iter();
        for (currency, left) in remaining.take(CURRENCIES_MAX) {
            span.set(format!("{}{currency}", names::BUDGET_REMAINING), left);
        }
        for (currency, sum) in std::mem::take(&mut self.costs) {
            span.set(format!("{}{currency}", names::COST), sum);
        }
        span.events = std::mem::take(&mut self.marks);
        span.links = std::mem::take(&mut self.children);
        span.dropped = self.dropped;
        if let Some(code) = code {
            span.fail(code);
        }
        out.push(span);
    }
}

#[cfg(test)]
pub(super) mod tests;
