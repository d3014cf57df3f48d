//! What an operator sees of hosts.

use std::collections::HashMap;
use std::ops::Bound;

use super::Hosts;
use super::placement::HostId;

pub struct LiveHost {
    /// Grows with each host that comes.
    pub id: HostId,
    pub instance_id: String,
    pub name: String,
    pub principal: String,
    pub state: &'static str,
    pub used: u32,
    pub max: u32,
    pub agents: Vec<LiveAgent>,
}

pub struct LiveAgent {
    pub agent: String,
    pub used: u32,
    pub max: u32,
}

impl Hosts {
    /// Hosts after one of them, in the order they came.
    pub fn live(&self, after: HostId, limit: usize) -> Vec<LiveHost> {
        let state = self.state.lock();
        let behind = state
            .hosts
            .range((Bound::Excluded(after), Bound::Unbounded));
        let live = behind.take(limit).map(|(id, host)| {
            let places = state.placement.of(*id);
            let away = host.state.lock().released.is_cancelled();
            let state = match places {
                _ if away => "away",
                Some(places) if places.accepting => "accepting",
                _ => "paused",
            };
            let agents = places.into_iter().flat_map(|places| &places.agents);
            LiveHost {
                id: *id,
                instance_id: host.instance_id.clone(),
                name: host.name.clone(),
                principal: host.principal.clone(),
                state,
                used: places.map_or(0, |places| places.used),
                max: places.map_or(0, |places| places.max),
                agents: agents
                    .map(|of| LiveAgent {
                        agent: of.agent.clone(),
                        used: of.used,
                        max: of.max,
                    })
                    .collect(),
            }
        });
        live.collect()
    }

    /// The name of the host that has each job that one has.
    pub fn by_job(&self) -> HashMap<String, String> {
        let hosts: Vec<_> = self.state.lock().hosts.values().cloned().collect();
        let held = hosts.iter().flat_map(|host| {
            let held = host.held().into_iter();
            held.map(|activation| (activation.job.job_id().to_owned(), host.name.clone()))
        });
        held.collect()
    }
}
