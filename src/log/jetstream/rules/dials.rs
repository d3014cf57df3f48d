//! A host that dials two replicas.

use super::*;

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
