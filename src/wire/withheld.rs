//! Records of a kind that a session did not negotiate (§6.2).
//!
//! They may not be sent, and their numbers may not be left out: the stream has
//! no gaps. In their place goes an event of a vendor kind that says what it is.

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::proto::{self, envelope::Payload, job_event::Body};

/// Tags of `Envelope.job_event`, `JobEvent.progress` and `JobEvent.result_chunk`.
const JOB_EVENT_TAG: u32 = 30;
const PROGRESS_TAG: u32 = 10;
const RESULT_CHUNK_TAG: u32 = 11;

/// The feature a stored record needs, read off its tags.
pub fn feature_of(payload: &[u8]) -> Option<&'static str> {
    let mut rest = payload;
    let mut event = false;
    while let Ok((tag, wire_type)) = decode_key(&mut rest) {
        match (event, tag) {
            (false, JOB_EVENT_TAG) => {
                // Its fields follow; what they are is all that is asked.
                decode_varint(&mut rest).ok()?;
                event = true;
                continue;
            }
            (true, PROGRESS_TAG) => return Some("progress"),
            (true, RESULT_CHUNK_TAG) => return Some("result_chunk"),
            _ => {}
        }
        match wire_type {
            WireType::LengthDelimited => {
                let len = decode_varint(&mut rest).ok()? as usize;
                rest = rest.get(len..)?;
            }
            WireType::Varint => drop(decode_varint(&mut rest).ok()?),
            _ => return None,
        }
    }
    None
}

/// What is sent in the place of a record that needs `feature`.
pub fn withheld(payload: &[u8], feature: &str) -> Vec<u8> {
    let mut envelope = proto::Envelope::decode(payload).unwrap_or_default();
    if let Some(Payload::JobEvent(event)) = &mut envelope.payload {
        event.body = Some(Body::Other(proto::OtherEvent {
            kind: "x-vendor.arcpd.withheld".into(),
            body_json: format!(r#"{{"feature":"{feature}"}}"#),
        }));
    }
    envelope.encode_to_vec()
}
