//! Who may host agents, and under which names (`[[hosting]]`). Nobody may until
//! it is said.

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::Tokens;
use crate::agent::host::Rights;
use crate::session::Authenticator;
use crate::telemetry::{Service, Telemetry};

/// One principal's right to host.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hosting {
    pub principal: String,
    /// Agent names; one that ends in `*` stands for all that begin so.
    pub agents: Vec<String>,
}

impl Hosting {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let at = format!("hosting of {}", self.principal);
        ensure!(!self.principal.is_empty(), "hosting: principal is empty");
        ensure!(!self.agents.is_empty(), "{at}: agents is empty");
        for pattern in &self.agents {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            let plain = name.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            });
            ensure!(
                plain && !pattern.is_empty(),
                "{at}: agents: {pattern:?} is not a name, nor a beginning with * at its end"
            );
        }
        Ok(())
    }

    fn covers(&self, principal: &str, name: &str) -> bool {
        self.principal == principal
            && self
                .agents
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(beginning) => name.starts_with(beginning),
                    None => name == pattern,
                })
    }
}

pub(super) struct HostRights {
    pub tokens: Tokens,
    pub hosting: Vec<Hosting>,
    pub telemetry: Telemetry,
}

impl Rights for HostRights {
    fn principal(&self, token: &str) -> Option<String> {
        let principal = self.tokens.principal(token);
        if principal.is_none() {
            self.telemetry.unauthenticated(Service::AgentHost);
        }
        principal
    }

    fn may_host(&self, principal: &str, agent_name: &str) -> bool {
        self.hosting
            .iter()
            .any(|hosting| hosting.covers(principal, agent_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosting(agents: &[&str]) -> Hosting {
        Hosting {
            principal: "w".into(),
            agents: agents.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    #[test]
    fn a_right_is_for_one_principal_and_the_names_it_lists() {
        let right = hosting(&["count", "acme.*"]);
        assert!(right.covers("w", "count") && right.covers("w", "acme.x"));
        assert!(!right.covers("w", "counter") && !right.covers("v", "count"));
        assert!(hosting(&["*"]).covers("w", "anything"));
        assert!(right.check().is_ok());
        for bad in ["", "A", "a*b", "a b"] {
            assert!(hosting(&[bad]).check().is_err(), "{bad}");
        }
    }
}
