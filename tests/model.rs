//! The property behind everything: whatever happens to a session, what it saw
//! live is what a replay of it from the start shows, number for number.
//!
//! A random script of submits, subscriptions, drops, resumes from earlier
//! numbers, and kills of the runtime. The seed is printed; `ARCPD_MODEL_SEED`
//! plays one again.

mod support;

use std::collections::BTreeMap;

use arcpd::wire::proto::{self, Envelope, envelope::Payload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use support::*;

const SESSIONS: usize = 4;
const STEPS: usize = 120;

/// A session and every numbered envelope it was ever sent.
struct Session {
    peer: Peer,
    seen: BTreeMap<u64, Envelope>,
    /// The next number on the present connection.
    next: u64,
}

impl Session {
    fn keep(&mut self, envelope: Envelope) {
        if envelope.event_seq == 0 {
            return;
        }
        assert_eq!(
            envelope.event_seq, self.next,
            "in order, from {}",
            self.peer.session_id
        );
        self.next += 1;
        if let Some(earlier) = self.seen.insert(envelope.event_seq, envelope.clone()) {
            assert_eq!(earlier, envelope, "a replay is the same, id and body");
        }
    }

    /// Everything up to the answer to a ping sent now.
    async fn read(&mut self) {
        for envelope in self.peer.ping_collect().await {
            self.keep(envelope);
        }
    }

    /// What arrived before the connection broke.
    async fn drain(&mut self) {
        while let Some(envelope) = self.peer.try_next().await {
            self.keep(envelope);
        }
    }

    async fn resume(&mut self, address: &str, last: u64) {
        let (id, token) = (self.peer.session_id.clone(), self.peer.resume_token.clone());
        let resumed = Peer::resume(address, ALICE, &id, &token, last).await;
        self.peer = resumed.welcomed().await;
        self.next = last + 1;
        self.read().await;
    }
}

async fn play(seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = Runtime::start(dir.path());
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let peer = Peer::connect(&runtime.address, ALICE).await;
        sessions.push(Session {
            peer,
            seen: BTreeMap::new(),
            next: 1,
        });
    }
    let mut jobs: Vec<String> = Vec::new();
    for _ in 0..STEPS {
        let index = random.random_range(0..SESSIONS);
        let session = &mut sessions[index];
        match random.random_range(0..100) {
            0..30 => {
                let input = json!({ "events": random.random_range(0..400), "bytes": 40,
                    "pause_every": 50, "pause_ms": random.random_range(0..3) });
                let (before, job) = session.peer.submit_collect("firehose", input).await;
                before
                    .into_iter()
                    .for_each(|envelope| session.keep(envelope));
                jobs.push(job);
            }
            30..55 if !jobs.is_empty() => {
                let job = &jobs[random.random_range(0..jobs.len())];
                let subscribe = proto::JobSubscribe {
                    history: random.random(),
                    from_job_seq: random.random_range(0..50),
                    ..Default::default()
                };
                session
                    .peer
                    .send(job, Payload::JobSubscribe(subscribe))
                    .await;
            }
            55..62 if !jobs.is_empty() => {
                let job = &jobs[random.random_range(0..jobs.len())];
                session
                    .peer
                    .send(job, Payload::JobUnsubscribe(Default::default()))
                    .await;
            }
            62..80 => session.read().await,
            80..94 => {
                // From anywhere the session has been.
                let newest = session.next - 1;
                let last = random.random_range(newest.saturating_sub(300)..=newest);
                session.resume(&runtime.address, last).await;
            }
            94..97 => {
                runtime.kill();
                for session in &mut sessions {
                    session.drain().await;
                }
                runtime = Runtime::start(dir.path());
                for session in &mut sessions {
                    let last = session.next - 1;
                    session.resume(&runtime.address, last).await;
                }
            }
            _ => {
                let last_processed_seq = random.random_range(0..=session.next);
                let ack = proto::SessionAck { last_processed_seq };
                session.peer.send("", Payload::SessionAck(ack)).await;
            }
        }
    }
    // Everything ends; then each whole stream is read once more from its start.
    let mut last = Peer::connect(&runtime.address, ALICE).await;
    while last.running().await > 0 {}
    for mut session in sessions {
        session.read().await;
        let newest = session.next - 1;
        session.resume(&runtime.address, 0).await;
        while session.next <= newest {
            let envelope = session.peer.next().await;
            session.keep(envelope);
        }
        assert_eq!(
            session.seen.keys().copied().collect::<Vec<_>>(),
            (1..session.next).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn what_was_seen_live_is_what_a_replay_shows() {
    let given = std::env::var("ARCPD_MODEL_SEED").ok();
    match given.and_then(|seed| seed.parse().ok()) {
        Some(seed) => play(seed).await,
        None => {
            for _ in 0..6 {
                play(rand::random()).await;
            }
        }
    }
}
