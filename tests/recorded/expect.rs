//! What somebody else's client requires of the frames it receives, as data, and
//! the check of a frame against it. Required is that without which the client
//! fails, waits for ever, or hands its application nothing for what was sent.
//!
//! A rule is a path and what must be there: a list of the values allowed, or a
//! word below. `?` before it lets the member be absent, `|null` behind it lets
//! it be null, `[]` in a path means every item. `when` holds rules for frames
//! that have a member, or lack one. A type without an entry is one the client
//! does not know.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value};

/// §12; a client that knows no others drops a frame with another.
const CODES: [&str; 15] = [
    "PERMISSION_DENIED",
    "LEASE_SUBSET_VIOLATION",
    "JOB_NOT_FOUND",
    "DUPLICATE_KEY",
    "AGENT_NOT_AVAILABLE",
    "AGENT_VERSION_NOT_AVAILABLE",
    "CANCELLED",
    "TIMEOUT",
    "RESUME_WINDOW_EXPIRED",
    "HEARTBEAT_LOST",
    "LEASE_EXPIRED",
    "BUDGET_EXHAUSTED",
    "INVALID_REQUEST",
    "UNAUTHENTICATED",
    "INTERNAL_ERROR",
];

#[derive(Deserialize)]
pub struct Expect {
    /// Whose requirements these are.
    pub client: String,
    pub frame_bytes_max: usize,
    /// Types that end every handle of the client at once.
    #[serde(default)]
    pub fatal_while_a_job_is_awaited: Vec<String>,
    pub frames: BTreeMap<String, Rules>,
    pub when: Vec<When>,
}

pub type Rules = Map<String, Value>;

#[derive(Deserialize)]
pub struct When {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub has: Map<String, Value>,
    pub lacks: Option<String>,
    pub then: Rules,
}

/// What the client has said and learnt before a frame.
#[derive(Clone, Default)]
pub struct Known {
    pub sent_ids: HashSet<String>,
    pub jobs: HashSet<String>,
}

impl Expect {
    /// What this client could not use in a frame; nothing if it is fine.
    pub fn complaints(&self, frame: &Value, known: &Known) -> Vec<String> {
        let kind = frame["type"].as_str().unwrap_or_default();
        let mut found = Vec::new();
        if frame.to_string().len() >= self.frame_bytes_max {
            found.push(format!("{kind}: too large"));
        }
        if !self.frames.contains_key(kind) {
            found.push(format!("type: {kind:?} is unknown to this client"));
        }
        for (path, rule) in self.rules_of(frame) {
            if let Err(what) = hold(frame, path, rule, known) {
                found.push(format!("{}: {kind}: {what}", self.client));
            }
        }
        found
    }

    /// The rules that apply to a frame.
    pub fn rules_of<'a>(&'a self, frame: &'a Value) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let kind = frame["type"].as_str().unwrap_or_default();
        let named = ["*", kind].into_iter().filter_map(|k| self.frames.get(k));
        let when = self.when.iter().filter(move |when| when.applies(frame));
        named
            .chain(when.map(|when| &when.then))
            .flatten()
            .map(|(path, rule)| (&**path, rule))
    }
}

impl When {
    fn applies(&self, frame: &Value) -> bool {
        let has = |(path, wanted): (&String, &Value)| match at(frame, path)[..] {
            [Some(found)] => wanted == "*" || found == wanted,
            _ => false,
        };
        frame["type"] == *self.kind
            && self.has.iter().all(has)
            && self.lacks.iter().all(|path| at(frame, path) == [None])
    }
}

/// What is at a path: one place, or one for each item of its arrays. Below a
/// parent that is not there, there is no place at all.
fn at<'a>(value: &'a Value, path: &str) -> Vec<Option<&'a Value>> {
    let (head, rest) = match path.split_once('.') {
        Some((head, rest)) => (head, Some(rest)),
        None => (path, None),
    };
    let (name, each) = match head.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (head, false),
    };
    let found = value.get(name);
    let Some(rest) = rest else {
        return vec![found];
    };
    match found {
        Some(Value::Array(items)) if each => items.iter().flat_map(|i| at(i, rest)).collect(),
        Some(found) if !each => at(found, rest),
        None if !each => vec![None],
        _ => Vec::new(),
    }
}

fn hold(frame: &Value, path: &str, rule: &Value, known: &Known) -> Result<(), String> {
    for found in at(frame, path) {
        let fits = match rule {
            Value::Array(allowed) => found.is_some_and(|found| allowed.contains(found)),
            Value::String(rule) => fits(found, rule, known),
            _ => panic!("{path}: {rule} is no rule"),
        };
        if !fits {
            let found = found.map_or("absent".into(), |found| found.to_string());
            return Err(format!("{path}: must be {rule}, is {found:.80}"));
        }
    }
    Ok(())
}

fn fits(found: Option<&Value>, rule: &str, known: &Known) -> bool {
    let (rule, optional) = match rule.strip_prefix('?') {
        Some(rule) => (rule, true),
        None => (rule, false),
    };
    let (rule, nullable) = match rule.strip_suffix("|null") {
        Some(rule) => (rule, true),
        None => (rule, false),
    };
    let Some(found) = found else {
        return optional || rule == "never";
    };
    if found.is_null() && nullable {
        return true;
    }
    let text = found.as_str();
    let items = |fits: fn(&str) -> bool| {
        let items = found.as_array();
        items.is_some_and(|items| items.iter().all(|item| item.as_str().is_some_and(fits)))
    };
    match rule {
        "any" => true,
        "never" => false,
        "filled" => !found.is_null(),
        "string" => text.is_some(),
        "text" => text.is_some_and(|text| !text.is_empty()),
        "strings" => items(|_| true),
        "texts" => items(|text| !text.is_empty()),
        "time" => text.is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        "hex32" => text.is_some_and(|text| text.len() == 32 && text.bytes().all(is_lower_hex)),
        "code" => text.is_some_and(|text| CODES.contains(&text)),
        "sent id" => text.is_some_and(|id| known.sent_ids.contains(id)),
        "known job" => text.is_some_and(|id| known.jobs.contains(id)),
        "bool" => found.is_boolean(),
        "integer" => found.is_i64() || found.is_u64(),
        "count" => found.is_u64(),
        "positive" => found.as_u64().is_some_and(|n| n > 0),
        "amount" => found.as_f64().is_some_and(|n| n >= 0.0),
        "array" => found.is_array(),
        "object" => found.is_object(),
        "amounts" => each_member(found, |value| value.is_number()),
        "lease" => each_member(found, |value| {
            let globs = value.as_array();
            globs.is_some_and(|globs| {
                globs
                    .iter()
                    .all(|glob| glob.as_str().is_some_and(|g| !g.is_empty()))
            })
        }),
        _ => panic!("{rule} is no rule"),
    }
}

fn each_member(found: &Value, fits: fn(&Value) -> bool) -> bool {
    let members = found.as_object();
    members.is_some_and(|members| {
        members
            .iter()
            .all(|(key, value)| !key.is_empty() && fits(value))
    })
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}
