//! The end of a script of the simulation: all comes to rest, and is the same everywhere.

use std::collections::HashMap;

use rusqlite::Connection;

use super::{REPLICAS, Replica, World};
use crate::log::sqlite::tally::{self, Of, Tally};

impl World {
    /// All arrives, and all that runs reads it: until nobody has anything to send.
    pub(super) fn settle(&mut self) {
        for _ in 0..300 {
            for who in 0..REPLICAS {
                if self.replicas[who].life.is_none() {
                    self.start(who);
                }
                self.again(who);
                // What has to go is seen to, and no new keys are made.
                self.keep(who, false);
            }
            // Each in its own order, which the repeats see to.
            self.stream.append(&mut self.network);
            for who in 0..REPLICAS {
                self.apply_to(who, self.stream.len());
            }
            let idle = |replica: &Replica| {
                let life = replica.life.as_ref();
                life.is_some_and(|life| life.unapplied.is_empty())
            };
            if self.replicas.iter().all(idle) && self.network.is_empty() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    pub(super) fn check(&self) {
        let all = dump(&self.replicas[0].store);
        for other in &self.replicas[1..] {
            assert_eq!(dump(&other.store), all, "replicas differ");
        }
        for Replica { store, tally, .. } in &self.replicas {
            let counted = Tally::default();
            counted.change(tally::count(store).unwrap());
            assert_eq!(tally.sorted(Of::Jobs), counted.sorted(Of::Jobs));
        }
        let store = &self.replicas[0].store;
        for (key, job) in &self.told {
            let sql = format!("SELECT count(*) FROM job WHERE id = '{job}'");
            assert_eq!(rows(store, &sql)[0][0], 1, "job of key {key} is lost");
        }
        let twice = "SELECT count(*) FROM job WHERE idempotency_key IS NOT NULL
                     GROUP BY idempotency_key HAVING count(*) > 1";
        assert!(rows(store, twice).is_empty(), "a key has two jobs");
        let blocks = "SELECT stream, first_seq, count, terminal FROM block ORDER BY position";
        let mut next: HashMap<i64, Option<i64>> = HashMap::new();
        for row in rows(store, blocks) {
            let [stream, first, count, terminal] = row[..] else {
                panic!("{row:?}")
            };
            let expected = next.entry(stream).or_insert(Some(1));
            assert_eq!(*expected, Some(first), "records of job {stream}");
            *expected = (terminal == 0).then_some(first + count);
        }
        // Nobody has a job of somebody who is gone and inherited from.
        let orphans = "SELECT owner.stream FROM owner JOIN replica ON number = replica
                       WHERE heir IS NOT NULL";
        assert!(rows(store, orphans).is_empty(), "a job nobody runs");
        self.check_keys();
        self.check_import();
    }
}
pub(super) fn rows(store: &Connection, sql: &str) -> Vec<Vec<i64>> {
    let mut statement = store.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|i| row.get(i)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

/// Every row of every table, as text.
fn dump(store: &Connection) -> Vec<String> {
    let mut tables = store
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
        .unwrap();
    let tables: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut all = Vec::new();
    for table in tables {
        let mut statement = store.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut of_table: Vec<String> = statement
            .query_map([], |row| {
                let values = (0..columns).map(|i| row.get::<_, rusqlite::types::Value>(i));
                let values: Result<Vec<_>, _> = values.collect();
                Ok(format!("{table} {:?}", values?))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        of_table.sort();
        all.append(&mut of_table);
    }
    all
}
