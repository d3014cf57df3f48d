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

use crate::log::{PastOpRow, Position, StreamId, ViewOpRow};

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

    /// Where the live part after this operation starts.
    fn after(&self) -> Cursor {
        let numbered = match self.change {
            Change::History {
                after_seq, to_seq, ..
            } => to_seq.saturating_sub(after_seq),
            Change::Watch { .. } | Change::Unwatch { .. } => 0,
        };
        Cursor {
            position: self.at.position,
            next_seq: self.at.next_seq + numbered,
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
}

/// The streams watched after some operations, with where each watch begins.
pub type Watches = BTreeMap<StreamId, u64>;

fn apply(watches: &mut Watches, change: Change) {
    match change {
        Change::Watch { stream, after_seq } => {
            watches.entry(stream).or_insert(after_seq);
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
    let next = last_event_seq.saturating_add(1);
    let taken = ops.partition_point(|past| past.op.after().next_seq <= next);
    Plan {
        ahead: ops[taken..].iter().map(|past| past.op).collect(),
        ..after(&ops[..taken])
    }
}

/// The view right after the last of some operations. What a session has ever watched may be
/// a hundred times what it watches.
pub fn after(ops: &[PastOp]) -> Plan {
    let cursor = ops.last().map_or(Cursor::START, |past| past.op.after());
    let mut watches = Watches::new();
    let has_ended = |past: &PastOp| past.end.is_some_and(|end| end <= cursor.position);
    for past in ops.iter().filter(|past| !has_ended(past)) {
        apply(&mut watches, past.op.change);
    }
    Plan {
        watches,
        cursor,
        ahead: Vec::new(),
    }
}

/// Where the watch of a stream begins that is in force after some operations.
pub fn watched_after(ops: &[PastOp], stream: StreamId) -> Option<u64> {
    let mut watches = Watches::new();
    let of_stream = ops.iter().filter(|past| past.op.change.stream() == stream);
    of_stream.for_each(|past| apply(&mut watches, past.op.change));
    watches.get(&stream).copied()
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
        assert_eq!(behind.watches, Watches::from([(1, 0), (2, 3)]));
        let end = plan(&ops, 100);
        assert_eq!((end.watches, end.ahead.len()), (Watches::from([(2, 3)]), 0));
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
        assert_eq!(end.watches, Watches::from([(1_000, 0)]));
        // At the record itself it is behind; one before there is still something to come.
        let next = |position| [&ops[..3], &[past(position, 4, watch(9, 0))]].concat();
        assert_eq!(after(&next(35)).watches, Watches::from([(9, 0)]));
        assert_eq!(after(&next(34)).watches, Watches::from([(3, 0), (9, 0)]));
        assert_eq!(watched_after(&ops, 7), Some(0));
        assert_eq!(watched_after(&ops[..6], 7), None);
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
