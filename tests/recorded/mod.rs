//! Recordings of clients that others wrote, and what those clients require of
//! what they are sent.
//!
//! `<client>.ndjson` holds the frames that a client sent to this runtime, a line
//! for each, in the order of each scenario: `after` is the type of frame it had
//! heard before it spoke (alone, it only waits), `drop` cuts its connection.
//! Secrets and what a runtime gives out are `{{placeholders}}`.
//! `<client>.expect.json` holds its requirements; see [`expect`].

pub mod broken;
pub mod ends;
pub mod expect;
pub mod play;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::Runtime;
use expect::Expect;
use play::{Peer, lines, play};

#[derive(Clone, Copy, PartialEq)]
pub enum Sdk {
    TypeScript,
    Go,
}

impl Sdk {
    pub fn recording(self) -> &'static str {
        match self {
            Self::TypeScript => include_str!("typescript.ndjson"),
            Self::Go => include_str!("go.ndjson"),
        }
    }

    pub fn expect(self) -> Expect {
        let text = match self {
            Self::TypeScript => include_str!("typescript.expect.json"),
            Self::Go => include_str!("go.expect.json"),
        };
        serde_json::from_str(text).unwrap()
    }

    /// The form in which a client learns that its submit was refused.
    fn refused(self, code: &str) -> Value {
        let kind = match self {
            Self::TypeScript => "job.error",
            Self::Go => "session.error",
        };
        json!({ "type": kind, "payload": { "code": code } })
    }

    pub async fn play(self, name: &str) -> BTreeMap<String, Peer> {
        let dir = tempfile::tempdir().unwrap();
        let runtime = match name {
            "ping_ack" => Runtime::start_with(dir.path(), "[limits]\nheartbeat_interval_sec = 1"),
            _ => Runtime::start(dir.path()),
        };
        let lines = lines(self.recording()).into_iter();
        let lines = lines.filter(|line| line.scenario == name);
        play(&runtime, &self.expect(), lines).await
    }
}
