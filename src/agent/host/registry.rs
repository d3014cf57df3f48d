//! The hosts there are: who may be one, when it is offered jobs, and when it is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::drive::HostAgent;
use super::known::KnownAgents;
use super::orphans::Orphans;
use super::place::{Place, hand_out};
use super::placement::{HostId, Placement};
use super::process::{Host, Turn};
use super::{Elsewhere, Options, Rights};
use crate::drain::Drain;
use crate::job::{Agent, Provider, Resolved};
use crate::log::{HostKey, HostedAgentRow, ReplicaNumber};
use crate::protocol::AgentRef;
use crate::protocol::host::{HostRefusal, LossPolicy, Register};
use crate::protocol::message::AgentInfo;

/// Shared by all connections of hosts and by the jobs they run.
pub struct Hosts {
    pub(super) options: Options,
    pub(super) rights: Box<dyn Rights>,
    /// Names of agents that are always there.
    reserved: Vec<String>,
    pub(super) drain: Arc<Drain>,
    pub(super) elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    /// Something was added to those that wait for their hosts.
    pub(super) orphaned: Notify,
    /// What hosts offer, or have room for, is not what it was.
    pub(super) changed: Notify,
    pub(super) state: Mutex<State>,
}

/// Where a host has come, and with which of its dials: 0 where they have no numbers.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub replica: ReplicaNumber,
    pub dial: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub placement: Placement<oneshot::Sender<Place>>,
    pub hosts: BTreeMap<HostId, Arc<Host>>,
    pub by_instance: HashMap<(String, String), HostId>,
    known: KnownAgents,
    pub orphans: Orphans,
    /// Hosts that have come to other replicas that are there, without what those did not
    /// get: nobody waits for them here.
    pub elsewhere: HashMap<HostKey, Arrival>,
    next_id: HostId,
}

impl Hosts {
    pub fn new(
        options: Options,
        rights: Box<dyn Rights>,
        reserved: Vec<String>,
        known: Vec<HostedAgentRow>,
        drain: Arc<Drain>,
    ) -> Arc<Self> {
        let mut state = State::default();
        for agent in known {
            state
                .known
                .remember(&agent.principal, &agent.name, &agent.version);
        }
        Arc::new(Self {
            options,
            rights,
            reserved,
            drain,
            elsewhere: OnceLock::new(),
            orphaned: Notify::new(),
            changed: Notify::new(),
            state: Mutex::new(state),
        })
    }

    /// The first one set stays.
    pub fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        let _ = self.elsewhere.set(elsewhere);
    }

    /// Agents that hosts have registered at another replica.
    pub fn remember(&self, agents: &[HostedAgentRow]) {
        let mut state = self.state.lock();
        for agent in agents {
            state
                .known
                .remember(&agent.principal, &agent.name, &agent.version);
        }
    }

    /// `name@version` of the agents that hosts at other replicas take jobs of.
    pub fn set_elsewhere_offered(&self, agents: BTreeSet<String>) {
        self.state.lock().known.set_elsewhere(agents);
    }

    /// Resolves when what [`Hosts::free`] says may have changed. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Connected, or gone for less than it takes to be lost.
    pub fn count(&self) -> usize {
        self.state.lock().hosts.len()
    }

    pub fn hosts_max(&self) -> usize {
        self.options.hosts_max
    }

    pub(super) fn loss_policy(&self, agent: &str) -> LossPolicy {
        self.state.lock().known.loss_policy(agent)
    }

    /// Checks what a host wants to offer against policy and against whose it is.
    pub(super) fn check(&self, principal: &str, register: &Register) -> Result<(), HostRefusal> {
        let state = self.state.lock();
        for agent in &register.agents {
            let refused = |why: &str| {
                let name = &agent.name;
                HostRefusal::PermissionDenied(format!("register.agents: {name} {why}"))
            };
            if !self.rights.may_host(principal, &agent.name) {
                return Err(refused(
                    "may not be hosted by this principal; see [[hosting]]",
                ));
            }
            if self.reserved.contains(&agent.name) {
                return Err(refused("is an agent of the runtime's own"));
            }
            if state
                .known
                .owner(&agent.name)
                .is_some_and(|o| o != principal)
            {
                return Err(refused("belongs to another principal"));
            }
        }
        let instance = (principal.to_owned(), register.instance_id.clone());
        let limit = self.options.hosts_max;
        if state.hosts.len() >= limit && !state.by_instance.contains_key(&instance) {
            let text = format!("{limit} hosts are connected, which is the limit");
            return Err(HostRefusal::TooMany(text));
        }
        Ok(())
    }

    /// The host of a connection: a new one, or the one it was before.
    /// Its turn is taken under the same lock under which a host is lost.
    pub(super) fn host_of(&self, principal: &str, register: &Register) -> (Arc<Host>, Turn) {
        let mut state = self.state.lock();
        let also_at = state.elsewhere.remove(&HostKey {
            principal: principal.into(),
            instance_id: register.instance_id.clone(),
        });
        // Without a number it was before this.
        let also_at = also_at.filter(|at| at.dial > 0);
        let instance = (principal.to_owned(), register.instance_id.clone());
        let known = state.by_instance.get(&instance).copied();
        if let Some(host) = known.and_then(|id| state.hosts.get(&id).cloned()) {
            // Until it has arrived on this connection, too.
            state.placement.set_accepting(host.id, false);
            let turn = host.claim();
            host.state.lock().also_at = also_at;
            return (host, turn);
        }
        state.next_id += 1;
        let id = state.next_id;
        let host = Host::new(
            id,
            principal.into(),
            register.instance_id.clone(),
            register.host_name.clone(),
        );
        let host = Arc::new(host);
        state.hosts.insert(id, host.clone());
        state.by_instance.insert(instance, id);
        let turn = host.claim();
        host.state.lock().also_at = also_at;
        (host, turn)
    }

    /// Its places can be occupied by what it holds; it is offered nothing yet.
    pub(super) fn announce(&self, host: &Arc<Host>, register: &Register) {
        let mut state = self.state.lock();
        // Lost with its last connection's place: there is none for it any more.
        if host.state.lock().lost {
            return;
        }
        self.offer(&mut state, host, register);
        state.placement.set_accepting(host.id, false);
    }

    fn offer(&self, state: &mut State, host: &Arc<Host>, register: &Register) {
        let max = register.max_in_flight.min(self.options.in_flight_max);
        let agents = register.agents.iter();
        let agents = agents.map(|agent| {
            (
                format!("{}@{}", agent.name, agent.version),
                agent.max_in_flight,
            )
        });
        state.placement.offer(host.id, max, agents);
    }

    /// The host takes jobs from now on.
    pub(super) fn arrive(self: &Arc<Self>, host: &Arc<Host>, register: &Register) {
        let mut state = self.state.lock();
        let mut own = host.state.lock();
        if own.lost {
            return;
        }
        if std::mem::replace(&mut own.listed, true) {
            own.agents.iter().for_each(|agent| state.known.leave(agent));
        }
        own.agents = register.agents.clone();
        own.arrived = true;
        for agent in &own.agents {
            state.known.arrive(&host.principal, agent);
        }
        drop(own);
        self.offer(&mut state, host, register);
        let places = self.clone().serve_lines(&mut state, host.id);
        drop(state);
        hand_out(places);
        self.changed.notify_one();
    }

    pub(super) fn set_capacity(self: &Arc<Self>, host: &Arc<Host>, max: u32) {
        let mut state = self.state.lock();
        let max = max.min(self.options.in_flight_max);
        state.placement.set_max(host.id, max);
        let places = self.clone().serve_lines(&mut state, host.id);
        drop(state);
        hand_out(places);
        self.changed.notify_one();
    }

    /// Whether the host is offered jobs; one that is connected again says so anew.
    pub(super) fn set_accepting(self: &Arc<Self>, host: &Arc<Host>, accepting: bool) {
        let mut state = self.state.lock();
        state.placement.set_accepting(host.id, accepting);
        let mut own = host.state.lock();
        if !accepting && std::mem::replace(&mut own.listed, false) {
            own.agents.iter().for_each(|agent| state.known.leave(agent));
        }
        drop(own);
        let places = match accepting {
            true => self.clone().serve_lines(&mut state, host.id),
            false => Vec::new(),
        };
        drop(state);
        hand_out(places);
        self.changed.notify_one();
    }

    /// For a host that let an offer pass: none for a while.
    pub(super) fn pause(self: &Arc<Self>, host: &Arc<Host>) {
        self.state.lock().placement.set_accepting(host.id, false);
        let (hosts, host) = (self.clone(), host.clone());
        tokio::spawn(async move {
            tokio::time::sleep(hosts.options.accept_within).await;
            let takes_jobs = {
                let own = host.state.lock();
                own.listed && own.arrived
            };
            if takes_jobs {
                hosts.set_accepting(&host, true);
            }
        });
    }

    /// The host is gone: what it held goes its policy's way.
    /// Unless a connection after that generation has it.
    pub(super) fn lose(self: &Arc<Self>, host: &Arc<Host>, generation: u64, reason: &str) {
        let mut state = self.state.lock();
        {
            let mut own = host.state.lock();
            if own.generation != generation {
                return;
            }
            own.lost = true;
            if let Some(at) = own.also_at.take() {
                state.elsewhere.insert(host.key(), at);
            }
            if std::mem::replace(&mut own.listed, false) {
                own.agents.iter().for_each(|agent| state.known.leave(agent));
            }
        }
        state.placement.remove(host.id);
        state.hosts.remove(&host.id);
        let instance = (host.principal.clone(), host.instance_id.clone());
        state.by_instance.remove(&instance);
        drop(state);
        self.changed.notify_one();
        host.lose_all(reason);
    }
}

/// How `AgentDirectory` finds hosted agents.
pub struct HostedAgents(pub Arc<Hosts>);

impl Provider for HostedAgents {
    fn resolve(&self, wanted: &AgentRef) -> Option<Resolved> {
        let pinned = self.0.state.lock().known.resolve(wanted)?;
        Some(pinned.map(|agent| (agent.clone(), self.recover(&agent))))
    }

    fn recover(&self, agent: &str) -> Arc<dyn Agent> {
        Arc::new(HostAgent {
            hosts: self.0.clone(),
            agent: agent.into(),
        })
    }

    fn remember(&self, agents: &[HostedAgentRow]) {
        self.0.remember(agents);
    }

    fn list(&self) -> Vec<AgentInfo> {
        self.0.state.lock().known.list()
    }
}
