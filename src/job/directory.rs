//! Which agents there are: name, versions, the default one (§7.5).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use super::{AgentResult, JobContext};
use crate::log::HostedAgentRow;
use crate::protocol::message::AgentInfo;
use crate::protocol::{AgentRef, ErrorCode, Failure};

pub type AgentRun = Pin<Box<dyn Future<Output = Result<AgentResult, Failure>> + Send + 'static>>;

/// The pinned `name@version` and what runs it.
pub type Resolved = Result<(String, Arc<dyn Agent>), Failure>;

/// Anything that can run a job.
pub trait Agent: Send + Sync + 'static {
    fn run(&self, job: JobContext) -> AgentRun;

    /// Whether a job of it may outlive this process: it is `pending` until a host
    /// has accepted it, and taken up again after a restart.
    fn is_hosted(&self) -> bool {
        false
    }
}

/// Agents that come and go while the runtime runs.
pub trait Provider: Send + Sync + 'static {
    /// `None` when there is none of that name.
    fn resolve(&self, wanted: &AgentRef) -> Option<Resolved>;

    /// What takes a job of `name@version` up again, whether or not it is there yet.
    fn recover(&self, agent: &str) -> Arc<dyn Agent>;

    /// Agents that were registered where other replicas are.
    fn remember(&self, agents: &[HostedAgentRow]);

    /// Those that are there now.
    fn list(&self) -> Vec<AgentInfo>;
}

/// An async function of the context is an agent.
impl<F, R, T> Agent for F
where
    F: Fn(JobContext) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, Failure>> + Send + 'static,
    T: Into<AgentResult>,
{
    fn run(&self, job: JobContext) -> AgentRun {
        let run = self(job);
        Box::pin(async move { run.await.map(Into::into) })
    }
}

#[derive(Clone, Default)]
pub struct AgentDirectory {
    agents: BTreeMap<String, Versions>,
    provider: Option<Arc<dyn Provider>>,
}

#[derive(Clone)]
struct Versions {
    /// The one registered last, so that the newest release is what a bare name gets.
    default: String,
    by_version: BTreeMap<String, Arc<dyn Agent>>,
}

impl AgentDirectory {
    /// Registers `name@version`; the version registered last is the default.
    pub fn register(
        &mut self,
        name: &str,
        version: &str,
        agent: impl Agent,
    ) -> Result<&mut Self, String> {
        AgentRef::parse(&format!("{name}@{version}"))?;
        let versions = self
            .agents
            .entry(name.to_owned())
            .or_insert_with(|| Versions {
                default: version.to_owned(),
                by_version: BTreeMap::new(),
            });
        versions.default = version.to_owned();
        versions
            .by_version
            .insert(version.to_owned(), Arc::new(agent));
        Ok(self)
    }

    /// The pinned `name@version` and what runs it.
    pub fn resolve(&self, text: &str) -> Resolved {
        let wanted = AgentRef::parse(text).map_err(Failure::invalid)?;
        let Some(versions) = self.agents.get(&wanted.name) else {
            if let Some(found) = self.provider.as_ref().and_then(|p| p.resolve(&wanted)) {
                return found;
            }
            let message = format!("agent: no agent is called {}", wanted.name);
            return Err(Failure::new(ErrorCode::AgentNotAvailable, message));
        };
        let version = wanted.version.as_ref().unwrap_or(&versions.default);
        let Some(agent) = versions.by_version.get(version) else {
            let known: Vec<_> = versions.by_version.keys().cloned().collect();
            let message = format!(
                "agent: {} has no version {version}; there are {}",
                wanted.name,
                known.join(", ")
            );
            return Err(Failure::new(ErrorCode::AgentVersionNotAvailable, message));
        };
        Ok((format!("{}@{version}", wanted.name), agent.clone()))
    }

    /// Of the agents that are always there, each as `name@version`.
    pub fn pinned(&self) -> impl Iterator<Item = String> {
        let versions = |(name, of): (&String, &Versions)| {
            let pinned = |version: &String| format!("{name}@{version}");
            of.by_version.keys().map(pinned).collect::<Vec<_>>()
        };
        self.agents.iter().flat_map(versions)
    }

    /// Of the agents that are always there.
    pub fn names(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// Asked for names that are not registered here.
    pub fn set_provider(&mut self, provider: Arc<dyn Provider>) {
        self.provider = Some(provider);
    }

    pub(super) fn remember(&self, agents: &[HostedAgentRow]) {
        self.provider.iter().for_each(|p| p.remember(agents));
    }

    pub(super) fn recover(&self, agent: &str) -> Option<Arc<dyn Agent>> {
        self.provider.as_ref().map(|p| p.recover(agent))
    }

    /// For `session.welcome`.
    pub fn list(&self) -> Vec<AgentInfo> {
        let own = self.agents.iter().map(|(name, versions)| AgentInfo {
            name: name.clone(),
            versions: versions.by_version.keys().cloned().collect(),
            default_version: versions.default.clone(),
        });
        let mut list: Vec<_> = own.collect();
        list.extend(self.provider.iter().flat_map(|p| p.list()));
        list
    }
}
