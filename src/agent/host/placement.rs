//! Which host gets which job (pure but for the waiters it keeps).
//!
//! A host has places, in all and of each agent; work goes to the host with the
//! smallest share of its places in use. What finds no place waits in line, one
//! line an agent; a host with a free place serves the lines of its agents in turn.

use std::collections::{BTreeMap, HashMap};

pub type HostId = u64;
/// One's place in a line.
pub type Ticket = u64;

pub struct Placement<W> {
    hosts: BTreeMap<HostId, Places>,
    /// By ticket, which is by who came first.
    lines: HashMap<String, BTreeMap<Ticket, W>>,
    next_ticket: Ticket,
    /// Grows with each assignment, so that equals take turns.
    tick: u64,
}

pub struct Places {
    pub max: u32,
    pub used: u32,
    pub accepting: bool,
    pub agents: Vec<AgentPlaces>,
    /// The agent whose line is served next.
    turn: usize,
    last_tick: u64,
}

pub struct AgentPlaces {
    pub agent: String,
    /// 0 is no bound of its own.
    pub max: u32,
    pub used: u32,
}

impl AgentPlaces {
    fn is_free(&self) -> bool {
        self.max == 0 || self.used < self.max
    }
}

impl Places {
    fn is_free(&self) -> bool {
        self.accepting && self.used < self.max
    }

    fn agent(&mut self, agent: &str) -> Option<&mut AgentPlaces> {
        self.agents.iter_mut().find(|places| places.agent == agent)
    }

    fn has_room_for(&self, agent: &str) -> bool {
        self.is_free()
            && self
                .agents
                .iter()
                .any(|places| places.agent == agent && places.is_free())
    }

    fn free_of(&self, agent: &AgentPlaces) -> u32 {
        let in_all = self.max.saturating_sub(self.used);
        match agent.max {
            0 => in_all,
            max => in_all.min(max.saturating_sub(agent.used)),
        }
    }

    /// Share of the places in use, in thousandths.
    fn load(&self) -> u64 {
        u64::from(self.used) * 1000 / u64::from(self.max.max(1))
    }
}

impl<W> Default for Placement<W> {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            lines: HashMap::new(),
            next_ticket: 0,
            tick: 0,
        }
    }
}

impl<W> Placement<W> {
    pub fn of(&self, host: HostId) -> Option<&Places> {
        self.hosts.get(&host)
    }

    /// In use, and in all.
    pub fn places(&self) -> (u64, u64) {
        let sum =
            |of: fn(&Places) -> u32| self.hosts.values().map(|host| u64::from(of(host))).sum();
        (sum(|host| host.used), sum(|host| host.max))
    }

    /// Places that are free, by agent: of every agent that a host takes jobs of.
    pub fn free(&self) -> BTreeMap<String, u32> {
        let mut free = BTreeMap::new();
        for places in self.hosts.values().filter(|places| places.accepting) {
            for agent in &places.agents {
                *free.entry(agent.agent.clone()).or_insert(0) += places.free_of(agent);
            }
        }
        free
    }

    /// The same of one agent; none when no host takes jobs of it.
    pub fn free_of(&self, agent: &str) -> Option<u32> {
        let accepting = self.hosts.values().filter(|places| places.accepting);
        let offered = accepting.filter_map(|places| {
            let agent = places.agents.iter().find(|own| own.agent == agent)?;
            Some(places.free_of(agent))
        });
        offered.reduce(u32::saturating_add)
    }

    /// Adds a host, or changes what it offers; what it works on stays counted.
    pub fn offer(&mut self, host: HostId, max: u32, agents: impl Iterator<Item = (String, u32)>) {
        let places = self.hosts.entry(host).or_insert(Places {
            max: 0,
            used: 0,
            accepting: true,
            agents: Vec::new(),
            turn: 0,
            last_tick: 0,
        });
        places.max = max;
        places.accepting = true;
        let before = std::mem::take(&mut places.agents);
        places.agents = agents
            .map(|(agent, max)| AgentPlaces {
                used: before
                    .iter()
                    .find(|b| b.agent == agent)
                    .map_or(0, |b| b.used),
                agent,
                max,
            })
            .collect();
    }

    pub fn remove(&mut self, host: HostId) {
        self.hosts.remove(&host);
    }

    pub fn set_max(&mut self, host: HostId, max: u32) {
        if let Some(places) = self.hosts.get_mut(&host) {
            places.max = max;
        }
    }

    pub fn set_accepting(&mut self, host: HostId, accepting: bool) {
        if let Some(places) = self.hosts.get_mut(&host) {
            places.accepting = accepting;
        }
    }

    /// A place of the agent, taken, if there is one now.
    pub fn take(&mut self, agent: &str) -> Option<HostId> {
        let (host, _) = self
            .hosts
            .iter()
            .filter(|(_, places)| places.has_room_for(agent))
            .min_by_key(|(_, places)| (places.load(), places.last_tick))?;
        let host = *host;
        self.occupy(host, agent);
        Some(host)
    }

    /// Counts a job that a host has already.
    pub fn occupy(&mut self, host: HostId, agent: &str) {
        self.tick += 1;
        let Some(places) = self.hosts.get_mut(&host) else {
            return;
        };
        places.used += 1;
        places.last_tick = self.tick;
        if let Some(agent) = places.agent(agent) {
            agent.used += 1;
        }
    }

    pub fn give_back(&mut self, host: HostId, agent: &str) {
        let Some(places) = self.hosts.get_mut(&host) else {
            return;
        };
        places.used = places.used.saturating_sub(1);
        if let Some(agent) = places.agent(agent) {
            agent.used = agent.used.saturating_sub(1);
        }
    }

    /// Gets in line.
    pub fn wait(&mut self, agent: &str, waiter: W) -> Ticket {
        self.next_ticket += 1;
        let line = self.lines.entry(agent.into()).or_default();
        line.insert(self.next_ticket, waiter);
        self.next_ticket
    }

    /// Gets out of line; of who was served it is nothing.
    pub fn leave(&mut self, agent: &str, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(agent) {
            line.remove(&ticket);
            if line.is_empty() {
                self.lines.remove(agent);
            }
        }
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.lines.is_empty()
    }

    /// Who waits and can be served by a host now, its place taken.
    pub fn next_for(&mut self, host: HostId) -> Option<(W, String)> {
        let places = self.hosts.get_mut(&host)?;
        if !places.is_free() {
            return None;
        }
        for step in 0..places.agents.len() {
            let index = (places.turn + step) % places.agents.len();
            let agent = &places.agents[index];
            if !agent.is_free() {
                continue;
            }
            let Some(line) = self.lines.get_mut(&agent.agent) else {
                continue;
            };
            let waiter = line.pop_first();
            let agent = agent.agent.clone();
            if line.is_empty() {
                self.lines.remove(&agent);
            }
            if let Some((_, waiter)) = waiter {
                places.turn = index + 1;
                self.occupy(host, &agent);
                return Some((waiter, agent));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(placement: &mut Placement<u32>, host: HostId, max: u32, agents: &[(&str, u32)]) {
        let agents = agents.iter().map(|(name, max)| ((*name).to_owned(), *max));
        placement.offer(host, max, agents);
    }

    #[test]
    fn work_goes_to_the_least_loaded_and_equals_take_turns() {
        let mut placement = Placement::default();
        offer(&mut placement, 1, 2, &[("a", 0)]);
        offer(&mut placement, 2, 4, &[("a", 0)]);
        let hosts: Vec<_> = (0..6).map(|_| placement.take("a").unwrap()).collect();
        assert_eq!(hosts.iter().filter(|host| **host == 1).count(), 2);
        assert_eq!(placement.take("a"), None);
        placement.give_back(2, "a");
        assert_eq!(placement.take("b"), None, "nobody offers it");
        assert_eq!(placement.take("a"), Some(2));
    }

    #[test]
    fn an_agents_own_bound_holds_and_lines_are_served_in_turn() {
        let mut placement = Placement::default();
        for waiter in 0..3 {
            placement.wait("a", waiter);
            placement.wait("b", 10 + waiter);
        }
        offer(&mut placement, 1, 4, &[("a", 1), ("b", 0)]);
        let served: Vec<_> = std::iter::from_fn(|| placement.next_for(1)).collect();
        let waiters: Vec<_> = served.iter().map(|(waiter, _)| *waiter).collect();
        assert_eq!(waiters, [0, 10, 11, 12], "one a, then only b");
        placement.set_accepting(1, false);
        placement.give_back(1, "a");
        assert!(placement.next_for(1).is_none(), "it is draining");
    }

    #[test]
    fn who_leaves_a_line_is_not_served_and_leaves_nothing_behind() {
        let mut placement = Placement::default();
        let tickets: Vec<_> = (0..3).map(|waiter| placement.wait("a", waiter)).collect();
        placement.leave("a", tickets[1]);
        offer(&mut placement, 1, 1, &[("a", 0)]);
        assert_eq!(placement.next_for(1), Some((0, "a".into())));
        // Served in the meantime, and no other's place.
        placement.leave("a", tickets[0]);
        placement.leave("a", tickets[2]);
        assert!(placement.is_idle());
        placement.give_back(1, "a");
        assert_eq!(placement.next_for(1), None);
    }

    proptest! {
        #[test]
        fn nobody_is_given_more_than_they_take(
            steps in prop::collection::vec((0u64..3, 0usize..2, prop::bool::ANY), 1..80),
        ) {
            let agents = ["a", "b"];
            let mut placement = Placement::default();
            for host in 0..3 {
                offer(&mut placement, host, 2, &[("a", 1), ("b", 0)]);
            }
            let mut held: Vec<(HostId, &str)> = Vec::new();
            for (host, agent, take) in steps {
                let agent = agents[agent];
                if take {
                    match placement.take(agent) {
                        Some(host) => held.push((host, agent)),
                        None => drop(placement.wait(agent, 0)),
                    }
                } else if let Some(at) = held.iter().position(|held| *held == (host, agent)) {
                    held.remove(at);
                    placement.give_back(host, agent);
                    while let Some((_, agent)) = placement.next_for(host) {
                        held.push((host, if agent == "a" { "a" } else { "b" }));
                    }
                }
                for host in 0..3 {
                    let mine = held.iter().filter(|held| held.0 == host);
                    prop_assert!(mine.clone().count() <= 2);
                    prop_assert!(mine.filter(|held| held.1 == "a").count() <= 1);
                }
            }
        }
    }
}
