//! One client for either wire: what it hears is the same JSON on both.
#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

use arcpd::wire::proto::{self, Envelope, envelope::Payload, job_event::Body};
use futures_util::SinkExt;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::ws::{self, Ws};
use super::{Peer, Runtime, hello};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wire {
    Grpc,
    WebSocket,
}

pub enum Client {
    Grpc(Box<Peer>),
    WebSocket(Box<Ws>),
}

/// What a client hears, whichever way it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub id: String,
    pub job: String,
    /// 0 for what has no number.
    pub seq: u64,
    /// The kind of an event, else the message's type.
    pub kind: String,
    /// An event's body, else the message's payload.
    pub body: Value,
}

/// Runs a script on each wire, each time against a runtime of its own.
pub async fn on_both(toml: &str, script: impl AsyncFn(Runtime, Client)) {
    for wire in [Wire::Grpc, Wire::WebSocket] {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::start_with(dir.path(), toml);
        let client = Client::connect(wire, &runtime, super::ALICE).await;
        script(runtime, client).await;
    }
}

/// RFC 3339, `ms` from now.
pub fn in_ms(ms: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(ms);
    format!("{at:.3}")
}

impl Heard {
    pub fn is_end(&self) -> bool {
        matches!(&*self.kind, "job.result" | "job.error")
    }
}

impl Client {
    pub async fn connect(wire: Wire, runtime: &Runtime, token: &str) -> Self {
        match wire {
            Wire::Grpc => Self::Grpc(Box::new(Peer::connect(&runtime.address, token).await)),
            Wire::WebSocket => Self::WebSocket(Box::new(Ws::connect(runtime, token).await)),
        }
    }

    pub fn wire(&self) -> Wire {
        match self {
            Self::Grpc(_) => Wire::Grpc,
            Self::WebSocket(_) => Wire::WebSocket,
        }
    }

    /// Another session of the same sort.
    pub async fn another(&self, runtime: &Runtime, token: &str) -> Self {
        Self::connect(self.wire(), runtime, token).await
    }

    /// A session with no more than these features.
    pub async fn with_features(wire: Wire, runtime: &Runtime, features: &[&str]) -> Self {
        match wire {
            Wire::Grpc => {
                let mut hello = hello(super::ALICE);
                hello.features = features.iter().map(|name| (*name).into()).collect();
                Self::Grpc(Box::new(
                    Peer::open(&runtime.address, hello).await.welcomed().await,
                ))
            }
            Wire::WebSocket => {
                let offered = json!({ "capabilities": { "features": features } });
                let hello = ws::hello("h", super::ALICE, offered);
                Self::WebSocket(Box::new(Ws::open(runtime, hello).await))
            }
        }
    }

    /// Session and resume token, to come back with.
    pub fn ticket(&self) -> (String, String) {
        match self {
            Self::Grpc(peer) => (peer.session_id.clone(), peer.resume_token.clone()),
            Self::WebSocket(ws) => (ws.session_id.clone(), ws.resume_token.clone()),
        }
    }

    pub async fn resume(wire: Wire, runtime: &Runtime, ticket: &(String, String)) -> Self {
        let (session, token) = ticket;
        match wire {
            Wire::Grpc => {
                let resumed = Peer::resume(&runtime.address, super::ALICE, session, token, 0);
                Self::Grpc(Box::new(resumed.await.welcomed().await))
            }
            Wire::WebSocket => {
                let resume = json!({ "resume": { "session_id": session, "resume_token": token,
                    "last_event_seq": 0 } });
                let hello = ws::hello("h", super::ALICE, resume);
                Self::WebSocket(Box::new(Ws::open(runtime, hello).await))
            }
        }
    }

    /// A session at an address, a new one or one that goes on behind what it has heard;
    /// otherwise why there is none.
    pub async fn open_at(
        wire: Wire,
        address: &str,
        resume: Option<(&(String, String), u64)>,
    ) -> Result<Self, String> {
        let mut hello = hello(super::ALICE);
        match wire {
            Wire::Grpc => {
                hello.resume = resume.map(|((session, token), last)| proto::Resume {
                    session_id: session.clone(),
                    resume_token: token.clone(),
                    last_event_seq: last,
                });
                grpc_at(address, hello).await
            }
            Wire::WebSocket => {
                let mut more = json!({ "capabilities": { "features": hello.features } });
                if let Some(((session, token), last)) = resume {
                    more["resume"] = json!({ "session_id": session, "resume_token": token,
                        "last_event_seq": last });
                }
                websocket_at(address, ws::hello("h", super::ALICE, more)).await
            }
        }
    }

    /// Says something of a type that the scripts use; about a job unless that is empty.
    async fn say(&mut self, kind: &str, job: &str, payload: &Value) {
        match self {
            Self::Grpc(peer) => {
                peer.send(job, request(kind, payload)).await;
            }
            Self::WebSocket(ws) if job.is_empty() => {
                ws.say(kind, payload.clone()).await;
            }
            Self::WebSocket(ws) => {
                let mut payload = payload.clone();
                payload["job_id"] = job.into();
                ws.say_about(job, kind, payload).await;
            }
        }
    }

    /// A submit on a connection that may be gone, which is found out by listening.
    pub async fn try_submit_unheard(&mut self, submit: &Value) {
        match self {
            Self::Grpc(peer) => {
                peer.try_send("", request("job.submit", submit)).await;
            }
            Self::WebSocket(ws) => {
                let text = ws.envelope("job.submit", submit.clone()).to_string();
                let _ = ws.socket.send(Message::text(text)).await;
            }
        }
    }

    /// The next that is heard, but for the runtime's own pings; none once the connection
    /// has ended.
    pub async fn try_hear(&mut self) -> Option<Heard> {
        loop {
            let heard = match self {
                Self::Grpc(peer) => {
                    let next = tokio::time::timeout(Duration::from_secs(30), peer.try_next());
                    next.await.expect("a message in time").map(heard)
                }
                Self::WebSocket(ws) => ws.try_hear().await.map(heard_json),
            };
            if heard
                .as_ref()
                .is_none_or(|heard| heard.kind != "session.ping")
            {
                return heard;
            }
        }
    }

    /// The next that is heard, but for the runtime's own pings.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let heard = self.hear_any().await;
            if heard.kind != "session.ping" {
                return heard;
            }
        }
    }

    async fn hear_any(&mut self) -> Heard {
        match self {
            Self::Grpc(peer) => heard(peer.next().await),
            Self::WebSocket(ws) => heard_json(ws.hear().await),
        }
    }

    /// The answer of this type or the refusal; what comes before it must not be one.
    async fn answer(&mut self, kind: &str) -> Heard {
        loop {
            let heard = self.hear().await;
            if heard.kind == kind || heard.kind == "session.error" {
                return heard;
            }
            assert!(heard.seq > 0, "before {kind}: {heard:?}");
        }
    }

    /// `job.accepted` or `session.error`.
    pub async fn try_submit(&mut self, submit: Value) -> Heard {
        self.say("job.submit", "", &submit).await;
        self.answer("job.accepted").await
    }

    pub async fn submit(&mut self, agent: &str, input: Value, lease: Value) -> String {
        let submit = json!({ "agent": agent, "input": input, "lease_request": lease });
        let accepted = self.try_submit(submit).await;
        assert_eq!(accepted.kind, "job.accepted", "{accepted:?}");
        accepted.job
    }

    /// Code and message of a submit that is refused.
    pub async fn refused(&mut self, submit: Value) -> (String, String) {
        let heard = self.try_submit(submit).await;
        assert_eq!(heard.kind, "session.error", "{heard:?}");
        let text = |key: &str| heard.body[key].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }

    pub async fn subscribe(&mut self, job: &str) -> Value {
        self.say("job.subscribe", job, &json!({})).await;
        self.answer("job.subscribed").await.body
    }

    pub async fn jobs(&mut self) -> Vec<Value> {
        self.say("session.list_jobs", "", &json!({})).await;
        let heard = self.answer("session.jobs").await;
        heard.body["jobs"].as_array().unwrap().clone()
    }

    /// What comes before it is answered is kept in `seen`.
    pub async fn cancel(&mut self, job: &str, seen: &mut Vec<Heard>) {
        self.say("job.cancel", job, &json!({})).await;
        loop {
            let heard = self.hear().await;
            match &*heard.kind {
                "job.cancelled" => return,
                _ => seen.push(heard),
            }
        }
    }

    /// Goes on until there are as many terminals.
    pub async fn until_ends(&mut self, count: usize, seen: &mut Vec<Heard>) {
        while seen.iter().filter(|heard| heard.is_end()).count() < count {
            let heard = self.hear().await;
            assert!(heard.seq > 0, "unasked: {heard:?}");
            seen.push(heard);
        }
    }

    /// Everything up to and including the terminal of a job. Whatever is heard without
    /// a number was not asked for.
    pub async fn until_end(&mut self, job: &str) -> Vec<Heard> {
        let mut seen: Vec<Heard> = Vec::new();
        loop {
            let heard = self.hear().await;
            assert!(heard.seq > 0, "unasked: {heard:?}");
            let over = heard.job == job && heard.is_end();
            seen.push(heard);
            if over {
                return seen;
            }
        }
    }

    /// Up to and including the first event of a kind.
    pub async fn until_kind(&mut self, kind: &str) -> Vec<Heard> {
        let mut seen: Vec<Heard> = Vec::new();
        while seen.last().is_none_or(|last| last.kind != kind) {
            let heard = self.hear().await;
            assert!(heard.seq > 0, "unasked: {heard:?}");
            seen.push(heard);
        }
        seen
    }
}

/// Those of one job.
pub fn of<'a>(seen: &'a [Heard], job: &str) -> Vec<&'a Heard> {
    seen.iter().filter(|heard| heard.job == job).collect()
}

/// The result of the last one.
pub fn result(seen: &[Heard]) -> &Value {
    let last = seen.last().unwrap();
    assert_eq!(last.kind, "job.result", "{last:?}");
    &last.body["result"]
}

/// The result of one of several jobs.
pub fn result_of(seen: &[Heard], job: &str) -> Value {
    let end = seen.iter().find(|heard| heard.job == job && heard.is_end());
    let end = end.unwrap_or_else(|| panic!("no end of {job}"));
    assert_eq!(end.kind, "job.result", "{end:?}");
    end.body["result"].clone()
}

/// The refusals among tool results: call and code.
pub fn refusals(seen: &[Heard]) -> Vec<(&str, &str)> {
    let results = seen.iter().filter(|heard| heard.kind == "tool_result");
    results
        .filter_map(|heard| {
            let code = heard.body["error"]["code"].as_str()?;
            Some((heard.body["call_id"].as_str()?, code))
        })
        .collect()
}

/// Values of a metric in a currency, as decimal text.
pub fn metrics(seen: &[Heard], job: &str, name: &str) -> Vec<String> {
    let metrics = seen
        .iter()
        .filter(|heard| heard.job == job && heard.kind == "metric");
    metrics
        .filter(|heard| heard.body["name"] == name)
        .map(|heard| {
            let value = heard.body["value"].as_f64().unwrap();
            format!("{}:{value}", heard.body["unit"].as_str().unwrap())
        })
        .collect()
}

pub fn check_numbers(seen: &[Heard]) {
    let numbers: Vec<u64> = seen.iter().map(|heard| heard.seq).collect();
    assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>());
}

// === WebSocket ===

async fn websocket_at(address: &str, hello: Value) -> Result<Client, String> {
    let dialled = tokio_tungstenite::connect_async(format!("ws://{address}/arcp")).await;
    let (socket, _) = dialled.map_err(|error| error.to_string())?;
    let mut ws = Ws::on(socket);
    let said = ws.socket.send(Message::text(hello.to_string())).await;
    said.map_err(|error| error.to_string())?;
    let welcome = ws.try_hear().await.ok_or("closed before a welcome")?;
    if welcome["type"] != "session.welcome" {
        return Err(welcome.to_string());
    }
    ws.session_id = welcome["session_id"].as_str().unwrap().into();
    ws.resume_token = welcome["payload"]["resume_token"].as_str().unwrap().into();
    Ok(Client::WebSocket(Box::new(ws)))
}

fn heard_json(frame: Value) -> Heard {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let is_event = frame["type"] == "job.event";
    let payload = frame["payload"].clone();
    Heard {
        id: text(&frame["id"]),
        job: text(&frame["job_id"]),
        seq: frame["event_seq"].as_u64().unwrap_or(0),
        kind: text(if is_event {
            &payload["kind"]
        } else {
            &frame["type"]
        }),
        body: if is_event {
            payload["body"].clone()
        } else {
            payload
        },
    }
}

// === gRPC ===

async fn grpc_at(address: &str, hello: proto::SessionHello) -> Result<Client, String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let opened = Peer::try_on(channel, hello).await;
    let mut peer = opened.map_err(|status| status.to_string())?;
    let welcome = peer.try_next().await.ok_or("ended before a welcome")?;
    match welcome.payload {
        Some(Payload::SessionWelcome(told)) => {
            peer.session_id = welcome.session_id;
            peer.resume_token = told.resume_token;
            Ok(Client::Grpc(Box::new(peer)))
        }
        other => Err(format!("{other:?}")),
    }
}

fn request(kind: &str, payload: &Value) -> Payload {
    let json = |key: &str| match &payload[key] {
        Value::Null => String::new(),
        value => value.to_string(),
    };
    match kind {
        "job.submit" => Payload::JobSubmit(proto::JobSubmit {
            agent: payload["agent"].as_str().unwrap().into(),
            input_json: json("input"),
            idempotency_key: payload["idempotency_key"]
                .as_str()
                .unwrap_or_default()
                .into(),
            lease_request_json: json("lease_request"),
            lease_expires_at: payload["lease_constraints"]["expires_at"]
                .as_str()
                .map(|text| {
                    let at: jiff::Timestamp = text.parse().unwrap();
                    prost_types::Timestamp {
                        seconds: at.as_second(),
                        nanos: at.subsec_nanosecond(),
                    }
                }),
            ..Default::default()
        }),
        "job.subscribe" => Payload::JobSubscribe(proto::JobSubscribe::default()),
        "job.cancel" => Payload::JobCancel(proto::JobCancel::default()),
        "session.list_jobs" => Payload::SessionListJobs(proto::SessionListJobs::default()),
        other => panic!("{other}"),
    }
}

fn heard(envelope: Envelope) -> Heard {
    let (kind, body) = match envelope.payload.expect("a payload") {
        Payload::JobEvent(event) => event_json(event.body.expect("a body")),
        Payload::JobResult(m) => ("job.result", json!({ "result": parsed(&m.result_json) })),
        Payload::JobError(m) => (
            "job.error",
            json!({ "code": m.code, "message": m.message, "retryable": m.retryable,
                "final_status": m.final_status }),
        ),
        Payload::SessionError(m) => (
            "session.error",
            json!({ "code": m.code, "message": m.message, "retryable": m.retryable }),
        ),
        Payload::JobAccepted(m) => (
            "job.accepted",
            granted(
                json!({ "agent": m.agent }),
                &m.lease_json,
                m.lease_expires_at,
                &m.budget,
            ),
        ),
        Payload::JobSubscribed(m) => (
            "job.subscribed",
            granted(
                json!({ "agent": m.agent, "parent_job_id": or_null(m.parent_job_id) }),
                &m.lease_json,
                m.lease_expires_at,
                &m.budget,
            ),
        ),
        Payload::SessionJobs(m) => {
            let jobs = m.jobs.into_iter().map(|job| {
                let summary = json!({ "job_id": job.job_id, "agent": job.agent,
                    "status": job.status, "parent_job_id": or_null(job.parent_job_id) });
                granted(
                    summary,
                    &job.lease_json,
                    job.lease_expires_at,
                    &Default::default(),
                )
            });
            ("session.jobs", json!({ "jobs": jobs.collect::<Vec<_>>() }))
        }
        Payload::SessionPing(_) => ("session.ping", Value::Null),
        Payload::SessionBye(m) => ("session.bye", bye(m)),
        Payload::JobCancelled(_) => ("job.cancelled", json!({})),
        other => panic!("{other:?}"),
    };
    Heard {
        id: envelope.id,
        job: envelope.job_id,
        seq: envelope.event_seq,
        kind: kind.into(),
        body,
    }
}

fn bye(bye: proto::SessionBye) -> Value {
    let after = bye.reconnect_after.map(|after| {
        let after = Duration::try_from(after).unwrap();
        after.as_millis() as u64
    });
    json!({ "reason": bye.reason, "reconnect_after_ms": after })
}

fn granted(
    mut body: Value,
    lease_json: &str,
    expires_at: Option<prost_types::Timestamp>,
    budget: &std::collections::HashMap<String, String>,
) -> Value {
    body["lease"] = parsed(lease_json);
    if let Some(at) = expires_at {
        let at = jiff::Timestamp::new(at.seconds, at.nanos).unwrap();
        body["lease_constraints"] = json!({ "expires_at": format!("{at:.3}") });
    }
    let amounts = budget.iter();
    let amounts: Map<_, _> = amounts
        .map(|(unit, amount)| (unit.clone(), parsed(amount)))
        .collect();
    if !amounts.is_empty() {
        body["budget"] = amounts.into();
    }
    body
}

fn event_json(body: Body) -> (&'static str, Value) {
    match body {
        Body::Log(m) => ("log", json!({ "message": m.message })),
        Body::Status(m) => ("status", json!({ "phase": m.phase })),
        Body::Progress(m) => ("progress", json!({ "current": m.current })),
        Body::Metric(m) => (
            "metric",
            json!({ "name": m.name, "value": m.value, "unit": m.unit }),
        ),
        Body::ToolCall(m) => (
            "tool_call",
            json!({ "tool": m.tool, "call_id": m.call_id, "args": parsed(&m.args_json) }),
        ),
        Body::ToolResult(m) if m.error_json.is_empty() => (
            "tool_result",
            json!({ "call_id": m.call_id, "result": parsed(&m.result_json) }),
        ),
        Body::ToolResult(m) => (
            "tool_result",
            json!({ "call_id": m.call_id, "error": parsed(&m.error_json) }),
        ),
        Body::Delegate(m) => (
            "delegate",
            json!({ "delegate_id": m.delegate_id, "child_job_id": m.child_job_id,
                "agent": m.agent, "input": parsed(&m.input_json),
                "lease_request": parsed(&m.lease_request_json) }),
        ),
        other => panic!("{other:?}"),
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| panic!("not JSON: {json}"))
}

fn or_null(text: String) -> Value {
    match &*text {
        "" => Value::Null,
        text => text.into(),
    }
}
