//! What is ready for the client, encoded, in order.

use bytes::{Bytes, BytesMut};

use super::Encoding;
use crate::log::Block;
use crate::protocol::Reply;
use crate::wire::{self, JobHeader};

/// Envelopes in one write: the fields of a `SessionResponse`, or JSON texts.
pub struct Chunk {
    pub bytes: Bytes,
    /// Where each JSON text ends; empty for protobuf.
    pub ends: Vec<usize>,
    /// Nothing follows; the transport closes.
    pub last: bool,
}

pub(super) struct Outbox {
    encoding: Encoding,
    bytes: BytesMut,
    ends: Vec<usize>,
}

impl Outbox {
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            bytes: BytesMut::new(),
            ends: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn push_reply(&mut self, reply: Reply) {
        match self.encoding {
            Encoding::Protobuf => wire::encode_reply_proto(reply, &mut self.bytes),
            Encoding::Json => {
                self.bytes
                    .extend_from_slice(wire::encode_reply_json(reply).as_bytes());
                self.ends.push(self.bytes.len());
            }
        }
    }

    /// Appends record `index` of a block. The JSON of a block is made by its
    /// first JSON reader and shared by the rest.
    pub fn push_records(
        &mut self,
        header: &JobHeader,
        block: &Block,
        records: impl Iterator<Item = (u64, usize)>,
    ) {
        match self.encoding {
            Encoding::Protobuf => {
                let payloads: Vec<(u64, Bytes)> = block.records().collect();
                for (event_seq, index) in records {
                    wire::frame_record(header, event_seq, &payloads[index].1, &mut self.bytes);
                }
            }
            Encoding::Json => {
                let tails = block.json_or_init(|block| {
                    wire::json_tails(block.records().map(|(_, payload)| payload))
                });
                for (event_seq, index) in records {
                    header.frame_json(event_seq, &tails[index], &mut self.bytes);
                    self.ends.push(self.bytes.len());
                }
            }
        }
    }

    pub fn take(&mut self, last: bool) -> Chunk {
        Chunk {
            bytes: self.bytes.split().freeze(),
            ends: std::mem::take(&mut self.ends),
            last,
        }
    }
}
