//! The times and bounds of `[hosts]`, with their units, defaults and ranges.

use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::agent::host::Options;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSettings {
    pub heartbeat_interval_sec: u64,
    /// A host that says nothing for so long, connected or not, is lost.
    pub lost_after_sec: u64,
    /// An offer that is not accepted by then goes to another host.
    pub accept_within_sec: u64,
    /// How long a job waits for a free place.
    pub pending_max_sec: u64,
    /// Activations of a job under a policy that runs it again.
    pub attempts_max: u32,
    pub hosts_max: u64,
    /// Jobs one host may take at once, whatever it asks for.
    pub in_flight_max: u32,
}

impl Default for HostSettings {
    fn default() -> Self {
        let options = Options::default();
        Self {
            heartbeat_interval_sec: options.heartbeat_interval.as_secs(),
            lost_after_sec: options.lost_after.as_secs(),
            accept_within_sec: options.accept_within.as_secs(),
            pending_max_sec: options.pending_max.as_secs(),
            attempts_max: options.attempts_max,
            hosts_max: options.hosts_max as u64,
            in_flight_max: options.in_flight_max,
        }
    }
}

impl HostSettings {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        const DAY: u64 = 24 * 3600;
        for (key, value, low, high) in [
            (
                "heartbeat_interval_sec",
                self.heartbeat_interval_sec,
                1,
                3600,
            ),
            ("lost_after_sec", self.lost_after_sec, 1, DAY),
            ("accept_within_sec", self.accept_within_sec, 1, 3600),
            ("pending_max_sec", self.pending_max_sec, 1, 30 * DAY),
            ("attempts_max", self.attempts_max.into(), 1, 1_000),
            ("hosts_max", self.hosts_max, 1, 1_000_000),
            ("in_flight_max", self.in_flight_max.into(), 1, 100_000),
        ] {
            ensure!(
                (low..=high).contains(&value),
                "hosts.{key}: is {value}, must be {low} to {high}"
            );
        }
        ensure!(
            self.heartbeat_interval_sec <= self.lost_after_sec,
            "hosts.lost_after_sec: must not be below heartbeat_interval_sec"
        );
        Ok(())
    }

    pub fn options(&self) -> Options {
        Options {
            heartbeat_interval: Duration::from_secs(self.heartbeat_interval_sec),
            lost_after: Duration::from_secs(self.lost_after_sec),
            accept_within: Duration::from_secs(self.accept_within_sec),
            pending_max: Duration::from_secs(self.pending_max_sec),
            attempts_max: self.attempts_max,
            hosts_max: self.hosts_max as usize,
            in_flight_max: self.in_flight_max,
        }
    }
}
