//! The operator's bounds on what a principal may ask for.
//!
//! ```toml
//! default = "deny"              # jobs that no bound fits: refused (or "allow": as asked)
//! model_use_default = "deny"    # jobs whose lease says nothing about models
//!
//! [[bound]]                     # the first that fits decides
//! principals = ["alice", "team-*"]
//! agents = ["report", "word-*@1.*"]      # left out: every agent
//! unbounded = ["tool.call"]              # as asked
//! max_lifetime_sec = 3600                # also for a request without an end
//! [bound.lease]
//! "net.fetch" = ["https://*.example.com/**"]
//! "cost.budget" = ["USD:5"]
//! ```
//! A request is cut down to the bound and goes on; the client reads what is left in
//! `job.accepted`. A namespace that the bound does not name is not granted.

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;

use super::{Capability, Lease, ModelDefault, Pattern, Target, glob};
use crate::protocol::{AgentRef, Timestamp};

/// A century: any end that is later would be a mistake, and no date to print.
const LIFETIME_SEC_MAX: u64 = 100 * 366 * 24 * 3600;

/// The default is the policy of a deployment without a file: everything that parses
/// is granted as asked, models only where a lease names them.
#[derive(Clone, Debug)]
pub struct Policy {
    unmatched: Unmatched,
    pub model_use_default: ModelDefault,
    bounds: Vec<Bound>,
}

/// What becomes of a job that no bound fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unmatched {
    /// A file that does not say otherwise means what it lists.
    #[default]
    Deny,
    Allow,
}

#[derive(Clone, Debug)]
struct Bound {
    principals: Vec<String>,
    agents: Vec<Pattern>,
    unbounded: Vec<Capability>,
    lifetime_ms: Option<i64>,
    lease: Lease,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default: Unmatched,
    #[serde(default)]
    model_use_default: ModelDefault,
    #[serde(default)]
    bound: Vec<RawBound>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBound {
    principals: Vec<String>,
    agents: Option<Vec<String>>,
    #[serde(default)]
    unbounded: Vec<String>,
    max_lifetime_sec: Option<u64>,
    #[serde(default)]
    lease: BTreeMap<String, Vec<String>>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            unmatched: Unmatched::Allow,
            model_use_default: ModelDefault::Deny,
            bounds: Vec::new(),
        }
    }
}

impl Policy {
    /// The text of a policy file. The error names the bound, from 0, and its key.
    pub fn parse(toml: &str) -> Result<Self, String> {
        let file: File = Figment::from(Toml::string(toml))
            .extract()
            .map_err(|error| error.to_string())?;
        let bounds = file.bound.into_iter().enumerate();
        Ok(Self {
            unmatched: file.default,
            model_use_default: file.model_use_default,
            bounds: bounds
                .map(|(at, raw)| Bound::read(raw).map_err(|why| format!("bound[{at}].{why}")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What `principal` gets for a job of `agent`, the version resolved, when it asks
    /// for `asked`; or why it gets no job.
    pub fn effective(
        &self,
        principal: &str,
        agent: &AgentRef,
        asked: &Lease,
        now: Timestamp,
    ) -> Result<Lease, String> {
        let target = Target::parse(&Capability::AgentDelegate, &agent.to_string())?;
        let fits = |bound: &&Bound| {
            bound
                .principals
                .iter()
                .any(|own| glob::matches(own, principal))
                && bound.agents.iter().any(|own| own.matches(&target))
        };
        match (self.bounds.iter().find(fits), self.unmatched) {
            (Some(bound), _) => Ok(bound.cut(asked, self.model_use_default, now)),
            (None, Unmatched::Allow) => Ok(asked.clone()),
            (None, Unmatched::Deny) => Err(format!("no policy lets {principal} run {agent}")),
        }
    }
}

impl Bound {
    fn read(raw: RawBound) -> Result<Self, String> {
        let RawBound {
            principals,
            agents,
            unbounded,
            max_lifetime_sec,
            lease,
        } = raw;
        if principals.is_empty() || principals.iter().any(String::is_empty) {
            return Err("principals: must name somebody".into());
        }
        let agents = agents.unwrap_or_else(|| vec!["*".into()]);
        let agents = agents.iter().enumerate().map(|(at, text)| {
            let pattern = Pattern::parse(&Capability::AgentDelegate, text);
            pattern.map_err(|why| format!("agents[{at}]: {why}"))
        });
        let agents = agents.collect::<Result<Vec<_>, _>>()?;
        if agents.is_empty() {
            return Err("agents: must name one, or be left out for all".into());
        }
        let mut free = Vec::new();
        for (at, name) in unbounded.iter().enumerate() {
            let field = format!("unbounded[{at}]");
            if lease.contains_key(name) {
                return Err(format!("{field}: {name} is also in the lease"));
            }
            free.push(Capability::parse(name).map_err(|why| format!("{field}: {why}"))?);
        }
        if max_lifetime_sec.is_some_and(|sec| !(1..=LIFETIME_SEC_MAX).contains(&sec)) {
            return Err(format!("max_lifetime_sec: must be 1 to {LIFETIME_SEC_MAX}"));
        }
        Ok(Self {
            principals,
            agents,
            unbounded: free,
            lifetime_ms: max_lifetime_sec.map(|sec| sec as i64 * 1_000),
            lease: Lease::from_entries(lease, "lease")?,
        })
    }

    fn cut(&self, asked: &Lease, models: ModelDefault, now: Timestamp) -> Lease {
        let mut bound = self.lease.clone();
        bound.expires_at = self
            .lifetime_ms
            .map(|lifetime| Timestamp(now.0.saturating_add(lifetime)));
        let mut cut = asked.intersect(&bound, models);
        for capability in &self.unbounded {
            match asked.grants.get(capability) {
                Some(grants) => cut.grants.insert(capability.clone(), grants.clone()),
                None => cut.grants.remove(capability),
            };
        }
        cut
    }
}
