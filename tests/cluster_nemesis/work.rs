//! What the clients ask for, and what they know of each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arcpd::wire::proto::SubmitJobRequest;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// Of jobs and submits that others may take up.
const REMEMBERED: usize = 48;
/// What a job that spends is granted, in thousandths.
pub const BUDGET: i64 = 400;
/// Agents of the hosts, by what becomes of a job whose host is lost.
pub const HOSTED: [&str; 3] = ["fails", "again", "keeps"];
/// The one whose jobs delegate to those.
pub const LEADS: &str = "leads";

#[derive(Clone, Debug)]
pub struct Work {
    agent: &'static str,
    input: Value,
    /// What it asks for; null for nothing.
    lease: Value,
}

impl Work {
    /// A job of a few seconds at most.
    fn some(random: &mut StdRng) -> Self {
        let mut work = match random.random_range(0..100) {
            0..10 => Self::plain("echo", json!({ "n": random.random::<u32>() })),
            10..28 => {
                let (count, interval_ms) = (random.random_range(3..60), random.random_range(5..50));
                let input = json!({ "count": count, "interval_ms": interval_ms });
                Self::plain("ticker", input)
            }
            28..37 => Self::plain("sleeper", json!({ "ms": random.random_range(10..3_000) })),
            37..45 => Self {
                agent: "spender",
                input: json!({ "currency": "USD", "per_step": 0.1, "steps": 9, "delay_ms": 40 }),
                lease: spending(BUDGET),
            },
            45..78 => {
                let agent = HOSTED[random.random_range(0..HOSTED.len())];
                Self::plain(agent, json!({ "steps": random.random_range(1..60) }))
            }
            78..88 => Self {
                agent: HOSTED[random.random_range(0..HOSTED.len())],
                input: json!({ "steps": 9, "per_step": 0.1 }),
                lease: spending(BUDGET),
            },
            _ => Self::leading(random),
        };
        if random.random_bool(0.15) {
            work.be_keyed();
        }
        work
    }

    fn plain(agent: &'static str, input: Value) -> Self {
        let lease = Value::Null;
        Self {
            agent,
            input,
            lease,
        }
    }

    /// One that gives parts of its budget to others, or shares it.
    fn leading(random: &mut StdRng) -> Self {
        let parts: Vec<_> = (0..random.random_range(1..=3))
            .map(|_| {
                let agent = HOSTED[random.random_range(0..HOSTED.len())];
                // At most one shares the rest: what two are allowed at once is overspent.
                let budget = random.random_range(1..=2) * 100;
                let steps = random.random_range(0..4);
                json!({ "agent": agent, "budget": budget, "steps": steps })
            })
            .collect();
        let shares = random.random_bool(0.25);
        let mut lease = spending(BUDGET);
        lease["agent.delegate"] = json!(HOSTED);
        let input = json!({ "parts": parts, "shares": shares, "per_step": 0.1, "steps": 1 });
        Self {
            agent: LEADS,
            input,
            lease,
        }
    }

    /// From now on it is given a key of the gateway.
    fn be_keyed(&mut self) {
        if self.lease.is_null() {
            self.lease = spending(BUDGET);
        }
        self.lease["model.use"] = json!(["tier-fast/*"]);
    }

    /// As a session says it.
    pub fn submit(&self) -> Value {
        let mut submit = json!({ "agent": self.agent, "input": self.input });
        if !self.lease.is_null() {
            submit["lease_request"] = self.lease.clone();
        }
        submit
    }

    /// As a call says it.
    pub fn request(&self, key: &str) -> SubmitJobRequest {
        let lease = match &self.lease {
            Value::Null => String::new(),
            lease => lease.to_string(),
        };
        SubmitJobRequest {
            agent: self.agent.into(),
            input_json: self.input.to_string(),
            lease_request_json: lease,
            idempotency_key: key.into(),
            ..Default::default()
        }
    }
}

/// A lease for as many thousandths.
pub fn spending(thousandths: i64) -> Value {
    let budget = format!("USD:{}.{:03}", thousandths / 1000, thousandths % 1000);
    json!({ "tool.call": ["spend"], "cost.budget": [budget] })
}

/// The thousandths that a lease has, if it has a budget.
pub fn granted(lease: &Value) -> Option<i64> {
    let (_, amount) = lease["cost.budget"][0].as_str()?.split_once(':')?;
    thousandths(amount)
}

/// Of an amount as it is written.
pub fn thousandths(amount: &str) -> Option<i64> {
    Some((amount.parse::<f64>().ok()? * 1000.0).round() as i64)
}

#[derive(Default)]
pub struct Shared {
    over: AtomicBool,
    keys: AtomicU64,
    /// With their keys; some are on their way, some answered.
    submits: Mutex<Vec<(String, Work)>>,
    jobs: Mutex<Vec<String>>,
    /// The replica that the host of a job is at.
    places: Mutex<HashMap<String, usize>>,
}

impl Shared {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn new_work(&self, random: &mut StdRng) -> (String, Work) {
        let key = format!("k{}", self.keys.fetch_add(1, Ordering::Relaxed));
        let work = Work::some(random);
        remember(&mut self.submits.lock(), (key.clone(), work.clone()));
        (key, work)
    }

    /// One that somebody has sent, or is sending now.
    pub fn some_submit(&self, random: &mut StdRng) -> Option<(String, Work)> {
        some(&self.submits.lock(), random)
    }

    pub fn accepted(&self, job: &str) {
        remember(&mut self.jobs.lock(), job.to_owned());
    }

    pub fn some_job(&self, random: &mut StdRng) -> Option<String> {
        some(&self.jobs.lock(), random)
    }

    pub fn is_at(&self, job: &str, replica: usize) {
        self.places.lock().insert(job.to_owned(), replica);
    }

    pub fn place(&self, job: &str) -> Option<usize> {
        self.places.lock().get(job).copied()
    }
}

fn remember<T>(all: &mut Vec<T>, one: T) {
    if all.len() == REMEMBERED {
        all.remove(0);
    }
    all.push(one);
}

fn some<T: Clone>(all: &[T], random: &mut StdRng) -> Option<T> {
    (!all.is_empty()).then(|| all[random.random_range(0..all.len())].clone())
}
