//! Agents in other processes: hosts that dial in over `AgentHostService.Serve`.
//!
//! A job's way: [`drive`] asks [`Hosts`] for a free place, makes an activation of
//! the job durable, offers it to the host of the place, and waits for its end or
//! for the loss of the host. [`connection`] serves one stream of a host: it fences
//! what the host says by the activation's token and applies its reports.
//!
//! Nothing here holds a socket; a host outlives its connection by
//! [`Options::lost_after`], its jobs outlive the runtime. A report is acked when
//! the log has it, in the same transaction as the mark that says so, so what a
//! host sends again after a crash of either side is dropped or applied, never
//! both. Whether a job may run a second time is its agent's loss policy.

mod activation;
mod applying;
mod arrival;
mod asking;
mod away;
mod connection;
mod drive;
mod inspect;
mod known;
mod orphans;
mod outbox;
mod place;
mod placement;
mod process;
mod registry;

use std::pin::Pin;
use std::time::Duration;

use crate::log::{HostKey, ReplicaNumber, StreamId};
use crate::protocol::host::AssignmentRef;

pub(crate) use activation::hash;
pub use connection::{Incoming, serve};
pub use inspect::{LiveAgent, LiveHost};
pub use registry::{Arrival, HostedAgents, Hosts};

/// Where there are several replicas: what the others have for this one's jobs and hosts.
pub trait Elsewhere: Send + Sync + 'static {
    /// A replica with room for a job of `name@version`, where there is none here.
    fn room_for(&self, agent: &str) -> Option<ReplicaNumber>;

    /// Resolves when a replica has room that had none.
    fn more_room(&self) -> Eventually<()>;

    /// Gives a job away that has no host; whether it is gone. Whoever runs it here is
    /// ended then.
    fn give(&self, stream: StreamId, job_id: &str, to: ReplicaNumber) -> Eventually<bool>;

    /// Tells the others that a host has come here with this dial, after those jobs of it
    /// that it has: what else they have of it is no longer its.
    fn came(&self, host: HostKey, dial: u64) -> Eventually<()>;

    /// Has jobs come here whose host has, from the replicas that have them, unless it has
    /// dialled again since; returns which did. An error says of none that it is not here.
    fn fetch(
        &self,
        held: Vec<AssignmentRef>,
        dial: u64,
    ) -> Eventually<Result<Vec<String>, crate::log::Error>>;
}

pub type Eventually<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Bounds and times of hosts; each is announced or documented.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often a host is to say something.
    pub heartbeat_interval: Duration,
    /// A host that says nothing for so long, connected or not, is lost.
    pub lost_after: Duration,
    /// An offer that is not accepted by then goes to another host.
    pub accept_within: Duration,
    /// How long a job waits for a free place.
    pub pending_max: Duration,
    /// Activations of a job under a policy that runs it again.
    pub attempts_max: u32,
    pub hosts_max: usize,
    /// Most that one host may take at once.
    pub in_flight_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(10),
            lost_after: Duration::from_secs(30),
            accept_within: Duration::from_secs(5),
            pending_max: Duration::from_secs(300),
            attempts_max: 3,
            hosts_max: 10_000,
            in_flight_max: 10_000,
        }
    }
}

/// Who may host what.
pub trait Rights: Send + Sync + 'static {
    /// Whose token it is.
    fn principal(&self, token: &str) -> Option<String>;

    /// Whether the principal may register an agent of this name.
    fn may_host(&self, principal: &str, agent_name: &str) -> bool;
}
