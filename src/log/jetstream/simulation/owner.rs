//! What replicas do with jobs in the simulation: ask for them, take up those that the store
//! says are theirs, report of them, give them away, and declare each other gone.

use std::collections::HashMap;

use bytes::Bytes;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::agreement::rows;
use super::{KEYS, World, job};
use crate::log::{Command, JobEnd, PendingBlock, ReplicaNumber, StreamId};

impl World {
    pub(super) fn submit(&mut self, who: usize) {
        let key = self.random.random_range(0..KEYS);
        let Some(stream) = self.next_stream(who) else {
            return;
        };
        let command = Command::CreateJob {
            job: Box::new(job(stream, key)),
            op: None,
            hosted: None,
            credentials: Vec::new(),
            trace: None,
            owner: self.elsewhere(who),
        };
        self.send(who, vec![command], Vec::new());
    }

    /// Of a replica that has joined.
    pub(super) fn next_stream(&mut self, who: usize) -> Option<StreamId> {
        let life = self.replicas[who].life.as_mut()?;
        life.replica?;
        life.next_stream += 1;
        Some(life.next_stream - 1)
    }

    /// Now and then another one is to have a job.
    pub(super) fn elsewhere(&mut self, who: usize) -> Option<ReplicaNumber> {
        let other = self.random.random_bool(0.2).then(|| self.another(who));
        other.flatten()
    }

    /// Jobs that the store says are its own and that it does not run yet.
    pub(super) fn take_up(&mut self, who: usize) {
        let replica = &mut self.replicas[who];
        let Some(life) = &mut replica.life else {
            return;
        };
        let Some(number) = life.replica else {
            return;
        };
        let own = rows(
            &replica.store,
            "SELECT owner.stream, coalesce((SELECT max(first_seq + count) FROM block
               WHERE block.stream = owner.stream), 1), replica, epoch FROM owner",
        );
        let own: HashMap<StreamId, (i64, u64)> = own
            .into_iter()
            .filter(|row| row[2] == number)
            .map(|row| (row[0], (row[3], row[1] as u64)))
            .collect();
        // What went and came back is taken up anew.
        let same = |stream: &StreamId, epoch: i64| own.get(stream).is_some_and(|of| of.0 == epoch);
        life.jobs.retain(|stream, (epoch, _)| same(stream, *epoch));
        for (stream, of) in own {
            life.jobs.entry(stream).or_insert(of);
        }
    }

    /// Records of a job that it runs, the last of them perhaps.
    pub(super) fn report(&mut self, who: usize) {
        let Some(life) = &mut self.replicas[who].life else {
            return;
        };
        let mut jobs: Vec<_> = life.jobs.keys().copied().collect();
        jobs.sort_unstable();
        let Some(stream) = jobs.choose(&mut self.random).copied() else {
            return;
        };
        let count: u32 = self.random.random_range(1..4);
        let ends = self.random.random_bool(0.15);
        let (epoch, next) = life.jobs.get_mut(&stream).expect("chosen from them");
        let block = PendingBlock {
            stream,
            first_seq: *next,
            count,
            data: Bytes::from(vec![0; count as usize]),
            terminal: ends.then(|| JobEnd {
                status: "success".into(),
                ended_at_ms: 1,
            }),
            mark: None,
            spent_json: None,
            traced: false,
            epoch: *epoch as u64,
        };
        *next += u64::from(count);
        if ends {
            // Nothing follows, whatever becomes of it.
            life.jobs.remove(&stream);
        }
        self.send(who, Vec::new(), vec![block]);
    }

    pub(super) fn give_away(&mut self, who: usize) {
        let Some(to) = self.another(who) else {
            return;
        };
        let Some(life) = &self.replicas[who].life else {
            return;
        };
        let Some(stream) = life.jobs.keys().min().copied() else {
            return;
        };
        let moved = Command::MoveJob {
            stream,
            job_id: format!("job_{stream}"),
            to,
            token_hash: None,
            dial: None,
        };
        self.send(who, vec![moved], Vec::new());
    }

    /// Rightly or not: it may only have been slow.
    pub(super) fn declare_gone(&mut self, who: usize) {
        let Some(replica) = self.another(who) else {
            return;
        };
        let gone = Command::Inherit { replica, at_ms: 1 };
        self.send(who, vec![gone], Vec::new());
    }

    /// As this replica's store has it.
    pub(super) fn another(&mut self, who: usize) -> Option<ReplicaNumber> {
        let own = self.replicas[who].life.as_ref()?.replica?;
        let known = "SELECT number FROM replica WHERE heir IS NULL";
        let known = rows(&self.replicas[who].store, known);
        let others: Vec<_> = known.iter().map(|row| row[0]).collect();
        let others: Vec<_> = others.into_iter().filter(|other| *other != own).collect();
        others.choose(&mut self.random).copied()
    }
}
