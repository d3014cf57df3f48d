//! Consecutive records of one stream, committed together.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{Position, StreamId};
use crate::wire::JsonTails;

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
    /// Start and end of each record in `data`, found by the first reader.
    bounds: OnceLock<Box<[(u32, u32)]>>,
    json: OnceLock<JsonTails>,
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
            bounds: OnceLock::new(),
            json: OnceLock::new(),
        }
    }

    pub fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }

    /// Record `index` of the block, 0 for `first_seq`.
    pub fn record(&self, index: usize) -> &[u8] {
        let bounds = self.bounds.get_or_init(|| bounds(&self.data, self.count));
        match bounds.get(index) {
            Some((start, end)) => &self.data[*start as usize..*end as usize],
            None => &[],
        }
    }

    /// Each record with its number.
    pub fn records(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (self.first_seq..=self.last_seq())
            .enumerate()
            .map(|(index, seq)| (seq, self.record(index)))
    }

    /// The JSON of the records, made by whoever needs it first.
    pub fn json(&self) -> &JsonTails {
        self.json.get_or_init(|| {
            JsonTails::new(self.records().map(|(_, record)| record), self.data.len())
        })
    }
}

fn bounds(data: &Bytes, count: u32) -> Box<[(u32, u32)]> {
    let mut rest = &data[..];
    (0..count)
        .map_while(|_| {
            let len = prost::encoding::decode_varint(&mut rest).ok()? as usize;
            let start = data.len() - rest.len();
            rest = rest.get(len..)?;
            Some((start as u32, (start + len) as u32))
        })
        .collect()
}
