//! Liveness, readiness and metrics, in plain text, apart from client traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::{StatusCode, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::agent::host::Hosts;
use crate::session::Sessions;

#[derive(Clone)]
struct Admin {
    sessions: Arc<Sessions>,
    hosts: Arc<Hosts>,
    connections_open: Arc<AtomicUsize>,
}

pub fn router(
    sessions: Arc<Sessions>,
    hosts: Arc<Hosts>,
    connections_open: Arc<AtomicUsize>,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(super::admin_credentials::router(sessions.clone()))
        .with_state(Admin {
            sessions,
            hosts,
            connections_open,
        })
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.sessions.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if !admin.sessions.log.healthy() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store does not accept commits\n",
        )
    } else {
        (StatusCode::OK, "ok\n")
    }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Read when asked: nothing is counted twice, nothing on a hot path.
async fn metrics(
    State(admin): State<Admin>,
) -> Result<impl axum::response::IntoResponse, StatusCode> {
    let sessions = &admin.sessions;
    let mut registry = Registry::with_prefix("arcpd");
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The running build", version);
    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let connections = admin.connections_open.load(Ordering::Relaxed);
    gauge(
        "connections_open",
        "Connections of clients",
        connections as i64,
    );
    gauge(
        "sessions_attached",
        "Sessions with a connection",
        sessions.attached() as i64,
    );
    gauge(
        "jobs_running",
        "Jobs that run now",
        sessions.jobs.running() as i64,
    );
    gauge(
        "log_committed_position",
        "Position of the newest committed block",
        sessions.log.committed(),
    );
    gauge(
        "store_healthy",
        "1 while commits succeed",
        i64::from(sessions.log.healthy()),
    );
    gauge(
        "hosts",
        "Agent hosts that are connected or may yet be back",
        admin.hosts.count() as i64,
    );
    let (outstanding, unrevocable) = sessions.log.credentials_left().await.unwrap_or_default();
    gauge(
        "credentials_outstanding",
        "Credentials of no job that the upstream has still to revoke",
        outstanding as i64,
    );
    gauge(
        "credentials_unrevocable",
        "Of these, the ones that the upstream refuses to revoke",
        unrevocable as i64,
    );
    let fate = sessions.jobs.telemetry().fate();
    for (name, help, count) in [
        (
            "telemetry_spans_exported",
            "Spans that a collector took",
            fate.exported,
        ),
        (
            "telemetry_spans_dropped",
            "Spans that no collector got",
            fate.dropped,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(count);
        registry.register(name, help, counter);
    }
    let used = sessions.log.bytes_used().await.unwrap_or(0);
    let store: Gauge = Gauge::default();
    store.set(used as i64);
    let help = "Bytes of the store in use";
    registry.register_with_unit("store_used", help, Unit::Bytes, store);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}
