//! A record of the log and the header a recipient gets before it.
//!
//! ```text
//! stored:    varint length │ payload field (job_event │ job_result │ job_error)
//! delivered: SessionResponse.envelopes tag, length │ header │ payload field
//! ```
//! Protobuf fields concatenate, so the shared bytes are copied, never re-encoded.

use bytes::{BufMut, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{convert, proto};
use crate::protocol::{Event, Outcome, Timestamp, VERSION, id::EventIds};

/// Tag of `SessionResponse.envelopes`.
const ENVELOPES_TAG: u32 = 1;
/// Tag of `WatchJobResponse.records`, and of the number in one.
const RECORDS_TAG: u32 = 1;
const JOB_SEQ_TAG: u32 = 1;
const ID_TAG: u32 = 2;
const ID_LEN: usize = 26;
const EVENT_SEQ_TAG: u32 = 6;

/// Appends the stored form of an event; returns its bytes.
pub fn encode_event(event: Event, out: &mut BytesMut) -> usize {
    put_record(
        proto::envelope::Payload::JobEvent(convert::event_to_proto(event)),
        out,
    )
}

/// Appends the stored form of a terminal; returns its bytes.
pub fn encode_outcome(outcome: Outcome, at: Timestamp, out: &mut BytesMut) -> usize {
    put_record(convert::outcome_to_proto(outcome, at), out)
}

/// Appends the stored form of an event addressed to one session, about `job_id`.
pub fn encode_own_event(event: Event, job_id: &str, trace_id: &str, out: &mut BytesMut) {
    let envelope = proto::Envelope {
        job_id: job_id.into(),
        trace_id: trace_id.into(),
        payload: Some(proto::envelope::Payload::JobEvent(convert::event_to_proto(
            event,
        ))),
        ..Default::default()
    };
    encode_varint(envelope.encoded_len() as u64, out);
    envelope.encode_raw(out);
}

fn put_record(payload: proto::envelope::Payload, out: &mut BytesMut) -> usize {
    let len = payload.encoded_len();
    let before = out.len();
    out.reserve(len + encoded_len_varint(len as u64));
    encode_varint(len as u64, out);
    payload.encode(out);
    out.len() - before
}

/// What every numbered envelope of one session starts with.
#[derive(Clone)]
pub struct SessionHeader {
    pub(super) session_id: String,
    pub(super) ids: EventIds,
}

impl SessionHeader {
    pub fn new(session_id: &str) -> Self {
        Self {
            session_id: session_id.into(),
            ids: EventIds::of_session(session_id),
        }
    }

    /// The header of records addressed to the session itself; they name their
    /// job themselves.
    pub fn for_session(&self) -> JobHeader {
        let fields = proto::Envelope {
            arcp: VERSION.into(),
            session_id: self.session_id.clone(),
            ..Default::default()
        };
        JobHeader {
            ids: self.ids,
            proto: fields.encode_to_vec().into(),
            json: format!(r#""session_id":"{}","event_seq":"#, self.session_id).into(),
        }
    }

    /// The part of the header that is the same for all records of one job.
    pub fn for_job(&self, job_id: &str, trace_id: &str) -> JobHeader {
        let fields = proto::Envelope {
            arcp: VERSION.into(),
            session_id: self.session_id.clone(),
            job_id: job_id.into(),
            trace_id: trace_id.into(),
            ..Default::default()
        };
        let json = format!(
            r#""session_id":"{}","job_id":"{job_id}","trace_id":"{trace_id}","event_seq":"#,
            self.session_id
        );
        JobHeader {
            ids: self.ids,
            proto: fields.encode_to_vec().into(),
            json: json.into(),
        }
    }
}

/// The header of one job's records in one session.
pub struct JobHeader {
    ids: EventIds,
    proto: Box<[u8]>,
    json: Box<str>,
}

/// Appends one envelope of a `SessionResponse`.
pub fn frame_record(header: &JobHeader, event_seq: u64, payload: &[u8], out: &mut BytesMut) {
    let len =
        header.proto.len() + (1 + 1 + ID_LEN) + (1 + encoded_len_varint(event_seq)) + payload.len();
    encode_key(ENVELOPES_TAG, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
    out.put_slice(&header.proto);
    encode_key(ID_TAG, WireType::LengthDelimited, out);
    out.put_u8(ID_LEN as u8);
    out.put_slice(&header.ids.at(event_seq));
    encode_key(EVENT_SEQ_TAG, WireType::Varint, out);
    encode_varint(event_seq, out);
    out.put_slice(payload);
}

/// Appends one record of a `WatchJobResponse`; the payload's numbers are the same there.
pub fn frame_job_record(job_seq: u64, payload: &[u8], out: &mut BytesMut) {
    let len = 1 + encoded_len_varint(job_seq) + payload.len();
    encode_key(RECORDS_TAG, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
    encode_key(JOB_SEQ_TAG, WireType::Varint, out);
    encode_varint(job_seq, out);
    out.put_slice(payload);
}

impl JobHeader {
    /// Bytes before a payload, at most, in either encoding.
    pub fn len_max(&self) -> usize {
        const REST: usize = 80;
        self.proto.len().max(self.json.len()) + REST
    }

    /// Appends one JSON envelope; `tail` is what [`super::json_tail`] made of the record.
    pub fn frame_json(&self, event_seq: u64, tail: &[u8], out: &mut BytesMut) {
        out.put_slice(br#"{"arcp":"1.1","id":""#);
        out.put_slice(&self.ids.at(event_seq));
        out.put_slice(br#"","#);
        out.put_slice(self.json.as_bytes());
        out.put_slice(itoa(event_seq, &mut [0; 20]));
        out.put_slice(tail);
    }
}

/// Decimal digits without an allocation; the one number of a JSON header.
fn itoa(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
