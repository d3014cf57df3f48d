use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use crate::job::AgentDirectory;
use crate::log::Durability;
use crate::server::{Config, Server, Tokens};

#[derive(clap::Args)]
pub(super) struct Serve {
    #[arg(long, env = "ARCPD_LISTEN", default_value = "127.0.0.1:7777")]
    listen: SocketAddr,
    #[arg(long, env = "ARCPD_ADMIN_LISTEN", default_value = "127.0.0.1:7778")]
    admin_listen: SocketAddr,
    /// Where the store is; created if absent.
    #[arg(long, env = "ARCPD_DATA_DIR", default_value = "arcpd-data")]
    data_dir: PathBuf,
    #[arg(long, env = "ARCPD_DURABILITY", value_enum, default_value = "process")]
    durability: Durability,
    /// principal=token pairs separated by commas; environment only, since
    /// arguments can be read by other users.
    #[arg(skip = std::env::var("ARCPD_TOKENS").ok())]
    tokens: Option<String>,
    /// Offer the demonstration agents.
    #[arg(long, env = "ARCPD_DEMO_AGENTS")]
    demo_agents: bool,
    /// Development: anybody may connect, loopback addresses only.
    #[arg(long)]
    dev: bool,
    /// Seconds from SIGTERM to exit.
    #[arg(long, env = "ARCPD_DRAIN_DEADLINE_SEC", default_value_t = 20)]
    drain_deadline_sec: u64,
}

impl Serve {
    pub async fn run(self) -> anyhow::Result<()> {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
        tracing_subscriber::fmt()
            .json()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();

        let tokens = match (&self.tokens, self.dev) {
            (Some(text), false) => Tokens::parse(text).map_err(anyhow::Error::msg)?,
            (None, true) if self.listen.ip().is_loopback() => Tokens::anonymous(),
            (None, true) => bail!("--dev serves loopback addresses only; set ARCPD_TOKENS instead"),
            (Some(_), true) => bail!("--dev and ARCPD_TOKENS exclude each other"),
            (None, false) => {
                bail!("set ARCPD_TOKENS=principal=token,… (or --dev on a loopback address)")
            }
        };
        let agents = if self.demo_agents {
            crate::agent::demo::directory().map_err(anyhow::Error::msg)?
        } else {
            AgentDirectory::default()
        };
        let server = Server::bind(Config {
            listen: self.listen,
            admin_listen: self.admin_listen,
            data_dir: self.data_dir,
            durability: self.durability,
            tokens,
            agents,
            job_limits: Default::default(),
            session_limits: Default::default(),
            drain_deadline: Duration::from_secs(self.drain_deadline_sec),
        })
        .await?;
        let (listen, admin_listen) = (server.address()?, server.admin_address()?);
        tracing::info!(%listen, %admin_listen, "ready");
        server.run(stop_signal()?).await
    }
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    })
}
