//! An agent host that goes from replica to replica with what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::cell::Cell;
use crate::history::History;
use crate::support::host::{
    HostPeer, WORKERS, agent, complete, event, held, log, register, result, with_policy,
};
use crate::work::Shared;

/// One step of one of its jobs.
const STEP: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(4);

pub struct Host {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    history: Arc<History>,
    name: String,
    random: StdRng,
    /// By job.
    held: BTreeMap<String, Held>,
}

/// An assignment, and what has been reported of it.
struct Held {
    of: AssignmentRef,
    attempt: u32,
    steps: u64,
    spends: bool,
    /// Sent, and not known to be durable.
    unacked: Vec<proto::Report>,
    seq: u64,
    step: u64,
    /// The answer it waits for.
    asked: Option<String>,
    ended: bool,
}

/// The stream ended, or is to.
struct Gone;

impl Host {
    pub fn new(
        cell: Arc<Cell>,
        shared: Arc<Shared>,
        history: Arc<History>,
        number: u64,
        seed: u64,
    ) -> Self {
        Self {
            cell,
            shared,
            history,
            name: format!("host-{number}"),
            random: StdRng::seed_from_u64(seed),
            held: BTreeMap::new(),
        }
    }

    /// Works until it is dropped: the last jobs end after the last client.
    pub async fn run(mut self) {
        loop {
            let connected = tokio::time::timeout(PATIENCE, self.connect()).await;
            let Ok(Some(mut peer)) = connected else {
                continue;
            };
            self.history.count("hosts connected");
            let Gone = self.work(&mut peer).await;
        }
    }

    async fn connect(&mut self) -> Option<HostPeer> {
        let replica = self.random.random_range(0..self.cell.replicas.len());
        let Some(address) = self.cell.replicas[replica].address() else {
            tokio::task::yield_now().await;
            return None;
        };
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.expect("an address").connect().await.ok()?;
        let mut peer = HostPeer::on(channel, WORKERS).await.ok()?;
        let agents = vec![
            agent("fails"),
            with_policy("again", proto::LossPolicy::Retry),
        ];
        let mut register = register(&self.name, agents, 8);
        register.resume = self.held.values().map(|one| held(&one.of)).collect();
        peer.say(Say::Register(register)).await;
        let Ok(Hear::Registered(registered)) = peer.hear().await else {
            return None;
        };
        for dropped in &registered.drop {
            self.held.remove(&dropped.job_id);
            self.history.count("assignments dropped");
        }
        for kept in registered.keep {
            let of = kept.r#ref.expect("a ref");
            if let Some(one) = self.held.get_mut(&of.job_id) {
                self.history.count("assignments kept");
                one.asked = None;
                one.acked(kept.acked_seq);
                peer.report(&of, one.unacked.clone()).await;
                if kept.cancelled {
                    one.cancel(&mut peer).await;
                }
            }
        }
        Some(peer)
    }

    async fn work(&mut self, peer: &mut HostPeer) -> Gone {
        let mut steps = tokio::time::interval(STEP);
        let mut beats = tokio::time::interval(Duration::from_millis(500));
        let mut heard_at = tokio::time::Instant::now();
        // Some stay, some move on.
        let leave_in = Duration::from_millis(self.random.random_range(2_000..12_000));
        let leave = tokio::time::sleep(leave_in);
        tokio::pin!(leave);
        loop {
            tokio::select! {
                // A message that was taken off the stream is never lost by this.
                heard = peer.hear() => match heard {
                    Ok(heard) => {
                        heard_at = tokio::time::Instant::now();
                        if matches!(heard, Hear::Drain(_)) {
                            return Gone;
                        }
                        self.hear(peer, heard).await;
                    }
                    Err(status) => {
                        self.history.note(&self.name, &status.to_string());
                        return Gone;
                    }
                },
                _ = beats.tick() => {
                    if heard_at.elapsed() > PATIENCE {
                        return Gone;
                    }
                    peer.beat().await;
                }
                _ = steps.tick() => self.step(peer).await,
                () = &mut leave, if !self.shared.is_over() => {
                    self.history.count("hosts moved");
                    return Gone;
                }
            }
        }
    }

    async fn hear(&mut self, peer: &mut HostPeer, heard: Hear) {
        match heard {
            Hear::Assign(assign) => {
                let of = assign.r#ref.expect("a ref");
                let input: Value = serde_json::from_str(&assign.input_json).expect("JSON");
                let one = Held {
                    of: of.clone(),
                    attempt: assign.attempt,
                    steps: input["steps"].as_u64().unwrap_or(1),
                    spends: !input["per_step"].is_null(),
                    unacked: Vec::new(),
                    seq: 0,
                    step: 0,
                    asked: None,
                    ended: false,
                };
                self.held.insert(of.job_id.clone(), one);
                peer.accept(&of).await;
            }
            Hear::Ack(ack) => {
                let of = ack.r#ref.expect("a ref");
                if let Some(one) = self.of(&of) {
                    one.acked(ack.seq);
                    if one.ended && one.unacked.is_empty() {
                        self.held.remove(&of.job_id);
                    }
                }
            }
            Hear::Cancel(cancel) => {
                let of = cancel.r#ref.expect("a ref");
                if let Some(one) = self.of(&of) {
                    one.cancel(peer).await;
                }
            }
            Hear::Revoked(revoked) => {
                let of = revoked.r#ref.expect("a ref");
                if self.of(&of).is_some() {
                    self.held.remove(&of.job_id);
                    self.history.count("assignments revoked");
                }
            }
            Hear::Rejected(rejected) => {
                self.history
                    .fault(format!("a report was rejected: {rejected:?}"));
            }
            Hear::AuthorizeResult(answer) => {
                let Some(one) = answer.r#ref.as_ref().and_then(|of| self.of(of)) else {
                    return;
                };
                if one
                    .asked
                    .take_if(|asked| *asked == answer.call_id)
                    .is_some()
                {
                    match answer.allowed {
                        true => one.spend(peer).await,
                        false => one.end(peer).await,
                    }
                }
            }
            _ => {}
        }
    }

    fn of(&mut self, of: &AssignmentRef) -> Option<&mut Held> {
        self.held.get_mut(&of.job_id).filter(|one| one.of == *of)
    }

    /// One of its jobs goes on.
    async fn step(&mut self, peer: &mut HostPeer) {
        let ready = self.held.values_mut();
        let mut ready: Vec<_> = ready
            .filter(|one| !one.ended && one.asked.is_none())
            .collect();
        if ready.is_empty() {
            return;
        }
        let index = self.random.random_range(0..ready.len());
        let one = &mut ready[index];
        if one.step == one.steps {
            one.end(peer).await;
        } else if one.spends {
            one.ask(peer).await;
        } else {
            one.step += 1;
            let said = format!("{} step {}", one.attempt, one.step);
            one.report(peer, |seq| log(seq, &said)).await;
        }
    }
}

impl Held {
    async fn report(&mut self, peer: &mut HostPeer, make: impl FnOnce(u64) -> proto::Report) {
        self.seq += 1;
        let report = make(self.seq);
        self.unacked.push(report.clone());
        peer.report(&self.of, vec![report]).await;
    }

    fn acked(&mut self, seq: u64) {
        self.unacked.retain(|report| report.seq > seq);
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

    async fn cancel(&mut self, peer: &mut HostPeer) {
        if !std::mem::replace(&mut self.ended, true) {
            let cancelled = proto::complete::Outcome::Cancelled(proto::Cancelled {});
            self.report(peer, |seq| complete(seq, cancelled)).await;
        }
    }
}
