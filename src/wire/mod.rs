//! Between the domain and its two encodings, protobuf and JSON.
//!
//! The log stores a record as the protobuf fields of its payload alone; the
//! transports put a small header before it. prost types leave this folder only for
//! where tonic wants them: the gRPC transports, and the clients (`client`, `cli`,
//! `bench`). The runtime behind the transports never sees one.

mod convert;
mod event_json;
mod extensions;
mod granted;
mod host_in;
mod host_out;
mod job_service;
mod json_in;
mod json_out;
mod json_record;
mod proto_in;
mod record;
mod reply;
mod rotated;
mod stored;
#[cfg(test)]
mod tests;
mod traced;
mod withheld;

/// Generated from `proto/arcp/v1`.
#[allow(clippy::all, missing_docs)]
pub mod proto {
    tonic::include_proto!("arcp.v1");
}

/// The schema, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/arcp_descriptor.bin"));

pub use convert::ts_to_proto;
pub use event_json::{check_event_json, event_from_json, present};
pub use host_in::host_request_from_proto;
pub use host_out::host_reply_to_proto;
pub use job_service::{job_id, list_from_proto, outcome, submit_from_proto};
pub use json_in::parse_json;
pub use json_out::rfc3339;
pub use json_record::{JsonTails, json_len, json_tail, python_tail};
pub use proto_in::{ID_BYTES_MAX, request_from_proto};
pub use record::{
    JobHeader, SessionHeader, encode_event, encode_outcome, encode_own_event, frame_job_record,
    frame_record,
};
pub use reply::{encode_reply_json, encode_reply_proto};
pub use rotated::{rotation_of, with_value};
pub use stored::{decode_outcome, delegates};
pub use traced::{Traced, What, is_traced, traced};
pub use withheld::{feature_of, withheld};

/// Nesting a JSON text may have.
pub const JSON_DEPTH_MAX: usize = 64;

/// A peer's message that cannot be used; `field` and limit are in the text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// The envelope's id when it could be read, to answer with.
    pub request_id: Option<String>,
    pub message: String,
    /// It would have been a submit.
    pub of_submit: bool,
}

impl Invalid {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            request_id: None,
            message: message.into(),
            of_submit: false,
        }
    }
}

/// Checks JSON text a peer sent: well-formed, finite numbers, no lone
/// surrogates, at most [`JSON_DEPTH_MAX`] deep.
pub fn check_json(field: &str, text: &str) -> Result<(), Invalid> {
    if depth(text.as_bytes()) > JSON_DEPTH_MAX {
        return Err(Invalid::new(format!(
            "{field}: JSON nested deeper than {JSON_DEPTH_MAX}"
        )));
    }
    serde_json::from_str::<serde_json::Value>(text)
        .map(drop)
        .map_err(|e| Invalid::new(format!("{field}: not valid JSON: {e}")))
}

/// Nesting of brackets outside strings; needs no stack, so it can be asked
/// before a recursive parser is let loose on the text.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (true, _) => {}
            (false, b'"') => in_string = true,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            (false, _) => {}
        }
    }
    deepest
}
