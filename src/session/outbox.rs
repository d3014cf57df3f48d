//! What is ready for the client, encoded, in order, in chunks.
//!
//! A chunk is one write and, in protobuf, one message. It is small on purpose:
//! memory of this size comes back from the allocator warm, and a client that
//! decodes it still has it in its cache.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::{Encoding, Goodbye};
use crate::credential::Held;
use crate::log::Block;
use crate::protocol::Reply;
use crate::protocol::message::Profile;
use crate::wire::{self, JobHeader};

/// A chunk is closed before it outgrows this; a larger envelope has one to itself.
const CHUNK_BYTES: usize = 32 * 1024;
/// What is pushed at once in a block above this fills whole chunks.
const BUSY_BYTES: usize = 16 * 1024;

/// Envelopes in one write: the fields of a `SessionResponse` behind
/// [`Chunk::PREFIX_BYTES`] of room, or JSON texts.
pub struct Chunk {
    pub bytes: BytesMut,
    /// Where each JSON text ends; empty for protobuf.
    pub ends: Vec<usize>,
    pub envelopes: usize,
    /// Nothing follows; the transport closes, and says why where it can.
    pub goodbye: Option<Goodbye>,
}

impl Chunk {
    /// Room for the length that gRPC puts before a message.
    pub const PREFIX_BYTES: usize = 5;
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

/// Consecutive records of one block that have their numbers and are still to be
/// encoded: a peer that reads slowly costs a reference, not a copy.
pub(super) struct Run {
    pub header: Arc<JobHeader>,
    pub block: Arc<Block>,
    /// The next record in the block, and the one after the last.
    pub index: usize,
    pub end: usize,
    /// Of the next record.
    pub event_seq: u64,
    /// What this session, and no other, is told when one of the records says that
    /// the job has a new credential. One that was replaced since stays untold.
    pub rotated: Option<Arc<Held>>,
}

impl Run {
    pub fn is_done(&self) -> bool {
        self.index >= self.end
    }
}

/// The record with the value that its job has now, if that is what it tells of.
fn told(run: &Run, record: &[u8]) -> Option<Vec<u8>> {
    let held = run.rotated.as_ref()?;
    let current = wire::rotation_of(record)? == held.generation;
    current.then(|| wire::with_value(record, &held.credential.value))?
}

pub(super) struct Outbox {
    rendering: Rendering,
    /// Closed chunks, oldest first.
    full: VecDeque<Chunk>,
    full_bytes: usize,
    bytes: BytesMut,
    ends: Vec<usize>,
    /// In the open chunk.
    envelopes: usize,
}

impl Outbox {
    pub fn new(rendering: Rendering) -> Self {
        Self {
            rendering,
            full: VecDeque::new(),
            full_bytes: 0,
            bytes: BytesMut::new(),
            ends: Vec::new(),
            envelopes: 0,
        }
    }

    pub fn profile(&self) -> Profile {
        self.rendering.profile
    }

    pub fn len(&self) -> usize {
        self.full_bytes + self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push_reply(&mut self, reply: Reply) {
        self.make_room(0, 0);
        self.envelopes += 1;
        match self.rendering.encoding {
            Encoding::Protobuf => wire::encode_reply_proto(reply, &mut self.bytes),
            Encoding::Json => {
                let text = wire::encode_reply_json(reply, self.rendering.profile);
                self.bytes.extend_from_slice(text.as_bytes());
                self.ends.push(self.bytes.len());
            }
        }
    }

    /// Encodes records of a run until it is done or there is `bytes_max` to send.
    pub fn push_run(&mut self, run: &mut Run, bytes_max: usize) {
        let busy = match run.block.data.len() > BUSY_BYTES {
            true => CHUNK_BYTES,
            false => 0,
        };
        let Run { header, block, .. } = &*run;
        let (mut index, mut event_seq) = (run.index, run.event_seq);
        while index < run.end && self.len() < bytes_max {
            let record = block.record(index);
            if let Some(told) = told(run, record) {
                match self.rendering.encoding {
                    Encoding::Protobuf => self.push_proto(header, event_seq, &told, busy),
                    Encoding::Json => {
                        let tail = wire::json_tail(&told);
                        self.push_json(header, event_seq, tail.as_bytes(), busy);
                    }
                }
                index += 1;
                event_seq += 1;
                continue;
            }
            match (self.gate(record), self.rendering.encoding) {
                (None, Encoding::Protobuf) => self.push_proto(header, event_seq, record, busy),
                (None, Encoding::Json) => {
                    self.push_json(header, event_seq, block.json().get(index), busy);
                }
                (Some(feature), Encoding::Protobuf) => {
                    let record = wire::withheld(record, feature);
                    self.push_proto(header, event_seq, &record, busy);
                }
                (Some(feature), Encoding::Json) => {
                    let tail = wire::json_tail(&wire::withheld(record, feature));
                    self.push_json(header, event_seq, tail.as_bytes(), busy);
                }
            }
            index += 1;
            event_seq += 1;
        }
        (run.index, run.event_seq) = (index, event_seq);
    }

    fn gate(&self, record: &[u8]) -> Option<&'static str> {
        if self.rendering.withheld.is_empty() {
            return None;
        }
        wire::feature_of(record).filter(|feature| self.rendering.withheld.contains(feature))
    }

    fn push_proto(&mut self, header: &JobHeader, event_seq: u64, record: &[u8], busy: usize) {
        self.make_room(header.len_max() + record.len(), busy);
        self.envelopes += 1;
        wire::frame_record(header, event_seq, record, &mut self.bytes);
    }

    fn push_json(&mut self, header: &JobHeader, event_seq: u64, tail: &[u8], busy: usize) {
        self.make_room(header.len_max() + tail.len(), busy);
        self.envelopes += 1;
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

    /// Closes the open chunk when `bytes` more would make it too large; a new one
    /// starts with memory for `capacity`.
    fn make_room(&mut self, bytes: usize, capacity: usize) {
        if !self.bytes.is_empty() && self.bytes.len() + bytes > CHUNK_BYTES {
            let chunk = self.close();
            self.full_bytes += chunk.bytes.len();
            self.full.push_back(chunk);
        }
        if self.bytes.is_empty() {
            self.bytes.reserve(capacity.max(bytes));
            if self.rendering.encoding == Encoding::Protobuf {
                self.bytes.extend_from_slice(&[0; Chunk::PREFIX_BYTES]);
            }
        }
    }

    fn close(&mut self) -> Chunk {
        Chunk {
            // Nothing is kept behind: an idle session has no buffer.
            bytes: std::mem::take(&mut self.bytes),
            ends: std::mem::take(&mut self.ends),
            envelopes: std::mem::take(&mut self.envelopes),
            goodbye: None,
        }
    }

    /// The oldest chunk; only for one that is not empty.
    pub fn take(&mut self) -> Chunk {
        match self.full.pop_front() {
            Some(chunk) => {
                self.full_bytes -= chunk.bytes.len();
                chunk
            }
            None => self.close(),
        }
    }

    /// Sends what is left, marked as the end. Stops where the peer has gone.
    pub async fn send_rest(&mut self, outbound: &mpsc::Sender<Chunk>, goodbye: Goodbye) {
        while !self.is_empty() {
            let mut chunk = self.take();
            chunk.goodbye = self.is_empty().then_some(goodbye);
            if outbound.send(chunk).await.is_err() {
                return;
            }
        }
    }
}
