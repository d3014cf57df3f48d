//! The JSON of a stored record, made once per block on first use.
//!
//! A tail is everything after the header: `,"type":…,"payload":{…}}`. It holds
//! the superset of members the published SDKs need: `result` and `output`,
//! `dims` and `dimensions`, `completed_at` on terminals, never a null.

use std::borrow::Cow;
use std::fmt::Write;

use prost::Message;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{convert::ts_from_proto, json_out::rfc3339, proto};
use crate::protocol::Timestamp;

/// The tails of several records in one buffer, and where each ends.
pub struct JsonTails {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl JsonTails {
    /// `bytes_hint` is the size of the protobuf form.
    pub fn new<'a>(payloads: impl Iterator<Item = &'a [u8]>, bytes_hint: usize) -> Self {
        let mut tails = Self {
            bytes: Vec::with_capacity(bytes_hint * 3 / 2),
            ends: Vec::new(),
        };
        for payload in payloads {
            tails.bytes.extend_from_slice(json_tail(payload).as_bytes());
            tails.ends.push(tails.bytes.len() as u32);
        }
        tails
    }

    pub fn get(&self, index: usize) -> &[u8] {
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1] as usize,
        };
        &self.bytes[start..self.ends[index] as usize]
    }
}

/// Bytes of a record's frame as JSON; a record that could not reach `limit` if
/// every byte of it were escaped is not looked at closely.
pub fn json_len(record: &[u8], limit: usize) -> usize {
    const HEADER: usize = 512;
    const ESCAPED: usize = 6;
    if HEADER + ESCAPED * record.len() <= limit {
        return record.len();
    }
    let mut payload = record;
    // The length before the payload.
    let _ = prost::encoding::decode_varint(&mut payload);
    HEADER + json_tail(payload).len()
}

/// The tail of one record.
pub fn json_tail(payload: &[u8]) -> String {
    use proto::envelope::Payload;
    // What is in the log was encoded by `record`, so it decodes.
    let envelope = proto::Envelope::decode(payload).unwrap_or_default();
    let tail = match envelope.payload {
        Some(Payload::JobEvent(event)) => event_tail(event),
        Some(Payload::JobResult(result)) => result_tail(result),
        Some(Payload::JobError(error)) => error_tail(error),
        _ => r#","type":"x-vendor.arcpd.unreadable","payload":{}}"#.into(),
    };
    if envelope.job_id.is_empty() {
        return tail;
    }
    // A record of the session's own: the job it is about is its own too.
    format!(
        r#","job_id":"{}","trace_id":"{}"{tail}"#,
        envelope.job_id, envelope.trace_id
    )
}

fn event_tail(event: proto::JobEvent) -> String {
    let ts = rfc3339(ts_from_proto(event.ts).unwrap_or(Timestamp(0)));
    let (kind, body) = event.body.map_or(("log".into(), "{}".into()), body);
    let mut text = String::with_capacity(256);
    let _ = write!(text, r#","type":"job.event","payload":{{"kind":"#);
    push_json(&mut text, &kind);
    let _ = write!(text, r#","ts":"{ts}","body":"#);
    text.push_str(&body);
    text.push_str("}}");
    text
}

fn push_json(text: &mut String, value: &impl Serialize) {
    // Serialising plain data into memory cannot fail.
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
}

/// JSON text of a peer as a member; what was stored was checked on its way in.
fn raw(text: String) -> Option<Box<RawValue>> {
    if text.is_empty() {
        None
    } else {
        RawValue::from_string(text).ok()
    }
}

fn some(text: String) -> Option<String> {
    super::convert::filled(text)
}

/// Integers stay integers: two SDKs decode progress into int types.
fn number(value: f64) -> serde_json::Number {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        serde_json::Number::from(value as i64)
    } else {
        serde_json::Number::from_f64(value).unwrap_or_else(|| 0.into())
    }
}

/// The kind and the JSON of its body.
fn body(body: proto::job_event::Body) -> (Cow<'static, str>, String) {
    fn typed(kind: &'static str, value: impl Serialize) -> (Cow<'static, str>, String) {
        (
            kind.into(),
            serde_json::to_string(&value).unwrap_or_default(),
        )
    }
    use proto::job_event::Body as B;
    match body {
        B::Log(b) => {
            #[derive(Serialize)]
            struct Log<'a> {
                level: &'a str,
                message: &'a str,
                #[serde(skip_serializing_if = "Option::is_none")]
                attributes: Option<Box<RawValue>>,
            }
            typed(
                "log",
                Log {
                    level: &b.level,
                    message: &b.message,
                    attributes: raw(b.attributes_json),
                },
            )
        }
        B::Thought(b) => typed("thought", serde_json::json!({ "text": b.text })),
        B::ToolCall(b) => {
            #[derive(Serialize)]
            struct ToolCall {
                tool: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                args: Option<Box<RawValue>>,
                call_id: String,
            }
            typed(
                "tool_call",
                ToolCall {
                    tool: b.tool,
                    args: raw(b.args_json),
                    call_id: b.call_id,
                },
            )
        }
        B::ToolResult(b) => {
            #[derive(Serialize)]
            struct ToolResult {
                call_id: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                result: Option<Box<RawValue>>,
                #[serde(skip_serializing_if = "Option::is_none")]
                error: Option<Box<RawValue>>,
            }
            let (result, error) = (raw(b.result_json), raw(b.error_json));
            typed(
                "tool_result",
                ToolResult {
                    call_id: b.call_id,
                    result,
                    error,
                },
            )
        }
        B::Status(b) => {
            #[derive(Serialize)]
            struct Status {
                phase: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                message: Option<String>,
                /// One SDK reads a rotated credential here, one in `details`.
                #[serde(flatten)]
                rotated: Option<Rotated>,
                #[serde(skip_serializing_if = "Option::is_none")]
                details: Option<Box<RawValue>>,
            }
            #[derive(Serialize, serde::Deserialize)]
            struct Rotated {
                id: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                value: Option<String>,
            }
            let rotated = (b.phase == "credential_rotated")
                .then(|| serde_json::from_str(&b.details_json).ok())
                .flatten();
            typed(
                "status",
                Status {
                    rotated,
                    phase: b.phase,
                    message: some(b.message),
                    details: raw(b.details_json),
                },
            )
        }
        B::Metric(b) => {
            #[derive(Serialize)]
            struct Metric<'a> {
                name: &'a str,
                value: serde_json::Number,
                #[serde(skip_serializing_if = "Option::is_none")]
                unit: Option<&'a str>,
                #[serde(skip_serializing_if = "Option::is_none")]
                dims: Option<&'a std::collections::HashMap<String, String>>,
                #[serde(skip_serializing_if = "Option::is_none")]
                dimensions: Option<&'a std::collections::HashMap<String, String>>,
            }
            let dims = (!b.dimensions.is_empty()).then_some(&b.dimensions);
            typed(
                "metric",
                Metric {
                    name: &b.name,
                    value: number(b.value),
                    unit: (!b.unit.is_empty()).then_some(&*b.unit),
                    dims,
                    dimensions: dims,
                },
            )
        }
        B::ArtifactRef(b) => {
            #[derive(Serialize)]
            struct ArtifactRef {
                uri: String,
                content_type: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                byte_size: Option<u64>,
                #[serde(skip_serializing_if = "Option::is_none")]
                sha256: Option<String>,
            }
            typed(
                "artifact_ref",
                ArtifactRef {
                    uri: b.uri,
                    content_type: b.content_type,
                    byte_size: (b.byte_size > 0).then_some(b.byte_size),
                    sha256: some(b.sha256),
                },
            )
        }
        B::Delegate(b) => {
            #[derive(Serialize)]
            struct Delegate {
                delegate_id: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                child_job_id: Option<String>,
                agent: String,
                #[serde(skip_serializing_if = "Option::is_none")]
                input: Option<Box<RawValue>>,
                #[serde(skip_serializing_if = "Option::is_none")]
                lease_request: Option<Box<RawValue>>,
            }
            typed(
                "delegate",
                Delegate {
                    delegate_id: b.delegate_id,
                    child_job_id: some(b.child_job_id),
                    agent: b.agent,
                    input: raw(b.input_json),
                    lease_request: raw(b.lease_request_json),
                },
            )
        }
        B::Progress(b) => {
            #[derive(Serialize)]
            struct Progress {
                current: serde_json::Number,
                #[serde(skip_serializing_if = "Option::is_none")]
                total: Option<serde_json::Number>,
                #[serde(skip_serializing_if = "Option::is_none")]
                units: Option<String>,
                #[serde(skip_serializing_if = "Option::is_none")]
                message: Option<String>,
            }
            typed(
                "progress",
                Progress {
                    current: number(b.current),
                    total: b.total.map(number),
                    units: some(b.units),
                    message: some(b.message),
                },
            )
        }
        B::ResultChunk(b) => {
            #[derive(Serialize)]
            struct ResultChunk {
                result_id: String,
                chunk_seq: u64,
                data: String,
                encoding: String,
                more: bool,
            }
            typed(
                "result_chunk",
                ResultChunk {
                    result_id: b.result_id,
                    chunk_seq: b.chunk_seq,
                    data: b.data,
                    encoding: b.encoding,
                    more: b.more,
                },
            )
        }
        B::Other(b) => (b.kind.into(), b.body_json),
    }
}

fn result_tail(result: proto::JobResult) -> String {
    let completed_at = rfc3339(ts_from_proto(result.completed_at).unwrap_or(Timestamp(0)));
    let mut text = String::with_capacity(128 + 2 * result.result_json.len());
    text.push_str(r#","type":"job.result","payload":{"final_status":"#);
    push_json(&mut text, &result.final_status);
    if result.result_id.is_empty() {
        // TypeScript and Python read `result`, Go reads `output`.
        let inline = if result.result_json.is_empty() {
            "null"
        } else {
            &result.result_json
        };
        let _ = write!(text, r#","result":{inline},"output":{inline}"#);
    } else {
        let _ = write!(
            text,
            r#","result_id":"{}","result_size":{}"#,
            result.result_id, result.result_size
        );
        if !result.summary.is_empty() {
            text.push_str(r#","summary":"#);
            push_json(&mut text, &result.summary);
        }
    }
    let _ = write!(text, r#","completed_at":"{completed_at}"}}}}"#);
    text
}

fn error_tail(error: proto::JobError) -> String {
    let completed_at = rfc3339(ts_from_proto(error.completed_at).unwrap_or(Timestamp(0)));
    let mut text = String::with_capacity(256);
    text.push_str(r#","type":"job.error","payload":{"final_status":"#);
    push_json(&mut text, &error.final_status);
    let _ = write!(text, r#","code":"{}","message":"#, error.code);
    push_json(&mut text, &error.message);
    let _ = write!(text, r#","retryable":{}"#, error.retryable);
    if !error.details_json.is_empty() {
        let _ = write!(text, r#","details":{}"#, error.details_json);
    }
    let _ = write!(text, r#","completed_at":"{completed_at}"}}}}"#);
    text
}

/// The tail as the Python SDK reads it: it ends its session on a `job.error`
/// whose `final_status` is not `error`, whatever the code.
pub fn python_tail(tail: &[u8]) -> Cow<'_, [u8]> {
    for status in ["cancelled", "timed_out"] {
        let start = format!(r#","type":"job.error","payload":{{"final_status":"{status}""#);
        if let Some(rest) = tail.strip_prefix(start.as_bytes()) {
            let error = &br#","type":"job.error","payload":{"final_status":"error""#[..];
            return Cow::Owned([error, rest].concat());
        }
    }
    Cow::Borrowed(tail)
}
