//! Puts the parts together, binds the sockets, and takes them down again.

pub mod config;
mod counted;
mod listener;
pub mod retention;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub use listener::ListenerLimits;
pub use tls::TlsFiles;
pub use tokens::Tokens;

use crate::fanout::{self, Hub};
use crate::job::{self, AgentDirectory, Jobs, now};
use crate::log::{Command, Durability, Log, OpenOptions};
use crate::session::{self, Sessions};
use crate::transport;
use listener::Listener;
use retention::Retention;
use tls::Tls;

/// Groups of blocks between the writer and the dispatcher.
const COMMITTED_GROUPS_MAX: usize = 1024;

/// All a runtime needs; [`Config::new`] has production defaults for the rest.
pub struct Config {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub tokens: Tokens,
    pub tls: Option<TlsFiles>,
    pub agents: AgentDirectory,
    pub job_limits: job::Limits,
    pub session_limits: session::Limits,
    pub listener_limits: ListenerLimits,
    pub retention: Retention,
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
            tokens,
            tls: None,
            agents,
            job_limits: Default::default(),
            session_limits: Default::default(),
            listener_limits: Default::default(),
            retention: Default::default(),
            drain_deadline: Duration::from_secs(20),
        }
    }
}

/// Bound and recovered, not yet serving.
pub struct Server {
    listener: Listener,
    admin: TcpListener,
    sessions: Arc<Sessions>,
    retention: Retention,
    drain_deadline: Duration,
}

impl Server {
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let sessions = open(
            config.data_dir,
            config.durability,
            config.agents,
            config.job_limits,
            config.session_limits,
            config.tokens,
        )
        .await?;
        let tls = config.tls.map(Tls::open).transpose()?;
        let bind = |address: SocketAddr| async move {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))
        };
        let listener = Listener {
            tcp: bind(config.listen).await?,
            tls,
            limits: config.listener_limits,
            open: Arc::new(AtomicUsize::new(0)),
        };
        Ok(Self {
            listener,
            admin: bind(config.admin_listen).await?,
            sessions,
            retention: config.retention,
            drain_deadline: config.drain_deadline,
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
        let health = transport::grpc::health(sessions.draining.clone());
        let app = transport::router(sessions.clone(), health)?;
        let admin = transport::admin::router(sessions.clone(), self.listener.open.clone());
        let clients = tokio::spawn(self.listener.serve(app, sessions.draining.clone()));
        // Admin answers to the end, so that a probe sees the drain.
        let admin = tokio::spawn(axum::serve(self.admin, admin).into_future());
        let kept = tokio::spawn(retention::run(
            sessions.log.clone(),
            sessions.hub.clone(),
            self.retention,
            sessions.limits.resume_window,
        ));
        stop.await;
        tracing::info!("draining");
        sessions.draining.cancel();
        let deadline = tokio::time::timeout(self.drain_deadline, clients).await;
        if deadline.is_err() {
            tracing::warn!("the drain deadline passed with connections open");
        }
        kept.abort();
        admin.abort();
        let log = sessions.log.clone();
        tokio::task::spawn_blocking(move || log.close()).await?;
        Ok(())
    }
}

/// The same listener for something else: the floor of a benchmark.
pub(crate) async fn serve_plain(
    tcp: TcpListener,
    app: axum::Router,
    drain: tokio_util::sync::CancellationToken,
) {
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

/// Opens the store and ends what a crash left running.
async fn open(
    dir: PathBuf,
    durability: Durability,
    agents: AgentDirectory,
    job_limits: job::Limits,
    session_limits: session::Limits,
    tokens: Tokens,
) -> anyhow::Result<Arc<Sessions>> {
    let (committed_tx, committed) = mpsc::channel(COMMITTED_GROUPS_MAX);
    let options = OpenOptions { dir, durability };
    let log = tokio::task::spawn_blocking(move || Log::open(options, committed_tx)).await??;
    let hub = Hub::new(log.committed());
    tokio::spawn(fanout::dispatch(hub.clone(), committed));
    let last_stream = log.last_stream().await?;
    let jobs = Jobs::new(log.clone(), agents, job_limits, last_stream);
    let ended = jobs.recover().await?;
    if ended > 0 {
        tracing::warn!(
            jobs = ended,
            "ended jobs that ran when the runtime last stopped"
        );
    }
    // The connections of the last run are gone; their windows begin.
    log.execute(Command::ParkAll { at_ms: now().0 }).await?;
    let authenticator = Box::new(tokens);
    Ok(Sessions::new(log, hub, jobs, session_limits, authenticator))
}
