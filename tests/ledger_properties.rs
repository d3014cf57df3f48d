//! The account of a job and of all below it, over any interleaving: *no spending
//! exceeds any ancestor's budget by more than the one operation in flight of each
//! job*. What is expected is added up anew each time, from a list of who was granted
//! and who spent what.

use std::collections::BTreeMap;

use arcpd::authority::{Amount, Amounts, Currency, Ledger, Member};
use proptest::collection::vec;
use proptest::prelude::*;

const CURRENCIES: [&str; 2] = ["USD", "EUR"];

/// Of jobs by their place among those there are; amounts in whole units.
#[derive(Clone, Debug)]
enum Step {
    Delegate {
        parent: usize,
        asked: [Option<u32>; 2],
    },
    /// Asks; what is allowed is in flight until it is reported.
    Begin {
        job: usize,
    },
    Report {
        job: usize,
        cost: [u32; 2],
    },
    End {
        job: usize,
    },
    /// All that was granted and spent is read into a new ledger.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let asked = || prop::option::weighted(0.6, 0..40_u32);
    let job = || 0..12_usize;
    prop_oneof![
        3 => (job(), [asked(), asked()])
            .prop_map(|(parent, asked)| Step::Delegate { parent, asked }),
        4 => job().prop_map(|job| Step::Begin { job }),
        4 => (job(), [0..8_u32, 0..3])
            .prop_map(|(job, cost)| Step::Report { job, cost }),
        1 => job().prop_map(|job| Step::End { job }),
        1 => Just(Step::Restart),
    ]
}

struct Job {
    parent: Option<usize>,
    granted: [Option<u32>; 2],
    spent: [u32; 2],
    over: bool,
    in_flight: bool,
    /// What the operations came to that were in flight as the budget ran out.
    late: [u32; 2],
}

struct Tree(Vec<Job>);

impl Tree {
    fn children(&self, job: usize) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(move |other| self.0[*other].parent == Some(job))
    }

    fn line(&self, job: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(job), |job| self.0[*job].parent)
    }

    fn total(&self, job: usize, of: impl Fn(&Job) -> u32 + Copy) -> u32 {
        let below = self.children(job).map(|child| self.total(child, of));
        of(&self.0[job]) + below.sum::<u32>()
    }

    fn held(&self, job: usize, c: usize) -> u32 {
        let below = self.children(job).map(|child| {
            let (child_held, of) = (self.held(child, c), &self.0[child]);
            match of.granted[c] {
                Some(granted) if !of.over => child_held.max(granted),
                _ => child_held,
            }
        });
        self.0[job].spent[c] + below.sum::<u32>()
    }

    fn left(&self, job: usize, c: usize) -> Option<i64> {
        let granted = self.0[job].granted[c]?;
        Some(i64::from(granted) - i64::from(self.held(job, c)))
    }

    /// The nearest that has a budget in the currency, and what is left there.
    fn share(&self, job: usize, c: usize) -> Option<i64> {
        self.line(job).find_map(|above| self.left(above, c))
    }

    fn may_go_on(&self, job: usize) -> bool {
        (0..2).all(|c| {
            let spent_up = |above: usize| {
                let granted = self.0[above].granted[c];
                granted.is_some_and(|granted| self.total(above, |job| job.spent[c]) >= granted)
            };
            self.share(job, c).is_none_or(|left| left > 0) && !self.line(job).any(spent_up)
        })
    }
}

fn currency(c: usize) -> Currency {
    Currency::parse(CURRENCIES[c]).unwrap()
}

fn amount(units: u32) -> Amount {
    Amount::parse(&units.to_string()).unwrap()
}

fn amounts(units: [Option<u32>; 2]) -> Amounts {
    let named = (0..2).filter_map(|c| Some((currency(c), amount(units[c]?))));
    named.collect()
}

fn member(job: usize) -> Member {
    job as Member + 1
}

fn restarted(tree: &Tree) -> Ledger {
    let mut ledger = Ledger::default();
    for (index, job) in tree.0.iter().enumerate() {
        let parent = job.parent.map(member);
        ledger.restore(member(index), parent, amounts(job.granted));
        ledger.set_spent(member(index), amounts(job.spent.map(Some)));
    }
    let over = tree.0.iter().enumerate().rev().filter(|(_, job)| job.over);
    over.for_each(|(index, _)| ledger.end(member(index)));
    ledger
}

fn play(granted: [u32; 2], steps: Vec<Step>) -> Result<(), TestCaseError> {
    let root = Job {
        parent: None,
        granted: granted.map(Some),
        spent: [0; 2],
        over: false,
        in_flight: false,
        late: [0; 2],
    };
    let mut tree = Tree(vec![root]);
    let mut ledger = Ledger::open(member(0), amounts(granted.map(Some)));
    for step in steps {
        match step {
            Step::Delegate { parent, asked } => {
                let parent = parent % tree.0.len();
                if tree.0[parent].over {
                    continue;
                }
                let child = tree.0.len();
                let fits = (0..2).all(|c| {
                    asked[c].is_none_or(|asked| {
                        let left = tree.share(parent, c);
                        left.is_some_and(|left| i64::from(asked) <= left)
                    })
                });
                let made = ledger.reserve(member(child), member(parent), amounts(asked));
                prop_assert_eq!(made.is_ok(), fits);
                if fits {
                    tree.0.push(Job {
                        parent: Some(parent),
                        granted: asked,
                        spent: [0; 2],
                        over: false,
                        in_flight: false,
                        late: [0; 2],
                    });
                }
            }
            Step::Begin { job } => {
                let job = job % tree.0.len();
                if tree.0[job].over || tree.0[job].in_flight {
                    continue;
                }
                let allowed = ledger.exhausted(member(job)).is_none();
                prop_assert_eq!(allowed, tree.may_go_on(job));
                tree.0[job].in_flight = allowed;
            }
            Step::Report { job, cost } => {
                let job = job % tree.0.len();
                if !std::mem::take(&mut tree.0[job].in_flight) {
                    continue;
                }
                for (c, cost) in cost.into_iter().enumerate() {
                    ledger.charge(member(job), &currency(c), amount(cost));
                    tree.0[job].spent[c] += cost;
                    // One operation a job at a time, so the last is the one that counts.
                    tree.0[job].late[c] = cost;
                }
            }
            Step::End { job } => {
                let job = job % tree.0.len();
                if job > 0 && !tree.0[job].over {
                    ledger.end(member(job));
                    (tree.0[job].over, tree.0[job].in_flight) = (true, false);
                }
            }
            Step::Restart => ledger = restarted(&tree),
        }
        for job in 0..tree.0.len() {
            for (c, name) in CURRENCIES.iter().enumerate() {
                let Some(granted) = tree.0[job].granted[c] else {
                    continue;
                };
                let spent = tree.total(job, |job| job.spent[c]);
                let late = tree.total(job, |job| job.late[c]);
                prop_assert!(
                    spent <= granted + late,
                    "job {job} {name}: {spent} of {granted}, {late} in flight"
                );
            }
            if !tree.0[job].over {
                let left: BTreeMap<_, _> = ledger.remaining(member(job));
                let shown = |c: usize| tree.left(job, c).map(|left| left.to_string());
                let told = |c: usize| left.get(&currency(c)).map(Amount::to_string);
                prop_assert_eq!([told(0), told(1)], [shown(0), shown(1)]);
            }
        }
    }
    for job in (1..tree.0.len()).rev() {
        ledger.end(member(job));
        tree.0[job].over = true;
    }
    let spent = |c| i64::from(tree.total(0, |job| job.spent[c]));
    for (c, granted) in granted.into_iter().enumerate() {
        let left = ledger.remaining(member(0))[&currency(c)].to_string();
        prop_assert_eq!(left, (i64::from(granted) - spent(c)).to_string());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_spending_exceeds_a_budget_above_by_more_than_what_is_in_flight(
        granted in [20..100_u32, 5..30],
        steps in vec(step(), 0..80),
    ) {
        play(granted, steps)?;
    }
}
