//! The operations on sessions' views: written in the order they come, read by
//! session.
//!
//! A page for each session in each commit would be most of what a busy store
//! writes. So new rows go to the end of one small table, and from time to time
//! all of them move to where a session's rows are together.

use rusqlite::{Connection, Row, params};

use super::Log;
use crate::log::{Error, Position, StreamId, ViewOpRow};

/// Rows in the small table. The commit that moves them is a fraction of a millisecond
/// longer for it, and a read looks at all of them.
const RECENT_MAX: usize = 256;

/// A [`ViewOpRow`] as it is read back.
#[derive(Clone, Debug, PartialEq)]
pub struct PastOpRow {
    pub at_position: Position,
    pub at_seq: u64,
    pub kind: u8,
    pub stream: StreamId,
    pub from_seq: u64,
    pub to_seq: u64,
    /// Of its stream; 0 where nothing is known of the job any more.
    pub end_position: Option<Position>,
}

impl Log {
    /// All of a session's, in their order.
    pub async fn view_ops(&self, session_id: &str) -> Result<Vec<PastOpRow>, Error> {
        let id = session_id.to_owned();
        self.read(move |connection| {
            // None moves from one table to the other between the two looks.
            let _snapshot = connection.unchecked_transaction()?;
            let mut ops = Vec::new();
            for table in ["view_op", "view_op_recent"] {
                let mut statement = connection.prepare_cached(&past_ops(table))?;
                let rows = statement.query_map(params![id], past_op_from_row)?;
                for row in rows {
                    ops.push(row?);
                }
            }
            Ok(ops)
        })
        .await
    }
}

/// A stream that is no job's is the session's own, or of a job that is forgotten.
fn past_ops(table: &str) -> String {
    format!(
        "SELECT at_position, at_seq, kind, op.stream, from_seq, to_seq, CASE
           WHEN job.stream IS NOT NULL THEN end_position
           WHEN op.stream IN (SELECT stream FROM session WHERE id = ?1) THEN NULL
           ELSE 0 END
         FROM {table} AS op LEFT JOIN job ON job.stream = op.stream
         WHERE op.session_id = ?1 ORDER BY op_no"
    )
}

fn past_op_from_row(row: &Row<'_>) -> rusqlite::Result<PastOpRow> {
    Ok(PastOpRow {
        at_position: row.get(0)?,
        at_seq: row.get::<_, i64>(1)? as u64,
        kind: row.get(2)?,
        stream: row.get(3)?,
        from_seq: row.get::<_, i64>(4)? as u64,
        to_seq: row.get::<_, i64>(5)? as u64,
        end_position: row.get(6)?,
    })
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
        let a = log.view_ops("a").await.unwrap();
        let streams: Vec<_> = a.iter().map(|op| op.stream).collect();
        assert_eq!(streams, (0..=RECENT_MAX as i64).collect::<Vec<_>>());
        let forgotten = a.iter().all(|op| op.end_position == Some(0));
        assert!(forgotten, "nothing is known of them");
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
