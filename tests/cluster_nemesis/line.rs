//! A session's connection, over either wire. What it says and hears has the form of the
//! WebSocket's frames, so that what a session was sent over one is compared with what it
//! is sent over the other.

use std::collections::VecDeque;

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::runtime_service_client::RuntimeServiceClient;
use arcpd::wire::proto::{self, Envelope, SessionRequest, SessionResponse};
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::support::ws::Socket;

#[derive(Clone, Copy, Debug)]
pub enum Wire {
    Grpc,
    WebSocket,
}

pub enum Line {
    Grpc(Box<Grpc>),
    WebSocket(Box<Socket>),
}

pub struct Grpc {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
    /// Heard, and not told yet.
    ready: VecDeque<Envelope>,
}

impl Line {
    /// Connected, and the first frame said; or why it is not.
    pub async fn open(wire: Wire, address: &str, hello: &Value) -> Result<Self, String> {
        match wire {
            Wire::Grpc => Ok(Self::Grpc(Box::new(Grpc::open(address, hello).await?))),
            Wire::WebSocket => {
                let dialled = tokio_tungstenite::connect_async(format!("ws://{address}/arcp"));
                let (socket, _) = dialled.await.map_err(|error| error.to_string())?;
                let mut line = Self::WebSocket(Box::new(socket));
                line.say(hello).await?;
                Ok(line)
            }
        }
    }

    pub async fn say(&mut self, frame: &Value) -> Result<(), String> {
        match self {
            Self::Grpc(grpc) => {
                let sent = grpc.requests.send(request(frame)).await;
                sent.map_err(|_| "closed".into())
            }
            Self::WebSocket(socket) => {
                let sent = socket.send(Message::text(frame.to_string())).await;
                sent.map_err(|error| error.to_string())
            }
        }
    }

    /// The next frame, or why there is none.
    pub async fn hear(&mut self) -> Result<Value, String> {
        match self {
            Self::Grpc(grpc) => loop {
                if let Some(envelope) = grpc.ready.pop_front() {
                    return Ok(frame(envelope));
                }
                let more = grpc.responses.message().await;
                let more = more.map_err(|status| status.to_string())?;
                grpc.ready.extend(more.ok_or("closed")?.envelopes);
            },
            Self::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        return Ok(serde_json::from_str(&text).expect("JSON"));
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Err("closed".into()),
                    Some(Ok(_)) => {}
                }
            },
        }
    }
}

impl Grpc {
    async fn open(address: &str, hello: &Value) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| error.to_string())?;
        let (requests, rx) = mpsc::channel(64);
        let said = requests.send(request(hello)).await;
        said.expect("room for the first");
        let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
        let opened = RuntimeServiceClient::new(channel).session(stream).await;
        Ok(Self {
            requests,
            responses: opened.map_err(|status| status.to_string())?.into_inner(),
            ready: VecDeque::new(),
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What this client says, as an envelope.
fn request(frame: &Value) -> SessionRequest {
    let said = &frame["payload"];
    let json = |value: &Value| match value {
        Value::Null => String::new(),
        value => value.to_string(),
    };
    let payload = match frame["type"].as_str().expect("a type") {
        "session.hello" => Payload::SessionHello(hello(said)),
        "session.ping" => Payload::SessionPing(proto::SessionPing {
            nonce: text(&said["nonce"]),
            sent_at: text(&said["sent_at"]),
        }),
        "session.pong" => Payload::SessionPong(proto::SessionPong {
            ping_nonce: text(&said["ping_nonce"]),
            ..Default::default()
        }),
        "job.submit" => Payload::JobSubmit(proto::JobSubmit {
            agent: text(&said["agent"]),
            input_json: json(&said["input"]),
            lease_request_json: json(&said["lease_request"]),
            idempotency_key: text(&said["idempotency_key"]),
            ..Default::default()
        }),
        "job.subscribe" => Payload::JobSubscribe(proto::JobSubscribe {
            history: said["history"] == true,
            ..Default::default()
        }),
        "job.cancel" => Payload::JobCancel(proto::JobCancel::default()),
        other => unreachable!("{other} is not said"),
    };
    let envelope = Envelope {
        arcp: "1.1".into(),
        id: text(&frame["id"]),
        session_id: text(&frame["session_id"]),
        job_id: text(&frame["job_id"]),
        payload: Some(payload),
        ..Default::default()
    };
    SessionRequest {
        envelope: Some(envelope),
    }
}

fn hello(said: &Value) -> proto::SessionHello {
    let features = said["capabilities"]["features"].as_array();
    let resume = said.get("resume").map(|resume| proto::Resume {
        session_id: text(&resume["session_id"]),
        resume_token: text(&resume["resume_token"]),
        last_event_seq: resume["last_event_seq"].as_u64().unwrap_or_default(),
    });
    proto::SessionHello {
        client_name: text(&said["client"]["name"]),
        client_version: text(&said["client"]["version"]),
        auth_scheme: text(&said["auth"]["scheme"]),
        auth_token: text(&said["auth"]["token"]),
        features: features.into_iter().flatten().map(text).collect(),
        resume,
        ..Default::default()
    }
}

/// An envelope as a frame; of what has no number, as much as a client looks at.
fn frame(envelope: Envelope) -> Value {
    let mut frame = match envelope.payload.expect("a payload") {
        told @ (Payload::JobEvent(_) | Payload::JobResult(_) | Payload::JobError(_)) => {
            record(told)
        }
        Payload::SessionWelcome(m) => {
            json!({ "type": "session.welcome", "payload": { "resume_token": m.resume_token } })
        }
        Payload::SessionError(m) => json!({ "type": "session.error",
            "payload": { "code": m.code, "message": m.message, "retryable": m.retryable } }),
        Payload::SessionPing(m) => {
            json!({ "type": "session.ping", "payload": { "nonce": m.nonce } })
        }
        Payload::SessionPong(_) => json!({ "type": "session.pong" }),
        Payload::SessionBye(_) => json!({ "type": "session.bye" }),
        Payload::JobAccepted(_) => json!({ "type": "job.accepted" }),
        Payload::JobSubscribed(_) => json!({ "type": "job.subscribed" }),
        Payload::JobCancelled(_) => json!({ "type": "job.cancelled" }),
        other => json!({ "type": format!("{other:?}") }),
    };
    frame["arcp"] = envelope.arcp.into();
    for (name, text) in [
        ("id", envelope.id),
        ("session_id", envelope.session_id),
        ("job_id", envelope.job_id),
        ("trace_id", envelope.trace_id),
    ] {
        if !text.is_empty() {
            frame[name] = text.into();
        }
    }
    if envelope.event_seq > 0 {
        frame["event_seq"] = envelope.event_seq.into();
    }
    frame
}

/// The members that a record's frame ends with.
fn record(told: Payload) -> Value {
    let alone = Envelope {
        payload: Some(told),
        ..Default::default()
    };
    let tail = arcpd::wire::json_tail(&alone.encode_to_vec());
    let members = tail.trim_start_matches(',');
    serde_json::from_str(&format!("{{{members}")).expect("a frame's end")
}
