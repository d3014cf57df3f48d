//! `RuntimeService.Session` over tonic, with health and reflection beside it.
//!
//! A session hands over envelopes already encoded, so the method has a codec of
//! its own; once the stream is open every error is an ARCP message, a message
//! that does not decode included.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, stream};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use super::status::away;
use super::{MESSAGE_BYTES_MAX, OUTBOUND_CHUNKS_MAX, call};
use crate::drain::{Drain, Stay};
use crate::session::{Connection, Encoding, Goodbye, Inbound, Sessions, attach};
use crate::telemetry::{Metrics, Via};
use crate::wire::{DESCRIPTOR_SET, Invalid, proto, request_from_proto};

const SERVICES: [&str; 5] = [
    "",
    "arcp.v1.RuntimeService",
    "arcp.v1.JobService",
    "arcp.v1.AgentHostService",
    "arcp.v1.AdminService",
];
const SESSION_PATH: &str = "/arcp.v1.RuntimeService/Session";

pub type Health = HealthServer<HealthService>;

/// The whole and each service by name serve until the drain begins.
pub fn health(drain: Arc<Drain>) -> Health {
    let reporter = tonic_health::server::HealthReporter::new();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    tokio::spawn(async move {
        for service in SERVICES {
            reporter
                .set_service_status(service, ServingStatus::Serving)
                .await;
        }
        drain.begun().await;
        for service in SERVICES {
            reporter
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
    });
    health
}

pub fn router(
    sessions: Arc<Sessions>,
    agent_host: super::agent_host::Service,
    admin: super::admin_service::Service,
    health: Health,
) -> Result<Router, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The details of a refusal, so that grpcurl shows them as text.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = tonic::service::Routes::new(health)
        .add_service(agent_host)
        .add_service(admin)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let session = Router::new()
        .route(SESSION_PATH, post(session))
        .with_state(sessions);
    Ok(session.merge(routes.prepare().into_axum_router().reset_fallback()))
}

/// The chunks of a session go to HTTP/2 as they are, without a copy into a
/// buffer of messages.
async fn session(
    State(sessions): State<Arc<Sessions>>,
    Extension(stay): Extension<Stay>,
    request: axum::extract::Request,
) -> http::Response<Body> {
    let (parts, body) = request.into_parts();
    if let Some(refusal) = call::refuse(&parts.headers) {
        return refusal;
    }
    let requests = Streaming::new_request(SessionCodec, body, None, Some(MESSAGE_BYTES_MAX));
    let (outbound, chunks) = mpsc::channel(OUTBOUND_CHUNKS_MAX);
    let metrics = sessions.jobs.telemetry().metrics.clone();
    let connection = Connection {
        inbound: Inbound::new(
            super::until_broken(requests)
                // A broken stream is a client that has gone.
                .filter_map(move |frame| std::future::ready(received(frame, &metrics))),
        ),
        outbound,
        encoding: Encoding::Protobuf,
        bearer: super::bearer(&parts.headers),
        trace: super::trace(&parts.headers),
        stay,
    };
    tokio::spawn(attach(sessions, connection));
    // Errors of a session are messages in it; its stream ends well, unless it is the
    // runtime that goes: what is between the two should know that too.
    call::answer(ReceiverStream::new(chunks).flat_map(|chunk| {
        let end = match chunk.goodbye {
            Some(Goodbye::Away(departure)) => Some(Err(away(departure, "resume the session"))),
            _ => None,
        };
        stream::iter([Ok(chunk.bytes)].into_iter().chain(end))
    }))
}

/// A message and its bytes.
pub(crate) type Frame = (Result<proto::SessionRequest, prost::DecodeError>, usize);

/// `None` when the stream is broken.
fn received(
    frame: Result<Frame, Status>,
    metrics: &Metrics,
) -> Option<Result<crate::protocol::Request, Invalid>> {
    match frame {
        Ok((frame, bytes)) => {
            metrics.received(Via::Session, bytes);
            Some(checked(frame))
        }
        Err(status) if status.code() == tonic::Code::OutOfRange => {
            Some(Err(Invalid::new(format!(
                "frame: larger than {MESSAGE_BYTES_MAX} bytes; the stream ends here, resume the session"
            ))))
        }
        Err(_) => None,
    }
}

fn checked(
    frame: Result<proto::SessionRequest, prost::DecodeError>,
) -> Result<crate::protocol::Request, Invalid> {
    let request =
        frame.map_err(|error| Invalid::new(format!("frame: not a SessionRequest: {error}")))?;
    let envelope = request
        .envelope
        .ok_or_else(|| Invalid::new("envelope: missing"))?;
    request_from_proto(envelope)
}

/// Messages out as they are, messages in decoded, failures included.
#[derive(Clone, Copy, Default)]
pub(crate) struct SessionCodec;

impl Codec for SessionCodec {
    type Encode = Bytes;
    type Decode = Frame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SessionCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for SessionCodec {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        let bytes = source.remaining();
        let frame = proto::SessionRequest::decode(&mut *source);
        // What a failed decode left belongs to this message.
        source.advance(source.remaining());
        Ok(Some((frame, bytes)))
    }
}
