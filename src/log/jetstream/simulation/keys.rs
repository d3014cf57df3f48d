//! Keys of jobs in the simulation, and the upstream that makes and deletes them: only what
//! the log says was intended, as the product does.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::IndexedRandom;

use super::{World, job, rows};
use crate::log::{Command, CredentialRow, CredentialState, IssuedRow, StreamId};

/// What an upstream was asked for.
#[derive(Default)]
pub(super) struct Upstream {
    count: u32,
    made: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// By whom it is going to be asked, once that is in the log. A key is not done with
    /// before that: the product waits for as long as an answer may take.
    asking: BTreeMap<String, String>,
}

/// What a key is made for.
#[derive(Clone)]
pub(super) enum For {
    /// A job that is asked for with this idempotency key.
    Job(u8),
    /// A job that has this one.
    Next(String),
}

impl Upstream {
    pub(super) fn made_count(&self) -> i64 {
        self.made.len() as i64
    }
}

impl World {
    /// A job that is to have a key, which is intended first.
    pub(super) fn submit_keyed(&mut self, who: usize) {
        let key = self.random.random_range(0..super::KEYS);
        let stream = self.next_stream(who);
        if let Some(stream) = stream {
            self.intend(who, stream, For::Job(key));
        }
    }

    fn intend(&mut self, who: usize, stream: StreamId, what: For) {
        self.upstream.count += 1;
        let handle = format!("cred {}", self.upstream.count);
        let Some(life) = &mut self.replicas[who].life else {
            return;
        };
        life.wanted.insert(handle.clone(), (stream, what));
        let origin = life.origin.clone();
        self.upstream.asking.insert(handle.clone(), origin);
        let row = CredentialRow {
            id: handle.clone(),
            handle,
            generation: 1,
            stream,
            job_id: format!("job_{stream}"),
            provisioner: "p".into(),
            state: CredentialState::Issuing,
            issued_at_ms: 1,
            settles_at_ms: 1,
            expires_at_ms: None,
            next_at_ms: Some(1),
            attempts: 0,
            error: String::new(),
            asked_json: "{}".into(),
            issued_json: String::new(),
            sealed: None,
        };
        self.send(who, vec![Command::IntendCredential(row)], Vec::new());
    }

    /// The intent is in the log: the upstream makes the key, and says so or not.
    pub(super) fn intended(&mut self, who: usize, handle: &str) {
        self.upstream.asking.remove(handle);
        let life = self.replicas[who].life.as_mut();
        let Some((stream, what)) = life.and_then(|life| life.wanted.remove(handle)) else {
            return;
        };
        self.upstream.made.insert(handle.to_owned());
        if self.random.random_bool(0.2) {
            return;
        }
        let issued = IssuedRow {
            handle: handle.to_owned(),
            expires_at_ms: None,
            next_at_ms: Some(1),
            issued_json: "{}".into(),
            sealed: None,
        };
        let command = match what {
            For::Job(key) => Command::CreateJob {
                job: Box::new(job(stream, key)),
                op: None,
                hosted: None,
                credentials: vec![issued],
                trace: None,
                owner: self.elsewhere(who),
            },
            For::Next(before) => {
                if let Some(life) = &mut self.replicas[who].life {
                    life.replaces.insert(handle.to_owned(), before);
                }
                Command::CredentialIssued(issued)
            }
        };
        self.send(who, vec![command], Vec::new());
    }

    /// The job has the new one: the one before goes.
    pub(super) fn issued(&mut self, who: usize, handle: &str) {
        let life = self.replicas[who].life.as_mut();
        if let Some(before) = life.and_then(|life| life.replaces.remove(handle)) {
            self.revoke(who, before, CredentialState::Live);
        }
    }

    fn revoke(&mut self, who: usize, handle: String, seen: CredentialState) {
        let revoking = Command::SetCredential {
            handle,
            seen: Some(seen),
            state: CredentialState::Revoking,
            attempts: 0,
            next_at_ms: Some(1),
            error: String::new(),
        };
        self.send(who, vec![revoking], Vec::new());
    }

    /// Sees to one of the keys that the replica's store says are its own; whether there is
    /// one that has to go.
    pub(super) fn keep(&mut self, who: usize, rotates: bool) -> bool {
        let replica = &self.replicas[who];
        let Some(number) = replica.life.as_ref().and_then(|life| life.replica) else {
            return false;
        };
        let own = format!(
            "SELECT CAST(substr(handle, 6) AS INTEGER), stream,
               CASE state WHEN 'issuing' THEN 0 WHEN 'live' THEN 1 ELSE 2 END
             FROM credential WHERE replica = {number} ORDER BY handle"
        );
        let mut own = rows(&replica.store, &own);
        own.retain(|row| rotates || (row[2] != 1 && !self.is_asking(&name(row[0]))));
        let Some(row) = own.choose(&mut self.random) else {
            return false;
        };
        let handle = name(row[0]);
        match row[2] {
            _ if self.is_asking(&handle) => {}
            // Whoever asked for it has gone, or waits no more.
            0 => self.revoke(who, handle, CredentialState::Issuing),
            1 => self.intend(who, row[1], For::Next(handle)),
            _ => {
                self.upstream.deleted.insert(handle.clone());
                self.send(who, vec![Command::RemoveCredential { handle }], Vec::new());
            }
        }
        true
    }

    /// By a life that is there.
    fn is_asking(&self, handle: &str) -> bool {
        let origin = self.upstream.asking.get(handle);
        let lives = self.replicas.iter().filter_map(|it| it.life.as_ref());
        origin.is_some_and(|origin| lives.into_iter().any(|life| life.origin == *origin))
    }

    /// Nothing that was made is forgotten, and nothing that a job has was deleted.
    pub(super) fn check_keys(&self) {
        let store = &self.replicas[0].store;
        let kept = rows(
            store,
            "SELECT CAST(substr(handle, 6) AS INTEGER) FROM credential",
        );
        let kept: BTreeSet<_> = kept.iter().map(|row| name(row[0])).collect();
        for handle in self.upstream.made.difference(&self.upstream.deleted) {
            assert!(kept.contains(handle), "{handle} is good and forgotten");
        }
        let live = "SELECT CAST(substr(handle, 6) AS INTEGER), job.end_position IS NULL
                    FROM credential LEFT JOIN job USING (stream) WHERE state = 'live'";
        for row in rows(store, live) {
            let handle = name(row[0]);
            let good = self.upstream.made.contains(&handle);
            let good = good && !self.upstream.deleted.contains(&handle);
            assert!(good, "{handle} is a job's and not good");
            assert_eq!(row[1], 1, "{handle} is live and its job is not");
        }
        let nobodys = "SELECT 1 FROM credential JOIN replica ON number = replica
                       WHERE heir IS NOT NULL";
        assert!(rows(store, nobodys).is_empty(), "a key nobody sees to");
        let without = "SELECT stream FROM credential JOIN owner USING (stream)
                       WHERE state = 'live' GROUP BY stream
                       HAVING sum(credential.replica = owner.replica) = 0";
        assert!(
            rows(store, without).is_empty(),
            "a job's keys are elsewhere"
        );
    }
}

fn name(number: i64) -> String {
    format!("cred {number}")
}
