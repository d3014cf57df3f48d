//! What is ready for the client, encoded, in order.

use bytes::{Bytes, BytesMut};

use super::Encoding;
use crate::log::Block;
use crate::protocol::Reply;
use crate::protocol::message::Profile;
use crate::wire::{self, JobHeader};

/// A block above this has its memory asked for at once.
const BUSY_BYTES: usize = 16 * 1024;

/// Envelopes in one write: the fields of a `SessionResponse`, or JSON texts.
pub struct Chunk {
    pub bytes: Bytes,
    /// Where each JSON text ends; empty for protobuf.
    pub ends: Vec<usize>,
    /// Nothing follows; the transport closes.
    pub last: bool,
}

/// How one peer has its records.
pub(super) struct Rendering {
    pub encoding: Encoding,
    pub profile: Profile,
    /// Features that gate records and that the session did not negotiate.
    pub withheld: Vec<&'static str>,
}

impl Rendering {
    pub fn new(encoding: Encoding, profile: Profile, features: &[String]) -> Self {
        let withheld = ["progress", "result_chunk"]
            .into_iter()
            .filter(|gate| !features.iter().any(|feature| feature == gate))
            .collect();
        Self {
            encoding,
            profile,
            withheld,
        }
    }
}

pub(super) struct Outbox {
    rendering: Rendering,
    bytes: BytesMut,
    ends: Vec<usize>,
}

impl Outbox {
    pub fn new(rendering: Rendering) -> Self {
        Self {
            rendering,
            bytes: BytesMut::new(),
            ends: Vec::new(),
        }
    }

    pub fn profile(&self) -> Profile {
        self.rendering.profile
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn push_reply(&mut self, reply: Reply) {
        match self.rendering.encoding {
            Encoding::Protobuf => wire::encode_reply_proto(reply, &mut self.bytes),
            Encoding::Json => {
                self.bytes
                    .extend_from_slice(wire::encode_reply_json(reply).as_bytes());
                self.ends.push(self.bytes.len());
            }
        }
    }

    /// Appends record `index` of a block for each `(event_seq, index)`.
    pub fn push_records(
        &mut self,
        header: &JobHeader,
        block: &Block,
        records: impl Iterator<Item = (u64, usize)>,
    ) {
        if block.data.len() > BUSY_BYTES {
            // Once for all of them: growing by steps copies what is there each time.
            let headers = block.count as usize * header.len_max();
            self.bytes.reserve(block.data.len() + headers);
        }
        for (event_seq, index) in records {
            if let Some(feature) = self.gate(block.record(index)) {
                self.push_withheld(header, event_seq, block.record(index), feature);
                continue;
            }
            match self.rendering.encoding {
                Encoding::Protobuf => {
                    wire::frame_record(header, event_seq, block.record(index), &mut self.bytes);
                }
                Encoding::Json => {
                    let tail = block.json().get(index);
                    self.push_json(header, event_seq, tail);
                }
            }
        }
    }

    fn gate(&self, record: &[u8]) -> Option<&'static str> {
        if self.rendering.withheld.is_empty() {
            return None;
        }
        wire::feature_of(record).filter(|feature| self.rendering.withheld.contains(feature))
    }

    fn push_withheld(&mut self, header: &JobHeader, event_seq: u64, record: &[u8], feature: &str) {
        let record = wire::withheld(record, feature);
        match self.rendering.encoding {
            Encoding::Protobuf => {
                wire::frame_record(header, event_seq, &record, &mut self.bytes);
            }
            Encoding::Json => {
                self.push_json(header, event_seq, wire::json_tail(&record).as_bytes());
            }
        }
    }

    fn push_json(&mut self, header: &JobHeader, event_seq: u64, tail: &[u8]) {
        match self.rendering.profile {
            Profile::Python => {
                header.frame_json(event_seq, &wire::python_tail(tail), &mut self.bytes);
            }
            Profile::Draft | Profile::TypeScript => {
                header.frame_json(event_seq, tail, &mut self.bytes);
            }
        }
        self.ends.push(self.bytes.len());
    }

    pub fn take(&mut self, last: bool) -> Chunk {
        Chunk {
            // Nothing is kept behind: an idle session has no buffer.
            bytes: std::mem::take(&mut self.bytes).freeze(),
            ends: std::mem::take(&mut self.ends),
            last,
        }
    }
}
