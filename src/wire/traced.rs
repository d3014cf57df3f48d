//! The few records that a trace is made of, found without decoding the others.

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::proto;
use super::proto::job_event::Body;
use crate::protocol::EventBody;
use crate::protocol::event::{REMAINING, RETRYING};

/// Tags of `Envelope.payload` and of `JobEvent`.
const JOB_EVENT: u32 = 30;
const JOB_RESULT: u32 = 31;
const JOB_ERROR: u32 = 32;
const TOOL_CALL: u32 = 4;
const TOOL_RESULT: u32 = 5;
const STATUS: u32 = 6;
const METRIC: u32 = 7;
const DELEGATE: u32 = 9;

#[derive(Debug, PartialEq)]
pub struct Traced {
    /// None where the agent has named no time.
    pub at_ms: Option<i64>,
    pub what: What,
}

#[derive(Debug, PartialEq)]
pub enum What {
    ToolCall {
        tool: String,
        call_id: String,
    },
    /// With the code of a failure.
    ToolResult {
        call_id: String,
        error: Option<String>,
    },
    Status {
        phase: String,
        /// Of the job, where the status says that it is tried again.
        attempt: Option<u64>,
    },
    Cost {
        unit: String,
        value: f64,
    },
    /// Of a budget, as the runtime counts it.
    Remaining {
        currency: String,
        value: f64,
    },
    Delegate {
        agent: String,
        child_job_id: String,
    },
    Success,
    Failure {
        status: String,
        code: String,
    },
}

/// Whether a record of the event may be one that a trace shows; [`traced`] says it
/// of the record itself.
pub fn is_traced(body: &EventBody) -> bool {
    match body {
        EventBody::ToolCall { .. }
        | EventBody::ToolResult { .. }
        | EventBody::Status { .. }
        | EventBody::Delegate { .. } => true,
        EventBody::Metric { name, .. } => name.starts_with("cost."),
        _ => false,
    }
}

/// `None` for a record no trace shows.
pub fn traced(record: &[u8]) -> Option<Traced> {
    let mut rest = record;
    let (tag, wire_type) = decode_key(&mut rest).ok()?;
    if wire_type != WireType::LengthDelimited {
        return None;
    }
    let len = decode_varint(&mut rest).ok()? as usize;
    let payload = rest.get(..len)?;
    match tag {
        JOB_EVENT if shown(payload) => event(proto::JobEvent::decode(payload).ok()?),
        JOB_RESULT => Some(Traced {
            at_ms: None,
            what: What::Success,
        }),
        JOB_ERROR => {
            let error = proto::JobError::decode(payload).ok()?;
            Some(Traced {
                at_ms: None,
                what: What::Failure {
                    status: error.final_status,
                    code: error.code,
                },
            })
        }
        _ => None,
    }
}

/// Whether the event is of a kind that a trace shows: a look at its tags.
fn shown(mut event: &[u8]) -> bool {
    while let Ok((tag, wire_type)) = decode_key(&mut event) {
        if tag > 1 {
            return matches!(tag, TOOL_CALL | TOOL_RESULT | STATUS | METRIC | DELEGATE);
        }
        if skip_field(wire_type, tag, &mut event, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

fn event(event: proto::JobEvent) -> Option<Traced> {
    let at_ms = event.ts.map(|ts| {
        let ms = ts.seconds.saturating_mul(1_000);
        ms.saturating_add(i64::from(ts.nanos) / 1_000_000)
    });
    let what = match event.body? {
        Body::ToolCall(call) => What::ToolCall {
            tool: call.tool,
            call_id: call.call_id,
        },
        Body::ToolResult(result) => What::ToolResult {
            error: (!result.error_json.is_empty()).then(|| code(&result.error_json)),
            call_id: result.call_id,
        },
        Body::Status(status) => What::Status {
            attempt: attempt(&status),
            phase: status.phase,
        },
        Body::Metric(metric) if metric.name == REMAINING => What::Remaining {
            currency: metric.unit,
            value: metric.value,
        },
        Body::Metric(metric) if metric.name.starts_with("cost.") => What::Cost {
            unit: metric.unit,
            value: metric.value,
        },
        Body::Delegate(delegate) => What::Delegate {
            agent: delegate.agent,
            child_job_id: delegate.child_job_id,
        },
        _ => return None,
    };
    Some(Traced { at_ms, what })
}

fn attempt(status: &proto::Status) -> Option<u64> {
    let details = (status.phase == RETRYING).then_some(&status.details_json)?;
    let details: serde_json::Value = serde_json::from_str(details).ok()?;
    details.get("attempt")?.as_u64()
}

/// The code of a tool's error; its text is the agent's and may be anything.
fn code(json: &str) -> String {
    let error: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let code = error.get("code").and_then(|code| code.as_str());
    let named = |code: &&str| {
        code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    code.filter(named).unwrap_or("tool_error").to_owned()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::{Event, Failure, Outcome, Timestamp};

    fn payload(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut stored = BytesMut::new();
        encode(&mut stored);
        let mut rest = &stored[..];
        decode_varint(&mut rest).unwrap();
        rest.to_vec()
    }

    fn of(body: EventBody) -> Option<Traced> {
        let event = Event {
            ts: Timestamp(1_500),
            body,
        };
        traced(&payload(|out| {
            crate::wire::encode_event(event, out);
        }))
    }

    #[test]
    fn tools_costs_and_ends_are_shown_and_nothing_of_what_they_say() {
        let call = of(EventBody::ToolCall {
            tool: "search".into(),
            call_id: "c1".into(),
            args_json: Some(r#"{"key":"secret"}"#.into()),
        });
        let call = call.unwrap();
        assert_eq!(call.at_ms, Some(1_500));
        assert!(!format!("{call:?}").contains("secret"));
        let failed = of(EventBody::ToolResult {
            call_id: "c1".into(),
            result: Err(r#"{"code":"TIMEOUT","message":"secret"}"#.into()),
        });
        let error = Some("TIMEOUT".into());
        let call_id = "c1".into();
        assert_eq!(failed.unwrap().what, What::ToolResult { call_id, error });
        assert_eq!(
            of(EventBody::Thought {
                text: "secret".into()
            }),
            None
        );
        let end = Outcome::Failed(Failure::internal("secret"));
        let end = traced(&payload(|out| {
            crate::wire::encode_outcome(end, Timestamp(0), out);
        }));
        assert!(!format!("{:?}", end.unwrap()).contains("secret"));
    }
}
