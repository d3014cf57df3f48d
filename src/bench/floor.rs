//! The floor: the raw libraries doing the same work without a log, a session or
//! a check. What a stream does is in the client's name:
//! ```text
//! echo              every request is answered with one small envelope
//! stream:N:B        N envelopes and a terminal, B in a message, encoded by prost
//! fanout            what `start:N` says: N envelopes, encoded once, 64 in a message
//! relay             the reports of a host's stream, as envelopes
//! idle              nothing
//! ```
//! The WebSocket side of `/ws?N` sends N texts, flushed by 64.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, Utf8Bytes, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, Stream, StreamExt};
use prost::Message as _;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::peer::{sample, sample_end};
use super::relay::Relay;
use crate::transport::grpc::{Frame, SessionCodec};
use crate::wire::proto::agent_host_service_server::AgentHostServiceServer;
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use crate::wire::proto::{SessionRequest, SessionResponse};

const BATCH: u64 = 64;

/// `bench-floor`: serves until it is killed.
#[derive(clap::Args)]
pub struct Floor {}

type Responses = std::pin::Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

impl Floor {
    pub async fn run(self) -> anyhow::Result<()> {
        super::process::raise_open_files();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let ready =
            serde_json::json!({ "fields": { "listen": listener.local_addr()?.to_string() } });
        eprintln!("{ready}");
        let fan = Fan(broadcast::Sender::new(1024));
        let relay = Relay::default();
        let grpc = tonic::service::Routes::new(RuntimeServiceServer::new(Bare(relay.clone())))
            .add_service(AgentHostServiceServer::new(relay));
        let app = Router::new()
            .route("/fan/Session", post(fan_out))
            .with_state(fan)
            .route("/ws", get(socket))
            .merge(grpc.prepare().into_axum_router().reset_fallback());
        let drain = tokio_util::sync::CancellationToken::new();
        crate::server::serve_plain(listener, app, drain).await;
        Ok(())
    }
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
        let name = match hello.and_then(|request| request.envelope?.payload) {
            Some(Payload::SessionHello(hello)) => hello.client_name,
            _ => return Err(Status::invalid_argument("no hello")),
        };
        let responses: Responses = match name.split(':').collect::<Vec<_>>()[..] {
            ["stream", count, batch] => stream(number(count)?, number(batch)?),
            ["echo"] => echo(requests),
            ["relay"] => relayed(&self.0),
            _ => idle(requests),
        };
        Ok(tonic::Response::new(responses))
    }
}

fn number(text: &str) -> Result<u64, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument("not a number"))
}

fn stream(count: u64, batch: u64) -> Responses {
    let one = sample(1);
    let mut next = 1;
    Box::pin(futures_util::stream::iter(std::iter::from_fn(move || {
        (next <= count + 1).then(|| {
            let last = (next + batch).min(count + 2);
            let envelopes = (next..last)
                .map(|event_seq| match event_seq > count {
                    true => sample_end(event_seq),
                    false => crate::wire::proto::Envelope {
                        event_seq,
                        ..one.clone()
                    },
                })
                .collect();
            next = last;
            Ok(SessionResponse { envelopes })
        })
    })))
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

fn idle(requests: Streaming<SessionRequest>) -> Responses {
    echo(requests)
}

/// Messages encoded once, broadcast to every stream.
#[derive(Clone)]
struct Fan(broadcast::Sender<Bytes>);

async fn fan_out(
    State(fan): State<Fan>,
    request: axum::extract::Request,
) -> http::Response<tonic::body::Body> {
    let mut grpc = tonic::server::Grpc::new(SessionCodec).max_encoding_message_size(usize::MAX);
    grpc.streaming(FanMethod(Arc::new(fan)), request.map(Body::new))
        .await
}

struct FanMethod(Arc<Fan>);

impl tonic::server::StreamingService<Frame> for FanMethod {
    type Response = Bytes;
    type ResponseStream = futures_util::stream::BoxStream<'static, Result<Bytes, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        let (fan, mut requests) = (self.0.clone(), request.into_inner());
        let receiver = fan.0.subscribe();
        tokio::spawn(async move {
            while let Ok(Some(Ok(request))) = requests.message().await {
                let Some(Payload::SessionHello(hello)) = request.envelope.and_then(|e| e.payload)
                else {
                    continue;
                };
                if let Some(count) = hello.client_name.strip_prefix("start:") {
                    let _ = tokio::spawn(feed(fan.clone(), count.parse().unwrap_or(0))).await;
                }
            }
        });
        let hello = sample(0);
        let first = SessionResponse {
            envelopes: vec![hello],
        }
        .encode_to_vec();
        let first = futures_util::stream::iter([Ok(Bytes::from(first))]);
        let rest = tokio_stream::wrappers::BroadcastStream::new(receiver)
            // Lost messages show at the client as a gap in the numbers.
            .filter_map(|message| std::future::ready(message.ok().map(Ok)));
        std::future::ready(Ok(tonic::Response::new(first.chain(rest).boxed())))
    }
}

async fn feed(fan: Arc<Fan>, count: u64) {
    let mut next = 1;
    while next <= count + 1 {
        // Lossless: the slowest stream is never more than half the channel behind.
        while fan.0.len() > 512 {
            tokio::task::yield_now().await;
        }
        let last = (next + BATCH).min(count + 2);
        let envelopes = (next..last)
            .map(|seq| {
                if seq > count {
                    sample_end(seq)
                } else {
                    sample(seq)
                }
            })
            .collect();
        let mut message = BytesMut::new();
        let encoded = SessionResponse { envelopes }.encode(&mut message);
        if encoded.is_ok() {
            // Nobody listening is no error.
            let _ = fan.0.send(message.freeze());
        }
        next = last;
        tokio::task::yield_now().await;
    }
}

#[derive(serde::Deserialize)]
struct Texts {
    count: u64,
}

async fn socket(Query(texts): Query<Texts>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .read_buffer_size(4096)
        .on_upgrade(move |mut socket| async move {
            for seq in 1..=texts.count {
                let text = Utf8Bytes::from(super::ws::sample(seq));
                let sent = socket.feed(Message::Text(text)).await;
                let flushed = match seq % BATCH == 0 || seq == texts.count {
                    true => socket.flush().await,
                    false => Ok(()),
                };
                if sent.is_err() || flushed.is_err() {
                    return;
                }
            }
            // Until the client has read it all and goes.
            while let Some(Ok(_)) = socket.recv().await {}
        })
}
