//! What one job was granted, and the sums of what it and all below it took of that.
//!
//! The sums are whole numbers of billionths that never saturate, so that a change can
//! be undone exactly: each job's own spending stays within [`Amount`]'s range, and it
//! takes 10^11 jobs at the end of it to leave these. Only an answer is cut to the range.

use std::collections::BTreeMap;

use super::{Amounts, Member};
use crate::authority::amount::BILLIONTHS_MAX;
use crate::authority::{Amount, Currency};

#[derive(Clone, Debug)]
pub(super) struct Account {
    pub parent: Option<Member>,
    /// One for each currency that was granted. What is spent of others is not summed
    /// here, only above, where there is a purse for it.
    pub purses: BTreeMap<Currency, Purse>,
    /// As reported by the job itself.
    pub spent: Amounts,
    /// That have not left the ledger.
    pub children: usize,
    pub is_over: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Purse {
    granted: i128,
    /// Spent here and below, or reserved by those below that live.
    held: i128,
    /// Spent here and below.
    spent: i128,
    /// What was left when it was last told; nothing of what an earlier run told.
    told: Option<i128>,
}

/// By how much the sums of a purse change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    held: i128,
    spent: i128,
}

// === impl Account ===

impl Account {
    /// What was granted is known to the job, so it counts as told.
    pub fn new(granted: &Amounts) -> Self {
        let mut account = Self::untold(granted);
        for purse in account.purses.values_mut() {
            purse.told = Some(purse.granted);
        }
        account
    }

    pub fn untold(granted: &Amounts) -> Self {
        let purse = |amount: &Amount| Purse {
            granted: amount.billionths(),
            held: 0,
            spent: 0,
            told: None,
        };
        let purses = granted.iter();
        Self {
            parent: None,
            purses: purses
                .map(|(currency, amount)| (currency.clone(), purse(amount)))
                .collect(),
            spent: Amounts::new(),
            children: 0,
            is_over: false,
        }
    }

    /// Returns what the account above sees of the change.
    pub fn apply(&mut self, currency: &Currency, change: Change) -> Change {
        match self.purses.get_mut(currency) {
            Some(purse) => purse.apply(change, self.is_over),
            None => change,
        }
    }

    /// What is reserved above while the job lives, beyond what is held of it.
    pub fn unspent(&self) -> Vec<(Currency, Change)> {
        let purses = self.purses.iter();
        let unspent = purses.map(|(currency, purse)| (currency, purse.granted - purse.held));
        let unspent = unspent.filter(|(_, held)| *held > 0);
        unspent
            .map(|(currency, held)| (currency.clone(), Change { held, spent: 0 }))
            .collect()
    }
}

// === impl Purse ===

impl Purse {
    fn apply(&mut self, change: Change, is_over: bool) -> Change {
        let before = self.taken_above(is_over);
        self.held += change.held;
        self.spent += change.spent;
        Change {
            held: self.taken_above(is_over) - before,
            ..change
        }
    }

    fn taken_above(&self, is_over: bool) -> i128 {
        match is_over {
            true => self.held,
            false => self.held.max(self.granted),
        }
    }

    pub fn granted(&self) -> Amount {
        Amount::from_billionths(self.granted)
    }

    /// Below zero when overspent.
    pub fn left(&self) -> Amount {
        Amount::from_billionths(self.left_billionths())
    }

    /// The same but for what is only reserved.
    pub fn unspent(&self) -> Amount {
        Amount::from_billionths(self.granted - self.spent.min(BILLIONTHS_MAX))
    }

    fn left_billionths(&self) -> i128 {
        self.granted - self.held.min(BILLIONTHS_MAX)
    }

    pub fn has_left(&self) -> bool {
        self.held < self.granted
    }

    /// All that was granted has been spent, by whomever; then nothing is left either.
    pub fn is_spent(&self) -> bool {
        self.spent >= self.granted
    }

    pub fn is_untold(&self) -> bool {
        let left = self.left_billionths();
        self.told.is_none_or(|told| {
            let is_material = (told - left).abs() * 20 >= self.granted;
            told != left && ((told > 0) != (left > 0) || is_material)
        })
    }

    /// What is left, which counts as told from now on.
    pub fn tell(&mut self) -> Amount {
        self.told = Some(self.left_billionths());
        self.left()
    }
}

// === impl Change ===

impl Change {
    pub fn spent(amount: Amount) -> Self {
        let (held, spent) = (amount.billionths(), amount.billionths());
        Self { held, spent }
    }

    pub fn undone(self) -> Self {
        let (held, spent) = (-self.held, -self.spent);
        Self { held, spent }
    }

    pub fn and(self, other: Self) -> Self {
        Self {
            held: self.held + other.held,
            spent: self.spent + other.spent,
        }
    }

    pub fn is_none(self) -> bool {
        self.held == 0 && self.spent == 0
    }
}
