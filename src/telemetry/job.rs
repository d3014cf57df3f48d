//! The trace of one job: what is stored of it, what its spans are, and what whoever
//! works on it is told.

use std::sync::Arc;

use super::span::{Span, span_id};
use super::{Telemetry, names};
use crate::log::{JobRow, TraceRow};
use crate::protocol::{SpanId, SpanRef, TraceContext, trace};

#[derive(Clone, Debug, PartialEq)]
pub struct JobTrace {
    pub trace_id: String,
    pub job_id: String,
    /// The caller's span.
    pub parent: Option<SpanId>,
    pub sampled: bool,
    /// Whether this runtime makes spans of it.
    pub recorded: bool,
    pub tracestate: String,
    pub baggage: String,
}

impl JobTrace {
    /// Of a job that is submitted now.
    pub fn begin(telemetry: &Telemetry, row: &JobRow, context: &TraceContext) -> Arc<Self> {
        let sampled = match telemetry.sampler() {
            Some(sampler) => sampler.samples(&row.trace_id, context),
            None => context.sampled.unwrap_or(true),
        };
        Arc::new(Self {
            trace_id: row.trace_id.clone(),
            job_id: row.id.clone(),
            parent: context.span_id,
            sampled,
            recorded: telemetry.is_on() && sampled,
            tracestate: context.tracestate.clone(),
            baggage: context.baggage.clone(),
        })
    }

    /// Of a job of an earlier run of the runtime.
    pub fn stored(telemetry: &Telemetry, job: &JobRow, row: Option<TraceRow>) -> Arc<Self> {
        // A job without a row was submitted while nothing was recorded.
        let recorded = telemetry.is_on() && row.as_ref().is_some_and(|row| row.sampled);
        let row = row.unwrap_or(TraceRow {
            sampled: true,
            ..TraceRow::default()
        });
        let parent = row.parent_span_id.as_deref();
        Arc::new(Self {
            trace_id: job.trace_id.clone(),
            job_id: job.id.clone(),
            parent: parent
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .map(SpanId),
            sampled: row.sampled,
            recorded,
            tracestate: row.tracestate,
            baggage: row.baggage,
        })
    }

    /// What to store; nothing for a job that neither caller nor runtime traces.
    pub fn to_row(&self, telemetry: &Telemetry) -> Option<Box<TraceRow>> {
        let said = self.parent.is_some() || !self.baggage.is_empty();
        (said || telemetry.is_on()).then(|| {
            Box::new(TraceRow {
                parent_span_id: self.parent.map(|id| id.to_string()),
                sampled: self.sampled,
                tracestate: self.tracestate.clone(),
                baggage: self.baggage.clone(),
            })
        })
    }

    pub fn submit(&self) -> SpanRef {
        self.span(span_id(&self.job_id, "submit"))
    }

    pub fn run(&self) -> SpanRef {
        self.span(span_id(&self.job_id, "run"))
    }

    pub(super) fn span(&self, span_id: SpanId) -> SpanRef {
        SpanRef {
            trace_id: self.trace_id.clone(),
            span_id,
        }
    }

    /// The parent of what is done for the job: its run, where that span will be there,
    /// else the caller's own as it said it. With neither, the run's id stands in, as
    /// W3C wants a parent, and the flags say of it that nobody records it (§3.2.2.3.1).
    pub fn traceparent(&self) -> String {
        self.below(self.run().span_id)
    }

    /// The same of another span of this runtime.
    pub fn below(&self, own: SpanId) -> String {
        let (parent, sampled) = match (self.recorded, self.parent) {
            (true, _) => (own, true),
            (false, Some(caller)) => (caller, self.sampled),
            (false, None) => (own, false),
        };
        trace::traceparent(&self.trace_id, parent, sampled)
    }

    /// For a job that this one makes.
    pub fn child(&self) -> TraceContext {
        let run = self.run().span_id;
        TraceContext {
            trace_id: Some(self.trace_id.clone()),
            span_id: if self.recorded {
                Some(run)
            } else {
                self.parent
            },
            sampled: Some(self.sampled),
            tracestate: self.tracestate.clone(),
            baggage: self.baggage.clone(),
            ..TraceContext::default()
        }
    }

    /// A short span in the run, that ends now.
    pub(super) fn in_run(&self, name: &'static str, start_ns: u64, end_ns: u64) -> Span {
        let mut span = Span::within(&self.trace_id, name, start_ns, end_ns);
        span.parent = Some(self.run().span_id);
        span.tracestate.clone_from(&self.tracestate);
        span.set(names::JOB_ID, &*self.job_id);
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn job(recorded: bool, parent: Option<u64>, sampled: bool) -> JobTrace {
        JobTrace {
            trace_id: TRACE.into(),
            job_id: "job_1".into(),
            parent: parent.map(SpanId),
            sampled,
            recorded,
            tracestate: String::new(),
            baggage: String::new(),
        }
    }

    #[test]
    fn a_parent_that_never_arrives_is_not_said_to_be_recorded() {
        let run = span_id("job_1", "run");
        let caller = SpanId(0xcafe);
        for (job, parent, flags) in [
            (job(true, Some(0xcafe), true), run, "01"),
            (job(true, None, true), run, "01"),
            // Handed on as it came.
            (job(false, Some(0xcafe), true), caller, "01"),
            (job(false, Some(0xcafe), false), caller, "00"),
            (job(false, None, true), run, "00"),
        ] {
            let said = job.traceparent();
            assert_eq!(said, format!("00-{TRACE}-{parent}-{flags}"), "{job:?}");
        }
    }
}
