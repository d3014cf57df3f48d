//! Bare tonic.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tonic::{Request, Status, Streaming};

use super::relay::Relay;
use super::{Fan, Role};
use crate::bench::client::{sample, sample_end};
use crate::transport::grpc::{Frame, SessionCodec};
use crate::wire::proto::agent_host_service_server::AgentHostServiceServer;
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use crate::wire::proto::{Envelope, SessionRequest, SessionResponse};

type Responses = std::pin::Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

pub fn router() -> Router {
    let relay = Relay::default();
    let routes = tonic::service::Routes::new(RuntimeServiceServer::new(Bare(relay.clone())))
        .add_service(AgentHostServiceServer::new(relay));
    routes.prepare().into_axum_router().reset_fallback()
}

struct Bare(Relay);

#[tonic::async_trait]
impl RuntimeService for Bare {
    type SessionStream = Responses;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let mut requests = request.into_inner();
        let hello = requests.message().await?;
        let responses: Responses = match hello.and_then(role) {
            Some(Role::Stream { count, batch }) => stream(requests, count, batch),
            Some(Role::Echo) => echo(requests),
            Some(Role::Relay) => relayed(&self.0),
            _ => return Err(Status::invalid_argument("a role is due")),
        };
        Ok(tonic::Response::new(responses))
    }
}

/// What a hello asks for.
fn role(request: SessionRequest) -> Option<Role> {
    match request.envelope?.payload? {
        Payload::SessionHello(hello) => Role::of(&hello.client_name),
        _ => None,
    }
}

/// Begins with the request after the hello.
fn stream(mut requests: Streaming<SessionRequest>, count: u64, batch: u64) -> Responses {
    let welcome = SessionResponse {
        envelopes: vec![sample(0)],
    };
    let rest = async move {
        // Whoever has gone does not read what follows.
        let _ = requests.message().await;
        futures_util::stream::iter(messages(count, batch))
    };
    let welcome = std::future::ready(Ok(welcome));
    let welcome = futures_util::stream::once(welcome);
    Box::pin(welcome.chain(futures_util::stream::once(rest).flatten()))
}

fn messages(count: u64, batch: u64) -> impl Iterator<Item = Result<SessionResponse, Status>> {
    let one = sample(1);
    let mut next = 1;
    std::iter::from_fn(move || {
        (next <= count + 1).then(|| {
            let last = (next + batch).min(count + 2);
            let envelopes = (next..last)
                .map(|event_seq| match event_seq > count {
                    true => sample_end(event_seq),
                    false => Envelope {
                        event_seq,
                        ..one.clone()
                    },
                })
                .collect();
            next = last;
            Ok(SessionResponse { envelopes })
        })
    })
}

/// A task and a channel a stream, as a session needs at the least.
fn echo(mut requests: Streaming<SessionRequest>) -> Responses {
    let (tx, rx) = mpsc::channel(64);
    tokio::spawn(async move {
        let welcome = SessionResponse {
            envelopes: vec![sample(0)],
        };
        let mut sent = tx.send(Ok(welcome)).await;
        while let (Ok(()), Ok(Some(_))) = (sent, requests.message().await) {
            let envelopes = vec![sample(0)];
            sent = tx.send(Ok(SessionResponse { envelopes })).await;
        }
    });
    Box::pin(ReceiverStream::new(rx))
}

/// What a host's stream brings.
fn relayed(relay: &Relay) -> Responses {
    let (tx, rx) = mpsc::channel(64);
    let envelopes = vec![sample(0)];
    // The channel is new.
    let _ = tx.try_send(Ok(SessionResponse { envelopes }));
    relay.to(tx);
    Box::pin(ReceiverStream::new(rx))
}

pub async fn fan_out(
    State(fan): State<Fan<Bytes>>,
    request: axum::extract::Request,
) -> http::Response<tonic::body::Body> {
    let mut grpc = tonic::server::Grpc::new(SessionCodec).max_encoding_message_size(usize::MAX);
    grpc.streaming(FanMethod(fan), request.map(Body::new)).await
}

struct FanMethod(Fan<Bytes>);

impl tonic::server::StreamingService<Frame> for FanMethod {
    type Response = Bytes;
    type ResponseStream = futures_util::stream::BoxStream<'static, Result<Bytes, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        let (fan, mut requests) = (self.0.clone(), request.into_inner());
        let receiver = fan.0.subscribe();
        tokio::spawn(async move {
            while let Ok(Some((Ok(request), _))) = requests.message().await {
                if let Some(Role::Start { count }) = role(request) {
                    fan.feed(count, encode).await;
                }
            }
        });
        let first = futures_util::stream::iter([Ok(encode(0..1, 0))]);
        let rest = BroadcastStream::new(receiver)
            // Lost messages show at the client as a gap in the numbers.
            .filter_map(|message| std::future::ready(message.ok().map(Ok)));
        std::future::ready(Ok(tonic::Response::new(first.chain(rest).boxed())))
    }
}

/// Those beyond `count` are terminals.
fn encode(numbers: std::ops::Range<u64>, count: u64) -> Bytes {
    let envelopes = numbers
        .map(|seq| match seq > count {
            true => sample_end(seq),
            false => sample(seq),
        })
        .collect();
    SessionResponse { envelopes }.encode_to_vec().into()
}
