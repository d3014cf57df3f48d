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
//! Nothing is stored but what was granted and what each job reported, so the counters
//! are what the event stream adds up to.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{Amount, Currency};

/// A job, by the number of its stream.
pub type Member = i64;
pub type Amounts = BTreeMap<Currency, Amount>;

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<Member, Account>,
}

#[derive(Clone, Debug, Default)]
struct Account {
    parent: Option<Member>,
    granted: Amounts,
    /// As reported by the job itself.
    spent: Amounts,
    /// By descendants that are over and have left the ledger.
    settled: Amounts,
    children: Vec<Member>,
    is_over: bool,
    /// What was left when it was last told; nothing of what an earlier run told.
    told: Amounts,
}

impl Ledger {
    /// The account of a job that nobody delegated.
    pub fn open(root: Member, granted: Amounts) -> Self {
        let mut ledger = Self::default();
        ledger.insert(root, None, granted.clone(), granted);
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
            let holder = self.holder(parent, currency).ok_or_else(|| {
                format!("lease_request.cost.budget: the parent has no budget in {currency}")
            })?;
            let left = self.left(holder, currency);
            if *amount > left {
                return Err(format!(
                    "lease_request.cost.budget: {currency}:{amount} is more than the {left} the parent has left"
                ));
            }
        }
        let mut granted = asked;
        for (currency, bound) in bounds {
            let part = match self.holder(parent, currency) {
                Some(holder) if self.accounts[&holder].granted[currency] <= *bound => continue,
                Some(holder) => self.left(holder, currency).clamp(Amount::ZERO, *bound),
                None => *bound,
            };
            granted.insert(currency.clone(), part);
        }
        self.insert(child, Some(parent), granted.clone(), granted.clone());
        Ok(granted)
    }

    /// Puts back what an earlier run knew: granted then, whatever is left now. What
    /// was told last may be of before the crash, so all of it is to be told again.
    pub fn restore(&mut self, member: Member, parent: Option<Member>, granted: Amounts) {
        self.insert(member, parent, granted, Amounts::new());
    }

    pub fn set_spent(&mut self, member: Member, spent: Amounts) {
        if let Some(account) = self.accounts.get_mut(&member) {
            account.spent = spent;
        }
    }

    fn insert(&mut self, member: Member, parent: Option<Member>, granted: Amounts, told: Amounts) {
        if let Some(above) = parent.and_then(|parent| self.accounts.get_mut(&parent)) {
            above.children.push(member);
        }
        let account = Account {
            parent,
            granted,
            told,
            ..Account::default()
        };
        self.accounts.insert(member, account);
    }

    /// The job is over, or was not made after all: what it did not spend goes back.
    pub fn end(&mut self, member: Member) {
        let Some(account) = self.accounts.get_mut(&member) else {
            return;
        };
        account.is_over = true;
        self.settle(member);
    }

    /// Accounts that are over and have nothing below them become a sum.
    fn settle(&mut self, mut member: Member) {
        while let Some(account) = self.accounts.get(&member)
            && account.is_over
            && account.children.is_empty()
        {
            let mut sum = account.spent.clone();
            for (currency, amount) in &account.settled {
                add(&mut sum, currency, *amount);
            }
            let parent = account.parent;
            self.accounts.remove(&member);
            let Some(parent) = parent else {
                return;
            };
            if let Some(above) = self.accounts.get_mut(&parent) {
                above.children.retain(|child| *child != member);
                for (currency, amount) in &sum {
                    add(&mut above.settled, currency, *amount);
                }
            }
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
        self.holder(member, currency).is_some()
    }

    /// Counts what a job reports to have spent, for it and for all above it.
    pub fn charge(&mut self, member: Member, currency: &Currency, amount: Amount) {
        if let Some(account) = self.accounts.get_mut(&member) {
            add(&mut account.spent, currency, amount);
        }
    }

    /// The first currency that allows no further operation: the job's own is used
    /// up, the one it shares is, or all that was given to a job above it has been
    /// spent, by whomever.
    pub fn exhausted(&self, member: Member) -> Option<Currency> {
        let mut nearer: Vec<&Currency> = Vec::new();
        for above in self.line(member) {
            let account = &self.accounts[&above];
            for (currency, granted) in &account.granted {
                let over = if nearer.contains(&currency) {
                    self.total(above, currency) >= *granted
                } else {
                    !self.left(above, currency).is_positive()
                };
                if over {
                    return Some(currency.clone());
                }
                nearer.push(currency);
            }
        }
        None
    }

    pub fn spent(&self, member: Member) -> Option<&Amounts> {
        self.accounts.get(&member).map(|account| &account.spent)
    }

    /// What a job has left of each of its own budgets; below zero when overspent.
    pub fn remaining(&self, member: Member) -> Amounts {
        let granted = self.accounts.get(&member).map(|account| &account.granted);
        let currencies = granted.into_iter().flat_map(BTreeMap::keys);
        currencies
            .map(|currency| (currency.clone(), self.left(member, currency)))
            .collect()
    }

    /// Budgets of a job that changed by a twentieth of what was granted since they
    /// were last told, or became none or some again. They count as told.
    pub fn changed(&mut self, member: Member) -> Amounts {
        let changed = self.untold(member);
        if let Some(account) = self.accounts.get_mut(&member) {
            account.told.extend(changed.clone());
        }
        changed
    }

    /// The same, and they do not count as told.
    pub fn untold(&self, member: Member) -> Amounts {
        let mut untold = self.remaining(member);
        if let Some(account) = self.accounts.get(&member) {
            untold.retain(|currency, left| {
                let granted = account.granted.get(currency).copied().unwrap_or_default();
                let told = account.told.get(currency);
                told.is_none_or(|told| is_material(granted, *told, *left))
            });
        }
        untold
    }

    /// The job and those above it, nearest first.
    pub fn line(&self, member: Member) -> impl Iterator<Item = Member> {
        let known = |member: Member| self.accounts.contains_key(&member).then_some(member);
        std::iter::successors(known(member), move |member| {
            self.accounts.get(member)?.parent.and_then(known)
        })
    }

    /// Whose budget a job spends.
    fn holder(&self, member: Member, currency: &Currency) -> Option<Member> {
        self.line(member)
            .find(|above| self.accounts[above].granted.contains_key(currency))
    }

    fn left(&self, member: Member, currency: &Currency) -> Amount {
        let granted = self.accounts.get(&member);
        let granted = granted.and_then(|account| account.granted.get(currency));
        granted
            .copied()
            .unwrap_or_default()
            .checked_sub(self.held(member, currency))
            .unwrap_or_default()
    }

    fn held(&self, member: Member, currency: &Currency) -> Amount {
        self.sum(member, currency, &|child| {
            let account = &self.accounts[&child];
            let held = self.held(child, currency);
            match account.granted.get(currency) {
                Some(granted) if !account.is_over => held.max(*granted),
                _ => held,
            }
        })
    }

    /// What the job and all below it have spent.
    fn total(&self, member: Member, currency: &Currency) -> Amount {
        self.sum(member, currency, &|child| self.total(child, currency))
    }

    fn sum(
        &self,
        member: Member,
        currency: &Currency,
        of_child: &dyn Fn(Member) -> Amount,
    ) -> Amount {
        let Some(account) = self.accounts.get(&member) else {
            return Amount::ZERO;
        };
        let own = [&account.spent, &account.settled];
        let own = own.into_iter().filter_map(|by| by.get(currency).copied());
        let below = account.children.iter().map(|child| of_child(*child));
        own.chain(below).fold(Amount::ZERO, Amount::saturating_add)
    }
}

fn add(sums: &mut Amounts, currency: &Currency, amount: Amount) {
    let sum = sums.entry(currency.clone()).or_default();
    *sum = sum.saturating_add(amount);
}

fn is_material(granted: Amount, told: Amount, left: Amount) -> bool {
    let difference = told.max(left).checked_sub(told.min(left));
    let twentyfold = difference.and_then(|difference| difference.checked_mul(20));
    told != left
        && (told.is_positive() != left.is_positive()
            || twentyfold.is_none_or(|twentyfold| twentyfold >= granted))
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
