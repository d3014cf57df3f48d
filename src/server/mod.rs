//! Puts the parts together, binds the sockets, and takes them down again.

mod cell;
pub mod config;
mod counted;
mod hosting;
mod listener;
mod open;
mod process;
mod prompt;
pub mod retention;
mod scrape;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use hosting::Hosting;
pub use listener::ListenerLimits;
pub use tls::TlsFiles;
pub use tokens::Tokens;

use crate::agent::host::{self, Hosts};
use crate::authority::Policy;
use crate::drain::Drain;
use crate::job::{self, AgentDirectory, now};
use crate::log::jetstream::ClusterOptions;
use crate::log::{Command, Durability};
use crate::session::{self, Sessions};
use crate::telemetry::{self, AgentSpans, Push, logs};
use crate::transport::admin_service::Inspection;
use crate::transport::{self, Cors};
use cell::Membership;
use config::Provisioning;
use listener::Listener;
use open::{Opened, open};
use retention::Retention;
use scrape::{Cell, Scrape, scraper};
use tls::Tls;

/// To tell the other replicas of an exit.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A commit that is on its way may take so long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a collector that is slow or down may add to an exit.
const TELEMETRY_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// All a runtime needs; [`Config::new`] has production defaults for the rest.
pub struct Config {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub durability: Durability,
    /// The cell that this is a replica of; none is a runtime of its own.
    pub cluster: Option<ClusterOptions>,
    pub tokens: Tokens,
    pub tls: Option<TlsFiles>,
    /// Pages of other origins that may use `JobService`.
    pub cors: Cors,
    pub agents: AgentDirectory,
    /// Who may bring agents of their own.
    pub hosting: Vec<Hosting>,
    pub host_options: host::Options,
    /// Who may see what all principals have here.
    pub operators: Vec<String>,
    /// Who makes credentials for jobs, if anybody does.
    pub provisioning: Option<Provisioning>,
    pub job_limits: job::Limits,
    pub policy: Policy,
    pub session_limits: session::Limits,
    pub listener_limits: ListenerLimits,
    pub retention: Retention,
    /// Where traces and metrics go.
    pub telemetry: telemetry::Config,
    /// The spans that agents in this process make.
    pub agent_spans: AgentSpans,
    /// What the admin port may change of the log.
    pub log_filter: Option<logs::Filter>,
    /// From the signal to the exit.
    pub drain_deadline: Duration,
}

impl Config {
    /// On free loopback ports.
    pub fn new(data_dir: impl Into<PathBuf>, tokens: Tokens, agents: AgentDirectory) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: loopback,
            admin_listen: loopback,
            data_dir: data_dir.into(),
            durability: Durability::default(),
            cluster: None,
            tokens,
            tls: None,
            cors: Cors::Off,
            agents,
            hosting: Vec::new(),
            host_options: Default::default(),
            operators: Vec::new(),
            provisioning: None,
            job_limits: Default::default(),
            policy: Default::default(),
            session_limits: Default::default(),
            listener_limits: Default::default(),
            retention: Default::default(),
            telemetry: Default::default(),
            agent_spans: AgentSpans::default(),
            log_filter: None,
            drain_deadline: Duration::from_secs(20),
        }
    }
}

/// Bound and recovered, not yet serving.
pub struct Server {
    listener: Listener,
    admin: TcpListener,
    cors: Cors,
    sessions: Arc<Sessions>,
    hosts: Arc<Hosts>,
    /// Ends with the log.
    dispatched: JoinHandle<()>,
    retention: Retention,
    telemetry: telemetry::Config,
    log_filter: Option<logs::Filter>,
    operators: Vec<String>,
    drain_deadline: Duration,
    membership: Option<Membership>,
}

impl Server {
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let tls = config.tls.clone().map(Tls::open).transpose()?;
        let (listen, admin_listen) = (config.listen, config.admin_listen);
        let listener_limits = config.listener_limits.clone();
        let (retention, drain_deadline) = (config.retention.clone(), config.drain_deadline);
        let (cors, telemetry) = (config.cors.clone(), config.telemetry.clone());
        let (log_filter, operators) = (config.log_filter.clone(), config.operators.clone());
        let Opened {
            sessions,
            hosts,
            dispatched,
            membership,
        } = open(config).await?;
        let bind = |address: SocketAddr| async move {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))
        };
        let listener = Listener {
            tcp: bind(listen).await?,
            tls,
            limits: listener_limits,
            open: Arc::new(AtomicUsize::new(0)),
        };
        Ok(Self {
            listener,
            admin: bind(admin_listen).await?,
            cors,
            sessions,
            hosts,
            dispatched,
            retention,
            telemetry,
            log_filter,
            operators,
            drain_deadline,
            membership,
        })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.tcp.local_addr()
    }

    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `stop` resolves, then drains: not ready, sessions told,
    /// log committed; returns before the deadline.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let sessions = self.sessions;
        let health = transport::grpc::health(sessions.drain.clone());
        let started = now();
        let inspection = Inspection {
            sessions: sessions.clone(),
            hosts: self.hosts.clone(),
            connections_open: self.listener.open.clone(),
            connections_max: self.listener.limits.connections_max,
            started,
            operators: self.operators,
        };
        let app = transport::router(inspection, health, &self.cors)?;
        let scrape = Scrape {
            sessions: sessions.clone(),
            hosts: self.hosts.clone(),
            connections_open: self.listener.open.clone(),
            runtime: tokio::runtime::Handle::current(),
            started,
            cell: self.membership.as_ref().map(|membership| Cell {
                followed: membership.joined.followed.clone(),
                peers: membership.peers.clone(),
            }),
        };
        let scraper = scraper(scrape.clone());
        let admin = transport::admin::router(sessions.clone(), scraper.clone(), self.log_filter);
        let pushed = scraper.clone();
        let push = Push::start(&self.telemetry, Box::new(move || pushed()));
        let push = push.map_err(anyhow::Error::msg)?;
        let clients = tokio::spawn(self.listener.serve(app, sessions.drain.clone()));
        // Admin answers to the end, so that a probe sees the drain.
        let admin = tokio::spawn(
            axum::serve(
                self.admin,
                admin.into_make_service_with_connect_info::<SocketAddr>(),
            )
            .into_future(),
        );
        let kept = tokio::spawn(retention::run(
            sessions.log.clone(),
            sessions.hub.clone(),
            self.membership.as_ref().map(Membership::readers),
            self.retention,
            sessions.limits.resume_window,
        ));
        let lines = sessions.jobs.telemetry().lines.clone();
        let summed = tokio::spawn(async move { lines.keep().await });
        let credentials = sessions.jobs.credentials().cloned();
        let keeper = credentials.map(|all| tokio::spawn(all.keep(sessions.jobs.clone())));
        let is_replica = self.membership.is_some();
        let fenced = self.membership.as_ref().map(|member| &member.joined.fenced);
        let fenced = fenced.cloned().unwrap_or_default();
        let member = self.membership.map(|member| tokio::spawn(member.run()));
        tokio::select! {
            () = stop => {}
            () = fenced.cancelled() => {}
        }
        tracing::info!("draining");
        let peers = sessions.attached() + self.hosts.count();
        sessions.drain.begin(peers, self.drain_deadline);
        let deadline = tokio::time::timeout(self.drain_deadline, clients).await;
        if deadline.is_err() {
            tracing::warn!("the drain deadline passed with connections open");
        }
        kept.abort();
        summed.abort();
        sessions.jobs.telemetry().lines.sum_up();
        if let Some(keeper) = keeper {
            keeper.abort();
        }
        admin.abort();
        // Read while the log is open, and on its way while the log and the spans take
        // their time: a collector that hangs costs its limit once.
        let pushed = match push {
            Some(push) => Some((push, scraper().await)),
            None => None,
        };
        let pushed = tokio::spawn(async move {
            if let Some((push, text)) = pushed {
                push.stop(text, TELEMETRY_FLUSH_TIMEOUT).await;
            }
        });
        if let Some(member) = member {
            // Whoever has left writes nothing more, or it would be told that it is fenced.
            member.abort();
            // An abort is no end yet.
            let _ = member.await;
        }
        let log = sessions.log.clone();
        let given_up = fenced.is_cancelled();
        if is_replica && !given_up {
            // At once instead of after the time it takes to be missed.
            let left = log.execute(Command::Leave);
            if let Ok(Err(error)) = tokio::time::timeout(LEAVE_TIMEOUT, left).await {
                tracing::warn!(%error, "the other replicas were not told");
            }
        }
        let closed = tokio::task::spawn_blocking(move || log.close());
        match tokio::time::timeout(CLOSE_TIMEOUT, closed).await {
            Ok(closed) => closed?,
            Err(_) => anyhow::bail!(
                "the store did not close within {} s: its disk does not answer. What was \
                 acknowledged is kept; look at the disk before the next start",
                CLOSE_TIMEOUT.as_secs()
            ),
        }
        // The last terminals are in the trace once the dispatcher has passed them on.
        self.dispatched.await?;
        let telemetry = sessions.jobs.telemetry();
        telemetry.flush(TELEMETRY_FLUSH_TIMEOUT).await;
        pushed.await?;
        anyhow::ensure!(
            !given_up,
            "this replica could not go on; start it again to join anew"
        );
        Ok(())
    }
}

/// The same listener for something else: the floor of a benchmark.
pub(crate) async fn serve_plain(tcp: TcpListener, app: axum::Router, drain: Arc<Drain>) {
    let listener = Listener {
        tcp,
        tls: None,
        limits: ListenerLimits {
            connections_max: usize::MAX,
            streams_per_connection_max: 100_000,
            ..ListenerLimits::default()
        },
        open: Arc::default(),
    };
    listener.serve(app, drain).await;
}
