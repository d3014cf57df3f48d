//! Plays a recording against a runtime, filling in what the runtime gives out.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde::Deserialize;
use serde_json::Value;

use super::expect::{Expect, Known};
use crate::support::ws::Ws;
use crate::support::{ALICE, Runtime};

#[derive(Deserialize)]
pub struct Line {
    pub scenario: String,
    client: String,
    after: Option<String>,
    #[serde(default)]
    drop: bool,
    frame: Option<Value>,
}

pub fn lines(recording: &str) -> Vec<Line> {
    let lines = recording.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// One recorded client: what it knows, and everything it has heard.
#[derive(Default)]
pub struct Peer {
    ws: Option<Ws>,
    pub known: Known,
    pub heard: Vec<Value>,
    session_id: Value,
    resume_token: Value,
    last_event_seq: u64,
    ping_nonce: Value,
    next_cursor: Value,
    /// Submits without an answer, in order: the answers must come in the same.
    submits: VecDeque<String>,
    /// Jobs it has a handle of and no end.
    awaited: HashSet<String>,
}

/// Plays one scenario to its end: every client has closed its session and seen
/// its connection closed.
pub async fn play(
    runtime: &Runtime,
    expect: &Expect,
    lines: impl Iterator<Item = Line>,
) -> BTreeMap<String, Peer> {
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    let mut jobs = Vec::new();
    for line in lines {
        let peer = peers.entry(line.client).or_default();
        if let Some(kind) = &line.after {
            while peer.hear(expect, &mut jobs).await.expect(kind) != *kind {}
        }
        if line.drop {
            peer.ws = None;
        }
        if let Some(mut frame) = line.frame {
            fill(&mut frame, &|name| peer.value(name, &jobs));
            if frame["type"] == "session.hello" {
                peer.ws = Some(Ws::dial(runtime).await);
            }
            peer.say(&frame).await;
        }
    }
    for peer in peers.values_mut() {
        while peer.hear(expect, &mut jobs).await.is_some() {}
    }
    peers
}

impl Peer {
    pub fn submitted(&mut self, id: &str) {
        self.known.sent_ids.insert(id.into());
        self.submits.push_back(id.into());
    }

    async fn say(&mut self, frame: &Value) {
        let id = frame["id"].as_str().unwrap();
        match frame["type"] == "job.submit" {
            true => self.submitted(id),
            false => _ = self.known.sent_ids.insert(id.into()),
        }
        let ws = self.ws.as_mut().expect("connected");
        ws.send(&frame.to_string()).await;
    }

    /// The type of the next frame, which must be one this client can use;
    /// `None` once the connection is closed.
    async fn hear(&mut self, expect: &Expect, jobs: &mut Vec<String>) -> Option<String> {
        let frame = self.ws.as_mut()?.try_hear().await?;
        let complaints = self.receive(expect, &frame);
        assert!(complaints.is_empty(), "{complaints:#?}\n{frame}");
        let kind = frame["type"].as_str().unwrap().to_owned();
        let job = frame["job_id"].as_str().unwrap_or_default();
        if kind == "job.accepted" && !jobs.iter().any(|known| known == job) {
            jobs.push(job.into());
        }
        self.heard.push(frame);
        Some(kind)
    }

    /// What this client could not use in a frame, after those it has heard.
    pub fn receive(&mut self, expect: &Expect, frame: &Value) -> Vec<String> {
        let payload = &frame["payload"];
        let kind = frame["type"].as_str().unwrap_or_default();
        let job = frame["job_id"].as_str().unwrap_or_default();
        let mut found = Vec::new();
        match kind {
            "session.welcome" => {
                self.session_id = frame["session_id"].clone();
                self.resume_token = payload["resume_token"].clone();
            }
            "session.ping" => self.ping_nonce = payload["nonce"].clone(),
            "session.jobs" => self.next_cursor = payload["next_cursor"].clone(),
            "job.accepted" => {
                let oldest = self.submits.pop_front();
                if oldest.as_deref() != payload["request_id"].as_str() {
                    found.push("job.accepted: taken for the answer to an older submit".into());
                }
                self.known.jobs.insert(job.into());
                self.awaited.insert(job.into());
            }
            "job.subscribed" => _ = self.known.jobs.insert(job.into()),
            // A refused submit, to a client that reads it so.
            "job.error" if !self.known.jobs.contains(job) => _ = self.submits.pop_front(),
            "session.error" => {
                let refused = payload["request_id"].as_str();
                self.submits.retain(|id| Some(&**id) != refused);
            }
            _ => {}
        }
        found.extend(expect.complaints(frame, &self.known));
        let fatal = &expect.fatal_while_a_job_is_awaited;
        if fatal.iter().any(|fatal| fatal == kind) && !self.awaited.is_empty() {
            found.push(format!("{kind}: ends every handle of this client"));
        }
        if let Some(event_seq) = frame["event_seq"].as_u64() {
            if event_seq != self.last_event_seq + 1 {
                found.push(format!("event_seq: a gap before {event_seq}"));
            }
            self.last_event_seq = event_seq;
        }
        if kind == "job.result" || kind == "job.error" {
            self.awaited.remove(job);
        }
        found
    }

    fn value(&self, name: &str, jobs: &[String]) -> Value {
        match name {
            "token" => ALICE.into(),
            "session_id" => self.session_id.clone(),
            "resume_token" => self.resume_token.clone(),
            "last_event_seq" => self.last_event_seq.into(),
            "ping_nonce" => self.ping_nonce.clone(),
            "next_cursor" => self.next_cursor.clone(),
            _ => {
                let number = name.strip_prefix("job_").and_then(|n| n.parse().ok());
                let number: usize = number.unwrap_or_else(|| panic!("{name}: no placeholder"));
                jobs[number - 1].clone().into()
            }
        }
    }
}

fn fill(value: &mut Value, given: &dyn Fn(&str) -> Value) {
    match value {
        Value::String(text) => {
            let name = text.strip_prefix("{{").and_then(|t| t.strip_suffix("}}"));
            if let Some(filled) = name.map(given) {
                assert!(!filled.is_null(), "{text}: not known yet");
                *value = filled;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, given)),
        Value::Object(members) => members.values_mut().for_each(|item| fill(item, given)),
        _ => {}
    }
}
