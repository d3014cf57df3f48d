//! What is made, and what a principal has.

use super::*;

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
