//! A client that goes from replica to replica, whatever becomes of them, and writes down
//! what it hears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::cell::Cell;
use crate::history::{Answer, History};
use crate::line::{Line, Wire};
use crate::support::ALICE;
use crate::support::ws::hello;
use crate::work::{Shared, Work};

/// After which a silent connection is taken for dead; less than what a replica takes to
/// refuse a command, so that some answers come to nobody.
const PATIENCE: Duration = Duration::from_secs(4);
/// For a submit or a resume once everything is whole again.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// A session is left behind now and then, with what it has running.
const STEPS_PER_SESSION: u32 = 60;

/// The connection is of no use any more: why.
pub struct Lost(String);

pub struct Client {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    history: Arc<History>,
    random: StdRng,
    session: Option<Ticket>,
    line: Option<Line>,
    /// Sent and not answered.
    open: Vec<(String, Work)>,
    /// Accepted in this session.
    own: Vec<String>,
    said: u64,
    steps: u32,
}

struct Ticket {
    id: String,
    token: String,
    last: u64,
}

/// What a request came to.
enum Told {
    Done(Value),
    Refused {
        code: String,
        retryable: bool,
        frame: Value,
    },
}

impl Client {
    pub fn new(cell: Arc<Cell>, shared: Arc<Shared>, history: Arc<History>, seed: u64) -> Self {
        Self {
            cell,
            shared,
            history,
            random: StdRng::seed_from_u64(seed),
            session: None,
            line: None,
            open: Vec::new(),
            own: Vec::new(),
            said: 0,
            steps: 0,
        }
    }

    /// Plays until it is told to stop, and then until all that it asked for is answered.
    pub async fn run(mut self) {
        while !self.shared.is_over() {
            if let Err(Lost(why)) = self.step().await {
                self.lost(&why).await;
            }
        }
        let began = Instant::now();
        while !self.open.is_empty() {
            if began.elapsed() > SETTLED_WITHIN {
                let open = &self.open;
                return self
                    .history
                    .fault(format!("submits that are never answered: {open:?}"));
            }
            if let Err(Lost(why)) = self.settle().await {
                self.lost(&why).await;
            }
        }
    }

    /// Comes back after a moment, as clients do.
    async fn lost(&mut self, why: &str) {
        let session = self
            .session
            .as_ref()
            .map_or("no session", |ticket| &ticket.id);
        self.history.note(session, why);
        if self.line.take().is_some() {
            self.history.count("connections lost");
        }
        let back_off = Duration::from_millis(self.random.random_range(10..150));
        tokio::time::sleep(back_off).await;
    }

    async fn settle(&mut self) -> Result<(), Lost> {
        self.attach().await?;
        let (key, work) = self.open[0].clone();
        self.submit(key, work).await
    }

    async fn step(&mut self) -> Result<(), Lost> {
        if self.steps >= STEPS_PER_SESSION && self.open.is_empty() {
            self.steps = 0;
            (self.session, self.line) = (None, None);
            self.own.clear();
        }
        self.steps += 1;
        self.attach().await?;
        // What was cut off is asked for again, with the key it had.
        if let Some((key, work)) = self.open.first().cloned() {
            return self.submit(key, work).await;
        }
        match self.random.random_range(0..100) {
            0..25 => {
                let (key, work) = self.shared.new_work(&mut self.random);
                self.history.submitted(&key);
                self.open.push((key.clone(), work.clone()));
                self.submit(key, work).await
            }
            25..32 => match self.shared.some_submit(&mut self.random) {
                Some((key, work)) => self.submit(key, work).await,
                None => Ok(()),
            },
            32..45 => self.subscribe().await,
            45..52 => self.cancel().await,
            52..62 => {
                self.line = None;
                self.history.count("moves");
                Ok(())
            }
            _ => {
                let limit = Duration::from_millis(self.random.random_range(20..300));
                self.listen(limit).await
            }
        }
    }

    async fn submit(&mut self, key: String, work: Work) -> Result<(), Lost> {
        let mut payload = work.submit();
        payload["idempotency_key"] = key.clone().into();
        let told = self
            .ask(None, "job.submit", payload, "job.accepted")
            .await?;
        let answer = match told {
            Told::Done(accepted) => {
                let job = accepted["job_id"].as_str().unwrap_or_default().to_owned();
                self.shared.accepted(&job);
                self.own.push(job.clone());
                self.history.count("submits accepted");
                Answer::Accepted { job }
            }
            // It may still be done: asked again until it is known.
            Told::Refused {
                retryable: true, ..
            } => {
                self.history.count("submits to be tried again");
                return Err(Lost("refused for now".into()));
            }
            Told::Refused { code, frame, .. } => {
                self.history.fault(format!("a submit was refused: {frame}"));
                Answer::Refused { code }
            }
        };
        self.history.answered(&key, answer);
        self.open.retain(|(open, _)| *open != key);
        Ok(())
    }

    async fn subscribe(&mut self) -> Result<(), Lost> {
        let Some(job) = self.shared.some_job(&mut self.random) else {
            return Ok(());
        };
        let payload = json!({ "history": self.random.random::<bool>() });
        let told = self
            .ask(Some(&job), "job.subscribe", payload, "job.subscribed")
            .await?;
        self.history.count("subscribes");
        self.expect_known(told, "a subscribe", &[])
    }

    async fn cancel(&mut self) -> Result<(), Lost> {
        if self.own.is_empty() {
            return Ok(());
        }
        let job = self.own[self.random.random_range(0..self.own.len())].clone();
        let told = self
            .ask(Some(&job), "job.cancel", json!({}), "job.cancelled")
            .await?;
        self.history.count("cancels");
        // A job that another session made under the same key is that one's to cancel.
        self.expect_known(told, "a cancel", &["PERMISSION_DENIED", "INVALID_REQUEST"])
    }

    /// A job that was acknowledged is known everywhere.
    fn expect_known(&mut self, told: Told, what: &str, or: &[&str]) -> Result<(), Lost> {
        match told {
            Told::Refused {
                retryable: true, ..
            } => Err(Lost("refused for now".into())),
            Told::Refused { code, frame, .. } if !or.contains(&&*code) => {
                self.history.fault(format!("{what} was refused: {frame}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Says something and hears until its answer.
    async fn ask(
        &mut self,
        job: Option<&str>,
        kind: &str,
        payload: Value,
        answer: &str,
    ) -> Result<Told, Lost> {
        self.said += 1;
        let id = format!("m{}", self.said);
        let session = self.session.as_ref().map(|ticket| ticket.id.clone());
        let mut frame = json!({ "arcp": "1.1", "id": id, "type": kind, "session_id": session,
            "payload": payload });
        if let Some(job) = job {
            frame["job_id"] = job.into();
        }
        self.say(&frame).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(frame) = self.hear(left).await? else {
                return Err(Lost(format!("no answer to {kind}")));
            };
            if frame["type"] == answer {
                return Ok(Told::Done(frame));
            }
            if frame["type"] == "session.error" {
                let code = frame["payload"]["code"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let retryable = frame["payload"]["retryable"] == true;
                return Ok(Told::Refused {
                    code,
                    retryable,
                    frame,
                });
            }
        }
    }

    async fn listen(&mut self, limit: Duration) -> Result<(), Lost> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.hear(left).await?.is_none() {
                return Ok(());
            }
        }
    }

    async fn say(&mut self, frame: &Value) -> Result<(), Lost> {
        let line = self.line.as_mut();
        let line = line.ok_or_else(|| Lost("not attached".into()))?;
        match tokio::time::timeout(PATIENCE, line.say(frame)).await {
            Ok(said) => said.map_err(Lost),
            Err(_) => Err(Lost("the connection takes nothing".into())),
        }
    }

    /// The next frame, written down if it has a number; none within the limit.
    async fn hear(&mut self, limit: Duration) -> Result<Option<Value>, Lost> {
        let line = self.line.as_mut();
        let line = line.ok_or_else(|| Lost("not attached".into()))?;
        let Ok(heard) = tokio::time::timeout(limit, line.hear()).await else {
            return Ok(None);
        };
        let frame = heard.map_err(Lost)?;
        if let (Some(seq), Some(ticket)) = (frame["event_seq"].as_u64(), &mut self.session) {
            ticket.last = ticket.last.max(seq);
            self.history.numbered(&ticket.id, seq, frame.clone());
        }
        match frame["type"].as_str() {
            Some("session.ping") => {
                let nonce = &frame["payload"]["nonce"];
                self.said += 1;
                let pong = json!({ "arcp": "1.1", "id": format!("m{}", self.said),
                    "type": "session.pong", "payload": { "ping_nonce": nonce } });
                self.say(&pong).await?;
            }
            Some("session.bye") => return Err(Lost("told to go".into())),
            _ => {}
        }
        Ok(Some(frame))
    }

    /// Connected and welcomed, at any replica that serves; the same session if it has one.
    async fn attach(&mut self) -> Result<(), Lost> {
        if self.line.is_some() {
            return Ok(());
        }
        let attached = tokio::time::timeout(PATIENCE, self.dial()).await;
        attached.unwrap_or_else(|_| Err(Lost("no welcome in time".into())))
    }

    async fn dial(&mut self) -> Result<(), Lost> {
        let replica = self.random.random_range(0..self.cell.replicas.len());
        let Some(address) = self.cell.replicas[replica].address() else {
            return Err(Lost("it is down".into()));
        };
        let after = match &self.session {
            // Most have what they were sent last; some have lost the end of it.
            Some(ticket) if self.random.random_bool(0.7) => ticket.last,
            Some(ticket) => self
                .random
                .random_range(ticket.last.saturating_sub(40)..=ticket.last),
            None => 0,
        };
        let resume = self.session.as_ref().map(|ticket| {
            json!({ "session_id": ticket.id, "resume_token": ticket.token, "last_event_seq": after })
        });
        let more = resume.map_or(json!({}), |resume| json!({ "resume": resume }));
        let wire = match self.random.random() {
            true => Wire::Grpc,
            false => Wire::WebSocket,
        };
        let line = Line::open(wire, &address, &hello("h", ALICE, more)).await;
        self.line = Some(line.map_err(Lost)?);
        let welcome = loop {
            if let Some(frame) = self.hear(PATIENCE).await? {
                break frame;
            }
        };
        let refused = &welcome["payload"];
        if welcome["type"] != "session.welcome" {
            if refused["code"] == "RESUME_WINDOW_EXPIRED" {
                self.history
                    .fault(format!("a resume was refused: {welcome}"));
                self.session = None;
            }
            return Err(Lost(format!("no welcome: {welcome}")));
        }
        let (Some(id), Some(token)) = (
            welcome["session_id"].as_str(),
            refused["resume_token"].as_str(),
        ) else {
            return Err(Lost(format!("half a welcome: {welcome}")));
        };
        let last = self.session.as_ref().map_or(0, |ticket| ticket.last);
        self.session = Some(Ticket {
            id: id.into(),
            token: token.into(),
            last,
        });
        self.history.attached(id, token, after);
        self.history.count(format!("attached by {wire:?}"));
        Ok(())
    }
}
