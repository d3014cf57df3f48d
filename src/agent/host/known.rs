//! Which agents hosts have registered, and whose each name is (pure).
//!
//! A name belongs to the principal that registered it first, for as long as it is
//! remembered: nobody takes over another's agent by registering it.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::host::{HostedAgent, LossPolicy};
use crate::protocol::message::AgentInfo;
use crate::protocol::{AgentRef, ErrorCode, Failure};

#[derive(Default)]
pub(super) struct KnownAgents {
    by_name: BTreeMap<String, Known>,
    /// `name@version` of those that hosts at other replicas take jobs of.
    elsewhere: BTreeSet<String>,
}

struct Known {
    principal: String,
    versions: BTreeMap<String, Version>,
}

#[derive(Default)]
struct Version {
    loss_policy: LossPolicy,
    /// Hosts that are connected and take jobs of it.
    hosts: usize,
}

impl KnownAgents {
    /// Whose the name is.
    pub fn owner(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(|known| &*known.principal)
    }

    pub fn remember(&mut self, principal: &str, name: &str, version: &str) {
        let known = self.by_name.entry(name.into()).or_insert_with(|| Known {
            principal: principal.into(),
            versions: BTreeMap::new(),
        });
        known.versions.entry(version.into()).or_default();
    }

    /// A host of it has come.
    pub fn arrive(&mut self, principal: &str, agent: &HostedAgent) {
        self.remember(principal, &agent.name, &agent.version);
        if let Some(version) = self.version(&agent.name, &agent.version) {
            version.loss_policy = agent.loss_policy;
            version.hosts += 1;
        }
    }

    pub fn leave(&mut self, agent: &HostedAgent) {
        if let Some(version) = self.version(&agent.name, &agent.version) {
            version.hosts = version.hosts.saturating_sub(1);
        }
    }

    pub fn set_elsewhere(&mut self, agents: BTreeSet<String>) {
        self.elsewhere = agents;
    }

    fn has_host(&self, name: &str, version: &str) -> bool {
        let known = self.by_name.get(name);
        let here = known.and_then(|known| known.versions.get(version));
        here.is_some_and(|version| version.hosts > 0)
            || self.elsewhere.contains(&format!("{name}@{version}"))
    }

    fn version(&mut self, name: &str, version: &str) -> Option<&mut Version> {
        self.by_name.get_mut(name)?.versions.get_mut(version)
    }

    pub fn loss_policy(&self, agent: &str) -> LossPolicy {
        agent
            .split_once('@')
            .and_then(|(name, version)| self.by_name.get(name)?.versions.get(version))
            .map(|version| version.loss_policy)
            .unwrap_or_default()
    }

    /// The pinned `name@version`; `None` when nobody has registered the name.
    pub fn resolve(&self, wanted: &AgentRef) -> Option<Result<String, Failure>> {
        let known = self.by_name.get(&wanted.name)?;
        let version = match &wanted.version {
            Some(version) => version.as_str(),
            None => self.default_version(&wanted.name, known)?,
        };
        if !known.versions.contains_key(version) {
            let versions: Vec<_> = known.versions.keys().cloned().collect();
            let message = format!(
                "agent: {} has no version {version}; there are {}",
                wanted.name,
                versions.join(", ")
            );
            return Some(Err(Failure::new(
                ErrorCode::AgentVersionNotAvailable,
                message,
            )));
        }
        Some(Ok(format!("{}@{version}", wanted.name)))
    }

    /// Those with a connected host, here or at another replica.
    pub fn list(&self) -> Vec<AgentInfo> {
        let mut connected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, known) in &self.by_name {
            let here = known.versions.iter();
            for (version, _) in here.filter(|(_, version)| version.hosts > 0) {
                connected.entry(name).or_default().insert(version);
            }
        }
        let elsewhere = self.elsewhere.iter();
        for (name, version) in elsewhere.filter_map(|agent| agent.split_once('@')) {
            connected.entry(name).or_default().insert(version);
        }
        let listed = connected.into_iter().map(|(name, versions)| AgentInfo {
            name: name.into(),
            default_version: highest(versions.iter().copied()).unwrap_or_default().into(),
            versions: versions.into_iter().map(Into::into).collect(),
        });
        listed.collect()
    }

    /// The highest, of those with a host if there are any.
    fn default_version<'a>(&self, name: &str, known: &'a Known) -> Option<&'a str> {
        let versions = || known.versions.keys().map(String::as_str);
        let connected = versions().filter(|version| self.has_host(name, version));
        highest(connected).or_else(|| highest(versions()))
    }
}

fn highest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    versions.max_by(|a, b| compare(a, b))
}

/// Runs of digits by their value, the rest as text.
fn compare(a: &str, b: &str) -> std::cmp::Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        text.split(['.', '-', '+'])
            .map(|part| (part.parse().unwrap_or(0), part.to_owned()))
            .collect()
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, version: &str) -> HostedAgent {
        HostedAgent {
            name: name.into(),
            version: version.into(),
            max_in_flight: 0,
            loss_policy: LossPolicy::Retry,
            description: String::new(),
            input_schema_json: String::new(),
        }
    }

    #[test]
    fn a_name_stays_its_first_owners_and_a_bare_name_is_the_highest_connected() {
        let mut known = KnownAgents::default();
        known.arrive("w", &agent("a", "1.9.0"));
        known.arrive("w", &agent("a", "1.10.0"));
        assert_eq!(known.owner("a"), Some("w"));
        let resolve = |known: &KnownAgents, text: &str| {
            known
                .resolve(&AgentRef::parse(text).unwrap())
                .map(|found| found.map_err(|f| f.code))
        };
        assert_eq!(resolve(&known, "a"), Some(Ok("a@1.10.0".into())));
        known.leave(&agent("a", "1.10.0"));
        assert_eq!(resolve(&known, "a"), Some(Ok("a@1.9.0".into())));
        assert_eq!(resolve(&known, "a@1.10.0"), Some(Ok("a@1.10.0".into())));
        let missing = Some(Err(ErrorCode::AgentVersionNotAvailable));
        assert_eq!(resolve(&known, "a@2"), missing);
        assert_eq!(resolve(&known, "b"), None);
        assert_eq!(known.list()[0].versions, ["1.9.0"]);
        assert_eq!(known.loss_policy("a@1.9.0"), LossPolicy::Retry);
        known.set_elsewhere(["a@1.10.0".to_owned(), "c@1".to_owned()].into());
        assert_eq!(resolve(&known, "a"), Some(Ok("a@1.10.0".into())));
        let listed = known.list();
        assert_eq!(listed[0].versions, ["1.10.0", "1.9.0"]);
        assert_eq!(listed[0].default_version, "1.10.0");
        // Its registration comes on another way, and later.
        assert_eq!(listed[1].name, "c");
    }
}
