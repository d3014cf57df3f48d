//! Rows of any table, as they leave a store and come into one.

use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// All that a store has, but for who has what of it in a cell.
pub(in crate::log) const TABLES: [&str; 9] = [
    "session",
    "job",
    "block",
    "view_op",
    "view_op_recent",
    "hosted_job",
    "hosted_agent",
    "credential",
    "high_water",
];

/// Rows of a table. It names its columns: one that was added since has its default.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::log) struct Rows {
    pub table: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

/// A value of SQLite's, in MessagePack's own types.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::log) struct Cell(Value);

impl Rows {
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        rmp_serde::to_vec_named(self).map_err(|error| error.to_string())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        rmp_serde::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// Why these rows cannot be put into a store of this version, if they cannot.
    pub fn check(&self, connection: &Connection) -> rusqlite::Result<Result<(), String>> {
        let table = &self.table;
        if !TABLES.contains(&table.as_str()) {
            return Ok(Err(format!("table {table:?} is not known")));
        }
        let known = columns(connection, table)?;
        let unknown = self.columns.iter().find(|column| !known.contains(column));
        if let Some(column) = unknown {
            return Ok(Err(format!("column {column:?} of {table} is not known")));
        }
        let width = self.columns.len();
        Ok(match self.rows.iter().all(|row| row.len() == width) {
            true => Ok(()),
            false => Err(format!("a row of {table} has not {width} values")),
        })
    }

    /// Puts checked rows in.
    pub fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let columns = self.columns.join(", ");
        let values = vec!["?"; self.columns.len()].join(", ");
        let sql = format!("INSERT INTO {} ({columns}) VALUES ({values})", self.table);
        let mut insert = connection.prepare_cached(&sql)?;
        for row in &self.rows {
            insert.execute(params_from_iter(row))?;
        }
        Ok(())
    }
}

/// Goes through all rows of all tables, some at a time: about as many bytes, or one row.
pub(in crate::log) fn read_all<E: From<rusqlite::Error>>(
    connection: &Connection,
    bytes_max: usize,
    mut each: impl FnMut(Rows) -> Result<(), E>,
) -> Result<(), E> {
    for table in TABLES {
        let columns = columns(connection, table)?;
        let empty = || Rows {
            table: table.to_owned(),
            columns: columns.clone(),
            rows: Vec::new(),
        };
        let mut select = connection.prepare(&format!("SELECT * FROM {table}"))?;
        let mut found = select.query([])?;
        let (mut rows, mut bytes) = (empty(), 0);
        while let Some(row) = found.next()? {
            let cells = cells(row, columns.len())?;
            let more: usize = cells.iter().map(Cell::bytes).sum();
            if bytes + more > bytes_max && !rows.rows.is_empty() {
                each(std::mem::replace(&mut rows, empty()))?;
                bytes = 0;
            }
            bytes += more;
            rows.rows.push(cells);
        }
        if !rows.rows.is_empty() {
            each(rows)?;
        }
    }
    Ok(())
}

/// What a store starts with.
pub(in crate::log) fn clear_beginnings(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM high_water", []).map(drop)
}

/// Nothing was ever in it.
pub(in crate::log) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    for table in TABLES {
        let used = match table {
            "high_water" => "SELECT EXISTS (SELECT 1 FROM high_water WHERE position + stream > 0)",
            _ => &format!("SELECT EXISTS (SELECT 1 FROM {table})"),
        };
        if connection.query_row(used, [], |row| row.get(0))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT name FROM pragma_table_info(?1)")?
        .query_map([table], |row| row.get(0))?
        .collect()
}

fn cells(row: &Row<'_>, columns: usize) -> rusqlite::Result<Vec<Cell>> {
    (0..columns)
        .map(|index| row.get::<_, Value>(index).map(Cell))
        .collect()
}

impl Cell {
    fn bytes(&self) -> usize {
        match &self.0 {
            Value::Text(text) => text.len() + 5,
            Value::Blob(blob) => blob.len() + 5,
            Value::Null | Value::Integer(_) | Value::Real(_) => 9,
        }
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::from(&self.0)))
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Value::Null => to.serialize_unit(),
            Value::Integer(number) => to.serialize_i64(*number),
            Value::Real(number) => to.serialize_f64(*number),
            Value::Text(text) => to.serialize_str(text),
            Value::Blob(blob) => to.serialize_bytes(blob),
        }
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(CellVisitor)
    }
}

struct CellVisitor;

impl Visitor<'_> for CellVisitor {
    type Value = Cell;

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("nothing, a number, a text or bytes")
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell(Value::Null))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Cell, E> {
        Ok(Cell(Value::Integer(number)))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Cell, E> {
        let number = i64::try_from(number).map_err(E::custom)?;
        Ok(Cell(Value::Integer(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Cell, E> {
        Ok(Cell(Value::Real(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
        Ok(Cell(Value::Text(text.to_owned())))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Cell, E> {
        Ok(Cell(Value::Blob(bytes.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    /// A table that an export forgets is state that a client misses.
    #[test]
    fn every_table_is_exported_or_is_of_a_cell_only() {
        let connection = Connection::open_in_memory().unwrap();
        schema::bring_up(&connection, 0).unwrap();
        let found: Vec<String> = connection
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            )
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let of_a_cell = ["replica", "owner", "replicated", "import_part", "host_dial"];
        // Of a moment that is over by the time of an import.
        let left_out = of_a_cell.into_iter().chain(["given_token"]);
        let left_out: Vec<_> = left_out.collect();
        for table in found {
            let table = table.as_str();
            assert!(
                TABLES.contains(&table) != left_out.contains(&table),
                "{table}"
            );
        }
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let rows = Rows {
            table: "job".into(),
            columns: ["a", "b", "c", "d", "e"].map(String::from).into(),
            rows: vec![vec![
                Cell(Value::Null),
                Cell(Value::Integer(-7)),
                Cell(Value::Text("ü".into())),
                Cell(Value::Blob(vec![0, 255])),
                Cell(Value::Integer(i64::MAX)),
            ]],
        };
        let read = Rows::decode(&rows.encode().unwrap()).unwrap();
        assert_eq!(read.rows, rows.rows);
        let connection = Connection::open_in_memory().unwrap();
        schema::bring_up(&connection, 0).unwrap();
        assert!(
            read.check(&connection)
                .unwrap()
                .unwrap_err()
                .contains("\"a\"")
        );
    }
}
