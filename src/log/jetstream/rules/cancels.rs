//! Cancels, for whoever has the job by then.

use super::*;

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
