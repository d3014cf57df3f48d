//! The record of a rotation, as the one session that may have the value gets it
//! (§9.8.2). The log has it without: everybody else reads that.

use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::proto::{self, envelope::Payload, job_event::Body};
use crate::protocol::event::ROTATED;

/// No record of a rotation is longer; most others need not be read.
const BYTES_MAX: usize = 1_024;

/// Which generation a stored record tells of, if it is one of a rotation.
pub fn rotation_of(payload: &[u8]) -> Option<u32> {
    let (_, details) = details(payload)?;
    u32::try_from(details["generation"].as_u64()?).ok()
}

/// The record with the value in it.
pub fn with_value(payload: &[u8], value: &SecretString) -> Option<Vec<u8>> {
    let (mut envelope, mut details) = details(payload)?;
    details["value"] = value.expose_secret().into();
    if let Some(Payload::JobEvent(event)) = &mut envelope.payload
        && let Some(Body::Status(status)) = &mut event.body
    {
        status.details_json = details.to_string();
    }
    Some(envelope.encode_to_vec())
}

fn details(payload: &[u8]) -> Option<(proto::Envelope, Value)> {
    if payload.len() > BYTES_MAX {
        return None;
    }
    let envelope = proto::Envelope::decode(payload).ok()?;
    let Some(Payload::JobEvent(event)) = &envelope.payload else {
        return None;
    };
    let Some(Body::Status(status)) = &event.body else {
        return None;
    };
    let details = serde_json::from_str(&status.details_json).ok();
    let details = details.filter(|_| status.phase == ROTATED)?;
    Some((envelope, details))
}
