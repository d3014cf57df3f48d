//! Metrics sent to a collector at an interval, on a thread of their own.

use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::env::Config;
use super::otlp::{Endpoint, Protocol, chain};
use super::{http, names, now_ns, openmetrics, thread};

/// Gives the text of the admin port.
pub type Text = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send>;

/// Sends a last time when it is stopped.
pub struct Push {
    stop: oneshot::Sender<Last>,
}

/// What is sent last, and who waits for that.
struct Last {
    text: Option<String>,
    done: oneshot::Sender<()>,
}

impl Push {
    /// `None` when the configuration says nowhere to.
    pub fn start(config: &Config, text: Text) -> Result<Option<Self>, String> {
        let Some(endpoint) = config.metrics.clone() else {
            return Ok(None);
        };
        let (stop, stopped) = oneshot::channel();
        let (interval, limit) = (config.metric_interval, config.metric_timeout);
        let attributes = config.resource.iter();
        let resource = Resource {
            attributes: attributes
                .map(|(key, value)| openmetrics::attribute(key, value))
                .collect(),
            ..Resource::default()
        };
        thread::spawn("metrics", move || {
            let client = Client::new(endpoint)?;
            Ok(push(client, resource, (interval, limit), text, stopped))
        })?;
        Ok(Some(Self { stop }))
    }

    /// Sends this and no more. What is being sent is given up for it: it says the
    /// same of an earlier moment.
    pub async fn stop(self, text: Option<String>, limit: Duration) {
        let (done, sent) = oneshot::channel();
        if self.stop.send(Last { text, done }).is_ok() {
            // Without the collector there is nothing to wait for.
            let _ = tokio::time::timeout(limit, sent).await;
        }
    }
}

async fn push(
    client: Client,
    resource: Resource,
    (interval, limit): (Duration, Duration),
    text: Text,
    mut stopped: oneshot::Receiver<Last>,
) {
    let since_ns = now_ns();
    let mut down = false;
    let mut send = async |text: String| {
        let request = request(&resource, &text, since_ns);
        let sent = tokio::time::timeout(limit, client.send(request)).await;
        let sent = sent.unwrap_or_else(|_| Err("no answer in time".into()));
        match &sent {
            Err(reason) if !down => tracing::warn!(reason, "metrics cannot be exported"),
            Ok(_) if down => tracing::info!("metrics are exported again"),
            _ => {}
        }
        down = sent.is_err();
    };
    let mut each = async || {
        loop {
            tokio::time::sleep(interval).await;
            if let Some(text) = text().await {
                send(text).await;
            }
        }
    };
    let last = tokio::select! {
        last = &mut stopped => last,
        () = each() => return,
    };
    // Without a word, the runtime is gone.
    let Ok(Last { text, done }) = last else {
        return;
    };
    if let Some(text) = text {
        send(text).await;
    }
    // Nobody may be waiting any more.
    let _ = done.send(());
}

fn request(resource: &Resource, text: &str, since_ns: u64) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: names::SCOPE.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = ScopeMetrics {
        scope: Some(scope),
        metrics: openmetrics::metrics(text, since_ns, now_ns()),
        ..ScopeMetrics::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        }],
    }
}

/// Tries once: what is cumulative comes again with the next.
enum Client {
    Grpc(Endpoint, Box<MetricsServiceClient<Channel>>),
    Http(Endpoint, reqwest::Client),
}

impl Client {
    fn new(endpoint: Endpoint) -> Result<Self, String> {
        Ok(match endpoint.protocol {
            Protocol::Grpc => {
                let mut client = MetricsServiceClient::new(endpoint.channel()?);
                if endpoint.gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                Self::Grpc(endpoint, Box::new(client))
            }
            Protocol::HttpProtobuf => {
                let client = http::client(&endpoint)?;
                Self::Http(endpoint, client)
            }
        })
    }

    async fn send(&self, request: ExportMetricsServiceRequest) -> Result<(), String> {
        match self {
            Self::Grpc(endpoint, client) => {
                let metadata = MetadataMap::from_headers(endpoint.headers());
                let request = tonic::Request::from_parts(metadata, Default::default(), request);
                let sent = (**client).clone().export(request).await;
                sent.map(|_| ()).map_err(|status| chain(&status))
            }
            Self::Http(endpoint, client) => {
                let mut post = client
                    .post(endpoint.url("v1/metrics"))
                    .header("content-type", "application/x-protobuf")
                    .headers(endpoint.headers());
                let mut body = request.encode_to_vec();
                if endpoint.gzip {
                    post = post.header("content-encoding", "gzip");
                    body = gzipped(&body).map_err(|error| error.to_string())?;
                }
                let sent = post.body(body).send().await;
                let sent = sent.and_then(reqwest::Response::error_for_status);
                sent.map(|_| ())
                    .map_err(|error| chain(&error.without_url()))
            }
        }
    }
}

fn gzipped(message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(message)?;
    out.finish()
}
