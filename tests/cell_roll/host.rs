//! An agent host that does what it is told: at a drain it comes back when it was told to,
//! wherever that leads, with what it has.

use std::collections::BTreeMap;
use std::time::Duration;

use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::support::host::{HostPeer, agent, held, log, register, result};

/// Between two reports of a job that is followed.
const STEP: Duration = Duration::from_millis(20);
/// Reports of one job that may wait for their acks: what is said of other jobs waits behind
/// them on a machine that has no time for so many.
const UNACKED_MAX: usize = 16;
/// What a job that is followed is given; any other input is its own result.
pub const FOLLOWED: &str = "\"follow\"";

pub struct Host {
    address: String,
    name: String,
    end: watch::Receiver<bool>,
    /// By job.
    held: BTreeMap<String, Held>,
}

/// An assignment, and what is not known to be durable of it.
struct Held {
    of: AssignmentRef,
    unacked: Vec<proto::Report>,
    seq: u64,
    over: bool,
}

impl Held {
    async fn report(&mut self, host: &mut HostPeer, report: proto::Report) {
        self.seq = report.seq;
        self.over = matches!(report.report, Some(proto::report::Report::Complete(_)));
        self.unacked.push(report.clone());
        host.report(&self.of, vec![report]).await;
    }

    fn acked(&mut self, upto: u64) {
        self.unacked.retain(|report| report.seq > upto);
    }
}

impl Host {
    /// Jobs that are followed end when `end` turns.
    pub fn new(address: &str, name: &str, end: watch::Receiver<bool>) -> Self {
        Self {
            address: address.into(),
            name: name.into(),
            end,
            held: BTreeMap::new(),
        }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        loop {
            let mut register = register(&self.name, vec![agent("a")], 16);
            register.resume = self.held.values().map(|one| held(&one.of)).collect();
            // One that is just going takes nobody.
            if let Ok((host, registered)) = HostPeer::connect(&self.address, register).await {
                let back_at = self.serve(host, registered).await;
                tokio::time::sleep_until(back_at).await;
            }
        }
    }

    /// Until the stream ends; returns when to come back.
    async fn serve(&mut self, mut host: HostPeer, registered: proto::Registered) -> Instant {
        for dropped in registered.drop {
            let one = self.held.remove(&dropped.job_id);
            // The last ack was lost on the way.
            assert!(
                one.is_some_and(|one| one.over),
                "{} was lost",
                dropped.job_id
            );
        }
        for kept in registered.keep {
            let of = kept.r#ref.expect("a ref");
            let one = self.held.get_mut(&of.job_id).expect("one that was held");
            one.acked(kept.acked_seq);
            host.report(&of, one.unacked.clone()).await;
        }
        let mut back_at = Instant::now();
        let mut steps = tokio::time::interval(STEP);
        loop {
            tokio::select! {
                heard = host.hear() => match heard {
                    Ok(Hear::Drain(drain)) => {
                        let after = drain.reconnect_after.expect("a drain says when");
                        back_at = Instant::now() + Duration::try_from(after).unwrap();
                    }
                    Ok(heard) => self.hear(&mut host, heard).await,
                    Err(_) => return back_at,
                },
                _ = steps.tick() => self.step(&mut host).await,
            }
        }
    }

    async fn hear(&mut self, host: &mut HostPeer, heard: Hear) {
        match heard {
            Hear::Assign(assign) => {
                let of = assign.r#ref.expect("a ref");
                host.accept(&of).await;
                let mut one = Held {
                    of: of.clone(),
                    unacked: Vec::new(),
                    seq: 0,
                    over: false,
                };
                if assign.input_json != FOLLOWED {
                    one.report(host, log(1, "begun")).await;
                    one.report(host, result(2, &assign.input_json)).await;
                }
                self.held.insert(of.job_id, one);
            }
            Hear::Ack(ack) => {
                let job = ack.r#ref.expect("a ref").job_id;
                // What was sent twice may be acked twice, the second time after its end.
                if let Some(one) = self.held.get_mut(&job) {
                    one.acked(ack.seq);
                    if one.over && one.unacked.is_empty() {
                        self.held.remove(&job);
                    }
                }
            }
            Hear::HeartbeatAck(_) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn step(&mut self, host: &mut HostPeer) {
        let ending = *self.end.borrow();
        for one in self.held.values_mut().filter(|one| !one.over) {
            let next = one.seq + 1;
            if ending {
                one.report(host, result(next, &one.seq.to_string())).await;
            } else if one.unacked.len() < UNACKED_MAX {
                one.report(host, log(next, &next.to_string())).await;
            }
        }
    }
}
