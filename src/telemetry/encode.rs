//! Our spans as the SDK's, which its processor and its exporters take.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::names;
use super::span::{Kind, Span};
use crate::protocol::SpanRef;

static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder(names::SCOPE)
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
});

pub(super) fn resource(attributes: &[(String, String)]) -> Resource {
    let attributes = attributes.iter().cloned();
    Resource::builder_empty()
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)))
        .build()
}

impl From<Span> for SpanData {
    fn from(span: Span) -> Self {
        let tracestate = match &*span.tracestate {
            "" => TraceState::NONE,
            // What is no list of W3C's is nobody's to read.
            list => list.parse().unwrap_or_default(),
        };
        let mut events = SpanEvents::default();
        events.events.extend(
            span.events
                .into_iter()
                .map(|mark| Event::new(mark.name, time(mark.at_ns), mark.attributes, 0)),
        );
        let mut links = SpanLinks::default();
        let linked = span.links.iter();
        links
            .links
            .extend(linked.map(|link| Link::with_context(context(link, TraceState::NONE))));
        SpanData {
            span_context: context(&span.of, tracestate),
            parent_span_id: span.parent.map_or(SpanId::INVALID, |id| SpanId::from(id.0)),
            // A request's parent is its sender's.
            parent_span_is_remote: span.parent.is_some() && span.kind == Kind::Server,
            span_kind: span.kind,
            name: span.name,
            start_time: time(span.start_ns),
            end_time: time(span.end_ns),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events,
            links,
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: SCOPE.clone(),
        }
    }
}

/// Only what is sampled becomes a span.
fn context(of: &SpanRef, tracestate: TraceState) -> SpanContext {
    SpanContext::new(
        trace_id(&of.trace_id),
        SpanId::from(of.span_id.0),
        TraceFlags::SAMPLED,
        false,
        tracestate,
    )
}

pub(super) fn trace_id(hex: &str) -> TraceId {
    // Checked where it came in: 32 hex digits.
    TraceId::from_hex(hex).unwrap_or(TraceId::from(1))
}

fn time(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}
