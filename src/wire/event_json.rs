//! Events an agent gives as JSON, `{"kind": …, "body": {…}}` (§8.2), and the
//! checks on JSON text inside typed ones.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Invalid, check_json};
use crate::protocol::EventBody;

/// Reads the body of an event of a kind. Unknown members are dropped; a kind
/// that is not of the draft is kept as it is.
pub fn event_from_json(kind: &str, body: &str) -> Result<EventBody, Invalid> {
    check_json("body", body)?;
    Ok(match kind {
        "log" => log(read(kind, body)?),
        "thought" => {
            let Thought { text } = read(kind, body)?;
            EventBody::Thought { text }
        }
        "tool_call" => tool_call(read(kind, body)?),
        "tool_result" => tool_result(read(kind, body)?)?,
        "status" => status(read(kind, body)?),
        "metric" => metric(read(kind, body)?),
        "artifact_ref" => artifact_ref(read(kind, body)?),
        "delegate" => delegate(read(kind, body)?),
        "progress" => progress(read(kind, body)?),
        "result_chunk" => {
            return Err(Invalid::new(
                "kind: result_chunk cannot be reported this way",
            ));
        }
        _ => EventBody::Other {
            kind: kind.into(),
            body_json: body.into(),
        },
    })
}

fn read<T: DeserializeOwned>(kind: &str, body: &str) -> Result<T, Invalid> {
    serde_json::from_str(body).map_err(|e| Invalid::new(format!("body of {kind}: {e}")))
}

/// JSON text in a typed event must be JSON.
pub fn check_event_json(body: &EventBody) -> Result<(), Invalid> {
    let check = |member: &str, text: &Option<String>| match text {
        Some(text) => check_json(member, text),
        None => Ok(()),
    };
    match body {
        EventBody::Log {
            attributes_json, ..
        } => check("attributes", attributes_json),
        EventBody::ToolCall { args_json, .. } => check("args", args_json),
        EventBody::ToolResult {
            result: Ok(json), ..
        } => check_json("result", json),
        EventBody::ToolResult {
            result: Err(json), ..
        } => check_json("error", json),
        EventBody::Status { details_json, .. } => check("details", details_json),
        EventBody::Delegate {
            input_json,
            lease_request_json,
            ..
        } => {
            check("input", input_json)?;
            check("lease_request", lease_request_json)
        }
        EventBody::Other { body_json, .. } => {
            check_json("body", body_json)?;
            match body_json.trim_start().starts_with('{') {
                true => Ok(()),
                false => Err(Invalid::new("body: must be an object")),
            }
        }
        EventBody::Thought { .. }
        | EventBody::Metric { .. }
        | EventBody::ArtifactRef { .. }
        | EventBody::Progress { .. }
        | EventBody::ResultChunk { .. } => Ok(()),
    }
}

fn text(raw: Option<Box<RawValue>>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned())
        .filter(|text| text != "null")
}

#[derive(Deserialize)]
struct Log {
    level: String,
    message: String,
    attributes: Option<Box<RawValue>>,
}

fn log(body: Log) -> EventBody {
    EventBody::Log {
        level: body.level.to_lowercase(),
        message: body.message,
        attributes_json: text(body.attributes),
    }
}

/// Who reports one asks for a child (§10).
#[derive(Deserialize)]
struct Delegate {
    delegate_id: String,
    agent: String,
    input: Option<Box<RawValue>>,
    lease_request: Option<Box<RawValue>>,
}

fn delegate(body: Delegate) -> EventBody {
    EventBody::Delegate {
        delegate_id: body.delegate_id,
        child_job_id: None,
        agent: body.agent,
        input_json: text(body.input),
        lease_request_json: text(body.lease_request),
    }
}

#[derive(Deserialize)]
struct Thought {
    text: String,
}

#[derive(Deserialize)]
struct ToolCall {
    tool: String,
    call_id: String,
    args: Option<Box<RawValue>>,
}

fn tool_call(body: ToolCall) -> EventBody {
    EventBody::ToolCall {
        tool: body.tool,
        call_id: body.call_id,
        args_json: text(body.args),
    }
}

#[derive(Deserialize)]
struct ToolResult {
    call_id: String,
    #[serde(default, deserialize_with = "present")]
    result: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    error: Option<Box<RawValue>>,
}

/// For a member whose null counts as being there.
pub fn present<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

fn tool_result(body: ToolResult) -> Result<EventBody, Invalid> {
    let result = match (body.result, body.error) {
        (Some(result), None) => Ok(result.get().to_owned()),
        (None, Some(error)) => Err(error.get().to_owned()),
        _ => {
            return Err(Invalid::new(
                "body of tool_result: needs exactly one of result and error",
            ));
        }
    };
    Ok(EventBody::ToolResult {
        call_id: body.call_id,
        result,
    })
}

#[derive(Deserialize)]
struct Status {
    phase: String,
    message: Option<String>,
    details: Option<Box<RawValue>>,
}

fn status(body: Status) -> EventBody {
    EventBody::Status {
        phase: body.phase,
        message: body.message,
        details_json: text(body.details),
    }
}

#[derive(Deserialize)]
struct Metric {
    name: String,
    value: f64,
    unit: Option<String>,
    /// The SDKs have two names for it; a frame for all of them has both.
    dims: Option<std::collections::BTreeMap<String, String>>,
    dimensions: Option<std::collections::BTreeMap<String, String>>,
}

fn metric(body: Metric) -> EventBody {
    let dimensions = body.dimensions.or(body.dims).unwrap_or_default();
    EventBody::Metric {
        name: body.name,
        value: body.value,
        unit: body.unit,
        dimensions: dimensions.into_iter().collect(),
    }
}

#[derive(Deserialize)]
struct ArtifactRef {
    uri: String,
    content_type: String,
    byte_size: Option<u64>,
    sha256: Option<String>,
}

fn artifact_ref(body: ArtifactRef) -> EventBody {
    EventBody::ArtifactRef {
        uri: body.uri,
        content_type: body.content_type,
        byte_size: body.byte_size,
        sha256: body.sha256,
    }
}

#[derive(Deserialize)]
struct Progress {
    current: f64,
    total: Option<f64>,
    units: Option<String>,
    message: Option<String>,
}

fn progress(body: Progress) -> EventBody {
    EventBody::Progress {
        current: body.current,
        total: body.total,
        units: body.units,
        message: body.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_draft_is_read_and_a_vendor_kind_is_kept() {
        for (kind, body) in [
            (
                "log",
                r#"{"level":"INFO","message":"m","attributes":{"n":9007199254740993}}"#,
            ),
            ("thought", r#"{"text":"t"}"#),
            ("tool_call", r#"{"tool":"t","call_id":"c","args":{}}"#),
            ("tool_result", r#"{"call_id":"c","result":null}"#),
            ("status", r#"{"phase":"p"}"#),
            ("metric", r#"{"name":"n","value":1.5,"dims":{"a":"b"}}"#),
            ("artifact_ref", r#"{"uri":"u","content_type":"t"}"#),
            ("progress", r#"{"current":1,"total":2}"#),
            ("x-vendor.acme.note", r#"{"any":[1]}"#),
        ] {
            let event = event_from_json(kind, body).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert_eq!(event.check(), Ok(()), "{kind}");
            assert_eq!(check_event_json(&event), Ok(()), "{kind}");
        }
    }

    #[test]
    fn a_body_that_does_not_fit_its_kind_is_refused_by_member() {
        for (kind, body, names) in [
            ("log", r#"{"level":"info"}"#, "message"),
            ("log", r#"{"level":"loud","message":"m"}"#, "level"),
            ("tool_result", r#"{"call_id":"c"}"#, "result"),
            ("metric", r#"{"name":"n","value":"1"}"#, "metric"),
            ("progress", r#"{"current":3,"total":2}"#, "current"),
            ("progress", r#"{"current":-1}"#, "current"),
            ("plain", r#"{}"#, "kind"),
            ("x-vendor.a.b", "[1]", "body"),
            ("status", "{", "body"),
        ] {
            let refused = event_from_json(kind, body)
                .map_err(|e| e.message)
                .and_then(|event| {
                    event.check()?;
                    check_event_json(&event).map_err(|e| e.message)
                });
            let message = refused.expect_err(kind);
            assert!(message.contains(names), "{kind}: {message}");
        }
    }
}
