//! TLS from files that may change while the runtime runs: Kubernetes swaps a
//! mounted secret, cert-manager renews. New connections get the new files; a
//! pair that does not work is reported and the one before stays in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate signed by one of these.
    pub client_ca: Option<PathBuf>,
}

/// The files' contents, to tell whether they changed.
#[derive(PartialEq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What new connections are accepted with.
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    pub fn open(files: TlsFiles) -> anyhow::Result<Arc<Self>> {
        let contents = Contents::read(&files)?;
        let current = RwLock::new(contents.config(&files)?);
        let tls = Arc::new(Self { files, current });
        tokio::spawn(tls.clone().reload(contents));
        Ok(tls)
    }

    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.current.read().clone().into()
    }

    async fn reload(self: Arc<Self>, mut known: Contents) {
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        loop {
            ticks.tick().await;
            let Ok(contents) = Contents::read(&self.files) else {
                // In the middle of a swap; the next look sees the whole.
                continue;
            };
            if contents == known {
                continue;
            }
            match contents.config(&self.files) {
                Ok(config) => {
                    *self.current.write() = config;
                    tracing::info!("new TLS files are in use");
                }
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "new TLS files cannot be used; the ones before stay"
                    );
                }
            }
            known = contents;
        }
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn config(&self, files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
        let bad = |path: &Path| format!("{} is not usable", path.display());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .with_context(|| bad(&files.cert))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).with_context(|| bad(&files.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let mut roots = rustls::RootCertStore::empty();
                for ca in CertificateDer::pem_slice_iter(pem) {
                    roots.add(ca.with_context(|| bad(path))?)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .with_context(|| bad(path))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).with_context(|| {
            format!(
                "{} and {} do not go together",
                files.cert.display(),
                files.key.display()
            )
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
