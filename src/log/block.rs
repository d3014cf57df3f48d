//! Consecutive records of one stream, committed together.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{Position, StreamId};

/// A committed block. `data` holds `count` records, each a varint length and
/// its bytes.
pub struct Block {
    pub position: Position,
    pub stream: StreamId,
    pub first_seq: u64,
    pub count: u32,
    pub data: Bytes,
    /// Its last record is the last of the stream.
    pub terminal: bool,
    json: OnceLock<Vec<Bytes>>,
}

/// A block not yet committed.
pub struct PendingBlock {
    pub stream: StreamId,
    pub first_seq: u64,
    pub count: u32,
    pub data: Bytes,
    pub terminal: Option<JobEnd>,
}

/// How a job ended; written with the block that says so.
#[derive(Clone, Debug)]
pub struct JobEnd {
    pub status: String,
    pub ended_at_ms: i64,
}

/// Something that has records for the writer. One take is one block.
pub trait BlockSource: Send + Sync {
    fn take(&self) -> Option<PendingBlock>;
}

impl Block {
    pub fn new(
        position: Position,
        stream: StreamId,
        first_seq: u64,
        count: u32,
        data: Bytes,
        terminal: bool,
    ) -> Self {
        Self {
            position,
            stream,
            first_seq,
            count,
            data,
            terminal,
            json: OnceLock::new(),
        }
    }

    pub fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }

    /// Each record with its number; the slices share the block's memory.
    pub fn records(&self) -> impl Iterator<Item = (u64, Bytes)> {
        let mut rest = self.data.clone();
        (self.first_seq..=self.last_seq()).map_while(move |seq| {
            let len = prost::encoding::decode_varint(&mut rest).ok()? as usize;
            (len <= rest.len()).then(|| (seq, rest.split_to(len)))
        })
    }

    /// Another encoding of the records, made by whoever needs it first.
    pub fn json_or_init(&self, make: impl FnOnce(&Block) -> Vec<Bytes>) -> &[Bytes] {
        self.json.get_or_init(|| make(self))
    }
}
