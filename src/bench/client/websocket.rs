//! The WebSocket side of a client; the same for the runtime and the floor. It
//! decodes what it must to check a stream and keeps a payload as text.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Ask, Kind, Received, Resume};
use crate::wire::rfc3339;

pub struct Peer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    job_id: Option<Cow<'a, str>>,
    event_seq: Option<u64>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl Peer {
    pub async fn open(address: &str, name: &str, resume: Option<&Resume>) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let url = format!("ws://{address}/arcp");
        let stream = MaybeTlsStream::Plain(tcp);
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let mut peer = Self { socket, next_id: 0 };
        peer.send("", Ask::Hello(name, resume)).await?;
        Ok(peer)
    }

    pub async fn send(&mut self, session_id: &str, ask: Ask<'_>) -> anyhow::Result<()> {
        self.next_id += 1;
        let (kind, payload) = said(ask)?;
        let id = format!("b{}", self.next_id);
        let mut frame = json!({ "arcp": "1.1", "id": id, "type": kind, "payload": payload });
        if !session_id.is_empty() {
            frame["session_id"] = session_id.into();
        }
        Ok(self.socket.send(Message::text(frame.to_string())).await?)
    }

    pub async fn recv(&mut self) -> anyhow::Result<Received> {
        let text = self.text().await?;
        let frame: Frame = serde_json::from_str(&text)?;
        ensure!(frame.payload.get().starts_with('{'), "no payload: {text}");
        Ok(Received {
            event_seq: frame.event_seq.unwrap_or(0),
            kind: kind(&frame)?,
            job_id: frame.job_id.map(Cow::into_owned).unwrap_or_default(),
        })
    }

    async fn text(&mut self) -> anyhow::Result<Utf8Bytes> {
        loop {
            match self.socket.next().await.context("the socket ended")?? {
                Message::Text(text) => return Ok(text),
                Message::Close(_) => bail!("closed"),
                _ => {}
            }
        }
    }
}

fn said(ask: Ask) -> anyhow::Result<(&'static str, Value)> {
    Ok(match ask {
        Ask::Hello(name, resume) => {
            let mut payload = json!({ "client": { "name": name, "version": "1" },
                "auth": { "scheme": "bearer", "token": "" },
                "capabilities": { "features": crate::protocol::feature::SUPPORTED } });
            if let Some(resume) = resume {
                payload["resume"] = json!({ "session_id": resume.session_id,
                    "resume_token": resume.token, "last_event_seq": resume.last_event_seq });
            }
            ("session.hello", payload)
        }
        Ask::Submit(agent, input_json) => {
            let input: Value = serde_json::from_str(input_json)?;
            ("job.submit", json!({ "agent": agent, "input": input }))
        }
        Ask::Subscribe(job_id) => ("job.subscribe", json!({ "job_id": job_id })),
        Ask::Unsubscribe(job_id) => ("job.unsubscribe", json!({ "job_id": job_id })),
        Ask::Jobs(since) => {
            let filter = json!({ "created_after": rfc3339(since) });
            ("session.list_jobs", json!({ "filter": filter }))
        }
        Ask::Ping => ("session.ping", json!({ "nonce": "b" })),
    })
}

fn kind(frame: &Frame) -> anyhow::Result<Kind> {
    #[derive(Deserialize)]
    struct Payload {
        #[serde(default)]
        message: String,
        #[serde(default)]
        resume_token: String,
        #[serde(default)]
        reconnect_after_ms: u64,
        #[serde(default)]
        jobs: Vec<Value>,
    }
    let payload = || serde_json::from_str::<Payload>(frame.payload.get());
    Ok(match &*frame.kind {
        "job.event" => {
            // Found, not parsed: what is measured is the runtime.
            let found = frame.payload.get().split_once(r#""message":""#);
            Kind::Event(found.and_then(|(_, message)| super::count(message)))
        }
        "job.result" => Kind::Result,
        "job.error" | "session.error" => Kind::Error(payload()?.message),
        "session.bye" => Kind::Bye(Duration::from_millis(payload()?.reconnect_after_ms)),
        "job.accepted" => Kind::Accepted,
        "job.subscribed" => Kind::Subscribed,
        "session.jobs" => Kind::Jobs(payload()?.jobs.len()),
        "session.welcome" => Kind::Welcome(Resume {
            session_id: frame.session_id.as_deref().unwrap_or_default().into(),
            token: payload()?.resume_token,
            last_event_seq: 0,
        }),
        _ => Kind::Other,
    })
}

/// A frame like those of a firehose.
pub fn sample_text(event_seq: u64) -> String {
    let message = format!("{:.<128}", format!("{event_seq:08}"));
    let body = format!(r#"{{"level":"info","message":"{message}"}}"#);
    let ts = "2026-01-01T00:00:00.000Z";
    let payload = format!(r#"{{"kind":"log","ts":"{ts}","body":{body}}}"#);
    frame(event_seq, "job.event", &payload)
}

/// The terminal of a floor's stream.
pub fn sample_text_end(event_seq: u64) -> String {
    frame(event_seq, "job.result", "{}")
}

fn frame(event_seq: u64, kind: &str, payload: &str) -> String {
    let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    format!(
        r#"{{"arcp":"1.1","id":"{ulid}","session_id":"sess_{ulid}","job_id":"job_{ulid}","trace_id":"{trace_id}","event_seq":{event_seq},"type":"{kind}","payload":{payload}}}"#
    )
}
