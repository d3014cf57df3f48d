//! Jobs: submitted once, run by an agent, recorded in the log until a terminal.
//!
//! A session submits and cancels through [`Jobs`]; an agent reports through its
//! [`JobContext`]. A job never holds a session or a socket, and nothing an
//! agent reports is seen by anyone before the log has it.

mod audit;
mod batch;
mod buffer;
mod context;
mod credentials;
mod delegation;
mod directory;
mod grant;
mod live;
mod registry;
mod result;
mod runner;

pub(crate) use audit::subscribed as audit_subscribed;
pub(crate) use batch::Batch;
pub use context::JobContext;
pub use delegation::{Child, Delegation};
pub use directory::{Agent, AgentDirectory, AgentRun, Provider, Resolved};
pub use registry::{Accepted, Jobs, NewJob};
pub(crate) use result::utf8_pieces;
pub use result::{AgentResult, ChunkEncoding, ResultWriter};

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub(crate) use crate::clock::now;
use crate::protocol::Timestamp;

/// The bounds of a job; each is part of the documentation.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Time an agent has to end after a cancel before the runtime ends the job.
    pub cancel_grace: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// Largest event as JSON; larger is refused to the agent.
    pub event_bytes_max: usize,
    /// Largest chunked result, in decoded bytes.
    pub result_bytes_max: u64,
    /// Jobs of one principal that may run at once.
    pub running_per_principal_max: usize,
    /// Delegations in a line: children of children, and so on.
    pub delegation_depth_max: u32,
    /// Children of one job that may run at once.
    pub delegation_children_max: usize,
    /// Between the expiry of a lease, from which on nothing is allowed, and the end
    /// of its job: time to read the refusal, and for clocks that differ (§14).
    pub lease_expiry_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cancel_grace: Duration::from_secs(30),
            idempotency_ttl: Duration::from_secs(24 * 3600),
            event_bytes_max: 900_000,
            result_bytes_max: 256 * 1024 * 1024,
            running_per_principal_max: 10_000,
            delegation_depth_max: 4,
            delegation_children_max: 64,
            lease_expiry_grace: Duration::from_secs(1),
        }
    }
}

/// The time that leases are held to: the clock's, but it never goes back, so that a
/// lease that has expired stays so when the clock is set (§14).
pub(crate) fn steady_now() -> Timestamp {
    static LATEST_MS: AtomicI64 = AtomicI64::new(i64::MIN);
    let now = now().0;
    Timestamp(LATEST_MS.fetch_max(now, Ordering::Relaxed).max(now))
}
