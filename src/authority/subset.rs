//! What a child may have of its parent (§9.4), and what it has in the end.

use super::{Capability, Lease, ModelDefault};

impl Lease {
    /// Refuses what names more than the parent has; equal is not more (wire §4.9).
    ///
    /// Budgets are compared with what the parent was granted; what is left of that,
    /// and what siblings took, is the ledger's to say. A currency that the parent has
    /// no budget in is refused, as every capability is that the parent lacks.
    pub fn subset_of(&self, parent: &Lease, models: ModelDefault) -> Result<(), String> {
        for (capability, grants) in &self.grants {
            let given = parent.grants.get(capability);
            if given.is_none() {
                let any_model =
                    *capability == Capability::ModelUse && models == ModelDefault::Allow;
                if any_model || grants.patterns().is_empty() {
                    continue;
                }
                return Err(format!(
                    "lease_request.{capability}: the parent's lease does not grant it"
                ));
            }
            for pattern in grants.patterns() {
                if given.is_none_or(|given| given.find_cover(pattern).is_none()) {
                    return Err(format!(
                        "lease_request.{capability}: the parent's lease does not cover {pattern}"
                    ));
                }
            }
        }
        for (currency, amount) in &self.budget {
            match parent.budget.get(currency) {
                Some(given) if amount <= given => {}
                Some(given) => {
                    return Err(format!(
                        "lease_request.cost.budget: {currency}:{amount} is more than the parent's {currency}:{given}"
                    ));
                }
                None => {
                    return Err(format!(
                        "lease_request.cost.budget: the parent has no budget in {currency}"
                    ));
                }
            }
        }
        match (self.expires_at, parent.expires_at) {
            (Some(own), Some(parents)) if own > parents => {
                Err("lease_constraints.expires_at: later than the parent's lease".into())
            }
            _ => Ok(()),
        }
    }

    /// The lease a child has that asked for `self`: what it left out does not free
    /// it. The end is the earlier one; under a parent that names models, a child that
    /// names none has none. Budgets stay those it asked for: the parent's bind it
    /// through the ledger, whatever its own lease says.
    pub fn inherit(mut self, parent: &Lease) -> Self {
        self.expires_at = [self.expires_at, parent.expires_at]
            .into_iter()
            .flatten()
            .min();
        if parent.grants.contains_key(&Capability::ModelUse) {
            self.grants.entry(Capability::ModelUse).or_default();
        }
        self
    }
}
