//! What each principal has in the whole cell, by this replica's file: a limit looks at it
//! for each submit and each hello, so it is kept in memory and counted as entries are
//! applied. A log of one process keeps none: there who has something knows of it.

use std::collections::HashMap;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::Log;
use crate::log::{Command, StreamId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::log) enum Of {
    /// That run.
    Jobs,
    /// That have a connection.
    Sessions,
}

/// How many more a principal has.
pub(in crate::log) type Change = (Of, String, i64);

/// Those that have something.
#[derive(Debug, Default)]
pub(in crate::log) struct Tally(Mutex<HashMap<Of, HashMap<String, i64>>>);

impl Log {
    /// Jobs of a principal that run at any replica of a cell.
    pub fn running_of(&self, principal: &str) -> usize {
        self.shared.state.tally.get(Of::Jobs, principal)
    }

    /// Sessions of a principal that have a connection at any replica of a cell.
    pub fn connected_of(&self, principal: &str) -> usize {
        self.shared.state.tally.get(Of::Sessions, principal)
    }

    /// The principal with most of the jobs that run in a cell, and how many.
    pub fn most_running(&self) -> Option<(String, usize)> {
        self.shared.state.tally.most(Of::Jobs)
    }

    /// The principal with most of the connections of a cell, and how many.
    pub fn most_connected(&self) -> Option<(String, usize)> {
        self.shared.state.tally.most(Of::Sessions)
    }
}

impl Tally {
    fn get(&self, of: Of, principal: &str) -> usize {
        let all = self.0.lock();
        let count = all.get(&of).and_then(|of| of.get(principal)).copied();
        count.map_or(0, |count| usize::try_from(count).unwrap_or(0))
    }

    fn most(&self, of: Of) -> Option<(String, usize)> {
        let all = self.0.lock();
        let most = all.get(&of)?.iter().max_by_key(|(_, count)| **count)?;
        Some((most.0.clone(), usize::try_from(*most.1).unwrap_or(0)))
    }

    pub fn change(&self, changes: Vec<Change>) {
        let mut all = self.0.lock();
        for (of, principal, more) in changes {
            let of = all.entry(of).or_default();
            let count = of.entry(principal.clone()).or_default();
            *count += more;
            if *count == 0 {
                of.remove(&principal);
            }
        }
    }

    #[cfg(test)]
    pub fn sorted(&self, of: Of) -> Vec<(String, i64)> {
        let all = self.0.lock();
        let all = all.get(&of).into_iter().flatten();
        let mut sorted: Vec<_> = all.map(|(who, count)| (who.clone(), *count)).collect();
        sorted.sort();
        sorted
    }
}

/// Of a whole store.
pub(in crate::log) fn count(connection: &Connection) -> rusqlite::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let jobs = "SELECT principal, count(*) FROM job WHERE end_position IS NULL GROUP BY 1";
    let sessions = "SELECT principal, count(*) FROM session WHERE parked_at_ms IS NULL GROUP BY 1";
    for (of, sql) in [(Of::Jobs, jobs), (Of::Sessions, sessions)] {
        let mut found = connection.prepare(sql)?;
        let found = found.query_map([], |row| Ok((of, row.get(0)?, row.get(1)?)))?;
        for change in found {
            changes.push(change?);
        }
    }
    Ok(changes)
}

/// What a command is about to change, if it does anything.
pub(super) fn changes(connection: &Connection, command: &Command) -> rusqlite::Result<Vec<Change>> {
    match command {
        Command::CreateJob { job, .. } => Ok(vec![(Of::Jobs, job.principal.clone(), 1)]),
        Command::CreateSession(row) if row.parked_at_ms.is_none() => {
            Ok(vec![(Of::Sessions, row.principal.clone(), 1)])
        }
        Command::ClaimSession { id, .. } => session(connection, id, false),
        Command::ParkSession { id, .. } => session(connection, id, true),
        Command::Inherit { replica, .. } => {
            let mut found = connection.prepare_cached(
                "SELECT principal, -count(*) FROM session JOIN owner USING (stream)
                 WHERE replica = ?1 AND parked_at_ms IS NULL GROUP BY 1",
            )?;
            let found = found.query_map([replica], |row| {
                Ok((Of::Sessions, row.get(0)?, row.get(1)?))
            })?;
            found.collect()
        }
        _ => Ok(Vec::new()),
    }
}

/// Of a session that is connected, which goes, or of one that is not, which comes.
fn session(connection: &Connection, id: &str, is_connected: bool) -> rusqlite::Result<Vec<Change>> {
    let principal = connection
        .prepare_cached(
            "SELECT principal FROM session WHERE id = ?1 AND (parked_at_ms IS NULL) = ?2",
        )?
        .query_row(params![id, is_connected], |row| row.get(0))
        .optional()?;
    let more = if is_connected { -1 } else { 1 };
    Ok(principal
        .map(|who| (Of::Sessions, who, more))
        .into_iter()
        .collect())
}

/// A job that has just ended.
pub(super) fn ended(connection: &Connection, stream: StreamId) -> rusqlite::Result<Option<Change>> {
    connection
        .prepare_cached("SELECT principal FROM job WHERE stream = ?1")?
        .query_row([stream], |row| Ok((Of::Jobs, row.get(0)?, -1)))
        .optional()
}
