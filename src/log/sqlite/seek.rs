//! Finding a place in the log without reading the records before it.
//!
//! Positions of one stream grow with its numbers, and the index of
//! `(stream, first_seq)` carries the position, so a place by position is found
//! by halving over numbers: a few index probes, whatever the stream's length.

use rusqlite::{Connection, OptionalExtension, params};

use super::Log;
use crate::log::{Error, Position, StreamId};

/// A stream that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    pub stream: StreamId,
    pub after_seq: u64,
    /// None of its records were passed since.
    pub is_at_start: bool,
}

/// A place that several streams have reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reached {
    pub position: Position,
    /// Records passed on the way.
    pub records: u64,
    /// The last record of each stream at or below the position; those of ended
    /// streams that are wholly below are left out.
    pub streams: Vec<(StreamId, u64)>,
    /// A stream is no longer kept that is not wholly at or below the position, or of which
    /// some records were passed on the way, and nobody knows how many: it is not known what
    /// is there.
    pub trimmed: bool,
}

impl Log {
    /// The last record of a stream at or below a position; 0 when there is none.
    pub async fn seq_at(&self, stream: StreamId, position: Position) -> Result<u64, Error> {
        self.read(move |connection| seq_at(connection, stream, position))
            .await
    }

    /// Records of `streams`, each after its number, in `after < position <= at`. `None` where
    /// what was removed leaves that open.
    pub async fn count_to(
        &self,
        streams: Vec<Watched>,
        after: Position,
        at: Position,
    ) -> Result<Option<u64>, Error> {
        self.read(move |connection| {
            let reached = Span::new(connection, streams, after)?.count_to(at)?;
            Ok((!reached.trimmed).then_some(reached.records))
        })
        .await
    }

    /// The farthest place up to `up_to` that at most `records` records of the
    /// streams lie before.
    pub async fn skip(
        &self,
        streams: Vec<Watched>,
        after: Position,
        records: u64,
        up_to: Position,
    ) -> Result<Reached, Error> {
        self.read(move |connection| Span::new(connection, streams, after)?.skip(records, up_to))
            .await
    }
}

/// Streams followed from a place on.
struct Span<'a> {
    connection: &'a Connection,
    after: Position,
    streams: Vec<Followed>,
}

struct Followed {
    stream: StreamId,
    /// Its last record at or below the start of the span.
    from_seq: u64,
    end: Option<(Position, u64)>,
    trimmed: bool,
    /// Where it is at the start of the span.
    is_known: bool,
}

impl<'a> Span<'a> {
    fn new(
        connection: &'a Connection,
        streams: Vec<Watched>,
        after: Position,
    ) -> rusqlite::Result<Self> {
        let mut followed = Vec::new();
        for watched in streams {
            let stream = watched.stream;
            let row: Option<(Option<Position>, i64, bool)> = connection
                .prepare_cached(
                    "SELECT end_position, last_seq, trimmed FROM job WHERE stream = ?1",
                )?
                .query_row(params![stream], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            let end = row.and_then(|(end, last, _)| end.map(|at| (at, last as u64)));
            // Ended before the span: nothing of it is ahead.
            if end.is_some_and(|(at, _)| at <= after) {
                continue;
            }
            let from_seq = seq_at(connection, stream, after)?.max(watched.after_seq);
            let trimmed = row.is_some_and(|(_, _, trimmed)| trimmed);
            followed.push(Followed {
                stream,
                from_seq,
                end,
                trimmed,
                is_known: !trimmed || watched.is_at_start,
            });
        }
        Ok(Self {
            connection,
            after,
            streams: followed,
        })
    }

    fn count_to(&self, at: Position) -> rusqlite::Result<Reached> {
        let mut reached = Reached {
            position: at,
            ..Reached::default()
        };
        for followed in &self.streams {
            let ended = followed.end.filter(|(end, _)| *end <= at);
            let seq = match ended {
                Some((_, last_seq)) => last_seq,
                None => seq_at(self.connection, followed.stream, at)?,
            };
            let seq = seq.max(followed.from_seq);
            reached.records += seq - followed.from_seq;
            reached.trimmed |= !followed.is_known;
            if ended.is_none() {
                reached.trimmed |= followed.trimmed;
                reached.streams.push((followed.stream, seq));
            }
        }
        Ok(reached)
    }

    fn skip(&self, records: u64, up_to: Position) -> rusqlite::Result<Reached> {
        let whole = self.count_to(up_to)?;
        if whole.records <= records {
            return Ok(whole);
        }
        // At `low` there are at most `records`, at `high` more.
        let (mut low, mut high) = (self.after, up_to);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.count_to(middle)?.records <= records {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.count_to(low)
    }
}

/// The block with the highest `first_seq <= seq`: its first number and position.
fn probe(
    connection: &Connection,
    stream: StreamId,
    seq: i64,
) -> rusqlite::Result<Option<(i64, Position)>> {
    connection
        .prepare_cached(
            "SELECT first_seq, position FROM block WHERE stream = ?1 AND first_seq <= ?2
             ORDER BY first_seq DESC LIMIT 1",
        )?
        .query_row(params![stream, seq], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

pub(super) fn seq_at(
    connection: &Connection,
    stream: StreamId,
    position: Position,
) -> rusqlite::Result<u64> {
    let Some((newest, at)) = probe(connection, stream, i64::MAX)? else {
        return Ok(0);
    };
    // The usual question is about the end.
    if at <= position {
        return last_seq(connection, at);
    }
    // `low` starts no block above the position; a block above it starts at or below `high`.
    let (mut low, mut high, mut found) = (0, newest, None);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match probe(connection, stream, middle)? {
            Some((first, at)) if at > position => high = first,
            Some((_, at)) => {
                low = middle;
                found = Some(at);
            }
            None => low = middle,
        }
    }
    found.map_or(Ok(0), |at| last_seq(connection, at))
}

fn last_seq(connection: &Connection, position: Position) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT first_seq + count - 1 FROM block WHERE position = ?1")?
        .query_row(params![position], |row| row.get::<_, i64>(0))
        .map(|seq| seq as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store(blocks: &[(StreamId, i64)]) -> (Connection, Vec<(StreamId, u64, u64)>) {
        let connection = Connection::open_in_memory().unwrap();
        super::super::schema::bring_up(&connection, 0).unwrap();
        let mut next = std::collections::HashMap::new();
        let mut model = Vec::new();
        for (index, (stream, count)) in blocks.iter().enumerate() {
            let first: &mut i64 = next.entry(*stream).or_insert(1);
            connection
                .execute(
                    "INSERT INTO block VALUES (?1, ?2, ?3, ?4, 0, x'00')",
                    params![index as i64 + 1, stream, *first, count],
                )
                .unwrap();
            *first += count;
            model.push((*stream, *count as u64, (*first - 1) as u64));
        }
        (connection, model)
    }

    proptest! {
        #[test]
        fn a_place_is_the_one_a_scan_finds(
            blocks in prop::collection::vec((1i64..4, 1i64..5), 0..40),
            position in 0i64..45,
            skip in 0u64..60,
        ) {
            let (connection, model) = store(&blocks);
            let upto = (position as usize).min(model.len());
            for stream in 1..4 {
                let scanned = model[..upto].iter().rev().find(|b| b.0 == stream).map_or(0, |b| b.2);
                prop_assert_eq!(seq_at(&connection, stream, position).unwrap(), scanned);
            }
            let from_start = |stream| Watched { stream, after_seq: 0, is_at_start: true };
            let span = Span::new(&connection, vec![from_start(1), from_start(2)], 0).unwrap();
            let reached = span.skip(skip, model.len() as i64).unwrap();
            let mut records = 0;
            for block in &model {
                let next = records + if block.0 < 3 { block.1 } else { 0 };
                if next > skip { break; }
                records = next;
            }
            prop_assert_eq!(reached.records, records);
        }
    }
}
