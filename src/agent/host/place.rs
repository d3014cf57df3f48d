//! A place of a host for one job, and the line of those that wait for one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::placement::{HostId, Ticket};
use super::process::Host;
use super::registry::{Hosts, State};

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

pub(super) type Served = Vec<(oneshot::Sender<Place>, Place)>;

/// A waiter that has gone gives its place back as it is dropped, which serves the
/// next in line: so never under the lock.
pub(super) fn hand_out(places: Served) {
    for (waiter, place) in places {
        drop(waiter.send(place));
    }
}

impl Hosts {
    /// Places that are free, by `name@version`: of every agent that a host here takes
    /// jobs of.
    pub fn free(&self) -> BTreeMap<String, u32> {
        self.state.lock().placement.free()
    }

    /// The same of one agent; none when no host here takes jobs of it.
    pub fn free_of(&self, agent: &str) -> Option<u32> {
        self.state.lock().placement.free_of(agent)
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
    pub(super) fn serve_lines(self: Arc<Self>, state: &mut State, id: HostId) -> Served {
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::host::{Options, Rights};
    use crate::drain::Drain;

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
        let hosts = Hosts::new(
            Options::default(),
            Box::new(Anybody),
            vec![],
            vec![],
            Drain::new(false),
        );
        let limit = Duration::from_secs(1);
        let waiting = tokio::time::timeout(limit, hosts.place("a@1.0.0")).await;
        assert!(waiting.is_err());
        assert!(hosts.state.lock().placement.is_idle());
    }
}
