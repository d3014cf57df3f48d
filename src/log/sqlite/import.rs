//! A store that is brought into a cell, part by part. Nothing of it counts before its
//! end, and the end counts only where the cell is empty and nobody else is in it: so each
//! replica, whenever it reads these entries, comes to the same.

use rusqlite::{Connection, params};

use super::replicas::{self, others_are_there};
use super::tables::{self, Rows};
use super::{Log, credential};
use crate::log::rows::KNOWS_PARTS;
use crate::log::{Error, Outcome, Position, REPLICA_SHIFT, ReplicaNumber};

impl Log {
    /// Whether nothing was ever in it.
    pub async fn is_unused(&self) -> Result<bool, Error> {
        self.read(tables::is_empty).await
    }
}

/// The first part of an import takes the place of one that was not ended. A store that is
/// in use keeps none: who imports beside another would leave them there for ever.
pub(super) fn part(
    connection: &Connection,
    import: &str,
    number: u32,
    rows: &[u8],
) -> rusqlite::Result<()> {
    if replicas::all_know(connection, KNOWS_PARTS)? && !tables::is_empty(connection)? {
        return Ok(());
    }
    if number == 0 {
        connection.execute(
            "DELETE FROM import_part WHERE import <> ?1",
            params![import],
        )?;
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO import_part VALUES (?1, ?2, ?3)")?
        .execute(params![import, number, rows])
        .map(drop)
}

/// All parts become the store; the importer has what runs in it, to be inherited from it.
pub(super) fn end(
    connection: &Connection,
    importer: ReplicaNumber,
    import: &str,
    parts: u32,
) -> rusqlite::Result<Outcome> {
    let there: u32 = connection.query_row(
        "SELECT count(*) FROM import_part WHERE import = ?1",
        params![import],
        |row| row.get(0),
    )?;
    let fits =
        there == parts && tables::is_empty(connection)? && !others_are_there(connection, importer)?;
    if fits {
        tables::clear_beginnings(connection)?;
        let mut found =
            connection.prepare("SELECT rows FROM import_part WHERE import = ?1 ORDER BY number")?;
        let mut found = found.query(params![import])?;
        while let Some(row) = found.next()? {
            let rows = Rows::decode(row.get_ref(0)?.as_blob()?).map_err(unreadable)?;
            rows.check(connection)?.map_err(unreadable)?;
            rows.insert(connection)?;
        }
        own(connection, importer)?;
    }
    connection.execute("DELETE FROM import_part", [])?;
    Ok(match fits {
        true => Outcome::Done,
        false => Outcome::Stale,
    })
}

fn own(connection: &Connection, importer: ReplicaNumber) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO owner (stream, replica) SELECT stream, ?1 FROM session
         UNION SELECT stream, ?1 FROM job WHERE end_position IS NULL",
        params![importer],
    )?;
    credential::keep_all(connection, importer)?;
    // A replica numbers its streams by its own number, and none may be there already.
    connection
        .execute(
            "UPDATE sqlite_sequence SET seq = max(seq, (SELECT max(
                 coalesce((SELECT max(stream) FROM job), 0),
                 coalesce((SELECT max(stream) FROM session), 0), stream) FROM high_water) >> ?1)
             WHERE name = 'replica'",
            params![REPLICA_SHIFT],
        )
        .map(drop)
}

/// The last position that was imported.
pub(super) fn tail(connection: &Connection) -> rusqlite::Result<Position> {
    connection.query_row(super::schema::TAIL, [], |row| row.get(0))
}

/// What the importer could read and this arcpd cannot: it may not go on.
fn unreadable(why: String) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(why.into())
}
