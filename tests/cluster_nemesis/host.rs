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
use tokio::time::Instant;

use crate::cell::Cell;
use crate::held::Held;
use crate::history::History;
use crate::support::host::{HostPeer, WORKERS, agent, held, register, with_policy};
use crate::work::{LEADS, Shared};

/// One step of one of its jobs.
const STEP: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(4);
/// Who hears nothing for so long may be on the way to be lost, after 8 s.
const MISSED_AFTER: Duration = Duration::from_secs(5);
/// Jobs that it takes at once, and those of them that wait for others.
const JOBS_MAX: u32 = 8;
const LEADS_MAX: u32 = 5;

pub struct Host {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
    history: Arc<History>,
    number: u64,
    name: String,
    random: StdRng,
    /// Where it is connected.
    replica: usize,
    heard_at: Instant,
    /// By job.
    held: BTreeMap<String, Held>,
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
            number,
            name: format!("host-{number}"),
            random: StdRng::seed_from_u64(seed),
            replica: 0,
            heard_at: Instant::now(),
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
        self.forget();
        let mut register = register(&self.name, agents(self.number), JOBS_MAX);
        register.resume = self.held.values().map(|one| held(&one.of)).collect();
        peer.say(Say::Register(register)).await;
        let Ok(Hear::Registered(registered)) = peer.hear().await else {
            return None;
        };
        self.heard();
        self.replica = replica;
        for dropped in &registered.drop {
            self.held.remove(&dropped.job_id);
            self.history.count("assignments dropped");
        }
        for kept in &registered.keep {
            let job = &kept.r#ref.as_ref().expect("a ref").job_id;
            if let Some(one) = self.held.get_mut(job) {
                self.history.count("assignments kept");
                self.shared.is_at(job, replica);
                one.kept(&mut peer, kept).await;
            }
        }
        Some(peer)
    }

    /// As a process that has ended in between: one that it does not name is lost.
    fn forget(&mut self) {
        if self.random.random_bool(0.2)
            && let Some(job) = self.held.keys().next().cloned()
        {
            self.held.remove(&job);
            self.history.excuse(&job);
            self.history.count("assignments forgotten");
        }
    }

    /// What it has after a long silence may have been given up meanwhile.
    fn heard(&mut self) {
        if self.heard_at.elapsed() > MISSED_AFTER {
            self.held.keys().for_each(|job| self.history.excuse(job));
        }
        self.heard_at = Instant::now();
    }

    async fn work(&mut self, peer: &mut HostPeer) -> Gone {
        let mut steps = tokio::time::interval(STEP);
        let mut beats = tokio::time::interval(Duration::from_millis(500));
        // Some stay, some move on.
        let leave_in = Duration::from_millis(self.random.random_range(2_000..12_000));
        let leave = tokio::time::sleep(leave_in);
        tokio::pin!(leave);
        loop {
            tokio::select! {
                // A message that was taken off the stream is never lost by this.
                heard = peer.hear() => match heard {
                    Ok(heard) => {
                        self.heard();
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
                    if self.heard_at.elapsed() > PATIENCE {
                        return Gone;
                    }
                    peer.beat().await;
                }
                _ = steps.tick() => self.step(peer).await,
                () = &mut leave => {
                    self.history.count("hosts moved");
                    return Gone;
                }
            }
        }
    }

    async fn hear(&mut self, peer: &mut HostPeer, heard: Hear) {
        match heard {
            Hear::Assign(assign) => self.assigned(peer, assign).await,
            Hear::Ack(ack) => {
                let of = ack.r#ref.expect("a ref");
                if let Some(one) = self.of(&of) {
                    one.acked(ack.seq);
                    if one.is_over() {
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
                let one = answer.r#ref.as_ref().and_then(|of| self.of(of));
                if let Some(one) = one
                    && one.is_answer(&answer.call_id)
                {
                    one.allowed(peer, answer.allowed).await;
                }
            }
            Hear::DelegateResult(answer) => self.delegated(&answer),
            Hear::ChildEnded(ended) => {
                let one = ended.r#ref.as_ref().and_then(|of| self.of(of));
                if let Some(lead) = one.and_then(|one| one.lead.as_mut()) {
                    lead.ended(&ended.delegate_id);
                    self.history.count("children ended");
                }
            }
            _ => {}
        }
    }

    async fn assigned(&mut self, peer: &mut HostPeer, assign: proto::Assign) {
        let of = assign.r#ref.clone().expect("a ref");
        self.shared.is_at(&of.job_id, self.replica);
        let lease: Value = serde_json::from_str(&assign.lease_json).unwrap_or_default();
        let models = lease["model.use"].as_array();
        if models.is_some_and(|models| !models.is_empty()) && assign.credentials_json.is_empty() {
            let text = format!("{} was assigned without its key", of.job_id);
            self.history.fault(text);
        }
        if let Some(at) = self.shared.place(&assign.parent_job_id) {
            let apart = match at == self.replica {
                true => "children beside their parents",
                false => "children apart from their parents",
            };
            self.history.count(apart);
        }
        if !assign.checkpoint.is_empty() {
            self.history.count("checkpoints taken up");
        }
        if !assign.parent_job_id.is_empty() || assign.agent == LEADS {
            // It may have to stay where its parent, or its child, runs.
            self.history.excuse(&of.job_id);
        }
        self.held.insert(of.job_id.clone(), Held::new(assign));
        peer.accept(&of).await;
    }

    fn delegated(&mut self, answer: &proto::DelegateResult) {
        let Some(one) = answer.r#ref.as_ref().and_then(|of| self.of(of)) else {
            return;
        };
        if !one.is_answer(&answer.delegate_id) {
            return;
        }
        let lead = one.lead.as_mut().expect("one that asked");
        let noted = lead.answered(answer);
        let what = match answer.code.is_empty() {
            true => "delegations".into(),
            false => format!("delegations refused with {}", answer.code),
        };
        self.history.count(what);
        if let Err(fault) = noted {
            self.history.fault(fault);
        }
    }

    fn of(&mut self, of: &AssignmentRef) -> Option<&mut Held> {
        self.held.get_mut(&of.job_id).filter(|one| one.of == *of)
    }

    /// One of its jobs goes on.
    async fn step(&mut self, peer: &mut HostPeer) {
        let ready = self.held.values_mut();
        let mut ready: Vec<_> = ready.filter(|one| one.is_ready()).collect();
        if ready.is_empty() {
            return;
        }
        let index = self.random.random_range(0..ready.len());
        ready[index].go_on(peer).await;
    }
}

/// What a host offers, by what is to become of a job of it whose host is lost. One that
/// leads does not do all of the rest, so that children are elsewhere.
fn agents(number: u64) -> Vec<proto::HostedAgent> {
    let fails = agent("fails");
    let again = with_policy("again", proto::LossPolicy::Retry);
    let keeps = with_policy("keeps", proto::LossPolicy::Checkpoint);
    let mut leads = with_policy(LEADS, proto::LossPolicy::Retry);
    leads.max_in_flight = LEADS_MAX;
    match number {
        0 => vec![leads, fails],
        1 => vec![again, keeps],
        _ => vec![fails, again, keeps],
    }
}
