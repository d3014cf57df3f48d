//! A scripted WebSocket client.
#![allow(dead_code, reason = "each test file uses a part")]

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::Runtime;

pub type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

pub struct Ws {
    pub socket: Socket,
    pub session_id: String,
    pub resume_token: String,
    pub next_id: u32,
}

/// A hello whose envelope id and payload members may be replaced.
pub fn hello(id: &str, token: &str, more: Value) -> Value {
    let mut payload = json!({
        "client": { "name": "test", "version": "1" },
        "auth": { "scheme": "bearer", "token": token },
        "capabilities": { "features": ["heartbeat", "ack", "list_jobs", "subscribe", "progress",
            "result_chunk", "agent_versions", "cost.budget", "lease_expires_at", "model.use"] },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        payload[key] = value.clone();
    }
    json!({ "arcp": "1.1", "id": id, "type": "session.hello", "payload": payload })
}

/// As the Python SDK says it.
pub fn python_hello(token: &str) -> Value {
    let features = [
        "heartbeat",
        "subscribe",
        "list_jobs",
        "progress",
        "result_chunk",
    ];
    hello(
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        token,
        json!({ "capabilities": { "features": features, "agents": [] } }),
    )
}

impl Ws {
    /// Connected, nothing said.
    pub async fn dial(runtime: &Runtime) -> Self {
        Self::dial_at(&runtime.address).await
    }

    pub async fn dial_at(address: &str) -> Self {
        let url = format!("ws://{address}/arcp");
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Self::on(socket)
    }

    pub fn on(socket: Socket) -> Self {
        Self {
            socket,
            session_id: String::new(),
            resume_token: String::new(),
            next_id: 0,
        }
    }

    pub async fn open(runtime: &Runtime, hello: Value) -> Self {
        Self::open_at(&runtime.address, hello).await
    }

    pub async fn open_at(address: &str, hello: Value) -> Self {
        let mut ws = Self::dial_at(address).await;
        ws.send(&hello.to_string()).await;
        let welcome = ws.hear().await;
        assert_eq!(welcome["type"], "session.welcome", "{welcome}");
        ws.session_id = welcome["session_id"].as_str().unwrap().into();
        ws.resume_token = welcome["payload"]["resume_token"].as_str().unwrap().into();
        ws
    }

    pub async fn connect(runtime: &Runtime, token: &str) -> Self {
        Self::open(runtime, hello("h", token, json!({}))).await
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub fn envelope(&mut self, kind: &str, payload: Value) -> Value {
        self.next_id += 1;
        json!({ "arcp": "1.1", "id": format!("m{}", self.next_id), "type": kind,
            "session_id": self.session_id, "payload": payload })
    }

    /// Returns the id of what was said.
    pub async fn say(&mut self, kind: &str, payload: Value) -> String {
        let envelope = self.envelope(kind, payload);
        self.send(&envelope.to_string()).await;
        envelope["id"].as_str().unwrap().into()
    }

    pub async fn say_about(&mut self, job: &str, kind: &str, payload: Value) -> String {
        let mut envelope = self.envelope(kind, payload);
        envelope["job_id"] = job.into();
        self.send(&envelope.to_string()).await;
        envelope["id"].as_str().unwrap().into()
    }

    /// The next frame; `None` once the socket is closed.
    pub async fn try_hear(&mut self) -> Option<Value> {
        self.try_hear_within(std::time::Duration::from_secs(30))
            .await
    }

    pub async fn try_hear_within(&mut self, limit: std::time::Duration) -> Option<Value> {
        loop {
            let next = tokio::time::timeout(limit, self.socket.next());
            match next.await.expect("a frame in time")? {
                Ok(Message::Text(text)) => {
                    let frame = serde_json::from_str(&text).unwrap();
                    self.answer(&frame).await;
                    return Some(frame);
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// As every client that has heartbeats it answers a ping when it reads it.
    async fn answer(&mut self, frame: &Value) {
        if frame["type"] == "session.ping" {
            let nonce = &frame["payload"]["nonce"];
            let pong = self.envelope("session.pong", json!({ "ping_nonce": nonce }));
            // A socket that is closed is seen by whoever reads on.
            let _ = self.socket.send(Message::text(pong.to_string())).await;
        }
    }

    pub async fn hear(&mut self) -> Value {
        self.try_hear().await.expect("an open socket")
    }

    /// The next frame of a type; those before it are dropped.
    pub async fn hear_type(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.hear().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    pub async fn submit(&mut self, agent: &str, input: Value) -> Value {
        self.say("job.submit", json!({ "agent": agent, "input": input }))
            .await;
        let accepted = self.hear_type("job.accepted").await;
        assert!(accepted["job_id"].is_string(), "{accepted}");
        accepted
    }

    /// Numbered frames up to a terminal, included.
    pub async fn until_terminal(&mut self) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let frame = self.hear().await;
            if frame["event_seq"].is_null() {
                continue;
            }
            let terminal = frame["type"] != "job.event";
            seen.push(frame);
            if terminal {
                return seen;
            }
        }
    }

    /// Says something and waits for its answer; frames before it are returned.
    pub async fn ping(&mut self) -> Vec<Value> {
        self.say("session.ping", json!({ "nonce": "n", "sent_at": "" }))
            .await;
        let mut before = Vec::new();
        loop {
            let frame = self.hear().await;
            if frame["type"] == "session.pong" {
                return before;
            }
            before.push(frame);
        }
    }
}

pub fn seqs(frames: &[Value]) -> Vec<u64> {
    frames
        .iter()
        .map(|f| f["event_seq"].as_u64().unwrap())
        .collect()
}
