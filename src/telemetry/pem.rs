//! Certificates and keys in files that variables name. What cannot be used is told
//! with the name of the variable.

use std::path::PathBuf;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::otlp::Endpoint;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFile {
    pub variable: String,
    pub path: PathBuf,
}

impl PemFile {
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        std::fs::read(&self.path).map_err(|error| self.wrong(&error.to_string()))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let pem = self.read()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let found = found.map_err(|error| self.wrong(&error.to_string()))?;
        match found.is_empty() {
            true => Err(self.wrong("has no certificate in PEM")),
            false => Ok(found),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let key = PrivateKeyDer::from_pem_slice(&self.read()?);
        key.map_err(|_| self.wrong("has no private key in PEM"))
    }

    fn wrong(&self, why: &str) -> String {
        format!("{}: {}: {why}", self.variable, self.path.display())
    }
}

/// With all files of an endpoint read and looked into.
pub(super) fn tls(endpoint: &Endpoint) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(endpoint)?);
    let (Some(cert), Some(key)) = (&endpoint.client_cert, &endpoint.client_key) else {
        return Ok(builder.with_no_client_auth());
    };
    builder
        .with_client_auth_cert(cert.certificates()?, key.key()?)
        .map_err(|error| format!("{}, {}: {error}", cert.variable, key.variable))
}

fn roots(endpoint: &Endpoint) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    match &endpoint.ca {
        None => {
            let system = rustls_native_certs::load_native_certs().certs;
            // Some may be of a kind that is not known here.
            roots.add_parsable_certificates(system);
        }
        Some(file) => {
            for certificate in file.certificates()? {
                let added = roots.add(certificate);
                added.map_err(|error| file.wrong(&error.to_string()))?;
            }
        }
    }
    Ok(roots)
}
