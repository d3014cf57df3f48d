//! Spans that agents in this process make themselves, with `tracing`: below the run
//! of their job, in its trace, through the same queue as everything else.
//!
//! ```no_run
//! use tracing_subscriber::layer::SubscriberExt;
//! use tracing_subscriber::util::SubscriberInitExt;
//!
//! let spans = arcpd::telemetry::AgentSpans::default();
//! tracing_subscriber::registry().with(spans.layer()).init();
//! // config.agent_spans = spans;
//! ```
//! An agent is polled with the context of its job's run as the current one of
//! OpenTelemetry, which is what `tracing-opentelemetry` looks for a parent in. Spans
//! outside an agent are not looked at, nor is anything where the job is not recorded.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    SpanContext, SpanId as OtelSpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    TracerProvider,
};
use opentelemetry::{Context, Value as OtelValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::span::{Span, Value};
use super::{JobTrace, Telemetry, names};
use crate::protocol::{SpanId, SpanRef};

/// More of a span are left out.
const ATTRIBUTES_MAX: usize = 64;

/// Connects the subscriber of a program with the runtime in it; cheap to clone.
#[derive(Clone, Default)]
pub struct AgentSpans(Arc<OnceLock<Telemetry>>);

impl AgentSpans {
    /// For the subscriber.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let bridge = Bridge(self.0.clone());
        let provider = SdkTracerProvider::builder().with_span_processor(bridge);
        let tracer = provider.build().tracer(names::SCOPE);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(dynamic_filter_fn(|metadata, _| {
                metadata.is_span() && Context::map_current(TraceContextExt::has_active_span)
            }))
    }

    /// The first runtime that records anything.
    pub(crate) fn connect(&self, telemetry: &Telemetry) {
        if telemetry.is_on() {
            let _ = self.0.set(telemetry.clone());
        }
    }
}

/// What an agent of that job is polled in; none where nothing is recorded.
pub(crate) fn context_of(trace: &JobTrace) -> Option<Context> {
    // First: it is asked for each job, and mostly nothing is recorded.
    if !trace.recorded {
        return None;
    }
    let run = trace.run();
    let trace_id = TraceId::from_hex(&run.trace_id).ok()?;
    let span_id = OtelSpanId::from_bytes(run.span_id.0.to_be_bytes());
    let state = match &*trace.tracestate {
        "" => TraceState::NONE,
        list => list.parse().unwrap_or(TraceState::NONE),
    };
    let of = SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true, state);
    Some(Context::new().with_remote_span_context(of))
}

/// Takes what is over from the SDK; nothing waits here.
struct Bridge(Arc<OnceLock<Telemetry>>);

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}

impl SpanProcessor for Bridge {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, data: SpanData) {
        if let Some(telemetry) = self.0.get() {
            telemetry.span(own(data));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn own(data: SpanData) -> Span {
    let id = |id: OtelSpanId| SpanId(u64::from_be_bytes(id.to_bytes()));
    let of = SpanRef {
        trace_id: data.span_context.trace_id().to_string(),
        span_id: id(data.span_context.span_id()),
    };
    let mut span = Span::new(of, data.name, ns(data.start_time), ns(data.end_time));
    span.parent = Some(id(data.parent_span_id));
    span.tracestate = data.span_context.trace_state().header();
    span.kind = data.span_kind;
    for attribute in data.attributes.into_iter().take(ATTRIBUTES_MAX) {
        span.set(attribute.key, value(attribute.value));
    }
    if let Status::Error { description } = data.status {
        span.error = Some(super::span::cut(&description).into());
    }
    span
}

fn value(value: OtelValue) -> Value {
    match value {
        OtelValue::Bool(_) | OtelValue::I64(_) | OtelValue::F64(_) => Value(value),
        other => Value::from(&*other.as_str()),
    }
}

fn ns(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_nanos() as u64)
}
