//! What the clients ask for, and what they know of each other.

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

#[derive(Clone, Debug)]
pub struct Work {
    agent: &'static str,
    input: Value,
    spends: bool,
}

impl Work {
    /// A job of a few seconds at most.
    fn some(random: &mut StdRng) -> Self {
        let plain = |agent, input| Self {
            agent,
            input,
            spends: false,
        };
        match random.random_range(0..100) {
            0..15 => plain("echo", json!({ "n": random.random::<u32>() })),
            15..40 => {
                let (count, interval_ms) = (random.random_range(3..60), random.random_range(5..50));
                plain(
                    "ticker",
                    json!({ "count": count, "interval_ms": interval_ms }),
                )
            }
            40..50 => plain("sleeper", json!({ "ms": random.random_range(10..3_000) })),
            50..60 => Self {
                agent: "spender",
                input: json!({ "currency": "USD", "per_step": 0.1, "steps": 9, "delay_ms": 40 }),
                spends: true,
            },
            60..75 => plain("fails", json!({ "steps": random.random_range(1..60) })),
            75..90 => plain("again", json!({ "steps": random.random_range(1..60) })),
            _ => Self {
                agent: "fails",
                input: json!({ "steps": 9, "per_step": 0.1 }),
                spends: true,
            },
        }
    }

    /// As a session says it.
    pub fn submit(&self) -> Value {
        let mut submit = json!({ "agent": self.agent, "input": self.input });
        if let Some(lease) = self.lease() {
            submit["lease_request"] = lease;
        }
        submit
    }

    /// As a call says it.
    pub fn request(&self, key: &str) -> SubmitJobRequest {
        SubmitJobRequest {
            agent: self.agent.into(),
            input_json: self.input.to_string(),
            lease_request_json: self
                .lease()
                .map(|lease| lease.to_string())
                .unwrap_or_default(),
            idempotency_key: key.into(),
            ..Default::default()
        }
    }

    fn lease(&self) -> Option<Value> {
        let budget = format!("USD:{}.{:03}", BUDGET / 1000, BUDGET % 1000);
        let lease = json!({ "tool.call": ["spend"], "cost.budget": [budget] });
        self.spends.then_some(lease)
    }
}

#[derive(Default)]
pub struct Shared {
    over: AtomicBool,
    keys: AtomicU64,
    /// With their keys; some are on their way, some answered.
    submits: Mutex<Vec<(String, Work)>>,
    jobs: Mutex<Vec<String>>,
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
