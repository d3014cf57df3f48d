//! A client over either wire that does what it is told: at a bye it comes back when it was
//! told to, wherever that leads, and goes on behind what it has heard.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::FOLLOWED;
use crate::support::both::{Client as Session, Heard, Wire};
use crate::told::Told;

pub struct Client {
    wire: Wire,
    address: String,
    /// None while it is on its way to the next replica.
    session: Option<Session>,
    /// The number of what it heard last.
    last: u64,
    /// When the last bye said to come back.
    back_at: Instant,
    told: Told,
}

impl Client {
    pub async fn start(wire: Wire, address: &str) -> Self {
        let session = Session::open_at(wire, address, None).await.unwrap();
        Self {
            wire,
            address: address.into(),
            session: Some(session),
            last: 0,
            back_at: Instant::now(),
            told: Told::new(),
        }
    }

    pub fn progress(&self) -> watch::Receiver<u64> {
        self.told.progress()
    }

    /// Follows one job to its end: each of its events once, in order.
    pub async fn follow(mut self) -> Told {
        let input: Value = serde_json::from_str(FOLLOWED).unwrap();
        self.say(json!({ "agent": "a", "input": input })).await;
        let mut events = 0;
        loop {
            let Some(heard) = self.hear().await else {
                continue;
            };
            match &*heard.kind {
                "job.accepted" => {}
                "log" => {
                    events += 1;
                    assert_eq!(heard.body["message"], events.to_string());
                }
                "job.result" => {
                    assert_eq!(heard.body["result"], events);
                    return self.told;
                }
                other => panic!("{other}: {heard:?}"),
            }
        }
    }

    /// Submits one job after the other until it is told to stop; each has its result.
    pub async fn submit(mut self, name: usize, mut stop: watch::Receiver<bool>) -> Told {
        // The job of each key.
        let mut jobs: HashMap<String, String> = HashMap::new();
        for number in 0.. {
            if *stop.borrow_and_update() {
                break;
            }
            let key = format!("{name}-{number}");
            let job = self.submit_one(&key).await;
            assert_eq!(jobs.insert(key, job), None);
        }
        self.told
    }

    /// Until the job is over. Said again where the answer was lost: the key makes it one.
    async fn submit_one(&mut self, key: &str) -> String {
        let submit = json!({ "agent": "a", "input": key, "idempotency_key": key });
        self.say(submit.clone()).await;
        let mut accepted = None;
        loop {
            let Some(heard) = self.hear().await else {
                if accepted.is_none() {
                    self.say(submit.clone()).await;
                }
                continue;
            };
            match &*heard.kind {
                "job.accepted" => accepted = Some(heard.job),
                "job.result" if heard.body["result"] == key => return heard.job,
                // The answer to what was said twice, and of jobs before this one.
                "job.result" | "log" => {}
                "session.error" => {
                    assert_eq!(heard.body["retryable"], true, "{heard:?}");
                    self.say(submit.clone()).await;
                }
                other => panic!("{other}: {heard:?}"),
            }
        }
    }

    /// On a connection that is gone nobody hears it, which is found out by listening.
    async fn say(&mut self, submit: Value) {
        if let Some(session) = &mut self.session {
            session.try_submit_unheard(&submit).await;
        }
    }

    /// The next that is heard; none when another connection was needed for it, on which
    /// nothing has been said yet.
    async fn hear(&mut self) -> Option<Heard> {
        loop {
            let heard = match &mut self.session {
                Some(session) => session.try_hear().await,
                None => None,
            };
            let Some(heard) = heard else {
                self.resume().await;
                return None;
            };
            if heard.kind == "session.bye" {
                let after = heard.body["reconnect_after_ms"].as_u64();
                let after = Duration::from_millis(after.expect("a bye says when"));
                self.back_at = Instant::now() + after;
                continue;
            }
            if heard.seq > 0 {
                assert_eq!(heard.seq, self.last + 1, "{heard:?}");
                self.last = heard.seq;
            }
            self.told.hear();
            return Some(heard);
        }
    }

    async fn resume(&mut self) {
        // Hung up, or the runtime would wait for that.
        let ticket = self.session.take().expect("it had a session").ticket();
        tokio::time::sleep_until(self.back_at).await;
        let resume = Some((&ticket, self.last));
        self.session = loop {
            match Session::open_at(self.wire, &self.address, resume).await {
                Ok(session) => break Some(session),
                Err(why) => self.told.refused.push(why),
            }
        };
        self.told.moves += 1;
    }
}
