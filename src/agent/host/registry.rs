//! The hosts there are, the places they have and the jobs that wait for one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::activation::Activation;
use super::drive::HostAgent;
use super::known::KnownAgents;
use super::orphans::Orphans;
use super::placement::{HostId, Placement, Ticket};
use super::process::{Host, Turn};
use super::{Elsewhere, Options, Rights};
use crate::job::{Agent, Provider, Resolved};
use crate::log::{HostKey, HostedAgentRow, ReplicaNumber};
use crate::protocol::AgentRef;
use crate::protocol::host::{AssignmentRef, HostRefusal, LossPolicy, Register};
use crate::protocol::message::AgentInfo;

/// Hosts at other replicas that are remembered; more, and the time it takes to be lost
/// decides of what they had.
const ELSEWHERE_MAX: usize = 100_000;

/// Shared by all connections of hosts and by the jobs they run.
pub struct Hosts {
    pub(super) options: Options,
    pub(super) rights: Box<dyn Rights>,
    /// Names of agents that are always there.
    reserved: Vec<String>,
    pub(super) draining: CancellationToken,
    pub(super) elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    /// Something was added to those that wait for their hosts.
    orphaned: Notify,
    /// What hosts offer, or have room for, is not what it was.
    changed: Notify,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub placement: Placement<oneshot::Sender<Place>>,
    pub hosts: BTreeMap<HostId, Arc<Host>>,
    by_instance: HashMap<(String, String), HostId>,
    known: KnownAgents,
    orphans: Orphans,
    /// Hosts that have come to other replicas that are there, without what those did not
    /// get: nobody waits for them here.
    elsewhere: HashMap<HostKey, ReplicaNumber>,
    next_id: HostId,
}

/// A place of a host for one job; given back when dropped.
pub(super) struct Place {
    hosts: Arc<Hosts>,
    pub host: Arc<Host>,
    agent: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hosts.state.lock();
        state.placement.give_back(self.host.id, &self.agent);
        let places = self.hosts.clone().serve_lines(&mut state, self.host.id);
        drop(state);
        hand_out(places);
        self.hosts.changed.notify_one();
    }
}

/// Somebody waits for a place; out of line however the wait ends.
struct InLine {
    hosts: Arc<Hosts>,
    agent: String,
    ticket: Ticket,
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut state = self.hosts.state.lock();
        state.placement.leave(&self.agent, self.ticket);
    }
}

type Served = Vec<(oneshot::Sender<Place>, Place)>;

/// A waiter that has gone gives its place back as it is dropped, which serves the
/// next in line: so never under the lock.
fn hand_out(places: Served) {
    for (waiter, place) in places {
        drop(waiter.send(place));
    }
}

impl Hosts {
    pub fn new(
        options: Options,
        rights: Box<dyn Rights>,
        reserved: Vec<String>,
        known: Vec<HostedAgentRow>,
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
            draining: CancellationToken::new(),
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

    /// Places that are free, by `name@version`: of every agent that a host here takes
    /// jobs of.
    pub fn free(&self) -> BTreeMap<String, u32> {
        self.state.lock().placement.free()
    }

    /// The same of one agent; none when no host here takes jobs of it.
    pub fn free_of(&self, agent: &str) -> Option<u32> {
        self.state.lock().placement.free_of(agent)
    }

    /// Resolves when what [`Hosts::free`] says may have changed. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Tells every host that the runtime goes away; their jobs are theirs still.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Connected, or gone for less than it takes to be lost.
    pub fn count(&self) -> usize {
        self.state.lock().hosts.len()
    }

    pub fn hosts_max(&self) -> usize {
        self.options.hosts_max
    }

    /// Jobs that hosts have, and the most that they take at once.
    pub fn places(&self) -> (u64, u64) {
        self.state.lock().placement.places()
    }

    /// A place for a job of the agent, now or when one is free.
    pub(super) async fn place(self: &Arc<Self>, agent: &str) -> Place {
        loop {
            let (waiting, _in_line) = {
                let mut state = self.state.lock();
                let host = state.placement.take(agent);
                if let Some(host) = host.and_then(|id| state.hosts.get(&id).cloned()) {
                    return self.taken(host, agent);
                }
                let (waiter, waiting) = oneshot::channel();
                let ticket = state.placement.wait(agent, waiter);
                let hosts = self.clone();
                let agent = agent.to_owned();
                (
                    waiting,
                    InLine {
                        hosts,
                        agent,
                        ticket,
                    },
                )
            };
            // The sender is dropped by nobody but a line that goes with its hosts.
            if let Ok(place) = waiting.await {
                return place;
            }
        }
    }

    fn taken(self: &Arc<Self>, host: Arc<Host>, agent: &str) -> Place {
        Place {
            hosts: self.clone(),
            host,
            agent: agent.into(),
        }
    }

    /// Places for those that wait, as far as the host has some.
    fn serve_lines(self: Arc<Self>, state: &mut State, id: HostId) -> Served {
        let mut served = Vec::new();
        let Some(host) = state.hosts.get(&id).cloned() else {
            return served;
        };
        while let Some((waiter, agent)) = state.placement.next_for(id) {
            if waiter.is_closed() {
                state.placement.give_back(id, &agent);
                continue;
            }
            served.push((waiter, self.taken(host.clone(), &agent)));
        }
        served
    }

    /// A place that the host of a recovered activation has in use already.
    pub(super) fn occupied(self: &Arc<Self>, host: &Arc<Host>, agent: &str) -> Place {
        self.state.lock().placement.occupy(host.id, agent);
        self.taken(host.clone(), agent)
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
        state.elsewhere.remove(&HostKey {
            principal: principal.into(),
            instance_id: register.instance_id.clone(),
        });
        let instance = (principal.to_owned(), register.instance_id.clone());
        let known = state.by_instance.get(&instance).copied();
        if let Some(host) = known.and_then(|id| state.hosts.get(&id).cloned()) {
            let turn = host.claim();
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
        (host, turn)
    }

    /// Its places can be occupied by what it holds; it is offered nothing yet.
    pub(super) fn announce(&self, host: &Arc<Host>, register: &Register) {
        let mut state = self.state.lock();
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
            let listed = host.state.lock().listed;
            if listed {
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

    /// The host is at another replica now, with what it has.
    pub fn came_elsewhere(self: &Arc<Self>, key: &HostKey, replica: ReplicaNumber) {
        let instance = (key.principal.clone(), key.instance_id.clone());
        let host = {
            let mut state = self.state.lock();
            if state.elsewhere.len() >= ELSEWHERE_MAX {
                state.elsewhere.clear();
            }
            state.elsewhere.insert(key.clone(), replica);
            state.orphans.disown(key);
            let id = state.by_instance.get(&instance);
            id.and_then(|id| state.hosts.get(id).cloned())
        };
        if let Some(host) = host {
            let generation = {
                let own = host.state.lock();
                own.displaced.cancel();
                own.generation
            };
            self.lose(&host, generation, "the host no longer has the job");
        }
    }

    /// A replica is gone: where its hosts are is not known.
    pub fn forget_elsewhere(&self, replica: ReplicaNumber) {
        let mut state = self.state.lock();
        state.elsewhere.retain(|_, at| *at != replica);
    }

    pub(super) fn add_orphan(&self, host: HostKey, activation: Arc<Activation>) {
        let mut state = self.state.lock();
        let instance = (host.principal.clone(), host.instance_id.clone());
        let here = state.by_instance.get(&instance);
        let here = here.and_then(|id| state.hosts.get(id));
        let came_without = here.is_some_and(|host| host.state.lock().arrived)
            || state.elsewhere.contains_key(&host);
        state.orphans.add(host.clone(), activation);
        if came_without {
            state.orphans.disown(&host);
        }
        drop(state);
        self.orphaned.notify_waiters();
    }

    /// Resolves once all of these jobs wait for their hosts.
    pub(super) async fn until_orphans(&self, job_ids: &[String]) {
        loop {
            let more = self.orphaned.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            {
                let state = self.state.lock();
                if job_ids.iter().all(|id| state.orphans.has(id)) {
                    return;
                }
            }
            more.await;
        }
    }

    pub(super) fn drop_orphan(&self, activation: &Arc<Activation>) {
        self.state.lock().orphans.remove(activation);
    }

    pub(super) fn adopt(&self, host: &Host, of: &AssignmentRef) -> Option<Arc<Activation>> {
        self.state.lock().orphans.adopt(&host.principal, of)
    }

    pub(super) fn disown(&self, host: &Host) {
        self.state.lock().orphans.disown(&host.key());
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Anybody;

    impl Rights for Anybody {
        fn principal(&self, token: &str) -> Option<String> {
            Some(token.into())
        }

        fn may_host(&self, _: &str, _: &str) -> bool {
            true
        }
    }

    /// It stayed in line until a host came.
    #[tokio::test(start_paused = true)]
    async fn a_job_that_no_longer_waits_is_out_of_line() {
        let hosts = Hosts::new(Options::default(), Box::new(Anybody), vec![], vec![]);
        let limit = Duration::from_secs(1);
        let waiting = tokio::time::timeout(limit, hosts.place("a@1.0.0")).await;
        assert!(waiting.is_err());
        assert!(hosts.state.lock().placement.is_idle());
    }
}
