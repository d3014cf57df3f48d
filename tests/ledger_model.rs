//! The ledger keeps sums; what is expected here is added up anew for each question, by
//! a walk through the whole tree. Both answer the same after any operations in any
//! order, of amounts up to where they can be counted no more.

use std::collections::BTreeMap;

use arcpd::authority::{Amount, Amounts, Currency, Ledger, Member};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Of jobs by their place among those there were; a parent may be over or gone.
#[derive(Clone, Debug)]
enum Step {
    Open {
        granted: Amounts,
    },
    Reserve {
        parent: usize,
        asked: Amounts,
        bounds: Amounts,
    },
    Charge {
        job: usize,
        currency: Currency,
        amount: Amount,
    },
    SetSpent {
        job: usize,
        spent: Amounts,
    },
    Tell {
        job: usize,
    },
    End {
        job: usize,
    },
    /// All that was granted and spent is read into a new ledger.
    Restore,
}

fn currency() -> impl Strategy<Value = Currency> {
    let name = prop::sample::select(vec!["EUR", "USD", "credits"]);
    name.prop_map(|name| Currency::parse(name).unwrap())
}

fn amount() -> impl Strategy<Value = Amount> {
    let text = prop_oneof![
        20 => (0..30_u32, 0..1000_u32).prop_map(|(units, parts)| format!("{units}.{parts:03}")),
        20 => (0..30_u32).prop_map(|units| units.to_string()),
        2 => Just("0.000000001".to_owned()),
        1 => Just("600000000000000000".to_owned()),
        1 => Just("999999999999999999.999999999".to_owned()),
    ];
    text.prop_map(|text| Amount::parse(&text).unwrap())
}

fn amounts() -> impl Strategy<Value = Amounts> {
    btree_map(currency(), amount(), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let job = || 0..16_usize;
    prop_oneof![
        1 => amounts().prop_map(|granted| Step::Open { granted }),
        6 => (job(), amounts(), amounts())
            .prop_map(|(parent, asked, bounds)| Step::Reserve { parent, asked, bounds }),
        8 => (job(), currency(), amount())
            .prop_map(|(job, currency, amount)| Step::Charge { job, currency, amount }),
        2 => (job(), amounts()).prop_map(|(job, spent)| Step::SetSpent { job, spent }),
        3 => job().prop_map(|job| Step::Tell { job }),
        4 => job().prop_map(|job| Step::End { job }),
        1 => Just(Step::Restore),
    ]
}

#[derive(Default)]
struct Job {
    parent: Option<usize>,
    granted: Amounts,
    spent: Amounts,
    told: Amounts,
    over: bool,
}

/// Jobs never leave it.
#[derive(Default)]
struct Tree(Vec<Job>);

impl Tree {
    fn children(&self, job: usize) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(move |other| self.0[*other].parent == Some(job))
    }

    /// Its account has not left: it lives, or one below it does.
    fn is_there(&self, job: usize) -> bool {
        !self.0[job].over || self.children(job).any(|child| self.is_there(child))
    }

    fn line(&self, job: usize) -> Vec<usize> {
        let first = (job < self.0.len() && self.is_there(job)).then_some(job);
        std::iter::successors(first, |job| self.0[*job].parent).collect()
    }

    fn sum(&self, job: usize, of: &Currency, child: impl Fn(usize) -> Amount) -> Amount {
        let own = self.0[job].spent.get(of).copied().unwrap_or_default();
        self.children(job)
            .fold(own, |sum, below| sum.saturating_add(child(below)))
    }

    fn total(&self, job: usize, of: &Currency) -> Amount {
        self.sum(job, of, |child| self.total(child, of))
    }

    fn held(&self, job: usize, of: &Currency) -> Amount {
        self.sum(job, of, |child| {
            let held = self.held(child, of);
            match self.0[child].granted.get(of) {
                Some(granted) if !self.0[child].over => held.max(*granted),
                _ => held,
            }
        })
    }

    fn left(&self, job: usize, of: &Currency) -> Amount {
        let granted = self.0[job].granted[of];
        granted.checked_sub(self.held(job, of)).unwrap()
    }

    fn remaining(&self, job: usize) -> Amounts {
        let granted = self.0[job].granted.keys();
        granted.map(|of| (of.clone(), self.left(job, of))).collect()
    }

    fn untold(&self, job: usize) -> Amounts {
        let mut untold = self.remaining(job);
        untold.retain(|of, left| {
            let (left, granted) = (*left, self.0[job].granted[of]);
            let Some(told) = self.0[job].told.get(of).copied() else {
                return true;
            };
            let apart = told.max(left).checked_sub(told.min(left));
            let twentyfold = apart
                .and_then(|apart| (1..20).try_fold(apart, |sum: Amount, _| sum.checked_add(apart)));
            let is_material = twentyfold.is_none_or(|twentyfold| twentyfold >= granted);
            told != left && (told.is_positive() != left.is_positive() || is_material)
        });
        untold
    }

    fn holder(&self, job: usize, of: &Currency) -> Option<usize> {
        let mut line = self.line(job).into_iter();
        line.find(|above| self.0[*above].granted.contains_key(of))
    }

    fn exhausted(&self, job: usize) -> Option<Currency> {
        for above in self.line(job) {
            for (of, granted) in &self.0[above].granted {
                let nothing_left =
                    self.holder(job, of) == Some(above) && !self.left(above, of).is_positive();
                if nothing_left || self.total(above, of) >= *granted {
                    return Some(of.clone());
                }
            }
        }
        None
    }

    /// What a child would be granted; nothing if it asks for too much.
    fn grants(&self, parent: usize, asked: &Amounts, bounds: &Amounts) -> Option<Amounts> {
        let mut granted = asked.clone();
        for (of, amount) in asked {
            let holder = self.holder(parent, of)?;
            if *amount > self.left(holder, of) {
                return None;
            }
        }
        for (of, bound) in bounds {
            let part = match self.holder(parent, of) {
                Some(holder) if self.0[holder].granted[of] <= *bound => continue,
                Some(holder) => self.left(holder, of).clamp(Amount::ZERO, *bound),
                None => *bound,
            };
            granted.insert(of.clone(), part);
        }
        Some(granted)
    }
}

fn member(job: usize) -> Member {
    job as Member + 1
}

fn restored(tree: &Tree) -> Ledger {
    let mut ledger = Ledger::default();
    for (index, job) in tree.0.iter().enumerate() {
        let parent = job.parent.map(member);
        ledger.restore(member(index), parent, job.granted.clone());
    }
    for (index, job) in tree.0.iter().enumerate() {
        ledger.set_spent(member(index), job.spent.clone());
    }
    let over = tree.0.iter().enumerate().rev().filter(|(_, job)| job.over);
    over.for_each(|(index, _)| ledger.end(member(index)));
    ledger
}

fn play(step: Step, tree: &mut Tree, ledger: &mut Ledger) -> Result<(), TestCaseError> {
    let jobs = tree.0.len();
    match step {
        Step::Open { granted } => {
            // A ledger has one root; the next is a tree of its own.
            *ledger = Ledger::open(member(0), granted.clone());
            let (told, spent) = (granted.clone(), Amounts::new());
            let root = Job {
                granted,
                told,
                spent,
                ..Job::default()
            };
            *tree = Tree(vec![root]);
        }
        Step::Reserve {
            parent,
            asked,
            bounds,
        } => {
            let parent = parent % jobs;
            let expected = tree.grants(parent, &asked, &bounds);
            let above = tree.is_there(parent).then_some(parent);
            let made = ledger.reserve_within(member(jobs), member(parent), asked, &bounds);
            prop_assert_eq!(made.ok(), expected.clone());
            if let Some(granted) = expected {
                let told = granted.clone();
                tree.0.push(Job {
                    parent: above,
                    granted,
                    told,
                    ..Job::default()
                });
            }
        }
        Step::Charge {
            job,
            currency,
            amount,
        } => {
            let job = job % jobs;
            ledger.charge(member(job), &currency, amount);
            if tree.is_there(job) {
                let spent = tree.0[job].spent.entry(currency).or_default();
                *spent = spent.saturating_add(amount);
            }
        }
        Step::SetSpent { job, spent } => {
            let job = job % jobs;
            ledger.set_spent(member(job), spent.clone());
            if tree.is_there(job) {
                tree.0[job].spent = spent;
            }
        }
        Step::Tell { job } => {
            let job = job % jobs;
            let told = ledger.changed(member(job));
            let expected = match tree.is_there(job) {
                true => tree.untold(job),
                false => Amounts::new(),
            };
            prop_assert_eq!(&told, &expected);
            tree.0[job].told.extend(expected);
        }
        Step::End { job } => {
            ledger.end(member(job % jobs));
            tree.0[job % jobs].over = true;
        }
        Step::Restore => {
            *ledger = restored(tree);
            tree.0.iter_mut().for_each(|job| job.told.clear());
        }
    }
    Ok(())
}

fn compare(tree: &Tree, ledger: &Ledger) -> Result<(), TestCaseError> {
    for (index, job) in tree.0.iter().enumerate() {
        let of = member(index);
        let line: Vec<_> = tree.line(index).into_iter().map(member).collect();
        prop_assert_eq!(ledger.line(of).collect::<Vec<_>>(), line);
        prop_assert_eq!(ledger.is_open(of), !job.over);
        prop_assert_eq!(ledger.exhausted(of), tree.exhausted(index));
        for name in ["EUR", "USD", "credits"] {
            let currency = Currency::parse(name).unwrap();
            let expected = tree.holder(index, &currency).is_some();
            prop_assert_eq!(ledger.is_budgeted(of, &currency), expected);
        }
        if tree.is_there(index) {
            prop_assert_eq!(ledger.remaining(of), tree.remaining(index));
            prop_assert_eq!(ledger.untold(of), tree.untold(index));
            prop_assert_eq!(ledger.spent(of), Some(&job.spent));
        } else {
            prop_assert_eq!(ledger.remaining(of), BTreeMap::new());
            prop_assert_eq!(ledger.spent(of), None);
        }
    }
    let open = (0..tree.0.len()).rev().filter(|job| !tree.0[*job].over);
    prop_assert_eq!(ledger.open_members(), open.map(member).collect::<Vec<_>>());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn kept_sums_answer_as_a_walk_through_the_tree_does(
        granted in amounts(),
        steps in vec(step(), 0..60),
    ) {
        let (mut tree, mut ledger) = (Tree::default(), Ledger::default());
        let open = Step::Open { granted };
        for step in std::iter::once(open).chain(steps) {
            play(step, &mut tree, &mut ledger)?;
            compare(&tree, &ledger)?;
        }
    }
}
