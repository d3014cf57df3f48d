//! `[credentials]`: who makes credentials for jobs, for which, and for how long.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::credential::command::CommandProvisioner;
use crate::credential::litellm::{self, LiteLlm};
use crate::credential::{Options, Provisioner, Sealer, read_secret};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialSettings {
    /// None: there are no credentials.
    pub provisioner: Option<Kind>,
    /// Of the gateway's management API.
    pub url: Option<String>,
    /// Where agents find the gateway; `url` if none.
    pub endpoint: Option<String>,
    /// The API that agents are to speak there.
    pub profile: String,
    /// One line; nobody but its owner may read it.
    pub master_key_file: Option<PathBuf>,
    /// PEM; trusted instead of the machine's authorities.
    pub ca_file: Option<PathBuf>,
    /// What the gateway counts in.
    pub currency: String,
    /// Names of the gateway's models that credentials may be for.
    pub models: Vec<String>,
    /// A lease without `cost.budget` gets a credential without a cap.
    pub uncapped: bool,
    /// Program and arguments.
    pub command: Vec<String>,
    pub working_dir: Option<PathBuf>,
    /// Names, or beginnings with `*` at their end.
    pub agents: Vec<String>,
    /// A submit is refused when nothing is issued by then.
    pub issue_timeout_sec: u64,
    /// A credential's own life, if its job may live longer; 0 is no bound.
    pub ttl_sec: u64,
    /// It is replaced so long before its end.
    pub rotate_before_sec: u64,
    /// 32 bytes as base64 or hex; values are stored encrypted with it, or not at all.
    pub encryption_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Litellm,
    Command,
}

/// What the settings amount to.
pub struct Provisioning {
    pub provisioner: Arc<dyn Provisioner>,
    pub sealer: Option<Sealer>,
    pub options: Options,
}

impl Default for CredentialSettings {
    fn default() -> Self {
        Self {
            provisioner: None,
            url: None,
            endpoint: None,
            profile: "openai".into(),
            master_key_file: None,
            ca_file: None,
            currency: "USD".into(),
            models: Vec::new(),
            uncapped: false,
            command: Vec::new(),
            working_dir: None,
            agents: vec!["*".into()],
            issue_timeout_sec: 10,
            ttl_sec: 24 * 3600,
            rotate_before_sec: 300,
            encryption_key_file: None,
        }
    }
}

impl CredentialSettings {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        const MONTH: u64 = 30 * 24 * 3600;
        let Some(kind) = self.provisioner else {
            let needless = self.url.is_some() || !self.command.is_empty();
            ensure!(
                !needless,
                "credentials.provisioner: missing; \"litellm\" or \"command\""
            );
            return Ok(());
        };
        let (url, key) = (self.url.is_some(), self.master_key_file.is_some());
        match kind {
            Kind::Litellm => {
                ensure!(url, "credentials.url: missing");
                ensure!(key, "credentials.master_key_file: missing");
                ensure!(
                    !self.models.is_empty(),
                    "credentials.models: is empty; name the gateway's models that jobs may use"
                );
                // Most likely a name that means more than one.
                let odd = self.models.iter().find(|name| name.contains('*'));
                ensure!(
                    odd.is_none(),
                    "credentials.models: {odd:?} is not the name of a model"
                );
            }
            Kind::Command => {
                ensure!(!self.command.is_empty(), "credentials.command: is empty");
                ensure!(
                    !url && !key,
                    "credentials: url and master_key_file are for litellm"
                );
            }
        }
        for (key, value, low, high) in [
            ("issue_timeout_sec", self.issue_timeout_sec, 1, 60),
            ("rotate_before_sec", self.rotate_before_sec, 1, MONTH),
        ] {
            ensure!(
                (low..=high).contains(&value),
                "credentials.{key}: is {value}, must be {low} to {high}"
            );
        }
        ensure!(
            self.ttl_sec == 0 || (2 * self.rotate_before_sec..=12 * MONTH).contains(&self.ttl_sec),
            "credentials.ttl_sec: is {}, must be 0, or twice rotate_before_sec to {}",
            self.ttl_sec,
            12 * MONTH
        );
        Ok(())
    }

    /// Reads the files.
    pub fn provisioning(&self) -> anyhow::Result<Option<Provisioning>> {
        let Some(kind) = self.provisioner else {
            return Ok(None);
        };
        let timeout = Duration::from_secs(self.issue_timeout_sec);
        let provisioner: Arc<dyn Provisioner> = match kind {
            Kind::Litellm => Arc::new(self.litellm(timeout)?),
            Kind::Command => Arc::new(CommandProvisioner {
                command: self.command.clone(),
                working_dir: self.working_dir.clone(),
                timeout,
            }),
        };
        let key = "credentials.encryption_key_file";
        let sealer = self.encryption_key_file.as_deref().map(|path| {
            let text = read_secret(key, path)?;
            Sealer::from_text(&text).with_context(|| format!("{key} {}", path.display()))
        });
        Ok(Some(Provisioning {
            provisioner,
            sealer: sealer.transpose()?,
            options: Options {
                issue_timeout: timeout,
                ttl: (self.ttl_sec > 0).then(|| Duration::from_secs(self.ttl_sec)),
                rotate_before: Duration::from_secs(self.rotate_before_sec),
                agents: self.agents.clone(),
            },
        }))
    }

    fn litellm(&self, timeout: Duration) -> anyhow::Result<LiteLlm> {
        let key = "credentials.master_key_file";
        let path = self.master_key_file.as_deref().context(key)?;
        let options = litellm::Options {
            url: self.url.clone().context("credentials.url: missing")?,
            endpoint: self.endpoint.clone(),
            profile: self.profile.clone(),
            master_key: read_secret(key, path)?,
            currency: self.currency.clone(),
            models: self.models.clone(),
            uncapped: self.uncapped,
            timeout,
        };
        LiteLlm::new(options, self.ca_file.as_deref())
    }
}
