//! A job's authority while it runs: the check before each operation, and its part
//! of the account that it shares with all that was delegated below it.
//!
//! A job without a lease has none of this: whatever it asks for is refused.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::context::{JobContext, WeakJob};
use super::{Jobs, steady_now};
use crate::authority::{
    Amount, Amounts, Capability, Currency, Denied, Lease, Ledger, Member, ModelDefault, Rule,
    Target, amounts_to_json,
};
use crate::log::{JobRow, StreamId};
use crate::protocol::event::REMAINING;
use crate::protocol::{ErrorCode, EventBody, Failure};

/// Children of a tree that are remembered as told of.
const SAID_MAX: usize = 4_096;

pub(super) struct Grant {
    pub lease: Lease,
    pub models: ModelDefault,
    pub family: Arc<Family>,
    pub jobs: Weak<Jobs>,
    /// Delegations above it; 0 for a job that a client submitted.
    pub depth: u32,
    pub parent_id: Option<String>,
    /// Its parent runs at another replica: the account is its own.
    pub is_apart: bool,
    /// Held while a child is made, from the look at what there is room for to the
    /// start: of many asked for at once, each must see those before it.
    pub delegating: tokio::sync::Mutex<()>,
}

/// The job that a client submitted.
#[derive(Clone)]
pub(super) struct Root {
    pub job_id: String,
    pub stream: StreamId,
    /// What it was granted.
    pub budget: Amounts,
}

/// A job and all that was delegated below it.
pub(super) struct Family {
    pub root: Root,
    ledger: Mutex<Ledger>,
    /// Those that run, to tell them what changed for them.
    members: Mutex<HashMap<Member, WeakJob>>,
    /// Members that do not run here and are not known to be over: what they have reserved
    /// is not here to spend.
    apart: watch::Sender<HashSet<Member>>,
    /// Children that are told of in their parents' streams, to spare the look there;
    /// some are forgotten.
    said: Mutex<HashSet<Member>>,
}

/// What costs have changed.
pub(super) struct Charged {
    /// What is left where that matters.
    pub left: Vec<EventBody>,
    /// By the job in all.
    pub spent_json: String,
    /// A budget is used up that was not before.
    pub exhausted: bool,
}

/// What a `cost.*` metric takes from a budget.
pub(super) type Cost = (Currency, Amount);

impl Family {
    /// All that are open in the ledger are to join, or are apart.
    pub fn new(ledger: Ledger, root: &JobRow, lease: &Lease) -> Arc<Self> {
        let apart = ledger.open_members().into_iter().collect();
        Arc::new(Self {
            root: Root {
                job_id: root.id.clone(),
                stream: root.stream,
                budget: lease.budget.clone(),
            },
            ledger: Mutex::new(ledger),
            members: Mutex::default(),
            apart: watch::Sender::new(apart),
            said: Mutex::default(),
        })
    }

    pub fn join(&self, job: &JobContext) {
        self.apart
            .send_if_modified(|apart| apart.remove(&job.stream()));
        self.members.lock().insert(job.stream(), job.downgrade());
    }

    pub fn reserve(
        &self,
        child: Member,
        parent: Member,
        asked: Amounts,
        bounds: &Amounts,
    ) -> Result<Amounts, String> {
        let mut ledger = self.ledger.lock();
        ledger.reserve_within(child, parent, asked, bounds)
    }

    /// What the next of a job's credentials may spend, of what the first was for: less
    /// what has been spent, not what those below have reserved. That comes back, and a
    /// credential does not grow again.
    pub fn unspent(&self, member: Member, first: Amounts) -> Amounts {
        let ledger = self.ledger.lock();
        let unspent = ledger.unspent(member);
        let own = ledger.spent(member);
        let left = first.into_iter().map(|(currency, first)| {
            let spent = own.and_then(|own| own.get(&currency)).copied();
            let left = first.saturating_sub(spent.unwrap_or(Amount::ZERO));
            let left = match unspent.get(&currency) {
                Some(unspent) => left.min(*unspent),
                None => left,
            };
            (currency, left)
        });
        left.collect()
    }

    /// What a job may spend in each currency: what is left of its own budget, or of the
    /// nearest above it that it shares.
    pub fn spendable(&self, member: Member) -> Amounts {
        let ledger = self.ledger.lock();
        let mut all = Amounts::new();
        for above in ledger.line(member) {
            for (currency, left) in ledger.remaining(above) {
                all.entry(currency).or_insert(left);
            }
        }
        all
    }

    /// A child that was not made after all.
    pub fn withdraw(&self, child: Member) {
        self.ledger.lock().end(child);
    }

    /// It runs at another replica from now on, by what it had reserved.
    pub fn leave(&self, member: Member) {
        self.members.lock().remove(&member);
        self.apart.send_modify(|apart| {
            apart.insert(member);
        });
    }

    /// The parent, which runs here, of one that is apart.
    pub fn above_absent(&self, member: Member) -> Option<JobContext> {
        if !self.apart.borrow().contains(&member) {
            return None;
        }
        let parent = self.line(member).get(1).copied()?;
        self.members.lock().get(&parent)?.upgrade()
    }

    /// One that was apart is over, and has spent so much, with all below it.
    pub fn settle(&self, member: Member, spent: Amounts) {
        let mut line = self.line(member);
        line.retain(|job| *job != member);
        let mut ledger = self.ledger.lock();
        ledger.settle(member, spent);
        self.apart
            .send_modify(|apart| apart.retain(|job| ledger.is_open(*job)));
        drop(ledger);
        self.tell(line);
    }

    /// Resolves once what one that is over has left can be spent again.
    pub async fn settled(&self, member: Member) {
        let mut apart = self.apart.subscribe();
        // Its sender is in self.
        let _ = apart.wait_for(|apart| !apart.contains(&member)).await;
    }

    /// Whether a job spends of what was granted to one above it.
    pub fn shares(&self, member: Member, own: &Amounts) -> bool {
        let spendable = self.spendable(member);
        spendable.keys().any(|currency| !own.contains_key(currency))
    }

    /// True when it is not known that a child is told of; from now on it is.
    pub fn is_to_say(&self, child: Member) -> bool {
        let mut said = self.said.lock();
        if said.len() >= SAID_MAX {
            said.clear();
        }
        said.insert(child)
    }

    fn end(&self, member: Member) {
        self.members.lock().remove(&member);
        self.ledger.lock().end(member);
    }

    /// A job and those above it, nearest first.
    pub fn line(&self, member: Member) -> Vec<Member> {
        self.ledger.lock().line(member).collect()
    }

    /// Has each job above `below` tell what changed of its own budgets.
    pub fn tell_above(&self, below: Member) {
        let mut line = self.line(below);
        line.retain(|job| *job != below);
        self.tell(line);
    }

    /// The same of these jobs.
    pub fn tell(&self, jobs: Vec<Member>) {
        for member in jobs {
            if self.ledger.lock().untold(member).is_empty() {
                continue;
            }
            let job = self.members.lock().get(&member).cloned();
            if let Some(job) = job.and_then(|job| job.upgrade()) {
                job.tell_remaining();
            }
        }
    }
}

fn remaining_events(changed: Amounts) -> Vec<EventBody> {
    changed
        .into_iter()
        .map(|(currency, left)| EventBody::Metric {
            name: REMAINING.into(),
            value: left.to_f64(),
            unit: Some(currency.to_string()),
            dimensions: Vec::new(),
        })
        .collect()
}

impl Grant {
    /// Whether an operation may go ahead; says what let it pass.
    pub fn check(
        &self,
        job: StreamId,
        capability: &Capability,
        target: &Target,
    ) -> Result<Rule, Failure> {
        if self.lease.expires_at.is_some_and(|at| steady_now() >= at) {
            let text = "lease: it has expired; nothing more is allowed";
            return Err(Failure::new(ErrorCode::LeaseExpired, text));
        }
        let allowed = self.lease.allows(capability, target, self.models);
        let rule = allowed.map_err(|denied| refused(&denied))?;
        let ledger = self.family.ledger.lock();
        if !ledger.is_open(job) {
            // Its account is closed, so no budget would hold it.
            let text = "lease: the job is over; nothing more is allowed";
            return Err(Failure::invalid(text));
        }
        match ledger.exhausted(job) {
            None => Ok(rule),
            Some(currency) => {
                let text = format!("cost.budget: nothing is left in {currency}");
                Err(Failure::new(ErrorCode::BudgetExhausted, text))
            }
        }
    }

    /// What an event costs, if it reports a cost in a currency that is budgeted.
    pub fn cost(&self, job: StreamId, body: &EventBody) -> Result<Option<Cost>, Failure> {
        let EventBody::Metric {
            name,
            value,
            unit: Some(unit),
            ..
        } = body
        else {
            return Ok(None);
        };
        if !name.starts_with("cost.") || name.starts_with("cost.budget.") {
            return Ok(None);
        }
        let Ok(currency) = Currency::parse(unit) else {
            return Ok(None);
        };
        if !self.family.ledger.lock().is_budgeted(job, &currency) {
            return Ok(None);
        }
        let amount = Amount::from_metric(*value)
            .map_err(|why| Failure::invalid(format!("value: of {name} in {unit}: {why}")))?;
        Ok(Some((currency, amount)))
    }

    /// Called under the lock of the job's buffer. Under the ledger's, which all of the
    /// tree share, only sums are looked up; texts are made of them afterwards.
    pub fn charge(&self, job: StreamId, costs: &Amounts) -> Charged {
        let mut ledger = self.family.ledger.lock();
        let had_some = ledger.exhausted(job).is_none();
        for (currency, amount) in costs {
            ledger.charge(job, currency, *amount);
        }
        let left = ledger.changed(job);
        let spent = ledger.spent(job).cloned();
        let exhausted = had_some && ledger.exhausted(job).is_some();
        drop(ledger);
        Charged {
            left: remaining_events(left),
            spent_json: spent.as_ref().map(amounts_to_json).unwrap_or_default(),
            exhausted,
        }
    }

    /// What is left where that matters; called where it is written, so that the last
    /// value of a stream is the latest.
    pub fn news(&self, job: StreamId) -> Vec<EventBody> {
        let changed = self.family.ledger.lock().changed(job);
        remaining_events(changed)
    }

    /// What is left of each budget of the job.
    pub fn remaining(&self, job: StreamId) -> Amounts {
        self.family.ledger.lock().remaining(job)
    }

    /// The job is over.
    pub fn end(&self, job: StreamId) {
        self.family.tell_end(job);
    }
}

impl Family {
    /// What a job did not spend goes back to those above it, and they are told.
    fn tell_end(&self, member: Member) {
        // Those that are over already leave the ledger with it.
        let mut line = self.line(member);
        self.end(member);
        line.retain(|job| *job != member);
        self.tell(line);
    }
}

pub(super) fn refused(denied: &Denied) -> Failure {
    Failure::new(ErrorCode::PermissionDenied, format!("lease: {denied}"))
}
