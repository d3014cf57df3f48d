//! A lease within a bound: never more than either.

use super::grants::Grants;
use super::{Capability, Lease, ModelDefault};

impl Lease {
    /// What both allow, as far as patterns can say it: of two patterns that meet, the
    /// one that the other covers is kept. Where neither covers the other, what they
    /// share is dropped, since it may be no pattern (`/a/**` and `/**/b`); whoever
    /// wants it asks for less.
    ///
    /// Budgets are the lesser ones, of every currency that either names: what the
    /// request left out, the bound still bounds. The end is the earlier one.
    pub fn intersect(&self, bound: &Lease, models: ModelDefault) -> Lease {
        let mut both = Lease {
            budget: self.budget.clone(),
            expires_at: [self.expires_at, bound.expires_at]
                .into_iter()
                .flatten()
                .min(),
            ..Lease::default()
        };
        for (currency, most) in &bound.budget {
            let amount = both.budget.entry(currency.clone()).or_insert(*most);
            *amount = (*amount).min(*most);
        }
        for (capability, asked) in &self.grants {
            if let Some(given) = bound.grants.get(capability) {
                let grants = shared(asked, given);
                if !grants.patterns().is_empty() {
                    both.grants.insert(capability.clone(), grants);
                }
            }
        }
        let of = |lease: &Lease| lease.grants.get(&Capability::ModelUse).cloned();
        match (of(self), of(bound)) {
            (None, None) => {}
            // The one that says nothing allows every model, so the other decides.
            (Some(named), None) | (None, Some(named)) if models == ModelDefault::Allow => {
                both.grants.insert(Capability::ModelUse, named);
            }
            // Nothing left must not read as nothing said.
            _ => {
                both.grants.entry(Capability::ModelUse).or_default();
            }
        }
        both
    }
}

fn shared(asked: &Grants, given: &Grants) -> Grants {
    let mut shared = Vec::new();
    for pattern in asked.patterns() {
        match given.find_cover(pattern) {
            Some(_) => shared.push(pattern.clone()),
            None => {
                let within = given
                    .patterns()
                    .iter()
                    .filter(|other| pattern.covers(other));
                shared.extend(within.cloned());
            }
        }
    }
    shared.into_iter().collect()
}
