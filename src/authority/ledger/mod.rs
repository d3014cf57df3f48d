//! The budgets of a job and of all that was delegated below it, as one account.
//!
//! A child's budget is reserved from the nearest job above it that has one in that
//! currency: it is gone from there at once, so that siblings cannot each have the
//! whole, and what the child has not spent comes back when it ends. A currency that
//! a child does not ask for is not free for it: it spends its ancestor's.
//!
//! ```text
//! held(j)      = own spending + of each child: while it lives, the larger of what it
//!                was granted and what it holds; afterwards, what it spent
//! remaining(j) = granted(j) − held(j)
//! ```
//! Both sums are kept with each account and follow every change up the line, so what a
//! question costs depends on the job and those above it, never on how many are below:
//! it is asked before each operation, of an account that a whole tree shares.

mod account;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{Amount, Currency};
use account::{Account, Change, Purse};

/// A job, by the number of its stream.
pub type Member = i64;
pub type Amounts = BTreeMap<Currency, Amount>;

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<Member, Account>,
}

impl Ledger {
    /// The account of a job that nobody delegated.
    pub fn open(root: Member, granted: Amounts) -> Self {
        let mut ledger = Self::default();
        ledger.insert(root, None, Account::new(&granted));
        ledger
    }

    /// A child's account, with its budget taken from those above. The error names
    /// the currency.
    pub fn reserve(&mut self, child: Member, parent: Member, asked: Amounts) -> Result<(), String> {
        let bounds = Amounts::new();
        self.reserve_within(child, parent, asked, &bounds).map(drop)
    }

    /// The same under bounds on currencies that the child did not ask for; says what
    /// it was granted. Nobody has asked, so nothing is refused: where those above have
    /// no more in all than the bound, the child shares it; otherwise it gets a part,
    /// as much as is left.
    pub fn reserve_within(
        &mut self,
        child: Member,
        parent: Member,
        asked: Amounts,
        bounds: &Amounts,
    ) -> Result<Amounts, String> {
        for (currency, amount) in &asked {
            let purse = self.nearest(parent, currency).ok_or_else(|| {
                format!("lease_request.cost.budget: the parent has no budget in {currency}")
            })?;
            let left = purse.left();
            if *amount > left {
                return Err(format!(
                    "lease_request.cost.budget: {currency}:{amount} is more than the {left} the parent has left"
                ));
            }
        }
        let mut granted = asked;
        for (currency, bound) in bounds {
            let part = match self.nearest(parent, currency) {
                Some(purse) if purse.granted() <= *bound => continue,
                Some(purse) => purse.left().clamp(Amount::ZERO, *bound),
                None => *bound,
            };
            granted.insert(currency.clone(), part);
        }
        self.insert(child, Some(parent), Account::new(&granted));
        Ok(granted)
    }

    /// Puts back what an earlier run knew, those above first: granted then, whatever is
    /// left now. What was told last may be of before the crash, so all of it is to be
    /// told again.
    pub fn restore(&mut self, member: Member, parent: Option<Member>, granted: Amounts) {
        self.insert(member, parent, Account::untold(&granted));
    }

    /// What the job itself has spent, instead of what was counted for it.
    pub fn set_spent(&mut self, member: Member, spent: Amounts) {
        let Some(account) = self.accounts.get_mut(&member) else {
            return;
        };
        let before = std::mem::replace(&mut account.spent, spent.clone());
        for (currency, amount) in before {
            self.pass_up(Some(member), &currency, Change::spent(amount).undone());
        }
        for (currency, amount) in spent {
            self.pass_up(Some(member), &currency, Change::spent(amount));
        }
    }

    fn insert(&mut self, member: Member, parent: Option<Member>, mut account: Account) {
        // An account above that is gone, or is not there yet, has no part in this one.
        account.parent = parent.filter(|parent| self.accounts.contains_key(parent));
        if let Some(parent) = account.parent {
            self.accounts
                .entry(parent)
                .and_modify(|above| above.children += 1);
            for (currency, reserved) in account.unspent() {
                self.pass_up(Some(parent), &currency, reserved);
            }
        }
        self.accounts.insert(member, account);
    }

    /// Brings the sums of a job and of those above it up to date.
    fn pass_up(&mut self, from: Option<Member>, currency: &Currency, mut change: Change) {
        let mut next = from;
        while let Some(account) = next.and_then(|member| self.accounts.get_mut(&member))
            && !change.is_none()
        {
            change = account.apply(currency, change);
            next = account.parent;
        }
    }

    /// The job is over, or was not made after all: what it did not spend goes back.
    pub fn end(&mut self, member: Member) {
        let Some(account) = self.accounts.get_mut(&member) else {
            return;
        };
        if account.is_over {
            return;
        }
        let (unspent, parent) = (account.unspent(), account.parent);
        account.is_over = true;
        for (currency, reserved) in unspent {
            self.pass_up(parent, &currency, reserved.undone());
        }
        self.leave(member);
    }

    /// One that ran elsewhere is over, with all below it. What they spent together stands
    /// instead of what was counted here for each.
    pub fn settle(&mut self, member: Member, spent: Amounts) {
        let is_below =
            |job: &Member| *job != member && self.line(*job).any(|above| above == member);
        let below: Vec<_> = self.accounts.keys().copied().filter(is_below).collect();
        for job in below {
            self.set_spent(job, Amounts::new());
            self.end(job);
        }
        self.set_spent(member, spent);
        self.end(member);
    }

    /// Accounts that are over and have nothing below them leave. What they spent is in
    /// the sums of those above.
    fn leave(&mut self, mut member: Member) {
        while let Some(account) = self.accounts.get(&member)
            && account.is_over
            && account.children == 0
        {
            let parent = account.parent;
            self.accounts.remove(&member);
            let Some(parent) = parent else {
                return;
            };
            self.accounts
                .entry(parent)
                .and_modify(|above| above.children -= 1);
            member = parent;
        }
    }

    /// Whether a job is there and not over.
    pub fn is_open(&self, member: Member) -> bool {
        let account = self.accounts.get(&member);
        account.is_some_and(|account| !account.is_over)
    }

    /// Those that are there and not over, the last made first.
    pub fn open_members(&self) -> Vec<Member> {
        let accounts = self.accounts.iter().rev();
        let open = accounts.filter(|(_, account)| !account.is_over);
        open.map(|(member, _)| *member).collect()
    }

    /// Whether a spending in this currency is counted for the job.
    pub fn is_budgeted(&self, member: Member, currency: &Currency) -> bool {
        self.nearest(member, currency).is_some()
    }

    /// Counts what a job reports to have spent, for it and for all above it.
    pub fn charge(&mut self, member: Member, currency: &Currency, amount: Amount) {
        let Some(account) = self.accounts.get_mut(&member) else {
            return;
        };
        let spent = account.spent.entry(currency.clone()).or_default();
        let before = *spent;
        *spent = before.saturating_add(amount);
        let change = Change::spent(*spent).and(Change::spent(before).undone());
        self.pass_up(Some(member), currency, change);
    }

    /// The first currency that allows no further operation: the job's own is used
    /// up, the one it shares is, or all that was given to a job above it has been
    /// spent, by whomever.
    pub fn exhausted(&self, member: Member) -> Option<Currency> {
        let mut nearer: Vec<&Account> = Vec::new();
        for above in self.line(member) {
            let account = &self.accounts[&above];
            for (currency, purse) in &account.purses {
                // Not if there is a purse below: what that has left was taken from here.
                let shared = || {
                    let mut below = nearer.iter().rev();
                    !below.any(|account| account.purses.contains_key(currency))
                };
                if purse.is_spent() || (!purse.has_left() && shared()) {
                    return Some(currency.clone());
                }
            }
            nearer.push(account);
        }
        None
    }

    pub fn spent(&self, member: Member) -> Option<&Amounts> {
        self.accounts.get(&member).map(|account| &account.spent)
    }

    /// What a job has left of each of its own budgets; below zero when overspent.
    pub fn remaining(&self, member: Member) -> Amounts {
        let purses = self.purses(member);
        let left = purses.map(|(currency, purse)| (currency.clone(), purse.left()));
        left.collect()
    }

    /// What nobody has spent yet of each budget of a job, and of those above that it
    /// shares, whoever has reserved of it.
    pub fn unspent(&self, member: Member) -> Amounts {
        let mut all = Amounts::new();
        for above in self.line(member) {
            for (currency, purse) in self.purses(above) {
                all.entry(currency.clone()).or_insert(purse.unspent());
            }
        }
        all
    }

    /// Budgets of a job that changed by a twentieth of what was granted since they
    /// were last told, or became none or some again. They count as told.
    pub fn changed(&mut self, member: Member) -> Amounts {
        let account = self.accounts.get_mut(&member);
        let purses = account.into_iter().flat_map(|account| &mut account.purses);
        let untold = purses.filter(|(_, purse)| purse.is_untold());
        let told = untold.map(|(currency, purse)| (currency.clone(), purse.tell()));
        told.collect()
    }

    /// The same, and they do not count as told.
    pub fn untold(&self, member: Member) -> Amounts {
        let untold = self.purses(member).filter(|(_, purse)| purse.is_untold());
        let left = untold.map(|(currency, purse)| (currency.clone(), purse.left()));
        left.collect()
    }

    /// The job and those above it, nearest first.
    pub fn line(&self, member: Member) -> impl Iterator<Item = Member> {
        let known = self.accounts.contains_key(&member).then_some(member);
        std::iter::successors(known, |member| self.accounts[member].parent)
    }

    fn purses(&self, member: Member) -> impl Iterator<Item = (&Currency, &Purse)> {
        let account = self.accounts.get(&member);
        account.into_iter().flat_map(|account| &account.purses)
    }

    /// What a job spends of.
    fn nearest(&self, member: Member, currency: &Currency) -> Option<&Purse> {
        self.line(member)
            .find_map(|above| self.accounts[&above].purses.get(currency))
    }
}

/// Amounts as they are stored.
pub fn amounts_to_json(amounts: &Amounts) -> String {
    let texts: BTreeMap<_, _> = amounts
        .iter()
        .map(|(currency, amount)| (currency.as_str(), amount.to_string()))
        .collect();
    serde_json::to_string(&texts).expect("strings under strings are JSON")
}

/// Reads what [`amounts_to_json`] wrote.
pub fn amounts_from_json(json: &str) -> Result<Amounts, String> {
    let texts: BTreeMap<String, String> =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    texts
        .iter()
        .map(|(currency, amount)| Ok((Currency::parse(currency)?, Amount::parse(amount)?)))
        .collect()
}
