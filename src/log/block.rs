//! Consecutive records of one stream, committed together.

use std::sync::OnceLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// There may be something in it that a trace shows.
    pub traced: bool,
    /// Start and end of each record in `data`, found by the first reader.
    bounds: OnceLock<Box<[(u32, u32)]>>,
    json: OnceLock<JsonTails>,
}

/// A block not yet committed. One without records moves only the mark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingBlock {
    pub stream: StreamId,
    pub first_seq: u64,
    pub count: u32,
    pub data: Bytes,
    pub terminal: Option<JobEnd>,
    /// How far an agent host's reports are in the log with this block.
    pub mark: Option<ReportMark>,
    /// What the job has spent with this block; as [`super::GrantRow::spent_json`].
    pub spent_json: Option<String>,
    /// There is something in it that a trace shows.
    pub traced: bool,
    /// Its job's, when its writer took the job up: see [`super::Log::epoch`].
    #[serde(default)]
    pub epoch: u64,
}

/// How far the reports of a job's activation are in the log, and what the next
/// report goes on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportMark {
    /// The last report that has been applied.
    pub seq: u64,
    pub result: ResultMark,
    /// The last checkpoint, when there is a new one.
    pub checkpoint: Option<Bytes>,
}

/// How much of a chunked result is in the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultMark {
    /// Empty before the first chunk.
    pub result_id: String,
    pub is_text: bool,
    pub chunks: u64,
    /// Decoded.
    pub bytes: u64,
}

/// How a job ended; written with the block that says so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobEnd {
    pub status: String,
    pub ended_at_ms: i64,
}

/// Something that has records for the writer. One take is one block.
pub trait BlockSource: Send + Sync {
    fn take(&self) -> Option<PendingBlock>;

    /// Reports up to here are durable.
    fn committed(&self, _report_seq: u64) {}

    /// A block with reports does not count: another replica has the job.
    fn left_out(&self) {}
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
            traced: true,
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
