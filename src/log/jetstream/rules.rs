//! What each rule of a cell makes of an entry that comes late or from the wrong side: one
//! store, and replicas that send what they like in the order that the test writes down.

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

/// A client resumed at a replica that did not answer, and at another, which did. Then the
/// first one's claim came: the token that the client had been given was void, and the
/// session with it.
#[test]
fn a_claim_that_comes_late_leaves_the_token_that_was_given_since() {
    let mut cell = Cell::of(["a", "b", "c"]);
    cell.session("c", b"first");
    let late = claim(b"first", b"first", b"of a");
    assert_eq!(
        cell.say("b", claim(b"first", b"first", b"of b")),
        Outcome::Done
    );
    assert_eq!(cell.say("a", late), Outcome::Stale);
    let (present, earlier, owner) = cell.tokens();
    assert_eq!((&*present, owner), (&b"of b"[..], 2));
    assert_eq!(earlier.as_deref(), Some(&b"first"[..]));
    // The welcome may have been lost: who saw that it was given takes the session.
    let again = claim(b"first", b"of b", b"of c");
    assert_eq!(cell.say("c", again), Outcome::Done);
    assert_eq!(cell.tokens().2, 3);
}

/// Else two replicas of one cell would hold another token for good.
#[test]
fn claims_are_held_to_what_they_saw_once_every_replica_knows_that() {
    let mut cell = Cell::of(["a", "b"]);
    cell.join("old", KNOWS_CLAIMS - 1);
    cell.session("old", b"first");
    cell.say("b", claim(b"first", b"first", b"of b"));
    let late = claim(b"first", b"first", b"of a");
    assert_eq!(cell.say("a", late), Outcome::Done);
    assert_eq!(cell.say("old", Command::Leave), Outcome::Done);
    let late = claim(b"first", b"first", b"of b again");
    assert_eq!(cell.say("b", late), Outcome::Stale);
}

/// A resume that its client gave up was taken up late, by a replica that saw the token which
/// the client had been given elsewhere meanwhile: that was void, and the session with it.
#[test]
fn a_token_counts_that_was_given_before_a_claim_that_came_late() {
    let mut cell = Cell::of(["a", "b", "c"]);
    cell.session("c", b"first");
    let mut claimed = |replica, presented: &[u8], seen: &[u8], token: &[u8]| {
        cell.say(replica, claim(presented, seen, token))
    };
    assert_eq!(claimed("b", b"first", b"first", b"of b"), Outcome::Done);
    assert_eq!(claimed("a", b"first", b"of b", b"of a"), Outcome::Done);
    assert_eq!(claimed("a", b"first", b"of a", b"of a 2"), Outcome::Done);
    // What its client has; those that were given since may be on their way to it.
    assert_eq!(claimed("b", b"of a", b"of a 2", b"last"), Outcome::Done);
    assert_eq!(claimed("b", b"of a 2", b"last", b"last 2"), Outcome::Done);
    for void in [&b"first"[..], b"of b", b"of a"] {
        assert_eq!(claimed("c", void, b"last 2", b"none"), Outcome::Stale);
    }
    assert_eq!(claimed("c", b"last", b"last 2", b"last 3"), Outcome::Done);
}

#[test]
fn no_token_counts_but_the_one_with_which_its_client_spoke() {
    let mut cell = Cell::of(["a", "b"]);
    cell.session("a", b"first");
    cell.say("a", claim(b"first", b"first", b"of a"));
    cell.say("b", claim(b"first", b"of a", b"of b"));
    let id = "s".into();
    let confirmed = cell.say("b", Command::ConfirmToken { id });
    assert_eq!(confirmed, Outcome::Done);
    for void in [&b"first"[..], b"of a"] {
        assert_eq!(cell.say("a", claim(void, b"of b", b"none")), Outcome::Stale);
    }
}

/// A client that hears no welcome, however often it tries, has the first.
#[test]
fn the_token_that_is_presented_counts_however_many_were_given_since() {
    let mut cell = Cell::of(["a"]);
    cell.session("a", b"first");
    let mut seen = b"first".to_vec();
    for number in 0..20 {
        let token = format!("token {number}").into_bytes();
        assert_eq!(cell.say("a", claim(b"first", &seen, &token)), Outcome::Done);
        seen = token;
    }
    let oldest = cell.say("a", claim(b"token 0", &seen, b"none"));
    assert_eq!(oldest, Outcome::Stale);
    assert_eq!(
        cell.say("a", claim(b"first", &seen, b"last")),
        Outcome::Done
    );
}

#[test]
fn what_was_given_since_counts_once_every_replica_knows_that() {
    let mut cell = Cell::of(["a", "b"]);
    cell.join("old", KNOWS_GIVEN - 1);
    cell.session("old", b"first");
    cell.say("b", claim(b"first", b"first", b"of b"));
    cell.say("a", claim(b"first", b"of b", b"of a"));
    let before = cell.say("b", claim(b"of b", b"of a", b"none"));
    assert_eq!(before, Outcome::Stale);
    assert_eq!(cell.say("old", Command::Leave), Outcome::Done);
    cell.say("b", claim(b"first", b"of a", b"of b 2"));
    let since = cell.say("a", claim(b"of a", b"of b 2", b"last"));
    assert_eq!(since, Outcome::Done);
}

fn ask_cancel() -> Command {
    let job_id = "job_7".into();
    Command::AskCancel { stream: 7, job_id }
}

/// The cancel was acknowledged, its job's replica was dead already, and whoever inherited
/// the job ran it to its end.
#[test]
fn a_cancel_of_a_job_whose_replica_has_just_died_is_kept_for_its_heir() {
    let mut cell = Cell::of(["a", "b"]);
    cell.hosted("a");
    assert!(!cell.is_to_be_cancelled());
    assert_eq!(cell.say("b", ask_cancel()), Outcome::Done);
    let inherit = Command::Inherit {
        replica: 1,
        at_ms: 2,
    };
    assert_eq!(cell.say("b", inherit), Outcome::Done);
    assert!(cell.is_to_be_cancelled());
}

#[test]
fn a_cancel_is_kept_once_every_replica_knows_that() {
    let mut cell = Cell::of(["a", "b"]);
    cell.join("old", KNOWS_CANCELS - 1);
    cell.hosted("a");
    cell.say("b", ask_cancel());
    assert!(!cell.is_to_be_cancelled());
    assert_eq!(cell.say("old", Command::Leave), Outcome::Done);
    cell.say("b", ask_cancel());
    assert!(cell.is_to_be_cancelled());
}

/// It was acknowledged, and its heir told the client to submit the job again.
#[test]
fn a_cancel_of_a_job_that_no_host_runs_is_kept_for_its_heir() {
    for canceller in ["a", "b"] {
        let mut cell = Cell::of(["a", "b"]);
        cell.session("a", b"first");
        cell.say("a", create(7, 0, None));
        assert!(!cell.is_own_to_be_cancelled());
        let cancel = match canceller {
            "a" => Command::SetCancelled { stream: 7 },
            _ => ask_cancel(),
        };
        assert_eq!(cell.say(canceller, cancel), Outcome::Done);
        let (replica, at_ms) = (1, 2);
        cell.say("b", Command::Inherit { replica, at_ms });
        assert!(cell.is_own_to_be_cancelled());
    }
}

/// Where it is not known the job ends as before, and no file differs.
#[test]
fn a_cancel_of_a_job_that_no_host_runs_is_kept_once_every_replica_knows_that() {
    let mut cell = Cell::of(["a", "b"]);
    cell.join("old", KNOWS_ALL_CANCELS - 1);
    cell.session("a", b"first");
    cell.say("a", create(7, 0, None));
    let cancel = || Command::SetCancelled { stream: 7 };
    assert_eq!(cell.say("a", cancel()), Outcome::Done);
    assert!(!cell.is_own_to_be_cancelled());
    assert_eq!(cell.say("old", Command::Leave), Outcome::Done);
    assert_eq!(cell.say("a", cancel()), Outcome::Done);
    assert!(cell.is_own_to_be_cancelled());
}

/// A principal's limit was counted at each replica: it had as much at each of them.
#[test]
fn what_a_principal_has_is_counted_over_the_cell() {
    let mut cell = Cell::of(["a", "b"]);
    let connected = |cell: &Cell| cell.tally.sorted(Of::Sessions);
    let one = [("alice".to_owned(), 1)];
    let park = || Command::ParkSession {
        id: "s".into(),
        at_ms: 2,
    };
    cell.session("a", b"first");
    assert_eq!(connected(&cell), one);
    // It moves, and whoever had it has nothing more to say of it.
    cell.say("b", claim(b"first", b"first", b"second"));
    assert_eq!(cell.say("a", park()), Outcome::Stale);
    assert_eq!(connected(&cell), one);
    assert_eq!(cell.say("b", park()), Outcome::Done);
    assert_eq!(cell.say("b", park()), Outcome::Done);
    assert_eq!(connected(&cell), []);
    cell.say("b", claim(b"second", b"second", b"third"));
    assert_eq!(connected(&cell), one);
    // With its replica its connection is gone.
    let (replica, at_ms) = (2, 3);
    let gone = cell.say("a", Command::Inherit { replica, at_ms });
    assert_eq!(gone, Outcome::Done);
    assert_eq!(connected(&cell), []);
}

/// A replica sent a job to one that was gone by then: nobody would have run it.
#[test]
fn a_job_is_not_made_for_a_replica_that_is_gone() {
    let mut cell = Cell::of(["a", "b", "c"]);
    cell.session("a", b"first");
    cell.say("a", intent(8));
    let (replica, at_ms) = (2, 3);
    cell.say("c", Command::Inherit { replica, at_ms });
    let sent = with_key(create(8, 0, Some(2)));
    assert_eq!(cell.say("a", sent), Outcome::Stale);
    // Its key is nobody's, and is given back.
    assert_eq!(cell.say("a", give_back()), Outcome::Done);
    // The same number is still to be had in the session's view.
    assert_eq!(cell.say("a", create(9, 0, None)), Outcome::Done);
}

/// A submit that came late took the place of another in its session's view.
#[test]
fn a_submit_whose_place_is_taken_makes_no_job() {
    let mut cell = Cell::of(["a", "b"]);
    cell.session("a", b"first");
    let late = create(8, 0, None);
    cell.say("b", claim(b"first", b"first", b"second"));
    assert_eq!(cell.say("b", create(9, 0, None)), Outcome::Done);
    assert_eq!(cell.say("a", late), Outcome::Stale);
    // Nor where the session came back to.
    cell.say("a", claim(b"second", b"second", b"third"));
    assert_eq!(cell.say("a", create(10, 0, None)), Outcome::Stale);
    assert_eq!(cell.say("a", create(11, 1, None)), Outcome::Done);
}

/// The replica of its job sees to a key: whoever asked for it has given both away.
#[test]
fn a_key_that_went_with_its_job_is_not_given_back() {
    let mut cell = Cell::of(["a", "b"]);
    cell.session("a", b"first");
    assert_eq!(cell.say("a", intent(8)), Outcome::Done);
    let sent = with_key(create(8, 0, Some(2)));
    assert_eq!(cell.say("a", sent), Outcome::Done);
    assert_eq!(cell.say("a", give_back()), Outcome::Stale);
    let (state, keeper): (CredentialState, ReplicaNumber) = (cell.store)
        .query_row("SELECT state, replica FROM credential", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((state, keeper), (CredentialState::Live, 2));
}

/// The host that has job 7 takes it along.
fn follow(to: ReplicaNumber, dial: u64) -> Command {
    Command::MoveJob {
        stream: 7,
        job_id: "job_7".into(),
        to,
        token_hash: Some(b"token".into()),
        dial: Some(dial),
    }
}

/// The number of the dial, where it has one.
fn dial(cell: &mut Cell, replica: &'static str, instance_id: &str) -> Option<u64> {
    let agent = HostedAgentRow {
        name: "a".into(),
        version: "1.0.0".into(),
        principal: "workers".into(),
        seen_at_ms: 1,
        instance_id: instance_id.into(),
    };
    match cell.say(replica, Command::KeepAgents(vec![agent])) {
        Outcome::Dialled(number) => Some(number),
        _ => None,
    }
}

/// A host dialled two replicas at once, each took its job from the other, and what the
/// host was told by one was no longer so: the job was with neither.
#[test]
fn a_job_goes_where_its_host_dialled_last_whoever_asks_last() {
    let mut cell = Cell::of(["a", "b", "c"]);
    cell.hosted("c");
    let at_a = dial(&mut cell, "a", "h").unwrap();
    let at_b = dial(&mut cell, "b", "h").unwrap();
    let of_another = dial(&mut cell, "a", "another").unwrap();
    assert!(at_a < at_b && at_b < of_another);
    assert_eq!(cell.say("a", follow(1, at_a)), Outcome::Stale);
    assert_eq!(cell.say("b", follow(2, at_b)), Outcome::Done);
    assert_eq!(cell.say("a", follow(1, at_a)), Outcome::Stale);
    // It came first, and the later dial finds it there.
    let again = dial(&mut cell, "a", "h").unwrap();
    assert_eq!(cell.say("a", follow(1, again)), Outcome::Done);
    let last = dial(&mut cell, "b", "h").unwrap();
    assert_eq!(cell.say("b", follow(2, last)), Outcome::Done);
}

#[test]
fn a_dial_has_a_number_once_every_replica_knows_that() {
    let mut cell = Cell::of(["a", "b"]);
    cell.join("old", KNOWS_DIALS - 1);
    assert_eq!(dial(&mut cell, "a", "h"), None);
    assert_eq!(cell.say("old", Command::Leave), Outcome::Done);
    assert!(dial(&mut cell, "a", "h").is_some());
}

/// One that was upgraded in place had taken no note of them, and the job went elsewhere in
/// its store than in the others'.
#[test]
fn no_dial_counts_that_a_replica_which_begins_may_not_know() {
    let mut cell = Cell::of(["a", "b"]);
    cell.hosted("a");
    let at_a = dial(&mut cell, "a", "h").unwrap();
    dial(&mut cell, "b", "h");
    cell.join("c", KNOWS);
    assert_eq!(cell.say("a", follow(1, at_a)), Outcome::Done);
}
