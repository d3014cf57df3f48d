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

use crate::log::{Position, StreamId, ViewOpRow};

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

    /// `None` for a kind a younger version wrote.
    pub fn from_row(row: &ViewOpRow) -> Option<Self> {
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
        Some(Self {
            at: Cursor {
                position: row.at_position,
                next_seq: row.at_seq,
            },
            change,
        })
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

/// The streams watched after some operations, with where each watch begins.
pub type Watches = BTreeMap<StreamId, u64>;

pub fn apply(watches: &mut Watches, change: Change) {
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
    /// The watches in force at the cursor.
    pub watches: Watches,
    pub cursor: Cursor,
    /// Operations still ahead of the cursor, in order.
    pub ahead: Vec<Op>,
}

/// Finds the last operation at or before the number the client has next.
pub fn plan(ops: &[Op], last_event_seq: u64) -> Plan {
    let next = last_event_seq.saturating_add(1);
    let taken = ops
        .iter()
        .take_while(|op| op.after().next_seq <= next)
        .count();
    Plan {
        ahead: ops[taken..].to_vec(),
        ..after(&ops[..taken])
    }
}

/// The view right after the last of some operations.
pub fn after(ops: &[Op]) -> Plan {
    let mut watches = Watches::new();
    for op in ops {
        apply(&mut watches, op.change);
    }
    Plan {
        watches,
        cursor: ops.last().map_or(Cursor::START, Op::after),
        ahead: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(position: Position, next_seq: u64, change: Change) -> Op {
        Op {
            at: Cursor { position, next_seq },
            change,
        }
    }

    #[test]
    fn a_resume_starts_at_the_last_operation_the_client_is_past() {
        let ops = [
            op(
                0,
                1,
                Change::Watch {
                    stream: 1,
                    after_seq: 0,
                },
            ),
            op(
                10,
                5,
                Change::History {
                    stream: 2,
                    after_seq: 0,
                    to_seq: 3,
                },
            ),
            op(
                10,
                8,
                Change::Watch {
                    stream: 2,
                    after_seq: 3,
                },
            ),
            op(20, 9, Change::Unwatch { stream: 1 }),
        ];
        let start = plan(&ops, 0);
        assert_eq!((start.cursor, start.ahead.len()), (Cursor::START, 3));
        // In the middle of the history: it is replayed from its start and skipped over.
        let middle = plan(&ops, 5);
        assert_eq!((middle.cursor, middle.ahead.len()), (Cursor::START, 3));
        let behind = plan(&ops, 7);
        assert_eq!(
            behind.cursor,
            Cursor {
                position: 10,
                next_seq: 8
            }
        );
        assert_eq!(behind.watches, Watches::from([(1, 0), (2, 3)]));
        let end = plan(&ops, 100);
        assert_eq!((end.watches, end.ahead.len()), (Watches::from([(2, 3)]), 0));
    }

    #[test]
    fn operations_survive_the_disk() {
        for change in [
            Change::Watch {
                stream: 3,
                after_seq: 4,
            },
            Change::Unwatch { stream: 3 },
            Change::History {
                stream: 3,
                after_seq: 1,
                to_seq: 9,
            },
        ] {
            let op = op(7, 8, change);
            assert_eq!(Op::from_row(&op.to_row("sess_x", 0)), Some(op));
        }
    }
}
