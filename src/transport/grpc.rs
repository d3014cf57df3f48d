//! `RuntimeService.Session` over tonic, with health and reflection beside it.
//!
//! A session hands over envelopes already encoded, so the method has a codec of
//! its own; once the stream is open every error is an ARCP message, a message
//! that does not decode included.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use futures_util::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use super::{MESSAGE_BYTES_MAX, OUTBOUND_CHUNKS_MAX};
use crate::session::{Connection, Encoding, Sessions, attach};
use crate::wire::{DESCRIPTOR_SET, Invalid, proto, request_from_proto};

const SERVICE: &str = "arcp.v1.RuntimeService";
const SESSION_PATH: &str = "/arcp.v1.RuntimeService/Session";

pub type Health = HealthServer<HealthService>;

/// The whole and each service by name serve until the drain begins.
pub fn health(draining: CancellationToken) -> Health {
    let reporter = tonic_health::server::HealthReporter::new();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    tokio::spawn(async move {
        for service in ["", SERVICE] {
            reporter
                .set_service_status(service, ServingStatus::Serving)
                .await;
        }
        draining.cancelled().await;
        for service in ["", SERVICE] {
            reporter
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
    });
    health
}

pub fn router(
    sessions: Arc<Sessions>,
    health: Health,
) -> Result<Router, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = tonic::service::Routes::new(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let session = Router::new()
        .route(SESSION_PATH, post(session))
        .with_state(sessions);
    Ok(session.merge(routes.prepare().into_axum_router().reset_fallback()))
}

async fn session(
    State(sessions): State<Arc<Sessions>>,
    request: axum::extract::Request,
) -> http::Response<tonic::body::Body> {
    let mut grpc = tonic::server::Grpc::new(SessionCodec)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    grpc.streaming(SessionMethod(sessions), request.map(Body::new))
        .await
}

struct SessionMethod(Arc<Sessions>);

pub(crate) type Frame = Result<proto::SessionRequest, prost::DecodeError>;

impl tonic::server::StreamingService<Frame> for SessionMethod {
    type Response = Bytes;
    type ResponseStream = futures_util::stream::BoxStream<'static, Result<Bytes, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        let (outbound, chunks) = mpsc::channel(OUTBOUND_CHUNKS_MAX);
        let bearer = super::bearer(request.metadata().as_ref());
        let inbound = request
            .into_inner()
            // A broken stream is a client that has gone.
            .take_while(|frame| std::future::ready(frame.is_ok()))
            .filter_map(|frame| std::future::ready(frame.ok()))
            .map(checked)
            .boxed();
        let connection = Connection {
            inbound,
            outbound,
            encoding: Encoding::Protobuf,
            bearer,
        };
        tokio::spawn(attach(self.0.clone(), connection));
        let responses = ReceiverStream::new(chunks)
            .map(|chunk| Ok(chunk.bytes))
            .boxed();
        std::future::ready(Ok(Response::new(responses)))
    }
}

fn checked(frame: Frame) -> Result<crate::protocol::Request, Invalid> {
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
        let frame = proto::SessionRequest::decode(&mut *source);
        // What a failed decode left belongs to this message.
        source.advance(source.remaining());
        Ok(Some(frame))
    }
}
