use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::log::Durability;
use crate::server::config::Settings;
use crate::server::{Config, Hosting, ListenerLimits, Server, TlsFiles, Tokens};
use crate::telemetry::{self, logs};

const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// Every one may also be in the file and, as ARCPD_<NAME>, in the environment.
#[derive(clap::Args, Serialize)]
pub(super) struct Serve {
    /// TOML file with these and more; see docs/configuration.md.
    #[arg(long, env = "ARCPD_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// gRPC and WebSocket [default: 127.0.0.1:7777]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Liveness, readiness and metrics [default: 127.0.0.1:7778]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_listen: Option<SocketAddr>,
    /// Where the store is; created if absent [default: arcpd-data]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// How lines of the log look [default: json]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<logs::Format>,
    /// What a visible event survives [default: process]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<Durability>,
    /// Lines of `principal = token`, or `principal = sha256:HEX`.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_file: Option<PathBuf>,
    /// PEM certificate chain; with --tls-key the port speaks TLS.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,
    /// PEM; clients must show a certificate of it.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_ca: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    cors: CorsFlags,
    /// Offer the demonstration agents.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    demo_agents: bool,
    /// Development: anybody may connect, loopback addresses only.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dev: bool,
    /// Seconds from SIGTERM to exit [default: 20]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_deadline_sec: Option<u64>,
}

#[derive(clap::Args, Serialize)]
pub(super) struct ClusterFlags {
    /// NATS servers with the log of several replicas, nats://HOST:PORT[,…] or tls://…
    #[arg(long = "cluster", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<String>,
    /// Which of the logs there [default: arcpd]
    #[arg(long = "cluster-name", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// How many servers have each entry: 1, 3 or 5 [default: 3]
    #[arg(long = "cluster-replication", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replication: Option<usize>,
}

#[derive(clap::Args, Serialize)]
struct CorsFlags {
    /// Origin of pages that may use JobService; may be given more than once [default: none]
    #[arg(long = "cors-allow-origin", value_name = "ORIGIN")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_origins: Vec<String>,
}

impl Serve {
    pub async fn run(self) -> anyhow::Result<()> {
        let file = self.config.clone();
        let settings = Settings::load(&self, file.as_deref())?;
        let filter = logs::start(settings.log_format).map_err(anyhow::Error::msg)?;
        tracing::info!(configuration = settings.masked(), "starting");
        if !settings.listen.ip().is_loopback() && settings.tls_cert.is_none() {
            tracing::warn!(
                "tokens travel unencrypted to this address; set tls_cert and tls_key, or end TLS in front"
            );
        }
        let mut stop = Box::pin(stop_signal()?);
        // A file that may not grow (`ulimit -f`) is a commit that fails, not the end.
        let _file_size = signal(SignalKind::from_raw(SIGXFSZ))?;
        let bound = Server::bind(Config {
            log_filter: Some(filter),
            ..config(settings)?
        });
        // That may take long: of a cell it waits for its servers.
        let server = tokio::select! {
            bound = bound => bound?,
            () = &mut stop => {
                tracing::info!("told to stop before it was ready");
                // At once: what has begun may be waiting for servers, or for a disk, and
                // nobody was told of anything.
                std::process::exit(0);
            }
        };
        let (listen, admin_listen) = (server.address()?, server.admin_address()?);
        tracing::info!(%listen, %admin_listen, "ready");
        server.run(stop).await
    }
}

fn config(settings: Settings) -> anyhow::Result<Config> {
    let limits = &settings.limits;
    let age = Duration::from_secs(limits.connection_age_max_sec);
    let listener_limits = ListenerLimits {
        connections_max: limits.connections_max as usize,
        streams_per_connection_max: limits.streams_per_connection_max as u32,
        connection_age_max: (!age.is_zero()).then_some(age),
    };
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: settings.tls_client_ca.clone(),
        }),
        _ => None,
    };
    Ok(Config {
        listen: settings.listen,
        admin_listen: settings.admin_listen,
        data_dir: settings.data_dir.clone(),
        durability: settings.durability,
        cluster: settings.cluster.options()?,
        tokens: tokens(&settings)?,
        tls,
        cors: settings.cors()?,
        agents: settings.agents()?,
        job_limits: limits.job(),
        policy: settings.policy()?,
        session_limits: limits.session(),
        listener_limits,
        retention: settings.retention.clone(),
        hosting: hosting(&settings),
        provisioning: settings.credentials.provisioning()?,
        host_options: settings.hosts.options(),
        operators: operators(&settings),
        telemetry: telemetry(&settings)?,
        // The demonstration agents make none.
        agent_spans: Default::default(),
        log_filter: None,
        drain_deadline: settings.drain_deadline(),
    })
}

fn telemetry(settings: &Settings) -> anyhow::Result<telemetry::Config> {
    let endpoint = settings.telemetry.otlp_endpoint.as_deref();
    telemetry::Config::from_env(endpoint).map_err(anyhow::Error::msg)
}

/// From the environment or a file, never from an argument: other users can
/// read those.
fn tokens(settings: &Settings) -> anyhow::Result<Tokens> {
    let env = std::env::var("ARCPD_TOKENS").ok();
    match (env, &settings.tokens_file, settings.dev) {
        (None, None, true) => Ok(Tokens::anonymous()),
        (Some(text), None, false) => Tokens::parse(&text).map_err(anyhow::Error::msg),
        (None, Some(path), false) => Tokens::open(path.clone()),
        (None, None, false) => bail!(
            "nobody could connect: give --tokens-file, or ARCPD_TOKENS=principal=token,… \
             (or --dev on a loopback address)"
        ),
        _ => bail!("ARCPD_TOKENS, tokens_file and dev exclude each other; give one"),
    }
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    })
}

/// In development everybody is one principal, and may see everything.
fn operators(settings: &Settings) -> Vec<String> {
    let mut operators = settings.operators.clone();
    if settings.dev {
        operators.push("anonymous".into());
    }
    operators
}

/// In development everybody is one principal, and may host anything.
fn hosting(settings: &Settings) -> Vec<Hosting> {
    let mut hosting = settings.hosting.clone();
    if settings.dev {
        hosting.push(Hosting {
            principal: "anonymous".into(),
            agents: vec!["*".into()],
        });
    }
    hosting
}
