//! Jobs that jobs delegate, in the simulation.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::{BUDGET, World, job, rows};
use crate::log::{Command, GrantRow, JobRow};

/// Names that a job has for children, few: each is asked for again and again.
const NAMES: u8 = 3;

impl World {
    /// A child of a job that the replica runs, with a budget of its own or without.
    pub(super) fn delegate(&mut self, who: usize) {
        let Some(life) = &self.replicas[who].life else {
            return;
        };
        let mut jobs: Vec<_> = life.jobs.keys().copied().collect();
        jobs.sort_unstable();
        let Some(parent) = jobs.choose(&mut self.random).copied() else {
            return;
        };
        let name = self.random.random_range(0..NAMES);
        let shares = self.random.random_bool(0.4);
        let Some(stream) = self.next_stream(who) else {
            return;
        };
        let lease = if shares { "{}" } else { BUDGET };
        let child = JobRow {
            idempotency_key: None,
            grant: GrantRow {
                lease_json: lease.into(),
                parent_id: Some(format!("job_{parent}")),
                delegate_id: Some(format!("child {name}")),
                ..GrantRow::default()
            },
            ..job(stream, 0)
        };
        let command = Command::CreateJob {
            job: Box::new(child),
            op: None,
            hosted: None,
            credentials: Vec::new(),
            trace: None,
            owner: None,
        };
        self.send(who, vec![command], Vec::new());
    }

    /// Who spends of another's budget is where that is counted; a child is of a job that
    /// was there.
    pub(super) fn check_children(&self, who: usize) {
        let store = &self.replicas[who].store;
        let astray = "SELECT child.stream FROM job AS child
                      JOIN job AS parent ON parent.id = child.parent_id
                      JOIN owner AS own ON own.stream = child.stream
                      JOIN owner AS above ON above.stream = parent.stream
                      WHERE child.lease_json = '{}' AND own.replica <> above.replica";
        let astray = rows(store, astray);
        assert!(astray.is_empty(), "{astray:?} spend where nobody counts");
        let orphans = "SELECT child.stream FROM job AS child
                       LEFT JOIN job AS parent ON parent.id = child.parent_id
                       WHERE child.parent_id IS NOT NULL AND parent.id IS NULL";
        assert!(rows(store, orphans).is_empty(), "a child of nobody");
    }
}
