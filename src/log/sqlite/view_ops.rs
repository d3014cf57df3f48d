//! The operations on sessions' views: written in the order they come, read by
//! session.
//!
//! A page for each session in each commit would be most of what a busy store
//! writes. So new rows go to the end of one small table, and from time to time
//! all of them move to where a session's rows are together.

use rusqlite::{Connection, params};

use super::Log;
use super::decode::op_from_row;
use crate::log::{Error, ViewOpRow};

/// Rows in the small table. The commit that moves them is a fraction of a millisecond
/// longer for it, and a read looks at all of them.
const RECENT_MAX: usize = 256;

impl Log {
    /// All of a session's, in their order.
    pub async fn view_ops(&self, session_id: &str) -> Result<Vec<ViewOpRow>, Error> {
        let id = session_id.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM view_op WHERE session_id = ?1
                     UNION ALL SELECT * FROM view_op_recent WHERE session_id = ?1 ORDER BY op_no",
                )?
                .query_map(params![id], op_from_row)?
                .collect()
        })
        .await
    }
}

pub(super) fn insert(connection: &Connection, op: &ViewOpRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO view_op_recent VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![
            op.session_id,
            op.op_no,
            op.at_position,
            op.at_seq as i64,
            op.kind,
            op.stream,
            op.from_seq as i64,
            op.to_seq as i64,
        ])?;
    Ok(())
}

/// Whether an operation is the next of its session's.
pub(super) fn is_next(connection: &Connection, op: &ViewOpRow) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT ?2 = coalesce(max(op_no) + 1, 0) FROM
               (SELECT op_no FROM view_op_recent WHERE session_id = ?1
                UNION ALL SELECT max(op_no) FROM view_op WHERE session_id = ?1)",
        )?
        .query_row(params![op.session_id, op.op_no], |row| row.get(0))
}

/// Moves the recent ones when there are many.
pub(in crate::log) fn settle(connection: &Connection) -> rusqlite::Result<()> {
    // Rows are only ever added or all removed, so the last number is their count.
    let recent: Option<i64> = connection
        .prepare_cached("SELECT max(rowid) FROM view_op_recent")?
        .query_row([], |row| row.get(0))?;
    if recent.is_some_and(|count| count as usize >= RECENT_MAX) {
        move_all(connection)?;
    }
    Ok(())
}

fn move_all(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO view_op SELECT * FROM view_op_recent ORDER BY session_id, op_no",
        )?
        .execute([])?;
    connection
        .prepare_cached("DELETE FROM view_op_recent")?
        .execute([])?;
    Ok(())
}

/// Removes those of sessions parked before.
pub(super) fn forget(connection: &Connection, parked_before_ms: i64) -> rusqlite::Result<()> {
    move_all(connection)?;
    connection
        .prepare_cached(
            "DELETE FROM view_op WHERE session_id IN (SELECT id FROM session WHERE parked_at_ms < ?1)",
        )?
        .execute(params![parked_before_ms])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(session_id: &str, op_no: u32) -> ViewOpRow {
        ViewOpRow {
            session_id: session_id.into(),
            op_no,
            at_position: 1,
            at_seq: 1,
            kind: 1,
            stream: op_no.into(),
            from_seq: 0,
            to_seq: 0,
        }
    }

    #[tokio::test]
    async fn a_sessions_operations_are_read_in_order_from_both_tables() {
        let dir = tempfile::tempdir().unwrap();
        let options = crate::log::OpenOptions {
            dir: dir.path().into(),
            durability: crate::log::Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        let add = |ops| log.execute(crate::log::Command::AddViewOps(ops));
        let many = (0..RECENT_MAX as u32).flat_map(|no| [op("a", no), op("b", no)]);
        add(many.collect()).await.unwrap();
        add(vec![op("a", RECENT_MAX as u32)]).await.unwrap();
        let numbers = |ops: Vec<ViewOpRow>| ops.iter().map(|op| op.op_no).collect::<Vec<_>>();
        let a = numbers(log.view_ops("a").await.unwrap());
        assert_eq!(a, (0..=RECENT_MAX as u32).collect::<Vec<_>>());
        assert_eq!(log.view_ops("b").await.unwrap().len(), RECENT_MAX);
        let recent: i64 = log
            .read(|connection| {
                connection.query_row("SELECT count(*) FROM view_op_recent", [], |row| row.get(0))
            })
            .await
            .unwrap();
        assert_eq!(recent, 1, "the others have moved");
        tokio::task::spawn_blocking(move || log.close())
            .await
            .unwrap();
    }
}
