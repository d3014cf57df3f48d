//! OTLP's POST: a connection for each request, since there is one every few seconds.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::otlp::{Endpoint, Failed, chain, read};

/// Of an answer: it says at most how many spans were refused and why.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Target {
    host: String,
    port: u16,
    path: String,
    tls: Option<TlsConnector>,
    headers: Vec<(HeaderName, HeaderValue)>,
    gzip: bool,
}

impl Target {
    pub fn new(endpoint: &Endpoint, signal_path: &str) -> Result<Self, String> {
        let uri = &endpoint.uri;
        let secure = uri.scheme_str() == Some("https");
        let base = uri.path();
        let path = match endpoint.as_it_is {
            true => base.to_owned(),
            false => format!("{}/{signal_path}", base.trim_end_matches('/')),
        };
        let headers = endpoint.headers.iter().filter_map(|(key, value)| {
            Some((key.parse().ok()?, HeaderValue::from_str(value).ok()?))
        });
        Ok(Self {
            // Of an IPv6 address without its brackets.
            host: uri.host().unwrap_or("").trim_matches(['[', ']']).into(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            path,
            tls: secure.then(|| connector(endpoint)).transpose()?,
            headers: headers.collect(),
            gzip: endpoint.gzip,
        })
    }

    pub async fn post(&self, message: Vec<u8>) -> Result<Bytes, Failed> {
        let unreachable = |error: std::io::Error| Failed::Retry(error.to_string(), None);
        let tcp = TcpStream::connect((&*self.host, self.port))
            .await
            .map_err(unreachable)?;
        match &self.tls {
            None => self.exchange(tcp, message).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|error| Failed::For(error.to_string()))?;
                let stream = tls.connect(name, tcp).await.map_err(unreachable)?;
                self.exchange(stream, message).await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        message: Vec<u8>,
    ) -> Result<Bytes, Failed> {
        let broken = |error: hyper::Error| Failed::Retry(chain(&error), None);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        // Ends with the sender.
        tokio::spawn(connection);
        let request = self.request(message).map_err(Failed::For)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await;
        let body = body.map_err(|error| Failed::Retry(error.to_string(), None))?;
        if status.is_success() {
            return Ok(body.to_bytes());
        }
        let text = format!("HTTP {status}");
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let after = headers.get(header::RETRY_AFTER);
                let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
                Failed::Retry(text, seconds.map(std::time::Duration::from_secs))
            }
            _ => Failed::For(text),
        })
    }

    fn request(&self, message: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
        let host = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        let mut request = Request::post(&self.path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(
                header::USER_AGENT,
                concat!("arcpd/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = if self.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            gzipped(&message).map_err(|error| error.to_string())?
        } else {
            message
        };
        request
            .body(Full::new(body.into()))
            .map_err(|error| error.to_string())
    }
}

fn gzipped(message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(message)?;
    out.finish()
}

fn connector(endpoint: &Endpoint) -> Result<TlsConnector, String> {
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
    let config = match (&endpoint.client_cert, &endpoint.client_key) {
        (Some(cert), Some(key)) => {
            let pem = read(key)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
            builder
                .with_client_auth_cert(certificates_of(cert)?, key)
                .map_err(|error| error.to_string())?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config).into())
}

fn certificates_of(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&read(path)?)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}
