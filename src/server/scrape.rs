//! All metrics as OpenMetrics text: the instruments, and what is read when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::cell::Peers;
use super::process;
use crate::agent::host::Hosts;
use crate::fanout::Place;
use crate::log::Watched;
use crate::log::jetstream::Followed;
use crate::protocol::Timestamp;
use crate::session::Sessions;
use crate::telemetry::Metrics;
use crate::transport::admin::Scraper;

/// Sessions that a scrape looks at for the one that is farthest behind.
const PLACES_MAX: usize = 64;

#[derive(Clone)]
pub(crate) struct Scrape {
    pub sessions: Arc<Sessions>,
    pub hosts: Arc<Hosts>,
    pub connections_open: Arc<AtomicUsize>,
    pub runtime: tokio::runtime::Handle,
    pub started: Timestamp,
    /// Of a replica.
    pub cell: Option<Cell>,
}

/// What a replica knows of the log it shares, and of those it shares it with.
#[derive(Clone)]
pub(crate) struct Cell {
    pub followed: Arc<Followed>,
    pub peers: Arc<Peers>,
}

pub(crate) fn scraper(scrape: Scrape) -> Scraper {
    Arc::new(move || {
        let scrape = scrape.clone();
        Box::pin(async move { scrape.text().await.ok() })
    })
}

impl Scrape {
    pub async fn text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("arcpd");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running build", version);
        self.metrics().register(&mut registry);
        self.log(&mut registry).await;
        self.stalled(&mut registry).await;
        self.read(&mut registry);
        if let Some(cell) = &self.cell {
            cell.register(&mut registry);
        }
        process::register(&mut registry, &self.runtime.metrics(), self.started);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn metrics(&self) -> &Metrics {
        &self.sessions.jobs.telemetry().metrics
    }

    #[rustfmt::skip]
    async fn log(&self, registry: &mut Registry) {
        let log = &self.sessions.log;
        let stats = log.stats();
        registry.register_with_unit("commit", "Of one group, until it is durable", Unit::Seconds, stats.commit_seconds.clone());
        registry.register("commit_records", "Records of one group", stats.commit_records.clone());
        registry.register("commit_failures", "Groups that were not committed at the first try", stats.commit_failures.clone());
        gauge(registry, "log_committed_position", "Position of the newest committed block", log.committed());
        let first = log.first_position().await.unwrap_or(0);
        gauge(registry, "log_first_position", "Position of the oldest block that is kept", first);
        gauge(registry, "store_healthy", "1 while commits succeed", i64::from(log.healthy()));
        let used = log.bytes_used().await.unwrap_or(0);
        let store: Gauge = Gauge::default();
        store.set(used as i64);
        registry.register_with_unit("store_used", "Bytes of the store in use", Unit::Bytes, store);
        let parked = log.sessions_parked().await.unwrap_or(0);
        let (outstanding, unrevocable) = log.credentials_left().await.unwrap_or_default();
        gauge(registry, "credentials_outstanding", "Credentials of no job that the upstream has still to revoke", outstanding as i64);
        gauge(registry, "credentials_unrevocable", "Of these, the ones that the upstream refuses to revoke", unrevocable as i64);
        self.metrics().sessions_parked(parked);
    }

    #[rustfmt::skip]
    async fn stalled(&self, registry: &mut Registry) {
        let (log, hub) = (&self.sessions.log, &self.sessions.hub);
        let (count, places) = hub.stalled(PLACES_MAX);
        let committed = log.committed();
        let mut worst = 0;
        for Place { watched, position } in places {
            let from_here = |(stream, after_seq)| Watched { stream, after_seq, is_at_start: true };
            let watched = watched.into_iter().map(from_here).collect();
            let lag = log.count_to(watched, position, committed).await;
            let lag = lag.ok().flatten().unwrap_or(0);
            worst = worst.max(lag);
        }
        gauge(registry, "sessions_stalled", "Sessions whose peer does not read what there is for it", count as i64);
        gauge(registry, "session_lag_records", "Records that the one of these that is farthest behind has still to be sent", worst as i64);
    }

    #[rustfmt::skip]
    fn read(&self, registry: &mut Registry) {
        let sessions = &self.sessions;
        let connections = self.connections_open.load(Ordering::Relaxed) as i64;
        gauge(registry, "connections_open", "Connections of clients", connections);
        gauge(registry, "sessions_attached", "Sessions with a connection", sessions.attached() as i64);
        gauge(registry, "jobs_running", "Jobs that are not over, also those that wait for a host", sessions.jobs.running() as i64);
        let live = sessions.jobs.live();
        let jobs = self.metrics().jobs(live.iter().map(|job| (job.agent(), job.status())));
        registry.register("jobs", "Jobs that are not over, by agent and status", jobs);
        gauge(registry, "hosts", "Agent hosts that are connected or may yet be back", self.hosts.count() as i64);
        let (in_flight, max) = self.hosts.places();
        gauge(registry, "host_places", "Jobs that hosts take at once", max as i64);
        gauge(registry, "host_places_taken", "Jobs that hosts have", in_flight as i64);
        let lag = sessions.log.committed() - sessions.hub.published();
        gauge(registry, "fanout_lag_blocks", "Blocks committed and not yet sent to sessions", lag.max(0));
        counter(registry, "fanout_catch_ups", "Times a session fell behind and read the log", sessions.hub.catch_ups());
        let fate = sessions.jobs.telemetry().fate();
        counter(registry, "telemetry_spans_exported", "Spans that a collector took", fate.exported);
        counter(registry, "telemetry_spans_dropped", "Spans that no collector got", fate.dropped);
    }
}

impl Cell {
    #[rustfmt::skip]
    fn register(&self, registry: &mut Registry) {
        let followed = &self.followed;
        registry.register("cluster_entries_published", "Entries that this replica has sent", followed.published.clone());
        registry.register("cluster_entries_applied", "Entries of all replicas that were applied here", followed.entries.clone());
        registry.register_with_unit("cluster_entry", "Of an entry of this replica, until it is applied here", Unit::Seconds, followed.entry_seconds.clone());
        gauge(registry, "cluster_lag_entries", "Entries that the stream has and that are not applied here", followed.lag() as i64);
        gauge(registry, "cluster_sequence", "Sequence in the stream of the last entry that was applied here", followed.sequence() as i64);
        gauge(registry, "cluster_replicas", "Replicas that are there, this one included", self.peers.count() as i64 + 1);
        counter(registry, "cluster_takeovers", "Replicas whose work came to this one", self.peers.takeovers());
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}
