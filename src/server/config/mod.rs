//! What an operator may set, from flags, `ARCPD_*` environment and a TOML file,
//! in that order of precedence.
//!
//! `limits.heartbeat_interval_sec` in the file is
//! `ARCPD_LIMITS__HEARTBEAT_INTERVAL_SEC` in the environment. A key nobody knows
//! is refused by name, wherever it comes from: a typo must not pass for a setting.

mod cluster;
mod credentials;
mod hosts;
mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize};

pub use cluster::ClusterSettings;
pub use credentials::{CredentialSettings, Provisioning};
pub use hosts::HostSettings;
pub use limits::Limits;

use super::Hosting;
use super::retention::Retention;
use crate::agent::command::CommandAgent;
use crate::authority::Policy;
use crate::job::AgentDirectory;
use crate::log::Durability;
use crate::masked::without_user_info;
use crate::telemetry::logs;
use crate::transport::Cors;

/// Names under the prefix that belong to the client commands.
const NOT_OURS: [&str; 6] = ["admin", "server", "token", "ca", "tokens", "config"];

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// gRPC and WebSocket.
    pub listen: SocketAddr,
    /// Liveness, readiness and metrics, without authentication.
    pub admin_listen: SocketAddr,
    /// Where the store is; created if absent.
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub log_format: logs::Format,
    /// `principal = token` lines; see `docs/configuration.md`.
    pub tokens_file: Option<PathBuf>,
    /// PEM; with `tls_key` the port speaks TLS.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// PEM; clients must then show a certificate of it.
    pub tls_client_ca: Option<PathBuf>,
    /// What principals may ask for in a lease; see `docs/authority.md`.
    pub policy_file: Option<PathBuf>,
    /// Principals that may see what all have here; a list, or one text with commas.
    #[serde(deserialize_with = "list")]
    pub operators: Vec<String>,
    /// Offer the demonstration agents.
    pub demo_agents: bool,
    /// Development: anybody may connect, loopback addresses only.
    pub dev: bool,
    /// From SIGTERM to the exit, at most.
    pub drain_deadline_sec: u64,
    pub cluster: ClusterSettings,
    pub cors: CorsSettings,
    pub limits: Limits,
    pub retention: Retention,
    pub telemetry: TelemetrySettings,
    pub hosts: HostSettings,
    pub credentials: CredentialSettings,
    /// Who may host agents, and under which names.
    pub hosting: Vec<Hosting>,
    /// Programs to offer as agents.
    pub agent: Vec<CommandSettings>,
}

/// Pages of other origins, and what a browser lets them use.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsSettings {
    /// Of `JobService`; a list, or one text with commas.
    #[serde(deserialize_with = "list")]
    pub allow_origins: Vec<String>,
}

/// Traces and metrics; the rest is set by the standard `OTEL_*` variables, which go
/// before this.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// URL of an OpenTelemetry collector; none is exported to without one.
    pub otlp_endpoint: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    pub name: String,
    #[serde(default = "first_version")]
    pub version: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Set for the program; values are not printed.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<PathBuf>,
}

fn first_version() -> String {
    "1.0.0".into()
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            listen: loopback(7777),
            admin_listen: loopback(7778),
            data_dir: "arcpd-data".into(),
            durability: Durability::Process,
            log_format: logs::Format::Json,
            tokens_file: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            policy_file: None,
            operators: Vec::new(),
            demo_agents: false,
            dev: false,
            drain_deadline_sec: 20,
            cluster: ClusterSettings::default(),
            cors: CorsSettings::default(),
            limits: Limits::default(),
            retention: Retention::default(),
            telemetry: TelemetrySettings::default(),
            hosts: HostSettings::default(),
            credentials: CredentialSettings::default(),
            hosting: Vec::new(),
            agent: Vec::new(),
        }
    }
}

impl Settings {
    /// `flags` holds what was given on the command line and nothing else.
    pub fn load(flags: impl Serialize, file: Option<&Path>) -> anyhow::Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            ensure!(
                path.is_file(),
                "--config: there is no file {}",
                path.display()
            );
            figment = figment.merge(Toml::file_exact(path));
        }
        let env = Env::prefixed("ARCPD_").filter(is_setting).split("__");
        let settings: Self = figment
            .merge(env)
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(explain)?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.dev && !(self.listen.ip().is_loopback() && self.admin_listen.ip().is_loopback()) {
            bail!(
                "dev: anybody may connect, so it serves loopback addresses only; \
                   give tokens_file or ARCPD_TOKENS instead"
            );
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            bail!("tls_cert and tls_key: give both or none");
        }
        if self.tls_client_ca.is_some() && self.tls_cert.is_none() {
            bail!("tls_client_ca: needs tls_cert and tls_key");
        }
        if self.cors()? == Cors::Any && !self.dev {
            bail!("cors.allow_origins: \"*\" is for dev only; name the origins");
        }
        self.cluster.check()?;
        self.limits.check()?;
        self.retention.check()?;
        self.hosts.check()?;
        self.credentials.check()?;
        if self.dev && self.credentials.provisioner.is_some() {
            bail!(
                "credentials: with dev they would be anybody's; give tokens_file or ARCPD_TOKENS"
            );
        }
        if self.cluster.servers.is_some()
            && self.credentials.provisioner.is_some()
            && self.credentials.encryption_key_file.is_none()
        {
            bail!(
                "credentials.encryption_key_file: is needed with cluster.servers, and the same at \
                 each replica: a job may go on at another, with its credential"
            );
        }
        self.hosting.iter().try_for_each(Hosting::check)
    }

    pub fn cors(&self) -> anyhow::Result<Cors> {
        Cors::parse(&self.cors.allow_origins).map_err(anyhow::Error::msg)
    }

    /// As one line of JSON, without what is secret.
    pub fn masked(&self) -> String {
        let mut shown = self.clone();
        for value in shown
            .agent
            .iter_mut()
            .flat_map(|agent| agent.env.values_mut())
        {
            *value = "***".into();
        }
        let urls = [
            &mut shown.telemetry.otlp_endpoint,
            &mut shown.cluster.servers,
            &mut shown.credentials.url,
            &mut shown.credentials.endpoint,
        ];
        for url in urls.into_iter().flatten() {
            *url = without_user_info(url);
        }
        serde_json::to_string(&shown).unwrap_or_default()
    }

    pub fn drain_deadline(&self) -> Duration {
        Duration::from_secs(self.drain_deadline_sec)
    }

    /// Without a file everything that parses is granted as asked.
    pub fn policy(&self) -> anyhow::Result<Policy> {
        let Some(path) = &self.policy_file else {
            return Ok(Policy::default());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("policy_file: cannot read {}", path.display()))?;
        Policy::parse(&text).map_err(|why| anyhow::anyhow!("policy_file {}: {why}", path.display()))
    }

    /// The agents this configuration names.
    pub fn agents(&self) -> anyhow::Result<AgentDirectory> {
        let mut agents = AgentDirectory::default();
        if self.demo_agents {
            crate::agent::demo::register(&mut agents).map_err(anyhow::Error::msg)?;
        }
        let mut named = BTreeSet::new();
        for settings in &self.agent {
            let at = || format!("agent {}@{}", settings.name, settings.version);
            ensure!(
                named.insert((&settings.name, &settings.version)),
                "{}: is there twice",
                at()
            );
            ensure!(!settings.command.is_empty(), "{}: command is empty", at());
            let agent = CommandAgent {
                command: settings.command.clone(),
                env: settings.env.clone(),
                working_dir: settings.working_dir.clone(),
            };
            agents
                .register(&settings.name, &settings.version, agent)
                .map_err(anyhow::Error::msg)
                .with_context(at)?;
        }
        Ok(agents)
    }
}

/// Kubernetes puts `ARCPD_SERVICE_HOST`, `ARCPD_PORT_7777_TCP` and the like into
/// every pod beside a Service of this name; they are not settings.
fn is_setting(key: &figment::value::UncasedStr) -> bool {
    let key = key.as_str().to_ascii_lowercase();
    let of_kubernetes = key.contains("service_host")
        || key.contains("service_port")
        || key == "port"
        || key.starts_with("port_")
        || key.ends_with("_port")
        || key.contains("_port_");
    !of_kubernetes && !NOT_OURS.contains(&&*key)
}

/// The environment has no lists.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Listed {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Listed::deserialize(deserializer)? {
        Listed::List(list) => list,
        Listed::Text(text) => text
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect(),
    })
}

fn explain(error: figment::Error) -> anyhow::Error {
    let texts: Vec<_> = error.into_iter().map(|error| error.to_string()).collect();
    anyhow::anyhow!("configuration: {}", texts.join("; "))
}
