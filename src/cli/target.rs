//! Which runtime a client command talks to, and as whom.

use std::path::PathBuf;

use anyhow::Context;

use crate::client::{Client, Options};

#[derive(clap::Args)]
pub(super) struct Target {
    /// The runtime: http://HOST:PORT, or https://HOST:PORT.
    #[arg(long, env = "ARCPD_SERVER", default_value = "http://127.0.0.1:7777")]
    pub server: String,
    /// Bearer token. Other users can read arguments: prefer the environment.
    #[arg(long, env = "ARCPD_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
    /// PEM file of a certificate authority to trust beside the system's.
    #[arg(long, env = "ARCPD_CA")]
    ca: Option<PathBuf>,
}

impl Target {
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.options()?).await?)
    }

    pub fn options(&self) -> anyhow::Result<Options> {
        let mut options = Options::new(&*self.server, &*self.token);
        if let Some(path) = &self.ca {
            let pem = std::fs::read_to_string(path);
            options.ca_pem = Some(pem.with_context(|| format!("--ca {}", path.display()))?);
        }
        Ok(options)
    }
}
