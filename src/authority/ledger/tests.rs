use super::*;

fn usd(amount: &str) -> Amounts {
    BTreeMap::from([(currency(), Amount::parse(amount).unwrap())])
}

fn currency() -> Currency {
    Currency::parse("USD").unwrap()
}

fn charge(ledger: &mut Ledger, member: Member, amount: &str) {
    let amount = Amount::parse(amount).unwrap();
    ledger.charge(member, &currency(), amount);
}

fn left(ledger: &Ledger, member: Member) -> String {
    ledger.remaining(member)[&currency()].to_string()
}

/// wire.md §4.9: siblings could each take the full remaining budget.
#[test]
fn siblings_cannot_each_have_the_whole() {
    let mut ledger = Ledger::open(1, usd("5"));
    ledger.reserve(2, 1, usd("3")).unwrap();
    let refused = ledger.reserve(3, 1, usd("3")).unwrap_err();
    assert!(refused.contains("USD:3 is more than the 2"), "{refused}");
    charge(&mut ledger, 2, "1");
    assert_eq!(left(&ledger, 1), "2");
    ledger.end(2);
    assert_eq!(left(&ledger, 1), "4", "what was not spent came back");
    ledger.reserve(3, 1, usd("4")).unwrap();
    assert_eq!(
        ledger.exhausted(1),
        Some(currency()),
        "all of it is given away"
    );
    assert_eq!(ledger.exhausted(3), None);
}

/// wire.md §4.9: a child without a budget of its own had none at all.
#[test]
fn a_child_without_a_budget_spends_its_parents() {
    let mut ledger = Ledger::open(1, usd("5"));
    ledger.reserve(2, 1, Amounts::new()).unwrap();
    ledger.reserve(3, 2, usd("2")).unwrap();
    charge(&mut ledger, 2, "3");
    assert_eq!(left(&ledger, 1), "0");
    assert_eq!(ledger.exhausted(2), Some(currency()));
    assert_eq!(ledger.exhausted(3), None, "its own was taken before");
    charge(&mut ledger, 3, "2.5");
    assert_eq!(
        left(&ledger, 1),
        "-0.5",
        "what is overspent is charged above"
    );
    ledger.end(3);
    ledger.end(2);
    assert_eq!(left(&ledger, 1), "-0.5");
}

/// A bound that a policy adds was taken for a wish: a child that had asked for
/// nothing was refused once its parent had spent something.
#[test]
fn a_bound_that_nobody_asked_for_refuses_nothing() {
    let mut ledger = Ledger::open(1, usd("5"));
    let made = |ledger: &mut Ledger, child, bound| {
        ledger.reserve_within(child, 1, Amounts::new(), &usd(bound))
    };
    charge(&mut ledger, 1, "1");
    assert_eq!(made(&mut ledger, 2, "5"), Ok(Amounts::new()), "shared");
    assert_eq!(made(&mut ledger, 3, "3"), Ok(usd("3")), "a part");
    assert_eq!(made(&mut ledger, 4, "3"), Ok(usd("1")), "what is left");
    assert_eq!(made(&mut ledger, 5, "3"), Ok(usd("0")));
    assert_eq!(ledger.exhausted(5), Some(currency()));
    let mut ledger = Ledger::open(1, Amounts::new());
    assert_eq!(made(&mut ledger, 2, "3"), Ok(usd("3")), "nobody has any");
    charge(&mut ledger, 2, "3");
    assert_eq!(ledger.exhausted(2), Some(currency()));
    assert_eq!(ledger.exhausted(1), None);
}

/// A sibling's overspending is everybody's.
#[test]
fn nobody_goes_on_once_all_that_was_given_above_is_spent() {
    let mut ledger = Ledger::open(1, usd("2"));
    ledger.reserve(2, 1, usd("1")).unwrap();
    ledger.reserve(3, 1, usd("1")).unwrap();
    charge(&mut ledger, 2, "2");
    assert_eq!(left(&ledger, 3), "1");
    assert_eq!(ledger.exhausted(3), Some(currency()));
}

#[test]
fn a_job_that_is_over_before_its_children_waits_for_their_sums() {
    let mut ledger = Ledger::open(1, usd("9"));
    ledger.reserve(2, 1, usd("4")).unwrap();
    ledger.reserve(3, 2, usd("4")).unwrap();
    ledger.end(2);
    charge(&mut ledger, 3, "1");
    assert_eq!(left(&ledger, 1), "5");
    ledger.end(3);
    assert_eq!(left(&ledger, 1), "8");
    ledger.end(1);
    assert!(ledger.accounts.is_empty());
}

#[test]
fn a_change_is_told_once_it_matters() {
    let mut ledger = Ledger::open(1, usd("1"));
    charge(&mut ledger, 1, "0.04");
    assert_eq!(ledger.changed(1), Amounts::new());
    charge(&mut ledger, 1, "0.01");
    assert_eq!(ledger.changed(1)[&currency()].to_string(), "0.95");
    assert_eq!(ledger.changed(1), Amounts::new());
    charge(&mut ledger, 1, "0.95");
    assert_eq!(ledger.changed(1)[&currency()].to_string(), "0");
    charge(&mut ledger, 1, "0.01");
    assert_eq!(ledger.changed(1), Amounts::new(), "below zero is no news");
}

/// Each question walked the whole tree below, under the lock that all of it shares: a
/// tree of some hundred jobs kept the threads of the runtime from everybody else.
#[test]
fn a_job_and_those_above_it_answer_without_all_others() {
    let mut ledger = Ledger::open(1, usd("1000"));
    for child in 2..=101 {
        ledger.reserve(child, 1, usd("5")).unwrap();
        ledger.reserve(child + 100, child, usd("2")).unwrap();
        charge(&mut ledger, child + 100, "1");
    }
    for ended in 2..=51 {
        ledger.end(ended + 100);
        ledger.end(ended);
    }
    let (child, grandchild) = (101, 201);
    let mut alone = ledger.clone();
    let line = [grandchild, child, 1];
    alone.accounts.retain(|member, _| line.contains(member));
    assert_eq!((alone.accounts.len(), ledger.accounts.len()), (3, 101));
    // Spends what it has, what is above it, and more.
    for _ in 0..8 {
        for ledger in [&mut ledger, &mut alone] {
            charge(ledger, grandchild, "1");
        }
        for job in line {
            assert_eq!(alone.exhausted(job), ledger.exhausted(job));
            assert_eq!(alone.remaining(job), ledger.remaining(job));
            assert_eq!(alone.untold(job), ledger.untold(job));
        }
    }
    for ledger in [&mut ledger, &mut alone] {
        ledger.end(grandchild);
        ledger.end(child);
        assert_eq!(left(ledger, 1), "696", "50 spent, 49 at 5 and one at 9");
    }
}

#[test]
fn a_cost_beyond_all_counting_is_not_free() {
    let mut ledger = Ledger::open(1, usd("10"));
    ledger.reserve(2, 1, usd("1")).unwrap();
    charge(&mut ledger, 1, "5");
    charge(&mut ledger, 2, "999999999999999999");
    assert_eq!(ledger.exhausted(1), Some(currency()));
    charge(&mut ledger, 2, "999999999999999999");
    ledger.end(2);
    assert_eq!(ledger.exhausted(1), Some(currency()));
    assert_eq!(left(&ledger, 1), "-999999999999999989.999999999");
}

/// What the child's own child had spent by the crash was counted beside the sum of both.
#[test]
fn one_that_ended_elsewhere_has_spent_what_it_and_those_below_did_and_no_more() {
    let mut ledger = Ledger::default();
    ledger.restore(1, None, usd("10"));
    ledger.restore(2, Some(1), usd("6"));
    // Of one that is not restored.
    ledger.restore(3, Some(7), usd("1"));
    ledger.restore(5, Some(2), usd("4"));
    ledger.set_spent(2, usd("1"));
    ledger.set_spent(5, usd("2"));
    assert_eq!(left(&ledger, 1), "4");
    ledger.settle(2, usd("5"));
    assert_eq!(left(&ledger, 1), "5");
    assert_eq!(
        ledger.open_members(),
        [3, 1],
        "who is below nobody here stays"
    );
    ledger.settle(2, usd("5"));
    assert_eq!(left(&ledger, 1), "5");
}

#[test]
fn what_an_earlier_run_told_is_told_again() {
    let mut ledger = Ledger::default();
    ledger.restore(1, None, usd("1"));
    assert_eq!(ledger.untold(1), usd("1"));
    assert_eq!(ledger.changed(1), usd("1"));
    assert_eq!(ledger.changed(1), Amounts::new());
}

#[test]
fn amounts_survive_the_disk() {
    let amounts = usd("12.5");
    let json = amounts_to_json(&amounts);
    assert_eq!(json, r#"{"USD":"12.5"}"#);
    assert_eq!(amounts_from_json(&json), Ok(amounts));
}
