//! An OpenTelemetry collector: takes OTLP over gRPC and HTTP on one port.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;
use prost::Message;
use tokio::sync::{Notify, watch};
use tonic::{Request, Response, Status};

use super::{Runtime, serve};

#[derive(Clone)]
pub struct Collector {
    pub url: String,
    heard: Arc<Heard>,
}

/// What it does with requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Answer {
    #[default]
    Takes,
    /// Asks to be tried again.
    Busy,
    Refuses,
    /// All but one span of each request.
    RefusesOne,
    Hangs,
}

#[derive(Default)]
struct Heard {
    spans: Mutex<Vec<Seen>>,
    metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
    headers: Mutex<Vec<HeaderMap>>,
    /// Spans of each request.
    batches: Mutex<Vec<usize>>,
    answer: watch::Sender<Answer>,
    raw: Mutex<Vec<u8>>,
    more: Notify,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub name: String,
    pub trace_id: String,
    pub span_id: String,
    pub parent: String,
    pub tracestate: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
    pub links: Vec<(String, String)>,
    pub error: Option<String>,
}

impl Seen {
    pub fn has(&self, wanted: &[(&str, &str)]) {
        for (key, value) in wanted {
            let found = self.attributes.get(*key).map(String::as_str);
            assert_eq!(found, Some(*value), "{key} of {self:#?}");
        }
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (collector, app) = Self::at(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(axum::serve(listener, app).into_future());
        collector
    }

    /// The same behind TLS.
    pub async fn secure(tls: tokio_rustls::TlsAcceptor) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (collector, app) = Self::at(format!("https://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, app) = (tls.clone(), app.clone());
                tokio::spawn(async move {
                    // A peer without the right certificate is refused here.
                    if let Ok(stream) = tls.accept(tcp).await {
                        let service = hyper_util::service::TowerToHyperService::new(app);
                        let executor = hyper_util::rt::TokioExecutor::new();
                        let _ = hyper_util::server::conn::auto::Builder::new(executor)
                            .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                            .await;
                    }
                });
            }
        });
        collector
    }

    fn at(url: String) -> (Self, Router) {
        let heard = Arc::new(Heard::default());
        let grpc = tonic::service::Routes::new(
            TraceServiceServer::new(Traces(heard.clone()))
                .accept_compressed(tonic::codec::CompressionEncoding::Gzip),
        );
        let app = Router::new()
            .route("/v1/traces", post(traces))
            .route("/own/path", post(traces))
            .route("/v1/metrics", post(metrics))
            .with_state(heard.clone())
            .merge(grpc.prepare().into_axum_router().reset_fallback());
        (Self { url, heard }, app)
    }

    pub fn set(&self, answer: Answer) {
        self.heard.answer.send_replace(answer);
    }

    /// How many spans each request had.
    pub fn batches(&self) -> Vec<usize> {
        self.heard.batches.lock().unwrap().clone()
    }

    /// The variables that have a runtime export here.
    pub fn env(&self, protocol: &str) -> Vec<(&'static str, String)> {
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.clone()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.into()),
            ("OTEL_BSP_SCHEDULE_DELAY", "50".into()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200".into()),
        ]
    }

    pub fn spans(&self) -> Vec<Seen> {
        self.heard.spans.lock().unwrap().clone()
    }

    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        self.heard.metrics.lock().unwrap().clone()
    }

    pub fn headers(&self) -> Vec<HeaderMap> {
        self.heard.headers.lock().unwrap().clone()
    }

    /// Every byte that was exported, as text.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.heard.raw.lock().unwrap()).into_owned()
    }

    /// Waits until what has been heard is as wanted.
    pub async fn until<T>(&self, mut wanted: impl FnMut(&Self) -> Option<T>) -> T {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let more = self.heard.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                if let Some(found) = wanted(self) {
                    return found;
                }
                more.await;
            }
        });
        match waited.await {
            Ok(found) => found,
            Err(_) => panic!("not within 30 s: {:#?}", self.spans()),
        }
    }

    pub async fn span(&self, trace_id: &str, name: &str) -> Seen {
        self.until(|seen| {
            let mut spans = seen.spans().into_iter();
            spans.find(|span| span.trace_id == trace_id && span.name == name)
        })
        .await
    }

    /// A runtime that exports here.
    pub fn runtime(&self, dir: &Path, protocol: &str, toml: &str) -> Runtime {
        let path = dir.join("arcpd.toml");
        std::fs::write(&path, toml).unwrap();
        let mut command = serve(dir);
        command.arg("--config").arg(path);
        Runtime::spawn(command.envs(self.env(protocol)))
    }

    /// Waits for the run of a job: the last of its spans.
    pub async fn run_of(&self, job_id: &str) -> Seen {
        self.until(|seen| {
            seen.spans().into_iter().find(|span| {
                let id = span.attributes.get("arcp.job.id");
                span.name.starts_with("invoke_agent") && id.is_some_and(|id| id == job_id)
            })
        })
        .await
    }

    /// As [`Self::tree`], siblings by their names: of what happens at one moment, the
    /// times say nothing.
    pub fn shape(&self, trace_id: &str) -> String {
        self.drawn(trace_id, |a, b| {
            (&a.name, &a.error).cmp(&(&b.name, &b.error))
        })
    }

    /// The names of a trace's spans, children under their parents by their start, each
    /// with its error. A parent that is nobody's span is written down as such.
    pub fn tree(&self, trace_id: &str) -> String {
        self.drawn(trace_id, |a, b| {
            (a.start_ns, &a.name).cmp(&(b.start_ns, &b.name))
        })
    }

    fn drawn(&self, trace_id: &str, order: fn(&Seen, &Seen) -> Ordering) -> String {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == trace_id);
        spans.sort_by(order);
        let known: Vec<_> = spans.iter().map(|span| span.span_id.clone()).collect();
        let mut text = String::new();
        for root in spans.iter().filter(|span| !known.contains(&span.parent)) {
            if !root.parent.is_empty() {
                text += &format!("caller {}\n", root.parent);
            }
            branch(&spans, root, 0, &mut text);
        }
        text
    }
}

fn branch(spans: &[Seen], of: &Seen, depth: usize, text: &mut String) {
    let error = of
        .error
        .as_ref()
        .map_or(String::new(), |code| format!(" !{code}"));
    *text += &format!("{}{}{error}\n", "  ".repeat(depth), of.name);
    for child in spans.iter().filter(|span| span.parent == of.span_id) {
        // Of one that took no time, Jaeger warns.
        assert!(child.end_ns > child.start_ns, "{child:?}");
        assert!(child.start_ns >= of.start_ns, "{child:?} before {of:?}");
        branch(spans, child, depth + 1, text);
    }
}

struct Traces(Arc<Heard>);

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        match self.0.traces(headers, request.into_inner()).await {
            Answer::Busy => Err(Status::unavailable("busy")),
            Answer::Refuses => Err(Status::invalid_argument("refused")),
            answer => Ok(Response::new(answer.response())),
        }
    }
}

async fn traces(
    State(heard): State<Arc<Heard>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let request = ExportTraceServiceRequest::decode(unpacked(&headers, &body)).unwrap();
    let answer = heard.traces(headers, request).await;
    let status = match answer {
        Answer::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Answer::Refuses => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    (status, answer.response().encode_to_vec())
}

impl Answer {
    fn response(self) -> ExportTraceServiceResponse {
        let rejected_spans = i64::from(self == Self::RefusesOne);
        ExportTraceServiceResponse {
            partial_success: (rejected_spans > 0).then(|| ExportTracePartialSuccess {
                rejected_spans,
                error_message: "one too many".into(),
            }),
        }
    }
}

async fn metrics(State(heard): State<Arc<Heard>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportMetricsServiceRequest::decode(unpacked(&headers, &body)).unwrap();
    heard.raw.lock().unwrap().extend(request.encode_to_vec());
    heard.metrics.lock().unwrap().push(request);
    heard.more.notify_waiters();
    StatusCode::OK
}

fn unpacked(headers: &HeaderMap, body: &Bytes) -> Bytes {
    if headers
        .get("content-encoding")
        .is_none_or(|how| how != "gzip")
    {
        return body.clone();
    }
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
    plain.into()
}

impl Heard {
    async fn traces(&self, headers: HeaderMap, request: ExportTraceServiceRequest) -> Answer {
        self.headers.lock().unwrap().push(headers);
        let scopes = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
        let count = scopes.map(|scope| scope.spans.len()).sum();
        self.batches.lock().unwrap().push(count);
        self.more.notify_waiters();
        let mut answer = self.answer.subscribe();
        let answer = *answer
            .wait_for(|answer| *answer != Answer::Hangs)
            .await
            .unwrap();
        if !matches!(answer, Answer::Takes | Answer::RefusesOne) {
            return answer;
        }
        self.raw.lock().unwrap().extend(request.encode_to_vec());
        for of_resource in request.resource_spans {
            let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
            let service = resource["service.name"].clone();
            let spans = of_resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let seen = spans.map(|span| Seen {
                service: service.clone(),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                tracestate: span.trace_state,
                start_ns: span.start_time_unix_nano,
                end_ns: span.end_time_unix_nano,
                attributes: attributes(&span.attributes),
                links: span
                    .links
                    .iter()
                    .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                    .collect(),
                error: span
                    .status
                    .filter(|status| status.code == i32::from(Code::Error))
                    .map(|status| status.message),
            });
            self.spans.lock().unwrap().extend(seen);
        }
        self.more.notify_waiters();
        answer
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    of.iter()
        .map(|pair| {
            let value = pair.value.as_ref().and_then(|any| any.value.as_ref());
            (pair.key.clone(), value.map_or(String::new(), text))
        })
        .collect()
}
