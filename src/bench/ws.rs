//! The WebSocket side of a client: decodes what it must to check a stream.

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub struct WsPeer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session_id: String,
}

/// What a client reads of every frame; the payload is kept as text.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    session_id: Option<std::borrow::Cow<'a, str>>,
    event_seq: Option<u64>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl WsPeer {
    pub async fn open(address: &str, path: &str) -> anyhow::Result<Self> {
        let url = format!("ws://{address}{path}");
        let (socket, _) = tokio_tungstenite::connect_async(url).await?;
        let session_id = String::new();
        Ok(Self { socket, session_id })
    }

    pub async fn session(address: &str) -> anyhow::Result<Self> {
        let mut peer = Self::open(address, "/arcp").await?;
        let payload = json!({ "client": { "name": "bench", "version": "1" },
            "auth": { "scheme": "bearer", "token": "" },
            "capabilities": { "features": crate::protocol::feature::SUPPORTED } });
        peer.send("session.hello", payload).await?;
        let text = peer.recv().await?;
        let frame: Frame = serde_json::from_str(&text)?;
        ensure!(frame.kind == "session.welcome", "no welcome: {text}");
        peer.session_id = frame.session_id.context("no session_id")?.into_owned();
        Ok(peer)
    }

    async fn send(&mut self, kind: &str, payload: serde_json::Value) -> anyhow::Result<()> {
        let mut frame = json!({ "arcp": "1.1", "id": "b", "type": kind, "payload": payload });
        if !self.session_id.is_empty() {
            frame["session_id"] = self.session_id.clone().into();
        }
        Ok(self.socket.send(Message::text(frame.to_string())).await?)
    }

    pub async fn submit(&mut self, agent: &str, input: serde_json::Value) -> anyhow::Result<()> {
        let payload = json!({ "agent": agent, "input": input });
        self.send("job.submit", payload).await
    }

    async fn recv(&mut self) -> anyhow::Result<tokio_tungstenite::tungstenite::Utf8Bytes> {
        loop {
            match self.socket.next().await.context("the socket ended")?? {
                Message::Text(text) => return Ok(text),
                Message::Close(_) => bail!("closed"),
                _ => {}
            }
        }
    }

    /// Reads frames up to number `last`, checking each.
    pub async fn until(&mut self, last: u64) -> anyhow::Result<()> {
        let mut expected = 1;
        while expected <= last {
            let text = self.recv().await?;
            let frame: Frame = serde_json::from_str(&text)?;
            let Some(found) = frame.event_seq else {
                continue;
            };
            ensure!(
                found == expected,
                "event_seq {found} where {expected} was due"
            );
            ensure!(frame.payload.get().starts_with('{'), "no payload");
            expected += 1;
        }
        Ok(())
    }
}

/// A frame like those of a firehose.
pub fn sample(event_seq: u64) -> String {
    format!(
        r#"{{"arcp":"1.1","id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","session_id":"sess_01ARZ3NDEKTSV4RRFFQ69G5FAV","job_id":"job_01ARZ3NDEKTSV4RRFFQ69G5FAV","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","event_seq":{event_seq},"type":"job.event","payload":{{"kind":"log","ts":"2026-01-01T00:00:00.000Z","body":{{"level":"info","message":"{:.<128}"}}}}}}"#,
        format!("{event_seq:08}")
    )
}
