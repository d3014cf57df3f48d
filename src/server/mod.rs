//! Puts the parts together, binds the sockets, and takes them down again.

mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub use tokens::Tokens;

use crate::fanout::{self, Hub};
use crate::job::{self, AgentDirectory, Jobs};
use crate::log::{Durability, Log, OpenOptions};
use crate::session::{self, Sessions};
use crate::transport;

/// Groups of blocks between the writer and the dispatcher.
const COMMITTED_GROUPS_MAX: usize = 1024;

pub struct Config {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub tokens: Tokens,
    pub agents: AgentDirectory,
    pub job_limits: job::Limits,
    pub session_limits: session::Limits,
    /// From the signal to the exit.
    pub drain_deadline: Duration,
}

/// Bound and recovered, not yet serving.
pub struct Server {
    listener: TcpListener,
    admin: TcpListener,
    sessions: Arc<Sessions>,
    drain_deadline: Duration,
}

impl Server {
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let (committed_tx, committed) = mpsc::channel(COMMITTED_GROUPS_MAX);
        let options = OpenOptions {
            dir: config.data_dir,
            durability: config.durability,
        };
        let log = tokio::task::spawn_blocking(move || Log::open(options, committed_tx)).await??;
        let hub = Hub::new(log.committed());
        tokio::spawn(fanout::dispatch(hub.clone(), committed));
        let last_stream = log.last_stream().await?;
        let jobs = Jobs::new(log.clone(), config.agents, config.job_limits, last_stream);
        let ended = jobs.recover().await?;
        if ended > 0 {
            tracing::warn!(
                jobs = ended,
                "ended jobs that ran when the runtime last stopped"
            );
        }
        let authenticator = Box::new(config.tokens);
        let sessions = Sessions::new(log, hub, jobs, config.session_limits, authenticator);
        let bind = |address: SocketAddr| async move {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))
        };
        Ok(Self {
            listener: bind(config.listen).await?,
            admin: bind(config.admin_listen).await?,
            sessions,
            drain_deadline: config.drain_deadline,
        })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `stop` resolves, then drains: not ready, sessions told,
    /// log committed; returns before the deadline.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let sessions = self.sessions;
        let drained = || {
            let draining = sessions.draining.clone();
            async move { draining.cancelled().await }
        };
        let app = transport::router(sessions.clone())?;
        let clients = tokio::spawn(
            axum::serve(self.listener, app)
                .with_graceful_shutdown(drained())
                .into_future(),
        );
        // Admin answers to the end, so that a probe sees the drain.
        let admin = tokio::spawn(
            axum::serve(self.admin, transport::admin::router(sessions.clone())).into_future(),
        );
        stop.await;
        tracing::info!("draining");
        sessions.draining.cancel();
        if tokio::time::timeout(self.drain_deadline, clients)
            .await
            .is_err()
        {
            tracing::warn!("the drain deadline passed with connections open");
        }
        admin.abort();
        let log = sessions.log.clone();
        tokio::task::spawn_blocking(move || log.close()).await?;
        Ok(())
    }
}
