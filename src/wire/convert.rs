//! Domain events and outcomes to and from their protobuf messages.

use super::proto;
use crate::protocol::{ErrorCode, Event, EventBody, Failure, Outcome, Timestamp};

pub fn ts_to_proto(ts: Timestamp) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: ts.0.div_euclid(1000),
        nanos: (ts.0.rem_euclid(1000) * 1_000_000) as i32,
    })
}

pub(super) fn ts_from_proto(ts: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    ts.map(|ts| {
        Timestamp(
            ts.seconds
                .saturating_mul(1000)
                .saturating_add(i64::from(ts.nanos / 1_000_000)),
        )
    })
}

/// Protobuf cannot tell an empty string from an absent one; none of the
/// fields this is used for has a meaning for empty.
pub(super) fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn event_to_proto(event: Event) -> proto::JobEvent {
    use proto::job_event::Body;
    let body = match event.body {
        EventBody::Log {
            level,
            message,
            attributes_json,
        } => Body::Log(proto::Log {
            level,
            message,
            attributes_json: attributes_json.unwrap_or_default(),
        }),
        EventBody::Thought { text } => Body::Thought(proto::Thought { text }),
        EventBody::ToolCall {
            tool,
            call_id,
            args_json,
        } => Body::ToolCall(proto::ToolCall {
            tool,
            call_id,
            args_json: args_json.unwrap_or_default(),
        }),
        EventBody::ToolResult { call_id, result } => {
            let (result_json, error_json) = match result {
                Ok(result) => (result, String::new()),
                Err(error) => (String::new(), error),
            };
            Body::ToolResult(proto::ToolResult {
                call_id,
                result_json,
                error_json,
            })
        }
        EventBody::Status {
            phase,
            message,
            details_json,
        } => Body::Status(proto::Status {
            phase,
            message: message.unwrap_or_default(),
            details_json: details_json.unwrap_or_default(),
        }),
        EventBody::Metric {
            name,
            value,
            unit,
            dimensions,
        } => Body::Metric(proto::Metric {
            name,
            value,
            unit: unit.unwrap_or_default(),
            dimensions: dimensions.into_iter().collect(),
        }),
        EventBody::ArtifactRef {
            uri,
            content_type,
            byte_size,
            sha256,
        } => Body::ArtifactRef(proto::ArtifactRef {
            uri,
            content_type,
            byte_size: byte_size.unwrap_or_default(),
            sha256: sha256.unwrap_or_default(),
        }),
        EventBody::Delegate {
            delegate_id,
            child_job_id,
            agent,
            input_json,
            lease_request_json,
        } => Body::Delegate(proto::Delegate {
            delegate_id,
            child_job_id: child_job_id.unwrap_or_default(),
            agent,
            input_json: input_json.unwrap_or_default(),
            lease_request_json: lease_request_json.unwrap_or_default(),
        }),
        EventBody::Progress {
            current,
            total,
            units,
            message,
        } => Body::Progress(proto::Progress {
            current,
            total,
            units: units.unwrap_or_default(),
            message: message.unwrap_or_default(),
        }),
        EventBody::ResultChunk {
            result_id,
            chunk_seq,
            data,
            encoding,
            more,
        } => Body::ResultChunk(proto::ResultChunk {
            result_id,
            chunk_seq,
            data,
            encoding,
            more,
        }),
        EventBody::Other { kind, body_json } => Body::Other(proto::OtherEvent { kind, body_json }),
    };
    proto::JobEvent {
        ts: ts_to_proto(event.ts),
        body: Some(body),
    }
}

/// A host's event; `Err` names the member.
pub(super) fn event_from_proto(
    event: proto::JobEvent,
) -> Result<(Option<Timestamp>, EventBody), String> {
    use proto::job_event::Body;
    let body = match event.body.ok_or("event.body: missing")? {
        Body::Log(m) => EventBody::Log {
            level: m.level,
            message: m.message,
            attributes_json: filled(m.attributes_json),
        },
        Body::Thought(m) => EventBody::Thought { text: m.text },
        Body::ToolCall(m) => EventBody::ToolCall {
            tool: m.tool,
            call_id: m.call_id,
            args_json: filled(m.args_json),
        },
        Body::ToolResult(m) => EventBody::ToolResult {
            call_id: m.call_id,
            result: match (filled(m.result_json), filled(m.error_json)) {
                (Some(result), None) => Ok(result),
                (None, Some(error)) => Err(error),
                _ => {
                    return Err(
                        "tool_result: needs exactly one of result_json and error_json".into(),
                    );
                }
            },
        },
        Body::Status(m) => EventBody::Status {
            phase: m.phase,
            message: filled(m.message),
            details_json: filled(m.details_json),
        },
        Body::Metric(m) => EventBody::Metric {
            name: m.name,
            value: m.value,
            unit: filled(m.unit),
            dimensions: m.dimensions.into_iter().collect(),
        },
        Body::ArtifactRef(m) => EventBody::ArtifactRef {
            uri: m.uri,
            content_type: m.content_type,
            byte_size: (m.byte_size > 0).then_some(m.byte_size),
            sha256: filled(m.sha256),
        },
        Body::Delegate(_) => {
            return Err("delegate: is made by the runtime, not reported".into());
        }
        Body::Progress(m) => EventBody::Progress {
            current: m.current,
            total: m.total,
            units: filled(m.units),
            message: filled(m.message),
        },
        Body::ResultChunk(_) => return Err("result_chunk: report result_part".into()),
        Body::Other(m) => EventBody::Other {
            kind: m.kind,
            body_json: m.body_json,
        },
    };
    Ok((ts_from_proto(event.ts), body))
}

pub(super) fn outcome_to_proto(outcome: Outcome, at: Timestamp) -> proto::envelope::Payload {
    use proto::envelope::Payload;
    let error = |status: &str, failure: Failure| {
        Payload::JobError(proto::JobError {
            final_status: status.into(),
            code: failure.code.as_str().into(),
            message: failure.message,
            retryable: failure.retryable,
            details_json: failure.details_json.unwrap_or_default(),
            completed_at: ts_to_proto(at),
        })
    };
    let status = outcome.status();
    match outcome {
        Outcome::Inline { result_json } => Payload::JobResult(proto::JobResult {
            final_status: status.into(),
            result_json,
            completed_at: ts_to_proto(at),
            ..Default::default()
        }),
        Outcome::Chunked {
            result_id,
            result_size,
            summary,
        } => Payload::JobResult(proto::JobResult {
            final_status: status.into(),
            result_id,
            result_size,
            summary: summary.unwrap_or_default(),
            completed_at: ts_to_proto(at),
            ..Default::default()
        }),
        Outcome::Failed(failure) => error(status, failure),
        Outcome::Cancelled { message } => {
            error(status, Failure::new(ErrorCode::Cancelled, message))
        }
        Outcome::TimedOut { message } => error(status, Failure::new(ErrorCode::Timeout, message)),
    }
}
