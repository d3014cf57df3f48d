//! Blocks of several streams in log order.
//!
//! Where they are is found first and only what is returned is loaded: of 1,000
//! streams that each have a block, one read returns a few.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::Log;
use super::reader::block_start;
use crate::log::{Block, Error, Position, StreamId};

/// What is looked for of each of many streams, whatever is left of it in the end.
const SHARE_BYTES_MIN: usize = 16 * 1024;
/// Rows of a scan that cost about as much as one stream's seek.
const ROWS_PER_SEEK: usize = 4;

/// A block whose data is still in the file.
struct Place {
    position: Position,
    stream: StreamId,
    first_seq: u64,
    count: u32,
    terminal: bool,
    bytes: usize,
}

/// What a read asks for: `after < position <= up_to`, about `bytes_max`.
#[derive(Clone, Copy)]
struct Range {
    after: Position,
    up_to: Position,
    bytes_max: usize,
}

impl Log {
    /// Blocks of several streams in log order, `after < position <= up_to`, about
    /// `bytes_max` of them all;
    /// those wholly at or below a stream's `after_seq` are left out. Empty
    /// means that there are none up to `up_to`.
    pub async fn read_merged(
        &self,
        streams: &HashMap<StreamId, u64>,
        after: Position,
        up_to: Position,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Block>>, Error> {
        let recent = &self.shared.state.recent;
        if let Some(blocks) = recent.read(streams, after, up_to, bytes_max) {
            return Ok(blocks);
        }
        let range = Range {
            after,
            up_to,
            bytes_max,
        };
        let streams = streams.clone();
        self.read(move |connection| {
            // Retention removes nothing between the two looks.
            let _snapshot = connection.unchecked_transaction()?;
            let places = match scan(connection, &streams, range)? {
                Some(places) => places,
                None => seek(connection, &streams, range)?,
            };
            let blocks = places.into_iter().map(|place| place.load(connection));
            blocks.collect()
        })
        .await
    }
}

/// Reads on in the log as long as that is cheaper than a seek in each stream;
/// `None` when others' blocks are in between.
fn scan(
    connection: &Connection,
    streams: &HashMap<StreamId, u64>,
    range: Range,
) -> rusqlite::Result<Option<Vec<Place>>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, stream, first_seq, count, terminal, length(data) FROM block
         WHERE position > ?1 AND position <= ?2 ORDER BY position",
    )?;
    let mut rows = statement.query(params![range.after, range.up_to])?;
    let (mut places, mut bytes) = (Vec::new(), 0);
    for _ in 0..streams.len() * ROWS_PER_SEEK {
        let Some(row) = rows.next()? else {
            return Ok(Some(places));
        };
        let place = Place::from_row(row)?;
        let wanted = streams.get(&place.stream);
        if wanted.is_none_or(|after_seq| place.last_seq() <= *after_seq) {
            continue;
        }
        bytes += place.bytes;
        places.push(place);
        if bytes >= range.bytes_max {
            return Ok(Some(places));
        }
    }
    Ok(None)
}

fn seek(
    connection: &Connection,
    streams: &HashMap<StreamId, u64>,
    range: Range,
) -> rusqlite::Result<Vec<Place>> {
    let share = (range.bytes_max / streams.len().max(1)).max(SHARE_BYTES_MIN);
    let mut merged = Vec::new();
    // Past where one stream's part was cut the order of all is not known.
    let mut complete_to = range.up_to;
    let mut statement = connection.prepare_cached(
        "SELECT position, stream, first_seq, count, terminal, length(data) FROM block
         WHERE stream = ?1 AND first_seq >= ?2 AND position > ?3 AND position <= ?4
         ORDER BY first_seq",
    )?;
    for (stream, after_seq) in streams {
        let start = block_start(connection, *stream, after_seq + 1)?;
        let mut rows = statement.query(params![stream, start, range.after, range.up_to])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let place = Place::from_row(row)?;
            bytes += place.bytes;
            let position = place.position;
            merged.push(place);
            if bytes >= share {
                complete_to = complete_to.min(position);
                break;
            }
        }
    }
    merged.retain(|place| place.position <= complete_to);
    merged.sort_unstable_by_key(|place| place.position);
    let mut bytes = 0;
    merged.retain(|place| {
        let more = bytes < range.bytes_max;
        bytes += place.bytes;
        more
    });
    Ok(merged)
}

// === impl Place ===

impl Place {
    fn from_row(row: &rusqlite::Row) -> rusqlite::Result<Self> {
        let (first_seq, bytes): (i64, i64) = (row.get(2)?, row.get(5)?);
        Ok(Self {
            position: row.get(0)?,
            stream: row.get(1)?,
            first_seq: first_seq as u64,
            count: row.get(3)?,
            terminal: row.get(4)?,
            bytes: bytes as usize,
        })
    }

    fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }

    fn load(self, connection: &Connection) -> rusqlite::Result<Arc<Block>> {
        let data: Vec<u8> = connection
            .prepare_cached("SELECT data FROM block WHERE position = ?1")?
            .query_row(params![self.position], |row| row.get(0))?;
        Ok(Arc::new(Block::new(
            self.position,
            self.stream,
            self.first_seq,
            self.count,
            Bytes::from(data),
            self.terminal,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    /// Blocks of one record, by position from 1: a stream and how many bytes.
    fn log(blocks: &[(StreamId, usize)]) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        schema::bring_up(&connection, 0).unwrap();
        let mut seqs = HashMap::new();
        for (index, (stream, bytes)) in blocks.iter().enumerate() {
            let seq: &mut i64 = seqs.entry(*stream).or_default();
            *seq += 1;
            let values = params![index as i64 + 1, stream, *seq, vec![0u8; *bytes]];
            let insert = "INSERT INTO block (position, stream, first_seq, count, terminal, data)
                VALUES (?1, ?2, ?3, 1, 0, ?4)";
            connection.execute(insert, values).unwrap();
        }
        connection
    }

    fn positions(places: &[Place]) -> Vec<Position> {
        places.iter().map(|place| place.position).collect()
    }

    fn range(after: Position, up_to: Position, bytes_max: usize) -> Range {
        Range {
            after,
            up_to,
            bytes_max,
        }
    }

    #[test]
    fn a_scan_and_a_seek_find_the_same() {
        let blocks: Vec<_> = (0..60).map(|index| (index % 7, 5_000)).collect();
        let connection = log(&blocks);
        // Of stream 2 the first three are known; 5 and 6 are others'.
        let streams: HashMap<_, _> = [(0, 0), (1, 0), (2, 3), (3, 0), (4, 0)].into();
        for (after, up_to, bytes_max) in
            [(0, 15, 1 << 20), (0, 60, 40_000), (9, 60, 1), (58, 60, 9)]
        {
            let range = range(after, up_to, bytes_max);
            let scanned = scan(&connection, &streams, range).unwrap().unwrap();
            let sought = seek(&connection, &streams, range).unwrap();
            assert_eq!(positions(&scanned), positions(&sought));
            assert!(!scanned.is_empty());
            assert!(
                scanned
                    .iter()
                    .all(|place| ![3, 10, 17].contains(&place.position))
            );
        }
    }

    #[test]
    fn a_scan_gives_up_among_the_blocks_of_others() {
        let mut blocks = vec![(9, 10); 20];
        blocks.push((1, 10));
        let connection = log(&blocks);
        let (streams, range) = ([(1, 0), (2, 0)].into(), range(0, 21, 100));
        assert!(scan(&connection, &streams, range).unwrap().is_none());
        let sought = seek(&connection, &streams, range).unwrap();
        assert_eq!(positions(&sought), [21]);
        let block = sought.into_iter().next().unwrap().load(&connection);
        assert_eq!(block.unwrap().data.len(), 10);
    }
}
