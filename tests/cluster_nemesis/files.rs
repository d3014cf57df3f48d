//! What the replicas' files have, read beside the replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};
use serde_json::Value;

use crate::checker::{Block, Change, ViewOp};
use crate::work::thousandths;

/// Tables, each with one of its columns.
pub type Columns = BTreeSet<(String, String)>;

/// Of a file at one moment.
pub struct File {
    connection: Connection,
    /// Of the last entry of the stream that it has.
    pub sequence: i64,
}

/// A job's row.
pub struct Job {
    pub id: String,
    pub stream: i64,
    pub session: String,
    pub key: Option<String>,
    pub parent: Option<String>,
    pub lease: Value,
    /// In thousandths.
    pub spent: i64,
    pub last_seq: u64,
    /// Of its end: the position in the log, and the time in milliseconds.
    pub ended: Option<(i64, i64)>,
}

impl File {
    pub fn read(path: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(path, flags).expect("a replica's file");
        // One moment for all that is read from now on.
        connection.execute_batch("BEGIN").expect("a transaction");
        let sequence = "SELECT sequence FROM replicated";
        let sequence = connection.query_row(sequence, [], |row| row.get(0));
        Self {
            connection,
            sequence: sequence.expect("a replica's file"),
        }
    }

    pub fn unfinished(&self) -> Vec<String> {
        let jobs = self.jobs().into_iter();
        let open = jobs.filter(|job| job.ended.is_none());
        open.map(|job| job.id).collect()
    }

    pub fn jobs(&self) -> Vec<Job> {
        let select = "SELECT id, stream, session_id, idempotency_key, parent_id, lease_json,
            spent_json, last_seq, end_position, ended_at_ms FROM job";
        let mut select = self.connection.prepare(select).unwrap();
        let rows = select.query_map([], |row| {
            let (lease, spent): (String, Option<String>) = (row.get(5)?, row.get(6)?);
            let spent = spent.as_deref().map(parsed).unwrap_or_default();
            let spent = spent["USD"].as_str().and_then(thousandths);
            let (position, at): (Option<i64>, Option<i64>) = (row.get(8)?, row.get(9)?);
            Ok(Job {
                id: row.get(0)?,
                stream: row.get(1)?,
                session: row.get(2)?,
                key: row.get(3)?,
                parent: row.get(4)?,
                lease: parsed(&lease),
                spent: spent.unwrap_or(0),
                last_seq: row.get::<_, i64>(7)? as u64,
                ended: position.zip(at),
            })
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// How many credentials are not done with.
    pub fn credentials(&self) -> i64 {
        let count = "SELECT count(*) FROM credential";
        let count = self.connection.query_row(count, [], |row| row.get(0));
        count.unwrap()
    }

    pub fn blocks(&self) -> Vec<Block> {
        let select = "SELECT position, stream, first_seq, first_seq + count - 1 FROM block ORDER BY position";
        let mut select = self.connection.prepare(select).unwrap();
        let rows = select.query_map([], |row| {
            Ok(Block {
                position: row.get(0)?,
                stream: row.get(1)?,
                first: row.get::<_, i64>(2)? as u64,
                last: row.get::<_, i64>(3)? as u64,
            })
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Of each record, by its stream and its number.
    pub fn positions(&self) -> HashMap<(i64, u64), i64> {
        let blocks = self.blocks().into_iter();
        let records = blocks.flat_map(|block| {
            let numbers = block.first..=block.last;
            numbers.map(move |seq| ((block.stream, seq), block.position))
        });
        records.collect()
    }

    pub fn view_ops(&self, session: &str) -> Vec<ViewOp> {
        let select = "SELECT at_position, at_seq, kind, stream, from_seq, to_seq FROM
            (SELECT * FROM view_op UNION ALL SELECT * FROM view_op_recent)
            WHERE session_id = ?1 ORDER BY op_no";
        let mut select = self.connection.prepare(select).unwrap();
        let rows = select.query_map(params![session], |row| {
            let (stream, after, to) = (
                row.get(3)?,
                row.get::<_, i64>(4)? as u64,
                row.get::<_, i64>(5)? as u64,
            );
            let change = match row.get(2)? {
                1 => Change::Watch { stream, after },
                2 => Change::Unwatch { stream },
                3 => Change::History { stream, after, to },
                other => panic!("a view operation of kind {other}"),
            };
            Ok(ViewOp {
                at_position: row.get(0)?,
                at_seq: row.get::<_, i64>(1)? as u64,
                change,
            })
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// The columns of every table.
    pub fn columns(&self) -> Columns {
        let select = "SELECT sqlite_schema.name, column.name FROM sqlite_schema
            JOIN pragma_table_info(sqlite_schema.name) AS column
            WHERE sqlite_schema.type = 'table'";
        let mut select = self.connection.prepare(select).unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// The rows of each of these tables as text, in an order of their own.
    pub fn tables(&self, of: &Columns) -> BTreeMap<String, Vec<String>> {
        let mut columns: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (table, column) in of {
            columns
                .entry(table)
                .or_default()
                .push(format!("\"{column}\""));
        }
        let mut tables: BTreeMap<_, _> = columns
            .into_iter()
            .map(|(table, columns)| {
                let select = format!("SELECT {} FROM \"{table}\"", columns.join(", "));
                (table.to_owned(), self.rows(&select))
            })
            .collect();
        // Which of the two has an operation is each replica's own business.
        let recent = tables.remove("view_op_recent").unwrap_or_default();
        let ops = tables.entry("view_op".into()).or_default();
        ops.extend(recent);
        tables.values_mut().for_each(|rows| rows.sort());
        tables
    }

    fn rows(&self, select: &str) -> Vec<String> {
        let mut select = self.connection.prepare(select).unwrap();
        let columns = select.column_count();
        let rows = select.query_map([], |row| {
            let cells = (0..columns).map(|index| {
                Ok(match row.get_ref(index)? {
                    ValueRef::Null => "NULL".to_owned(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(number) => number.to_string(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    ValueRef::Blob(bytes) => {
                        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
                    }
                })
            });
            let cells: Result<Vec<_>, rusqlite::Error> = cells.collect();
            Ok(cells?.join("|"))
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON in a file")
}
