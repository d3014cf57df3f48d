//! Resume tokens, and claims that come late.

use super::*;

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

/// One that was upgraded in place had kept none, and took the session up by another token
/// than the others.
#[test]
fn no_token_counts_that_a_replica_which_begins_may_not_have_kept() {
    let mut cell = Cell::of(["a", "b"]);
    cell.session("a", b"first");
    cell.say("a", claim(b"first", b"first", b"of a"));
    cell.say("b", claim(b"first", b"of a", b"of b"));
    cell.join("c", KNOWS);
    let given = cell.say("a", claim(b"of a", b"of b", b"none"));
    assert_eq!(given, Outcome::Stale);
    let presented = cell.say("a", claim(b"first", b"of b", b"last"));
    assert_eq!(presented, Outcome::Done);
}

#[test]
fn what_was_given_goes_with_its_session() {
    let mut cell = Cell::of(["a"]);
    cell.session("a", b"first");
    cell.say("a", claim(b"first", b"first", b"one"));
    cell.say("a", claim(b"first", b"one", b"two"));
    let given = |cell: &Cell| -> i64 {
        let sql = "SELECT count(*) FROM given_token";
        let count = cell.store.query_row(sql, [], |row| row.get(0));
        count.unwrap()
    };
    assert_eq!(given(&cell), 1);
    let id = "s".into();
    cell.say("a", Command::ParkSession { id, at_ms: 1 });
    cell.say(
        "a",
        Command::Forget {
            parked_before_ms: 2,
            ended_before_ms: 2,
        },
    );
    assert_eq!(given(&cell), 0);
}
