//! OTLP to a collector: one request and its answer, over gRPC or HTTP.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::http;

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
    pub timeout: Duration,
    /// PEM files.
    pub ca: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
}

#[derive(Clone, Copy)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

/// Sends the requests of one signal.
pub(super) struct Client {
    signal: Signal,
    endpoint: Endpoint,
    wire: Wire,
}

enum Wire {
    Grpc(Channel),
    Http(http::Target),
}

pub(super) enum Failed {
    /// Worth another try, after a time the collector may have named.
    Retry(String, Option<Duration>),
    For(String),
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

impl Signal {
    fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

// === impl Client ===

impl Client {
    /// Reads the certificates; connects with the first request. Inside the runtime
    /// that is to drive it.
    pub fn new(endpoint: Endpoint, signal: Signal) -> Result<Self, String> {
        let wire = match endpoint.protocol {
            Protocol::Grpc => Wire::Grpc(channel(&endpoint)?),
            Protocol::HttpProtobuf => Wire::Http(http::Target::new(&endpoint, signal.path())?),
        };
        Ok(Self {
            signal,
            endpoint,
            wire,
        })
    }

    /// Sends a request until it is taken, cannot be, or `limit` is over.
    pub async fn send<Q, A>(&self, request: &Q, limit: Duration) -> Result<A, String>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut last = "no answer in time".to_owned();
        let tries = async {
            let mut wait = RETRY_MIN;
            loop {
                let tried = tokio::time::timeout(self.endpoint.timeout, self.try_send(request));
                match tried.await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(Failed::For(reason))) => return Err(reason),
                    Ok(Err(Failed::Retry(reason, after))) => {
                        last = reason;
                        tokio::time::sleep(after.unwrap_or(wait)).await;
                    }
                    Err(_) => tokio::time::sleep(wait).await,
                }
                wait = (wait * 2).min(RETRY_MAX);
            }
        };
        match tokio::time::timeout(limit, tries).await {
            Ok(ended) => ended,
            Err(_) => Err(last),
        }
    }

    async fn try_send<Q, A>(&self, request: &Q) -> Result<A, Failed>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        match &self.wire {
            Wire::Grpc(channel) => self.call(channel.clone(), request.clone()).await,
            Wire::Http(target) => {
                let answer = target.post(request.encode_to_vec()).await?;
                A::decode(answer).map_err(|error| Failed::For(format!("the answer: {error}")))
            }
        }
    }

    async fn call<Q, A>(&self, channel: Channel, request: Q) -> Result<A, Failed>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(channel);
        if self.endpoint.gzip {
            grpc = grpc
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        grpc.ready()
            .await
            .map_err(|error| Failed::Retry(chain(&error), None))?;
        let mut request = tonic::Request::new(request);
        for (key, value) in &self.endpoint.headers {
            let key = MetadataKey::from_bytes(key.to_ascii_lowercase().as_bytes());
            if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value)) {
                request.metadata_mut().insert(key, value);
            }
        }
        let path = ::http::uri::PathAndQuery::from_static(self.signal.method());
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answered = grpc.unary(request, path, codec).await;
        answered.map(tonic::Response::into_inner).map_err(|status| {
            use tonic::Code::*;
            let text = format!("{:?}: {}", status.code(), status.message());
            match status.code() {
                Cancelled | DeadlineExceeded | Aborted | OutOfRange | Unavailable | DataLoss
                | ResourceExhausted => Failed::Retry(text, None),
                _ => Failed::For(text),
            }
        })
    }
}

fn channel(endpoint: &Endpoint) -> Result<Channel, String> {
    let mut channel = tonic::transport::Endpoint::from(endpoint.uri.clone());
    if endpoint.uri.scheme_str() == Some("https") {
        let mut tls = match &endpoint.ca {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&endpoint.client_cert, &endpoint.client_key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        channel = channel.tls_config(tls).map_err(|error| chain(&error))?;
    }
    Ok(channel.connect_timeout(endpoint.timeout).connect_lazy())
}

pub(super) fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
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
