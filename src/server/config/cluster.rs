//! `[cluster]`: several replicas with one log, and who this one is to the servers that
//! have it. Secrets are in files, which are read once, at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::credential::read_secret;
use crate::log::jetstream::{Access, ClusterOptions, Login};

/// See `docs/cluster.md`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSettings {
    /// `nats://host:port` or `tls://host:port`, several separated by commas. None: a
    /// runtime of its own.
    pub servers: Option<String>,
    /// Of the cell: letters, digits, `-` and `_`. Its stream is `ARCP_LOG_<name>`.
    pub name: String,
    /// How many servers have each entry; less than 3 does not outlive one of them.
    pub replication: usize,
    /// What `nsc` writes: a JWT and the key it is for.
    pub credentials_file: Option<PathBuf>,
    pub user: Option<String>,
    /// One line; nobody but its owner may read it.
    pub password_file: Option<PathBuf>,
    /// One line; nobody but its owner may read it.
    pub token_file: Option<PathBuf>,
    /// PEM; trusted instead of the machine's authorities. The connection is then TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// PEM; shown to servers that ask for a certificate.
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            servers: None,
            name: "arcpd".into(),
            replication: 3,
            credentials_file: None,
            user: None,
            password_file: None,
            token_file: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

impl ClusterSettings {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(
            (1..=64).contains(&self.name.len()) && self.name.chars().all(word),
            "cluster.name: must have 1 to 64 letters, digits, - or _"
        );
        ensure!(
            matches!(self.replication, 1 | 3 | 5),
            "cluster.replication: must be 1, 3 or 5"
        );

        ensure!(
            self.user.is_some() == self.password_file.is_some(),
            "cluster.user and cluster.password_file: give both or none"
        );
        let logins = [
            &self.credentials_file,
            &self.password_file,
            &self.token_file,
        ];
        ensure!(
            logins.into_iter().flatten().count() <= 1,
            "cluster.credentials_file, cluster.password_file and cluster.token_file exclude each \
             other; give one"
        );
        ensure!(
            self.tls_cert_file.is_some() == self.tls_key_file.is_some(),
            "cluster.tls_cert_file and cluster.tls_key_file: give both or none"
        );
        self.check_alone()?;
        self.is_tls().map(drop)
    }

    /// Who says which cell and not where it is would have a runtime of its own, and not
    /// know it.
    fn check_alone(&self) -> anyhow::Result<()> {
        let default = Self::default();
        let given = [
            ("name", self.name != default.name),
            ("replication", self.replication != default.replication),
            ("credentials_file", self.credentials_file.is_some()),
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
            ("token_file", self.token_file.is_some()),
            ("tls_ca_file", self.tls_ca_file.is_some()),
            ("tls_cert_file", self.tls_cert_file.is_some()),
            ("tls_key_file", self.tls_key_file.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((field, _)) if self.servers.is_none() => bail!(
                "cluster.{field}: is for a cell, and cluster.servers (--cluster) does not say \
                 where that is; give it, or leave this out"
            ),
            _ => Ok(()),
        }
    }

    /// Whether connections must be TLS; looks at each server's URL for it.
    fn is_tls(&self) -> anyhow::Result<bool> {
        let mut of = Vec::new();
        for server in self.servers.iter().flat_map(|servers| servers.split(',')) {
            of.push(scheme_is_tls(server.trim())?);
        }
        let all = of.iter().all(|tls| *tls) && !of.is_empty();
        // NATS tells its clients of more servers, and not which of them speak TLS.
        ensure!(
            all || !of.contains(&true),
            "cluster.servers: give tls:// for all servers or for none"
        );
        Ok(all || self.tls_ca_file.is_some() || self.tls_cert_file.is_some())
    }

    /// None for a runtime of its own. Reads the files.
    pub fn options(&self) -> anyhow::Result<Option<ClusterOptions>> {
        let Some(servers) = self.servers.clone() else {
            return Ok(None);
        };
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let tls_identity = self.tls_cert_file.clone().zip(self.tls_key_file.clone());
        if let Some(path) = &self.tls_ca_file {
            certificates("cluster.tls_ca_file", path)?;
        }
        if let Some((cert, key)) = &tls_identity {
            check_identity(cert, key)?;
        }
        Ok(Some(ClusterOptions {
            servers,
            name: self.name.clone(),
            replica: format!("{host}/{}", std::process::id()),
            replication: self.replication,
            access: Access {
                login: self.login()?,
                require_tls: self.is_tls()?,
                tls_ca: self.tls_ca_file.clone(),
                tls_identity,
                ..Access::default()
            },
        }))
    }

    fn login(&self) -> anyhow::Result<Login> {
        if let Some(path) = &self.credentials_file {
            return Ok(Login::Credentials(read_secret(
                "cluster.credentials_file",
                path,
            )?));
        }
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            return Ok(Login::Password {
                user: user.clone(),
                password: read_secret("cluster.password_file", path)?,
            });
        }
        match &self.token_file {
            Some(path) => Ok(Login::Token(read_secret("cluster.token_file", path)?)),
            None => Ok(Login::Nobody),
        }
    }
}

/// Of a server's URL, which is not said in an error: it may have a password.
fn scheme_is_tls(server: &str) -> anyhow::Result<bool> {
    let url = match server.contains("://") {
        true => Url::parse(server),
        false => Url::parse(&format!("nats://{server}")),
    };
    let Ok(url) = url else {
        bail!("cluster.servers: one of them is not nats://host:port or tls://host:port");
    };
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "cluster.servers: no user name, password or token goes there, it would be seen; give \
         cluster.user with cluster.password_file, cluster.token_file or cluster.credentials_file"
    );
    ensure!(
        url.host_str().is_some_and(|host| !host.is_empty()) && matches!(url.path(), "" | "/"),
        "cluster.servers: one of them is not nats://host:port or tls://host:port"
    );
    match url.scheme() {
        "nats" => Ok(false),
        "tls" => Ok(true),
        other => bail!("cluster.servers: {other}:// is not known; nats:// or tls://"),
    }
}

fn certificates(key: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let at = || format!("{key} {}", path.display());
    let pem = std::fs::read(path).with_context(at)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(at)?;
    ensure!(!found.is_empty(), "{}: there is no certificate in it", at());
    Ok(found)
}

fn check_identity(cert: &Path, key: &Path) -> anyhow::Result<()> {
    let chain = certificates("cluster.tls_cert_file", cert)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cluster.tls_key_file {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(chain, private)
        .with_context(|| {
            format!(
                "cluster.tls_cert_file {} and cluster.tls_key_file {} do not go together",
                cert.display(),
                key.display()
            )
        })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ClusterSettings)) -> String {
        let mut settings = ClusterSettings::default();
        change(&mut settings);
        settings.check().unwrap_err().to_string()
    }

    /// A replica started with its cell's name, and without its servers, and nobody noticed.
    #[test]
    fn what_is_for_a_cell_is_refused_without_its_servers() {
        let named = refused(|settings| settings.name = "green".into());
        assert!(named.starts_with("cluster.name: is for a cell"), "{named}");
        let token = Some("token".into());
        let with_token = refused(|settings| settings.token_file = token);
        assert!(
            with_token.starts_with("cluster.token_file:"),
            "{with_token}"
        );
        assert!(ClusterSettings::default().check().is_ok());
    }

    #[test]
    fn servers_say_whether_they_speak_tls_and_have_no_secret_in_them() {
        let tls = |servers: &str| {
            let servers = Some(servers.into());
            let settings = ClusterSettings {
                servers,
                ..ClusterSettings::default()
            };
            settings.is_tls()
        };
        assert!(!tls("localhost:4222, nats://b:4222").unwrap());
        assert!(tls("tls://a:4222,tls://[::1]:4222").unwrap());
        assert!(tls("nats://a,tls://b").is_err());
        for servers in ["nats://u:s3cret@a", "u:s3cret@a:4222", "tls://s3cret@a"] {
            let why = tls(servers).unwrap_err().to_string();
            assert!(why.contains("cluster.password_file"), "{why}");
            assert!(!why.contains("s3cret"), "{why}");
        }
        for servers in [
            "",
            "nats://",
            "a,,b",
            "http://a",
            "nats://a/path",
            "nats://a:x",
        ] {
            let why = tls(servers).unwrap_err().to_string();
            assert!(why.contains("cluster.servers"), "{why}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        let file = || Some(PathBuf::from("f"));
        let why = refused(|settings| settings.user = Some("u".into()));
        assert!(why.contains("cluster.password_file"), "{why}");
        let why = refused(|settings| {
            settings.token_file = file();
            settings.credentials_file = file();
        });
        assert!(why.contains("give one"), "{why}");
        let why = refused(|settings| settings.tls_key_file = file());
        assert!(why.contains("cluster.tls_cert_file"), "{why}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "nothing of use").unwrap();
        let settings = || ClusterSettings {
            servers: Some("tls://a".into()),
            ..ClusterSettings::default()
        };
        let mut ca = settings();
        ca.tls_ca_file = Some(path.clone());
        let why = format!("{:#}", ca.options().unwrap_err());
        assert!(
            why.contains("cluster.tls_ca_file") && why.contains("no certificate"),
            "{why}"
        );
        let mut token = settings();
        token.token_file = Some(dir.path().join("absent"));
        let why = format!("{:#}", token.options().unwrap_err());
        assert!(why.contains("cluster.token_file"), "{why}");
    }
}
