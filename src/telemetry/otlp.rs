//! A collector: where it is, how to speak to it, and the standard exporter that does.

use std::fmt;
use std::time::Duration;

use opentelemetry_otlp::{
    Compression, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::http;
use super::pem::{PemFile, tls};

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    HttpProtobuf,
}

#[derive(Clone)]
pub struct Endpoint {
    pub uri: ::http::Uri,
    /// The URL is the signal's own: over HTTP nothing is put behind it.
    pub as_it_is: bool,
    pub protocol: Protocol,
    pub gzip: bool,
    /// May have a key in it.
    pub headers: Vec<(String, String)>,
    /// Of one try.
    pub timeout: Duration,
    pub ca: Option<PemFile>,
    pub client_cert: Option<PemFile>,
    pub client_key: Option<PemFile>,
}

// === impl Endpoint ===

impl Protocol {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            other => Err(format!("{other:?} is neither grpc nor http/protobuf")),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the headers, nor what a URL may have in front of its host.
        write!(
            f,
            "{:?} to {}:{:?}",
            self.protocol,
            self.uri.host().unwrap_or(""),
            self.uri.port_u16()
        )
    }
}

impl Endpoint {
    /// Tries until the spans are taken, cannot be, or `limit` is over. Reads the
    /// certificates; connects with the first request. Inside the runtime that is to
    /// drive it.
    pub(super) fn spans(&self, limit: Duration) -> Result<SpanExporter, String> {
        // As often as there is time for.
        let retries = RetryPolicy::recommended()
            .with_max_retries(usize::MAX)
            .with_initial_delay(RETRY_MIN)
            .with_max_delay(RETRY_MAX);
        // The exporter knows one time, for all tries; that of one is the transport's.
        let built = match self.protocol {
            Protocol::Grpc => {
                let builder = SpanExporter::builder()
                    .with_tonic()
                    .with_channel(self.channel()?)
                    .with_timeout(limit)
                    .with_metadata(MetadataMap::from_headers(self.headers()))
                    .with_retry_policy(retries);
                match self.gzip {
                    true => builder.with_compression(Compression::Gzip).build(),
                    false => builder.build(),
                }
            }
            Protocol::HttpProtobuf => {
                let builder = SpanExporter::builder()
                    .with_http()
                    .with_http_client(http::client(self)?)
                    .with_endpoint(self.url("v1/traces"))
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_timeout(limit)
                    .with_headers(self.headers.iter().cloned().collect())
                    .with_retry_policy(retries);
                match self.gzip {
                    true => builder.with_compression(Compression::Gzip).build(),
                    false => builder.build(),
                }
            }
        };
        built.map_err(|error| error.to_string())
    }

    /// Of a signal, over HTTP.
    pub(super) fn url(&self, signal_path: &str) -> String {
        let uri = self.uri.to_string();
        match self.as_it_is {
            true => uri,
            false => format!("{}/{signal_path}", uri.trim_end_matches('/')),
        }
    }

    pub(super) fn headers(&self) -> ::http::HeaderMap {
        let headers = self.headers.iter();
        headers
            .filter_map(|(key, value)| Some((key.parse().ok()?, value.parse().ok()?)))
            .collect::<Vec<(::http::HeaderName, ::http::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    pub(super) fn channel(&self) -> Result<Channel, String> {
        // Tonic takes anything for a certificate and finds nothing in it.
        tls(self)?;
        let mut channel = tonic::transport::Endpoint::from(self.uri.clone());
        if self.uri.scheme_str() == Some("https") {
            let mut tls = match &self.ca {
                Some(file) => {
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file.read()?))
                }
                None => ClientTlsConfig::new().with_native_roots(),
            };
            if let (Some(cert), Some(key)) = (&self.client_cert, &self.client_key) {
                tls = tls.identity(Identity::from_pem(cert.read()?, key.read()?));
            }
            channel = channel.tls_config(tls).map_err(|error| chain(&error))?;
        }
        Ok(channel
            .connect_timeout(self.timeout)
            .timeout(self.timeout)
            .connect_lazy())
    }
}

/// An error with its causes: what tonic says first is "transport error".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
