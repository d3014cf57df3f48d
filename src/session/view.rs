//! A session's numbering as a function of the log (pure).
//!
//! The view is a list of operations, each at a cursor. Between two operations
//! the session sees every record of the streams it watches, in log order:
//!
//! ```text
//!  op 0          op 1 (history of j: n records)      op 2
//!   │ at S0, P0   │ at S1, P1: S1 … S1+n-1 are        │ at S2, P2
//!   │             │ history, then live from P1        │
//! ──┴─── live ────┴── history ──┴──── live ───────────┴───▶ event_seq
//! ```
//! Nothing is stored per event, so replay after a crash gives the same numbers.

use std::collections::BTreeMap;

use crate::log::{PastOpRow, Position, StreamId, ViewOpRow, Watched};

/// Everything at or below `position` has been numbered; `next_seq` is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub position: Position,
    pub next_seq: u64,
}

impl Cursor {
    pub const START: Cursor = Cursor {
        position: 0,
        next_seq: 1,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sees records of the stream after `after_seq`.
    Watch {
        stream: StreamId,
        after_seq: u64,
    },
    Unwatch {
        stream: StreamId,
    },
    /// Sees records `after_seq < seq <= to_seq` once, here.
    History {
        stream: StreamId,
        after_seq: u64,
        to_seq: u64,
    },
}

impl Change {
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Watch { stream, .. }
            | Self::Unwatch { stream }
            | Self::History { stream, .. } => *stream,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub at: Cursor,
    pub change: Change,
}

// Kept stable: these numbers are on disk.
const WATCH: u8 = 1;
const UNWATCH: u8 = 2;
const HISTORY: u8 = 3;

impl Op {
    pub fn to_row(self, session_id: &str, op_no: u32) -> ViewOpRow {
        let (kind, stream, from_seq, to_seq) = match self.change {
            Change::Watch { stream, after_seq } => (WATCH, stream, after_seq, 0),
            Change::Unwatch { stream } => (UNWATCH, stream, 0, 0),
            Change::History {
                stream,
                after_seq,
                to_seq,
            } => (HISTORY, stream, after_seq, to_seq),
        };
        ViewOpRow {
            session_id: session_id.into(),
            op_no,
            at_position: self.at.position,
            at_seq: self.at.next_seq,
            kind,
            stream,
            from_seq,
            to_seq,
        }
    }

    /// Records that it numbers itself.
    fn numbered(&self) -> u64 {
        match self.change {
            Change::History {
                after_seq, to_seq, ..
            } => to_seq.saturating_sub(after_seq),
            Change::Watch { .. } | Change::Unwatch { .. } => 0,
        }
    }

    /// Where the live part after this operation starts.
    fn after(&self) -> Cursor {
        Cursor {
            position: self.at.position,
            next_seq: self.at.next_seq + self.numbered(),
        }
    }
}

/// An operation as it is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastOp {
    pub op: Op,
    /// The last record of its stream, where that has ended.
    pub end: Option<Position>,
}

impl PastOp {
    /// `None` for a kind a younger version wrote.
    pub fn from_row(row: &PastOpRow) -> Option<Self> {
        let change = match row.kind {
            WATCH => Change::Watch {
                stream: row.stream,
                after_seq: row.from_seq,
            },
            UNWATCH => Change::Unwatch { stream: row.stream },
            HISTORY => Change::History {
                stream: row.stream,
                after_seq: row.from_seq,
                to_seq: row.to_seq,
            },
            _ => return None,
        };
        let at = Cursor {
            position: row.at_position,
            next_seq: row.at_seq,
        };
        Some(Self {
            op: Op { at, change },
            end: row.end_position,
        })
    }

    /// Nothing is known of its stream any more, not even where that ended.
    fn is_forgotten(&self) -> bool {
        self.end == Some(0)
    }

    /// It ends a watch of what had ended by itself.
    fn is_mark(&self) -> bool {
        let has_ended = |end| end <= self.op.at.position;
        matches!(self.op.change, Change::Unwatch { .. })
            && self.end.is_some_and(has_ended)
            && !self.is_forgotten()
    }
}

/// The streams watched after some operations.
pub type Watches = BTreeMap<StreamId, Watched>;

/// Where a watch begins.
#[derive(Clone, Copy)]
struct Begun {
    after_seq: u64,
    /// Numbers that were given by then, but for those of histories.
    live: u64,
}

fn apply(watches: &mut BTreeMap<StreamId, Begun>, change: Change, live: u64) {
    match change {
        Change::Watch { stream, after_seq } => {
            watches.entry(stream).or_insert(Begun { after_seq, live });
        }
        Change::Unwatch { stream } => {
            watches.remove(&stream);
        }
        Change::History { .. } => {}
    }
}

/// Where to take a session up again after `last_event_seq`.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// The watches in force at the cursor, of streams that have something after it.
    pub watches: Watches,
    pub cursor: Cursor,
    /// Operations still ahead of the cursor, in order.
    pub ahead: Vec<Op>,
}

/// Finds the last operation at or before the number the client has next.
pub fn plan(ops: &[PastOp], last_event_seq: u64) -> Plan {
    let (taken, ahead) = split(ops, last_event_seq);
    Plan {
        ahead: ahead.iter().map(|past| past.op).collect(),
        ..after(taken)
    }
}

fn split(ops: &[PastOp], last_event_seq: u64) -> (&[PastOp], &[PastOp]) {
    let next = last_event_seq.saturating_add(1);
    ops.split_at(ops.partition_point(|past| past.op.after().next_seq <= next))
}

/// Whether something that comes after a number is forgotten.
pub fn is_lost(ops: &[PastOp], last_event_seq: u64) -> bool {
    let (taken, ahead) = split(ops, last_event_seq);
    ahead.iter().any(|past| match past.op.change {
        _ if !past.is_forgotten() => false,
        // It ended between.
        Change::Unwatch { stream } => watched_after(taken, stream).is_some(),
        Change::Watch { .. } | Change::History { .. } => true,
    })
}

/// The view right after the last of some operations. What a session has ever watched may be
/// a hundred times what it watches.
pub fn after(ops: &[PastOp]) -> Plan {
    let cursor = ops.last().map_or(Cursor::START, |past| past.op.after());
    let has_ended = |past: &PastOp| past.end.is_some_and(|end| end <= cursor.position);
    let (mut begun, mut numbered) = (BTreeMap::new(), 0);
    for past in ops {
        if !has_ended(past) {
            let live = past.op.at.next_seq.wrapping_sub(numbered);
            apply(&mut begun, past.op.change, live);
        }
        numbered += past.op.numbered();
    }
    let live = cursor.next_seq.wrapping_sub(numbered);
    let watched = |(stream, begun): (StreamId, Begun)| {
        let watched = Watched {
            stream,
            after_seq: begun.after_seq,
            is_at_start: begun.live == live,
        };
        (stream, watched)
    };
    Plan {
        watches: begun.into_iter().map(watched).collect(),
        cursor,
        ahead: Vec::new(),
    }
}

/// Where the watch of a stream begins that is in force after some operations, or was when
/// the stream ended.
pub fn watched_after(ops: &[PastOp], stream: StreamId) -> Option<u64> {
    let mut watches = BTreeMap::new();
    let of_stream = ops.iter().filter(|past| past.op.change.stream() == stream);
    for past in of_stream.filter(|past| !past.is_mark()) {
        apply(&mut watches, past.op.change, 0);
    }
    watches.get(&stream).map(|begun| begun.after_seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn watch(stream: StreamId, after_seq: u64) -> Change {
        Change::Watch { stream, after_seq }
    }

    const fn history(stream: StreamId, after_seq: u64, to_seq: u64) -> Change {
        Change::History {
            stream,
            after_seq,
            to_seq,
        }
    }

    fn past(position: Position, next_seq: u64, change: Change) -> PastOp {
        let at = Cursor { position, next_seq };
        PastOp {
            op: Op { at, change },
            end: None,
        }
    }

    fn from(stream: StreamId, after_seq: u64, is_at_start: bool) -> (StreamId, Watched) {
        let watched = Watched {
            stream,
            after_seq,
            is_at_start,
        };
        (stream, watched)
    }

    #[test]
    fn a_resume_starts_at_the_last_operation_the_client_is_past() {
        let ops = [
            past(0, 1, watch(1, 0)),
            past(10, 5, history(2, 0, 3)),
            past(10, 8, watch(2, 3)),
            past(20, 9, Change::Unwatch { stream: 1 }),
        ];
        let start = plan(&ops, 0);
        assert_eq!((start.cursor, start.ahead.len()), (Cursor::START, 3));
        // In the middle of the history: it is replayed from its start and skipped over.
        let middle = plan(&ops, 5);
        assert_eq!((middle.cursor, middle.ahead.len()), (Cursor::START, 3));
        let behind = plan(&ops, 7);
        let (position, next_seq) = (10, 8);
        assert_eq!(behind.cursor, Cursor { position, next_seq });
        assert_eq!(
            behind.watches,
            Watches::from([from(1, 0, false), from(2, 3, true)])
        );
        let end = plan(&ops, 100);
        assert_eq!(end.watches, Watches::from([from(2, 3, false)]));
        assert_eq!(end.ahead.len(), 0);
    }

    /// Once its records are gone, how far a stream was is known where nothing was numbered
    /// since its watch began: jobs that were submitted together have it so.
    #[test]
    fn a_watch_is_at_its_start_until_something_is_numbered() {
        let ops = [
            past(10, 1, watch(1, 0)),
            past(20, 1, history(9, 0, 4)),
            past(30, 5, watch(2, 0)),
        ];
        let both = Watches::from([from(1, 0, true), from(2, 0, true)]);
        assert_eq!(after(&ops).watches, both);
        let later = [&ops[..], &[past(40, 6, watch(3, 0))]].concat();
        let all = [from(1, 0, false), from(2, 0, false), from(3, 0, true)];
        assert_eq!(after(&later).watches, Watches::from(all));
    }

    /// A resume pinned all that its session ever had, a gigabyte of 300,000 jobs, and a list
    /// of 100 jobs looked at all of them for each.
    #[test]
    fn what_has_ended_before_is_not_followed_and_is_found_where_it_is_asked_for() {
        let ended = |stream: i64| PastOp {
            end: Some(10 * stream + 5),
            ..past(10 * stream, stream as u64, watch(stream, 0))
        };
        let ops: Vec<_> = (1..=1_000).map(ended).collect();
        let end = after(&ops);
        assert_eq!(end.watches, Watches::from([from(1_000, 0, true)]));
        // At the record itself it is behind; one before there is still something to come.
        let next = |position| [&ops[..3], &[past(position, 4, watch(9, 0))]].concat();
        assert_eq!(after(&next(35)).watches, Watches::from([from(9, 0, true)]));
        let both = [from(3, 0, false), from(9, 0, true)];
        assert_eq!(after(&next(34)).watches, Watches::from(both));
        assert_eq!(watched_after(&ops, 7), Some(0));
        assert_eq!(watched_after(&ops[..6], 7), None);
    }

    /// An observer who had all of it got all of it again.
    #[test]
    fn a_mark_does_not_end_a_watch_that_had_ended_by_itself() {
        let of = |end, position, change| PastOp {
            end,
            ..past(position, 1, change)
        };
        let unwatch = Change::Unwatch { stream: 1 };
        let unwatched_at = |position| {
            [
                of(Some(20), 0, watch(1, 0)),
                of(Some(20), position, unwatch),
            ]
        };
        assert_eq!(watched_after(&unwatched_at(20), 1), Some(0));
        assert_eq!(
            watched_after(&unwatched_at(19), 1),
            None,
            "nobody saw its end"
        );
    }

    /// Where it ended is not known, and what came after it was given its numbers.
    #[test]
    fn what_is_forgotten_and_was_not_over_is_missed() {
        let of = |end, next_seq, change| PastOp {
            end,
            ..past(10, next_seq, change)
        };
        let unwatch = Change::Unwatch { stream: 1 };
        let ops = [
            of(Some(0), 1, watch(1, 0)),
            of(None, 1, watch(2, 0)),
            of(Some(0), 9, unwatch),
            of(Some(0), 12, watch(3, 0)),
        ];
        assert!(is_lost(&ops, 7), "one ended between");
        assert!(is_lost(&ops, 8), "one is to come");
        assert!(!is_lost(&ops, 11));
        assert!(!is_lost(&ops[..3], 8));
        assert!(!is_lost(&ops[..2], 3), "it was over, as far as is known");
    }

    #[test]
    fn operations_survive_the_disk() {
        for change in [watch(3, 4), Change::Unwatch { stream: 3 }, history(3, 1, 9)] {
            let past = past(7, 8, change);
            let row = past.op.to_row("sess_x", 0);
            let row = PastOpRow {
                at_position: row.at_position,
                at_seq: row.at_seq,
                kind: row.kind,
                stream: row.stream,
                from_seq: row.from_seq,
                to_seq: row.to_seq,
                end_position: None,
            };
            assert_eq!(PastOp::from_row(&row), Some(past));
        }
    }
}
