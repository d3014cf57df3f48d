//! What a job was granted (§9.1-9.6).

use std::collections::BTreeMap;

use super::grants::Grants;
use super::{Amount, Capability, Currency, Pattern, Target};
use crate::protocol::Timestamp;

pub const BUDGET: &str = "cost.budget";

/// Patterns by capability, budgets by currency, and an end.
///
/// A capability that is absent grants nothing. `model.use` alone knows a difference:
/// absent leaves models to the deployment ([`ModelDefault`]); present and empty
/// forbids every model, which is what a child has that omits it under a parent that
/// has it, and what is left where a policy takes every pattern away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lease {
    pub(super) grants: BTreeMap<Capability, Grants>,
    /// What was granted, not what is left.
    pub budget: BTreeMap<Currency, Amount>,
    pub expires_at: Option<Timestamp>,
}

/// Whether a job whose lease says nothing about models may use them (§9.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelDefault {
    #[default]
    Deny,
    Allow,
}

/// What let an operation pass; the audit record prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Pattern(String),
    /// The lease says nothing about models and the deployment allows them.
    ModelDefault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the lease does not grant {capability}")]
    NotGranted { capability: Capability },
    #[error("no pattern of the lease's {capability} matches {target}")]
    NoMatch {
        capability: Capability,
        target: String,
    },
}

impl Lease {
    /// What it grants, apart from money: what is left of that is the ledger's to say.
    pub fn without_budget(mut self) -> Self {
        self.budget.clear();
        self
    }

    pub fn capabilities(&self) -> impl Iterator<Item = &Capability> {
        self.grants.keys()
    }

    pub fn patterns(&self, capability: &Capability) -> &[Pattern] {
        let grants = self.grants.get(capability);
        grants.map_or(&[], Grants::patterns)
    }

    /// Only the patterns: expiry needs a clock, and budgets what was spent.
    pub fn allows(
        &self,
        capability: &Capability,
        target: &Target,
        models: ModelDefault,
    ) -> Result<Rule, Denied> {
        match self.grants.get(capability) {
            Some(grants) => match grants.find_match(target) {
                Some(pattern) => Ok(Rule::Pattern(pattern.to_string())),
                None => Err(Denied::NoMatch {
                    capability: capability.clone(),
                    target: target.to_string(),
                }),
            },
            None if *capability == Capability::ModelUse && models == ModelDefault::Allow => {
                Ok(Rule::ModelDefault)
            }
            None => Err(Denied::NotGranted {
                capability: capability.clone(),
            }),
        }
    }

    /// The canonical `lease` of `job.accepted`: sorted namespaces, patterns in the
    /// order they were asked for.
    pub fn to_json(&self) -> String {
        let mut lease: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (capability, grants) in &self.grants {
            let patterns = grants.patterns().iter().map(Pattern::to_string);
            lease.insert(capability.as_str(), patterns.collect());
        }
        if !self.budget.is_empty() {
            let amounts = self.budget.iter();
            let amounts = amounts.map(|(currency, amount)| format!("{currency}:{amount}"));
            lease.insert(BUDGET, amounts.collect());
        }
        serde_json::to_string(&lease).expect("strings in lists under strings are JSON")
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pattern(pattern) => f.write_str(pattern),
            Self::ModelDefault => f.write_str("model_use_default"),
        }
    }
}
