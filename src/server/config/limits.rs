//! The limits of `[limits]`, with their units, defaults and ranges.

use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::server::ListenerLimits;
use crate::{job, session};

/// A new limit is a line here, in `default`, in `check` and where it goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub hello_timeout_sec: u64,
    pub heartbeat_interval_sec: u64,
    pub resume_window_sec: u64,
    pub subscriptions_per_session_max: u64,
    pub sessions_per_principal_max: u64,
    pub ack_lag_max: u64,
    pub cancel_grace_sec: u64,
    pub idempotency_ttl_sec: u64,
    pub event_bytes_max: u64,
    pub result_bytes_max: u64,
    pub running_jobs_per_principal_max: u64,
    pub delegation_depth_max: u32,
    pub delegation_children_max: u64,
    pub lease_expiry_grace_ms: u64,
    pub connections_max: u64,
    pub streams_per_connection_max: u64,
    /// 0: connections live as long as their clients want.
    pub connection_age_max_sec: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let (session, job) = (session::Limits::default(), job::Limits::default());
        let listener = ListenerLimits::default();
        Self {
            hello_timeout_sec: session.hello_timeout.as_secs(),
            heartbeat_interval_sec: session.heartbeat_interval.as_secs(),
            resume_window_sec: session.resume_window.as_secs(),
            subscriptions_per_session_max: session.subscriptions_max as u64,
            sessions_per_principal_max: session.sessions_per_principal_max as u64,
            ack_lag_max: session.ack_lag_max,
            cancel_grace_sec: job.cancel_grace.as_secs(),
            idempotency_ttl_sec: job.idempotency_ttl.as_secs(),
            event_bytes_max: job.event_bytes_max as u64,
            result_bytes_max: job.result_bytes_max,
            running_jobs_per_principal_max: job.running_per_principal_max as u64,
            delegation_depth_max: job.delegation_depth_max,
            delegation_children_max: job.delegation_children_max as u64,
            lease_expiry_grace_ms: job.lease_expiry_grace.as_millis() as u64,
            connections_max: listener.connections_max as u64,
            streams_per_connection_max: listener.streams_per_connection_max.into(),
            connection_age_max_sec: 0,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        const DAY: u64 = 24 * 3600;
        for (key, value, low, high) in [
            ("hello_timeout_sec", self.hello_timeout_sec, 1, 300),
            (
                "heartbeat_interval_sec",
                self.heartbeat_interval_sec,
                1,
                3600,
            ),
            ("resume_window_sec", self.resume_window_sec, 1, 30 * DAY),
            (
                "subscriptions_per_session_max",
                self.subscriptions_per_session_max,
                1,
                1_000_000,
            ),
            (
                "sessions_per_principal_max",
                self.sessions_per_principal_max,
                1,
                10_000_000,
            ),
            ("ack_lag_max", self.ack_lag_max, 1, 1_000_000_000),
            ("cancel_grace_sec", self.cancel_grace_sec, 0, DAY),
            (
                "idempotency_ttl_sec",
                self.idempotency_ttl_sec,
                1,
                365 * DAY,
            ),
            ("event_bytes_max", self.event_bytes_max, 1_024, 900_000),
            ("result_bytes_max", self.result_bytes_max, 1_024, 1 << 40),
            (
                "running_jobs_per_principal_max",
                self.running_jobs_per_principal_max,
                1,
                10_000_000,
            ),
            (
                "delegation_depth_max",
                self.delegation_depth_max.into(),
                0,
                64,
            ),
            (
                "delegation_children_max",
                self.delegation_children_max,
                1,
                100_000,
            ),
            (
                "lease_expiry_grace_ms",
                self.lease_expiry_grace_ms,
                0,
                60_000,
            ),
            ("connections_max", self.connections_max, 1, 10_000_000),
            (
                "streams_per_connection_max",
                self.streams_per_connection_max,
                1,
                1_000_000,
            ),
            (
                "connection_age_max_sec",
                self.connection_age_max_sec,
                0,
                365 * DAY,
            ),
        ] {
            ensure!(
                (low..=high).contains(&value),
                "limits.{key}: is {value}, must be {low} to {high}"
            );
        }
        Ok(())
    }

    pub fn session(&self) -> session::Limits {
        session::Limits {
            hello_timeout: Duration::from_secs(self.hello_timeout_sec),
            heartbeat_interval: Duration::from_secs(self.heartbeat_interval_sec),
            resume_window: Duration::from_secs(self.resume_window_sec),
            subscriptions_max: self.subscriptions_per_session_max as usize,
            sessions_per_principal_max: self.sessions_per_principal_max as usize,
            ack_lag_max: self.ack_lag_max,
        }
    }

    pub fn job(&self) -> job::Limits {
        job::Limits {
            cancel_grace: Duration::from_secs(self.cancel_grace_sec),
            idempotency_ttl: Duration::from_secs(self.idempotency_ttl_sec),
            event_bytes_max: self.event_bytes_max as usize,
            result_bytes_max: self.result_bytes_max,
            running_per_principal_max: self.running_jobs_per_principal_max as usize,
            delegation_depth_max: self.delegation_depth_max,
            delegation_children_max: self.delegation_children_max as usize,
            lease_expiry_grace: Duration::from_millis(self.lease_expiry_grace_ms),
        }
    }
}
