//! Which resume tokens of a session count: those that its client may have.
//!
//! A client has the last token that it was welcomed with. Which one that is, a runtime knows
//! when the token is presented or the client speaks. Until then the token before it counts,
//! as the welcome may have been lost, and so do those that were given in between: a resume
//! that its client gave up can be taken up late, and is then given one more.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Log, decode, replicas};
use crate::log::rows::KNOWS_GIVEN;
use crate::log::{Error, Outcome, SessionRow};

/// Of a session, beside the present one and the one that was presented last. So often in a
/// row would a resume have to be given up.
const GIVEN_MAX: i64 = 8;

impl Log {
    /// The session that may be resumed with the token of this hash.
    pub async fn session_by_token(&self, hash: Vec<u8>) -> Result<Option<SessionRow>, Error> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT * FROM session WHERE token_hash = ?1 OR earlier_token_hash = ?1
                       OR id = (SELECT session_id FROM given_token WHERE hash = ?1)",
                )?
                .query_row(params![hash], decode::session_from_row)
                .optional()
        })
        .await
    }
}

/// A new token for the one presented, if that counts.
pub(super) fn claim(
    connection: &Connection,
    id: &str,
    presented: &[u8],
    token: &[u8],
) -> rusqlite::Result<Outcome> {
    let tokens = connection
        .prepare_cached("SELECT token_hash, earlier_token_hash FROM session WHERE id = ?1")?
        .query_row(params![id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((present, earlier)): Option<(Vec<u8>, Option<Vec<u8>>)> = tokens else {
        return Ok(Outcome::Stale);
    };
    // The client has none from before the one it presents.
    if presented == present {
        drop_to(connection, id, i64::MAX)?;
    } else {
        match given_no(connection, id, presented)? {
            Some(no) => drop_to(connection, id, no)?,
            None if earlier.as_deref() == Some(presented) => {}
            None => return Ok(Outcome::Stale),
        }
        if replicas::all_know(connection, KNOWS_GIVEN)? {
            keep(connection, id, &present)?;
        }
    }
    connection
        .prepare_cached(
            "UPDATE session SET token_hash = ?3, earlier_token_hash = ?2, parked_at_ms = NULL
             WHERE id = ?1",
        )?
        .execute(params![id, presented, token])?;
    Ok(Outcome::Done)
}

/// The client has the present token: no other counts.
pub(super) fn confirm(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE session SET earlier_token_hash = NULL WHERE id = ?1")?
        .execute(params![id])?;
    drop_to(connection, id, i64::MAX)
}

/// With the sessions that are forgotten.
pub(super) fn forget(connection: &Connection, parked_before_ms: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM given_token
             WHERE session_id IN (SELECT id FROM session WHERE parked_at_ms < ?1)",
        )?
        .execute(params![parked_before_ms])
        .map(drop)
}

/// A replica begins. It may have read what was before as a version that keeps none: from
/// here on it has what the others have.
pub(super) fn forget_all(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM given_token", []).map(drop)
}

/// Which of those given in between a token is.
fn given_no(connection: &Connection, id: &str, hash: &[u8]) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT no FROM given_token WHERE hash = ?2 AND session_id = ?1")?
        .query_row(params![id, hash], |row| row.get(0))
        .optional()
}

fn drop_to(connection: &Connection, id: &str, no: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM given_token WHERE session_id = ?1 AND no <= ?2")?
        .execute(params![id, no])
        .map(drop)
}

fn keep(connection: &Connection, id: &str, hash: &[u8]) -> rusqlite::Result<()> {
    let last = connection
        .prepare_cached("SELECT coalesce(max(no), 0) FROM given_token WHERE session_id = ?1")?
        .query_row(params![id], |row| row.get::<_, i64>(0))?;
    connection
        .prepare_cached("INSERT INTO given_token VALUES (?1, ?2, ?3)")?
        .execute(params![hash, id, last + 1])?;
    drop_to(connection, id, last + 1 - GIVEN_MAX)
}
