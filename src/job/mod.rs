//! Jobs: submitted once, run by an agent, recorded in the log until a terminal.
//!
//! A session submits and cancels through [`Jobs`]; an agent reports through its
//! [`JobContext`]. A job never holds a session or a socket, and nothing an
//! agent reports is seen by anyone before the log has it.

mod apart;
mod asking;
mod audit;
mod batch;
mod buffer;
mod context;
mod credentials;
mod delegation;
mod directory;
mod grant;
mod idempotency;
mod live;
mod places;
mod recovery;
mod registry;
mod result;
mod runner;
mod submit;

pub(crate) use audit::subscribed as audit_subscribed;
pub(crate) use batch::Batch;
pub(crate) use buffer::Reported;
pub use context::JobContext;
pub use delegation::{Child, Delegation};
pub use directory::{Agent, AgentDirectory, AgentRun, Provider, Resolved};
pub use registry::Jobs;
pub(crate) use result::utf8_pieces;
pub use result::{AgentResult, ChunkEncoding, ResultWriter};
pub use submit::{Accepted, NewJob};

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
    steady(&LATEST_MS, now())
}

fn steady(latest_ms: &AtomicI64, now: Timestamp) -> Timestamp {
    Timestamp(latest_ms.fetch_max(now.0, Ordering::Relaxed).max(now.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// §14: an expiry that has been seen is not undone by a clock that is set back.
    #[test]
    fn a_clock_that_is_set_back_does_not_bring_a_lease_back() {
        let latest = AtomicI64::new(i64::MIN);
        let at = |ms| steady(&latest, Timestamp(ms)).0;
        assert_eq!([at(10), at(5), at(11), at(-3)], [10, 10, 11, 11]);
    }
}
