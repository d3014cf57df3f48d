//! Whether a running job may go from one replica to another.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::log::StreamId;

/// Who spends of another job's budget is where that is counted.
pub(super) fn may_move(connection: &Connection, stream: StreamId) -> rusqlite::Result<bool> {
    let job = connection
        .prepare_cached(
            "SELECT id, lease_json, parent_id FROM job WHERE stream = ?1 AND end_position IS NULL",
        )?
        .query_row(params![stream], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((id, lease, parent)): Option<(String, String, Option<String>)> = job else {
        return Ok(false);
    };
    let above = currencies_above(connection, parent)?;
    let own = currencies(&lease);
    if !above.is_subset(&own) {
        return Ok(false);
    }
    let all: BTreeSet<_> = above.union(&own).cloned().collect();
    let mut children = connection.prepare_cached(
        "SELECT lease_json FROM job WHERE parent_id = ?1 AND end_position IS NULL",
    )?;
    let mut leases = children.query(params![id])?;
    while let Some(row) = leases.next()? {
        let lease: String = row.get(0)?;
        if !all.is_subset(&currencies(&lease)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn currencies_above(
    connection: &Connection,
    mut parent: Option<String>,
) -> rusqlite::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    while let Some(id) = parent {
        let above = connection
            .prepare_cached("SELECT lease_json, parent_id FROM job WHERE id = ?1")?
            .query_row(params![id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((lease, next)): Option<(String, Option<String>)> = above else {
            break;
        };
        all.extend(currencies(&lease));
        parent = next;
    }
    Ok(all)
}

/// Those that a stored lease has a budget in.
fn currencies(lease_json: &str) -> BTreeSet<String> {
    let lease: serde_json::Value = serde_json::from_str(lease_json).unwrap_or_default();
    let budgets = lease["cost.budget"].as_array();
    let budgets = budgets
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str());
    let pairs = budgets.filter_map(|text| text.split_once(':'));
    pairs.map(|(currency, _)| currency.to_owned()).collect()
}
