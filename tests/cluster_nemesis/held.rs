//! A job that a host works on.

use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::{self, AssignmentRef};
use serde_json::Value;

use crate::lead::Lead;
use crate::support::host::{HostPeer, complete, event, log, result};
use crate::work::LEADS;

/// Steps between two checkpoints.
const SAVED_EVERY: u64 = 3;

/// An assignment, and what has been reported of it.
pub struct Held {
    pub of: AssignmentRef,
    attempt: u32,
    steps: u64,
    spends: bool,
    /// Sent, and not known to be durable.
    unacked: Vec<proto::Report>,
    seq: u64,
    step: u64,
    /// Of the last checkpoint, with an agent that makes them.
    saved: Option<u64>,
    pub lead: Option<Lead>,
    /// The answer it waits for.
    asked: Option<String>,
    ended: bool,
}

impl Held {
    pub fn new(assign: proto::Assign) -> Self {
        let input: Value = serde_json::from_str(&assign.input_json).expect("JSON");
        let lease: Value = serde_json::from_str(&assign.lease_json).unwrap_or_default();
        let saved = (assign.agent == "keeps").then(|| number(&assign.checkpoint));
        let leads = assign.agent == LEADS;
        Self {
            of: assign.r#ref.expect("a ref"),
            attempt: assign.attempt,
            steps: input["steps"].as_u64().unwrap_or(1),
            spends: !input["per_step"].is_null(),
            unacked: Vec::new(),
            seq: 0,
            step: saved.unwrap_or(0),
            saved,
            lead: leads.then(|| Lead::new(&input, &lease, assign.attempt)),
            asked: None,
            ended: false,
        }
    }

    /// It goes on after a new connection.
    pub async fn kept(&mut self, peer: &mut HostPeer, kept: &proto::KeptAssignment) {
        self.asked = None;
        self.acked(kept.acked_seq);
        peer.report(&self.of, self.unacked.clone()).await;
        if let Some(lead) = &mut self.lead {
            lead.connected();
        }
        if kept.cancelled {
            self.cancel(peer).await;
        }
    }

    pub fn acked(&mut self, seq: u64) {
        self.unacked.retain(|report| report.seq > seq);
    }

    /// Ended, and that is durable.
    pub fn is_over(&self) -> bool {
        self.ended && self.unacked.is_empty()
    }

    /// Whether it waits for nobody.
    pub fn is_ready(&self) -> bool {
        let waits = |lead: &Lead| lead.ask(&self.of).is_none() && !lead.is_over();
        let waits = self.step >= self.steps && self.lead.as_ref().is_some_and(waits);
        !self.ended && self.asked.is_none() && !waits
    }

    /// It goes on by a step.
    pub async fn go_on(&mut self, peer: &mut HostPeer) {
        if self.step < self.steps {
            return match self.spends {
                true => self.ask(peer).await,
                false => self.say_step(peer).await,
            };
        }
        match self.lead.as_ref().and_then(|lead| lead.ask(&self.of)) {
            Some(ask) => {
                self.asked = Some(ask.delegate_id.clone());
                peer.say(Say::Delegate(ask)).await;
            }
            None => self.end(peer).await,
        }
    }

    /// Whether this was waited for.
    pub fn is_answer(&mut self, asked: &str) -> bool {
        self.asked.take_if(|open| open == asked).is_some()
    }

    /// Whether it may spend.
    pub async fn allowed(&mut self, peer: &mut HostPeer, allowed: bool) {
        match allowed {
            true => self.spend(peer).await,
            // One that leads has given it all away.
            false if self.lead.is_some() => self.step = self.steps,
            false => self.end(peer).await,
        }
    }

    async fn report(&mut self, peer: &mut HostPeer, make: impl FnOnce(u64) -> proto::Report) {
        self.seq += 1;
        let report = make(self.seq);
        self.unacked.push(report.clone());
        peer.report(&self.of, vec![report]).await;
    }

    /// Says which checkpoint came before it, and makes one now and then.
    async fn say_step(&mut self, peer: &mut HostPeer) {
        self.step += 1;
        let (step, saved) = (self.step, self.saved);
        let mut said = format!("{} step {step}", self.attempt);
        if let Some(saved) = saved {
            said += &format!(" saved {saved}");
        }
        self.report(peer, |seq| log(seq, &said)).await;
        if saved.is_some() && step.is_multiple_of(SAVED_EVERY) {
            self.saved = Some(step);
            let state = step.to_string().into_bytes();
            let checkpoint = proto::report::Report::Checkpoint(proto::Checkpoint { state });
            let report = Some(checkpoint);
            self.report(peer, |seq| proto::Report { seq, report }).await;
        }
    }

    async fn ask(&mut self, peer: &mut HostPeer) {
        let call_id = format!("call-{}", self.seq);
        self.asked = Some(call_id.clone());
        let ask = proto::Authorize {
            r#ref: Some(self.of.clone()),
            call_id,
            capability: "tool.call".into(),
            target: "spend".into(),
        };
        peer.say(Say::Authorize(ask)).await;
    }

    async fn spend(&mut self, peer: &mut HostPeer) {
        self.step += 1;
        let metric = proto::Metric {
            name: "cost.step".into(),
            value: 0.1,
            unit: "USD".into(),
            ..Default::default()
        };
        let body = proto::job_event::Body::Metric(metric);
        self.report(peer, |seq| event(seq, body)).await;
    }

    async fn end(&mut self, peer: &mut HostPeer) {
        self.ended = true;
        self.report(peer, |seq| result(seq, "null")).await;
    }

    pub async fn cancel(&mut self, peer: &mut HostPeer) {
        if !std::mem::replace(&mut self.ended, true) {
            let cancelled = proto::complete::Outcome::Cancelled(proto::Cancelled {});
            self.report(peer, |seq| complete(seq, cancelled)).await;
        }
    }
}

/// What a checkpoint says; 0 without one.
fn number(checkpoint: &[u8]) -> u64 {
    let text = std::str::from_utf8(checkpoint).unwrap_or_default();
    text.parse().unwrap_or(0)
}
