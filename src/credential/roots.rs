//! Whom an HTTP provisioner believes to be the gateway.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// `ca_file` alone, or the machine's authorities.
pub(super) fn client_config(ca_file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let at = || format!("credentials.ca_file {}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(at)? {
                roots.add(certificate.with_context(at)?).with_context(at)?;
            }
            ensure!(!roots.is_empty(), "{}: there is no certificate in it", at());
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            // A machine has some that are out of date or odd; the rest do.
            roots.add_parsable_certificates(native.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
