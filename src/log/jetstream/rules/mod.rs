//! What each rule of a cell makes of an entry that comes late or from the wrong side: one
//! store, and replicas that send what they like in the order that the test writes down.

mod cancels;
mod claims;
mod dials;
mod jobs;

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::entry::Entry;
use super::simulation::job;
use crate::log::rows::{KNOWS_ALL_CANCELS, KNOWS_CANCELS, KNOWS_CLAIMS, KNOWS_DIALS, KNOWS_GIVEN};
use crate::log::sqlite::schema;
use crate::log::sqlite::tally::{self, Of, Tally};
use crate::log::{
    Command, CredentialRow, CredentialState, HostKey, HostedAgentRow, HostedRow, IssuedRow, JobRow,
    KNOWS, Outcome, ReplicaNumber, SessionRow, StreamId, ViewOpRow,
};

struct Cell {
    store: Connection,
    tail: i64,
    tally: Tally,
    sent: HashMap<&'static str, u64>,
    sequence: u64,
}

impl Cell {
    /// Of replicas that know all rules; they have the numbers 1, 2, 3…
    fn of<const N: usize>(replicas: [&'static str; N]) -> Self {
        let store = Connection::open_in_memory().unwrap();
        schema::bring_up(&store, 0).unwrap();
        let mut cell = Self {
            store,
            tail: 0,
            tally: Tally::default(),
            sent: HashMap::new(),
            sequence: 0,
        };
        for replica in replicas {
            cell.join(replica, KNOWS);
        }
        cell
    }

    fn join(&mut self, replica: &'static str, knows: u32) {
        let name = replica.into();
        let joined = self.say(replica, Command::Join { name, knows });
        assert_eq!(joined, Outcome::Done);
    }

    /// The next entry of the stream is of this replica.
    fn say(&mut self, replica: &'static str, command: Command) -> Outcome {
        let number = self.sent.entry(replica).or_insert(0);
        *number += 1;
        let said = format!("{command:?}");
        let entry = Entry {
            origin: replica.into(),
            number: *number,
            commands: vec![command],
            blocks: Vec::new(),
        };
        let read = Entry::decode(&entry.encode().unwrap()).unwrap();
        self.sequence += 1;
        let applied = read.apply(&self.store, self.tail, self.sequence);
        let (_, mut applied) = applied.unwrap();
        self.tail = applied.tail(self.tail);
        self.tally.change(std::mem::take(&mut applied.changes));
        let counted = Tally::default();
        counted.change(tally::count(&self.store).unwrap());
        for of in [Of::Jobs, Of::Sessions] {
            assert_eq!(self.tally.sorted(of), counted.sorted(of), "after {said}");
        }
        applied.outcomes.pop().expect("of one command")
    }

    fn session(&mut self, replica: &'static str, token: &[u8]) {
        let row = SessionRow {
            id: "s".into(),
            stream: 7,
            principal: "alice".into(),
            token_hash: token.into(),
            earlier_token_hash: None,
            created_at_ms: 1,
            parked_at_ms: None,
            features: "[]".into(),
        };
        assert_eq!(
            self.say(replica, Command::CreateSession(row)),
            Outcome::Done
        );
    }

    /// A job of a host.
    fn hosted(&mut self, replica: &'static str) {
        let hosted = HostedRow {
            stream: 7,
            token_hash: Some(b"token".into()),
            host: host("h"),
            ..HostedRow::default()
        };
        let created = Command::CreateJob {
            job: Box::new(job(7, 1)),
            op: None,
            hosted: Some(hosted),
            credentials: Vec::new(),
            trace: None,
            owner: None,
        };
        assert_eq!(self.say(replica, created), Outcome::Done);
    }

    fn is_to_be_cancelled(&self) -> bool {
        let sql = "SELECT cancelled FROM hosted_job WHERE stream = 7";
        let cancelled = self.store.query_row(sql, [], |row| row.get(0));
        cancelled.unwrap()
    }

    /// Of a job that no host runs.
    fn is_own_to_be_cancelled(&self) -> bool {
        let sql = "SELECT cancelled FROM job WHERE stream = 7";
        let cancelled = self.store.query_row(sql, [], |row| row.get(0));
        cancelled.unwrap()
    }

    /// A session's tokens, the present one and the one before, and the replica that has it.
    fn tokens(&self) -> (Vec<u8>, Option<Vec<u8>>, i64) {
        let sql = "SELECT token_hash, earlier_token_hash, replica
                   FROM session JOIN owner USING (stream) WHERE id = ?1";
        let tokens = self.store.query_row(sql, params!["s"], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        });
        tokens.unwrap()
    }
}

fn host(instance_id: &str) -> HostKey {
    HostKey {
        principal: "workers".into(),
        instance_id: instance_id.into(),
    }
}

/// A job of the session, with the operation of that number.
fn create(stream: StreamId, op_no: u32, owner: Option<ReplicaNumber>) -> Command {
    let job = JobRow {
        session_id: "s".into(),
        ..job(stream, stream as u8)
    };
    let op = ViewOpRow {
        session_id: "s".into(),
        op_no,
        at_position: 0,
        at_seq: 1,
        kind: 1,
        stream,
        from_seq: 0,
        to_seq: 0,
    };
    Command::CreateJob {
        job: Box::new(job),
        op: Some(op),
        hosted: None,
        credentials: Vec::new(),
        trace: None,
        owner,
    }
}

fn intent(stream: StreamId) -> Command {
    Command::IntendCredential(CredentialRow {
        handle: "key".into(),
        id: "key".into(),
        generation: 1,
        stream,
        job_id: format!("job_{stream}"),
        provisioner: "p".into(),
        state: CredentialState::Issuing,
        issued_at_ms: 1,
        settles_at_ms: 2,
        expires_at_ms: None,
        next_at_ms: Some(2),
        attempts: 0,
        error: String::new(),
        asked_json: String::new(),
        issued_json: String::new(),
        sealed: None,
    })
}

fn with_key(mut create: Command) -> Command {
    if let Command::CreateJob { credentials, .. } = &mut create {
        credentials.push(IssuedRow {
            handle: "key".into(),
            expires_at_ms: None,
            next_at_ms: None,
            issued_json: String::new(),
            sealed: None,
        });
    }
    create
}

/// As whoever asked for it does that has no job for it.
fn give_back() -> Command {
    Command::SetCredential {
        handle: "key".into(),
        seen: Some(CredentialState::Issuing),
        state: CredentialState::Revoking,
        attempts: 0,
        next_at_ms: Some(3),
        error: String::new(),
    }
}

fn claim(presented: &[u8], seen: &[u8], token: &[u8]) -> Command {
    Command::ClaimSession {
        id: "s".into(),
        presented_hash: presented.into(),
        token_hash: token.into(),
        seen_hash: Some(seen.into()),
    }
}
