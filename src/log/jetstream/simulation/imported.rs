//! A store that is brought into the cell of the simulation, by one replica or by two at
//! once, while others join.

use bytes::Bytes;

use super::{World, job, rows, store};
use crate::log::sqlite::apply::apply;
use crate::log::sqlite::{schema, tables};
use crate::log::{Command, JobEnd, PendingBlock};

/// Jobs of the store that is imported; the first is over.
const JOBS: i64 = 4;
/// An idempotency key that nobody in the cell asks for.
const KEY: u8 = 100;
/// For a part, small: there are several.
const PART_BYTES: usize = 200;

impl World {
    pub(super) fn import(&mut self, who: usize) {
        let Some(life) = &self.replicas[who].life else {
            return;
        };
        let import = format!("import of {}", life.origin);
        let parts = parts();
        for (number, rows) in (0..).zip(&parts) {
            let part = Command::ImportPart {
                import: import.clone(),
                number,
                rows: rows.clone(),
            };
            self.send(who, vec![part], Vec::new());
        }
        let end = Command::ImportEnd {
            import,
            parts: parts.len() as u32,
            store: schema::FORMAT,
        };
        self.send(who, vec![end], Vec::new());
    }

    /// All of it or nothing, and all where that was said.
    pub(super) fn check_import(&self) {
        let store = &self.replicas[0].store;
        let count = "SELECT count(*) FROM job WHERE stream <= 4";
        let there = rows(store, count)[0][0];
        let right = there == JOBS || (there == 0 && !self.imported);
        assert!(right, "{there} of {JOBS} jobs were imported");
        let parts = "SELECT 1 FROM import_part";
        let left = rows(store, parts);
        assert!(!self.imported || left.is_empty(), "parts are left");
    }
}

/// Of a process that had the store for itself.
fn parts() -> Vec<Bytes> {
    let store = store();
    let create = (1..=JOBS).map(|stream| Command::CreateJob {
        job: Box::new(job(stream, KEY + stream as u8)),
        op: None,
        hosted: None,
        credentials: Vec::new(),
        trace: None,
        owner: None,
    });
    let block = |stream: i64| PendingBlock {
        stream,
        first_seq: 1,
        count: 1,
        data: Bytes::from_static(&[0]),
        terminal: (stream == 1).then(|| JobEnd {
            status: "success".into(),
            ended_at_ms: 1,
        }),
        mark: None,
        spent_json: None,
        traced: false,
        epoch: 0,
    };
    let (create, blocks): (Vec<_>, Vec<_>) = (create.collect(), (1..=JOBS).map(block).collect());
    apply(&store, None, &create, &blocks, 0).expect("an empty store");
    let mut parts = Vec::new();
    let read = tables::read_all(&store, PART_BYTES, |rows| {
        parts.push(Bytes::from(rows.encode().expect("rows")));
        Ok::<_, rusqlite::Error>(())
    });
    read.expect("a store");
    parts
}
