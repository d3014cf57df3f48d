//! Our spans as OpenTelemetry's protobuf.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{
    self as otlp, ResourceSpans, ScopeSpans, Status, status,
};

use super::names;
use super::span::{Kind, Span, Value};
use crate::protocol::{SpanId, SpanRef};

pub(super) fn request(resource: &Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = ScopeSpans {
        scope: Some(scope()),
        spans: spans.into_iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        }],
    }
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: names::SCOPE.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn resource(attributes: &[(String, String)]) -> Resource {
    Resource {
        attributes: attributes
            .iter()
            .map(|(key, value)| attribute(key.clone(), Value::Text(value.clone())))
            .collect(),
        ..Resource::default()
    }
}

fn span(span: Span) -> otlp::Span {
    let kind = match span.kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    };
    let failed = span.error.map(|message| Status {
        message,
        code: status::StatusCode::Error.into(),
    });
    otlp::Span {
        trace_id: trace_id(&span.of),
        span_id: span_id(span.of.span_id),
        parent_span_id: span.parent.map(span_id).unwrap_or_default(),
        trace_state: span.tracestate,
        // Sampled; W3C's flags are the low eight bits.
        flags: 1,
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: attributes(span.attributes),
        events: span
            .events
            .into_iter()
            .map(|mark| Event {
                time_unix_nano: mark.at_ns,
                name: mark.name,
                attributes: attributes(mark.attributes),
                ..Event::default()
            })
            .collect(),
        links: span
            .links
            .iter()
            .map(|link| Link {
                trace_id: trace_id(link),
                span_id: span_id(link.span_id),
                ..Link::default()
            })
            .collect(),
        status: failed,
        ..otlp::Span::default()
    }
}

fn trace_id(of: &SpanRef) -> Vec<u8> {
    // Checked where it came in: 32 hex digits.
    let id = u128::from_str_radix(&of.trace_id, 16).unwrap_or(1);
    id.to_be_bytes().to_vec()
}

fn span_id(id: SpanId) -> Vec<u8> {
    id.0.to_be_bytes().to_vec()
}

fn attributes(attributes: Vec<(String, Value)>) -> Vec<KeyValue> {
    attributes
        .into_iter()
        .map(|(key, value)| attribute(key, value))
        .collect()
}

pub(super) fn attribute(key: String, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Int(number) => any_value::Value::IntValue(number),
        Value::Double(number) => any_value::Value::DoubleValue(number),
        Value::Bool(truth) => any_value::Value::BoolValue(truth),
    };
    KeyValue {
        key,
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
