//! What every client did and was told, in the order in which it happened to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::Value;

/// Shared by all clients.
pub struct History {
    recorded: Mutex<Recorded>,
    /// For whoever looks for the reason of a fault.
    events: Mutex<File>,
    began: Instant,
}

#[derive(Default)]
pub struct Recorded {
    /// By id.
    pub sessions: BTreeMap<String, Session>,
    /// What was answered to the submits with each idempotency key.
    pub submits: BTreeMap<String, Vec<Answer>>,
    /// Records of jobs that were watched without a session: job, number, record.
    pub watched: Vec<(String, u64, String)>,
    /// What is wrong however the rest turns out.
    pub faults: Vec<String>,
    pub counts: BTreeMap<String, u64>,
    /// Jobs that their hosts may have lost, by their own doing.
    pub excused: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Of the last welcome.
    pub resume_token: String,
    pub heard: Vec<Heard>,
}

#[derive(Clone, Debug)]
pub enum Heard {
    /// A welcome, to a hello that named the last number it had.
    Attached {
        after: u64,
    },
    Numbered {
        seq: u64,
        frame: Value,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Accepted {
        job: String,
    },
    /// For good: it is not to be tried again.
    Refused {
        code: String,
    },
}

impl Session {
    /// The last number it has.
    pub fn last(&self) -> u64 {
        let numbers = self.heard.iter().map(|heard| match heard {
            Heard::Attached { .. } => 0,
            Heard::Numbered { seq, .. } => *seq,
        });
        numbers.max().unwrap_or(0)
    }
}

impl History {
    /// With its events in a file of a folder.
    pub fn new(logs: &Path) -> Self {
        let events = File::create(logs.join("events.log")).expect("a file for the events");
        Self {
            recorded: Mutex::default(),
            events: Mutex::new(events),
            began: Instant::now(),
        }
    }

    /// What happened when, by the clock that the replicas' logs have.
    pub fn note(&self, who: &str, what: &str) {
        let (at, since) = (jiff::Timestamp::now(), self.began.elapsed());
        let line = format!("{at:.3} {:.3} {who}: {what}\n", since.as_secs_f64());
        let written = self.events.lock().write_all(line.as_bytes());
        written.expect("room for the events");
    }

    pub fn attached(&self, session: &str, resume_token: &str, after: u64) {
        let mut recorded = self.recorded.lock();
        let session = recorded.sessions.entry(session.into()).or_default();
        session.resume_token = resume_token.into();
        session.heard.push(Heard::Attached { after });
    }

    pub fn numbered(&self, session: &str, seq: u64, frame: Value) {
        let mut recorded = self.recorded.lock();
        let session = recorded.sessions.entry(session.into()).or_default();
        session.heard.push(Heard::Numbered { seq, frame });
    }

    /// Before it is sent, so that a key that is never answered is known too.
    pub fn submitted(&self, key: &str) {
        self.recorded.lock().submits.entry(key.into()).or_default();
    }

    pub fn answered(&self, key: &str, answer: Answer) {
        let mut recorded = self.recorded.lock();
        recorded.submits.entry(key.into()).or_default().push(answer);
    }

    pub fn watched(&self, job: &str, number: u64, record: String) {
        self.recorded
            .lock()
            .watched
            .push((job.into(), number, record));
    }

    pub fn fault(&self, what: String) {
        self.note("fault", &what);
        self.recorded.lock().faults.push(what);
    }

    pub fn count(&self, what: impl Into<String>) {
        *self.recorded.lock().counts.entry(what.into()).or_default() += 1;
    }

    /// The runtime may give the host's job up.
    pub fn excuse(&self, job: &str) {
        self.recorded.lock().excused.insert(job.into());
    }

    pub fn take(&self) -> Recorded {
        std::mem::take(&mut *self.recorded.lock())
    }
}
