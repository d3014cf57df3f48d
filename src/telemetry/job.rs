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

    /// The parent of what is done for the job: its run, where that span will be
    /// there, or the caller's own, since a parent that never arrives is worse.
    pub fn traceparent(&self) -> String {
        self.below(self.run().span_id)
    }

    /// The same of another span of this runtime.
    pub fn below(&self, own: SpanId) -> String {
        let parent = match self.recorded {
            true => own,
            false => self.parent.unwrap_or(own),
        };
        trace::traceparent(&self.trace_id, parent, self.sampled)
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
