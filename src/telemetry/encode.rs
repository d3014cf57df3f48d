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
        events.dropped_count = span.dropped.events;
        let mut links = SpanLinks::default();
        links.dropped_count = span.dropped.links;
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

/// Bytes of a request, about: the text is what is large, the rest is counted as more than
/// it is.
fn size(span: &SpanData) -> usize {
    const OWN: usize = 160;
    let texts = |pairs: &[KeyValue]| {
        let each = pairs.iter();
        each.map(|pair| 32 + pair.key.as_str().len() + pair.value.as_str().len())
            .sum::<usize>()
    };
    let events = span.events.events.iter();
    let events: usize = events
        .map(|event| 32 + event.name.len() + texts(&event.attributes))
        .sum();
    let links = span.links.links.len() * 64;
    let state = span.span_context.trace_state().header().len();
    OWN + span.name.len() + texts(&span.attributes) + events + links + state
}

/// The same spans in as many requests as it takes for none to be larger than that.
pub(super) fn requests(spans: Vec<SpanData>, bytes_max: usize) -> Vec<Vec<SpanData>> {
    let (mut requests, mut bytes) = (vec![Vec::new()], 0);
    for span in spans {
        let more = size(&span);
        if bytes + more > bytes_max && bytes > 0 {
            requests.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(last) = requests.last_mut() {
            last.push(span);
        }
    }
    requests
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

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: usize) -> SpanData {
        let mut span = Span::within("4bf92f3577b34da6a3ce929d0e0e4736", "x", 1, 2);
        span.events = (0..text)
            .map(|_| super::super::span::Mark {
                name: "status",
                at_ns: 1,
                attributes: vec![super::super::span::attribute("k", "x".repeat(256))],
            })
            .collect();
        span.into()
    }

    #[test]
    fn large_spans_do_not_take_the_others_of_their_batch_along() {
        let sizes = |spans: Vec<SpanData>| -> Vec<usize> {
            let requests = requests(spans, 100_000);
            requests.iter().map(Vec::len).collect()
        };
        assert_eq!(sizes((0..512).map(|_| span(0)).collect()), [512]);
        // Each of the large ones has 128 events, 37 KB or more of text.
        let mixed = (0..8)
            .map(|at| span(if at % 2 == 0 { 128 } else { 0 }))
            .collect();
        let apart = sizes(mixed);
        assert_eq!(apart.iter().sum::<usize>(), 8);
        assert!((2..=3).contains(&apart.len()), "{apart:?}");
        assert!(size(&span(128)) > 128 * 256);
    }
}
