//! The routes between the servers of a cluster, each by a link of its own from who dials.

use std::net::SocketAddr;

use super::link::{Link, State};

pub struct Routes {
    /// With who dials, and who listens.
    links: Vec<(usize, usize, Link)>,
}

impl Routes {
    /// From each server to each other one, which listen at these addresses.
    pub async fn start(servers: [SocketAddr; 3]) -> Self {
        let mut links = Vec::new();
        for from in 0..servers.len() {
            for (to, address) in servers.iter().enumerate() {
                if from != to {
                    links.push((from, to, Link::start(address.to_string()).await));
                }
            }
        }
        Self { links }
    }

    /// Where a server dials the others.
    pub fn from(&self, server: usize) -> Vec<SocketAddr> {
        let own = self.links.iter().filter(|(from, _, _)| *from == server);
        own.map(|(_, _, link)| link.address).collect()
    }

    /// All that two servers say to each other, whoever has dialled.
    pub fn between(&self, one: usize, other: usize, state: State) {
        self.set(
            |from, to| (from.min(to), from.max(to)) == (one.min(other), one.max(other)),
            state,
        );
    }

    /// A server and both others.
    pub fn around(&self, server: usize, state: State) {
        self.set(|from, to| from == server || to == server, state);
    }

    /// What the others say to a server goes through; nothing that it says does.
    pub fn mute(&self, server: usize) {
        self.set(|from, _| from == server, State::OtherWay);
        self.set(|_, to| to == server, State::OneWay);
    }

    /// What a server says goes through; nothing that the others say to it does.
    pub fn deafen(&self, server: usize) {
        self.set(|from, _| from == server, State::OneWay);
        self.set(|_, to| to == server, State::OtherWay);
    }

    pub fn heal(&self) {
        self.set(|_, _| true, State::Whole);
    }

    fn set(&self, which: impl Fn(usize, usize) -> bool, state: State) {
        let chosen = self.links.iter().filter(|(from, to, _)| which(*from, *to));
        chosen.for_each(|(_, _, link)| link.set(state));
    }
}
