//! The HTTP client of a collector.

use std::sync::Arc;

use reqwest::Client;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::otlp::{Endpoint, read};

pub(super) fn client(endpoint: &Endpoint) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(tls(endpoint)?)
        // The headers may have a key in them, for this address and no other.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(endpoint.timeout)
        .build()
        .map_err(|error| error.to_string())
}

fn tls(endpoint: &Endpoint) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    let certificates = match &endpoint.ca {
        Some(path) => certificates(&read(path)?)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    // Of the system's, some may be of a kind that is not known here.
    roots.add_parsable_certificates(certificates);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    Ok(match (&endpoint.client_cert, &endpoint.client_key) {
        (Some(cert), Some(key)) => {
            let pem = read(key)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
            builder
                .with_client_auth_cert(certificates_of(cert)?, key)
                .map_err(|error| error.to_string())?
        }
        _ => builder.with_no_client_auth(),
    })
}

fn certificates_of(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&read(path)?)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}
