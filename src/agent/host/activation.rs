//! One activation of one job: what fences it, and how far it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::applying::Applying;
use super::outbox::Outbox;
use super::place::Place;
use crate::job::{Child, JobContext, Reported};
use crate::log::ReportMark;
use crate::protocol::host::{AssignmentRef, HostReply, LossPolicy, Report};

const DELEGATIONS_MAX: usize = 16;

/// offered ──accept──▶ running ──complete──▶ over
///     │                  │
///     └── decline, time ─┴── host lost, decline ──▶ over
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    Offered,
    Running,
    /// The terminal is on its way into the log.
    Completed,
    /// Given back by its host, or its host is gone.
    Lost(String),
}

pub(super) struct Activation {
    pub job: JobContext,
    pub attempt: u32,
    pub loss_policy: LossPolicy,
    token_hash: Vec<u8>,
    /// Known once the host has shown it, when it was given before a restart.
    token: Mutex<String>,
    phase: watch::Sender<Phase>,
    /// It has been running, whatever has become of it since.
    started: AtomicBool,
    /// `None` while reports are being applied.
    mark: Mutex<Option<ReportMark>>,
    /// The mark is back.
    settled: Notify,
    /// The last one of this activation.
    checkpoint: Mutex<Option<Bytes>>,
    acked: AtomicU64,
    ack_queued: AtomicBool,
    /// Of one that was recovered: its place at the host that came for it.
    adopted_by: Mutex<Option<Place>>,
    /// Children whose end the host is to hear of.
    awaited: Mutex<HashSet<String>>,
    /// Delegations that may be under way at once.
    delegations: Arc<Semaphore>,
}

impl Activation {
    /// A new one, with the token that fences it.
    pub fn new(job: JobContext, attempt: u32, loss_policy: LossPolicy) -> Self {
        let token = format!("lt_{:032x}", rand::random::<u128>());
        Self::build(
            job,
            attempt,
            loss_policy,
            hash(&token),
            token,
            ReportMark::default(),
        )
    }

    /// One that an earlier run of the runtime gave out.
    pub fn recovered(
        job: JobContext,
        attempt: u32,
        loss_policy: LossPolicy,
        token_hash: Vec<u8>,
        mark: ReportMark,
    ) -> Self {
        Self::build(job, attempt, loss_policy, token_hash, String::new(), mark)
    }

    fn build(
        job: JobContext,
        attempt: u32,
        loss_policy: LossPolicy,
        token_hash: Vec<u8>,
        token: String,
        mark: ReportMark,
    ) -> Self {
        Self {
            job,
            attempt,
            loss_policy,
            token_hash,
            token: Mutex::new(token),
            phase: watch::Sender::new(Phase::Offered),
            started: AtomicBool::new(false),
            acked: AtomicU64::new(mark.seq),
            mark: Mutex::new(Some(mark)),
            settled: Notify::new(),
            checkpoint: Mutex::new(None),
            ack_queued: AtomicBool::new(false),
            adopted_by: Mutex::new(None),
            awaited: Mutex::default(),
            delegations: Arc::new(Semaphore::new(DELEGATIONS_MAX)),
        }
    }

    pub fn token_hash(&self) -> Vec<u8> {
        self.token_hash.clone()
    }

    pub fn reference(&self) -> AssignmentRef {
        AssignmentRef {
            job_id: self.job.job_id().into(),
            lease_token: self.token.lock().clone(),
        }
    }

    /// Whether a message that shows this token is about this activation.
    pub fn is_named_by(&self, token: &str) -> bool {
        self.token_hash.ct_eq(&hash(token)).into()
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub fn is_over(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Completed | Phase::Lost(_))
    }

    /// Its last ack is still to come.
    pub fn is_completed(&self) -> bool {
        *self.phase.borrow() == Phase::Completed
    }

    /// Moves on, unless it is over or there already; whether it did.
    pub fn move_to(&self, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let over = matches!(phase, Phase::Completed | Phase::Lost(_));
            if !over && *phase != to {
                if to == Phase::Running {
                    self.started.store(true, Ordering::Release);
                }
                *phase = to;
                return true;
            }
            false
        })
    }

    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Takes an offer back; false when it was answered in the meantime.
    pub fn withdraw(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            let offered = *phase == Phase::Offered;
            if offered {
                *phase = Phase::Lost("not accepted".into());
            }
            offered
        })
    }

    /// From now on acks go to this host, under the token it has shown.
    pub fn attach(self: &Arc<Self>, outbox: &Arc<Outbox>, token: Option<&str>) {
        if let Some(token) = token {
            *self.token.lock() = token.into();
        }
        // Kept until the terminal is durable, or until it is taken from the host.
        let (activation, outbox) = (self.clone(), outbox.clone());
        self.job.on_reported(Some(Box::new(move |what| match what {
            Reported::Durable(seq) => {
                activation.acked.fetch_max(seq, Ordering::AcqRel);
                outbox.ack(activation.clone());
            }
            Reported::Elsewhere => outbox.set_moved(),
        })));
    }

    /// Waits until one more delegation may be under way; it is until the drop.
    pub async fn delegation(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        self.delegations.clone().acquire_owned().await.ok()
    }

    /// Tells the host when a child of the job is over; asked twice it tells once.
    pub fn tell_end_of(self: &Arc<Self>, child: Child, delegate_id: String, outbox: &Arc<Outbox>) {
        if !self.awaited.lock().insert(child.job_id.clone()) {
            return;
        }
        let (activation, outbox) = (self.clone(), outbox.clone());
        tokio::spawn(async move {
            let ended = activation.job.child_ended(&child).await;
            activation.awaited.lock().remove(&child.job_id);
            match ended {
                Ok((at, Some(outcome))) => {
                    let reply = HostReply::ChildEnded {
                        of: activation.reference(),
                        delegate_id,
                        child_job_id: child.job_id,
                        outcome,
                        at,
                    };
                    outbox.push_about(&activation, reply);
                }
                Ok((_, None)) => {}
                Err(failure) => {
                    tracing::warn!(%failure, job_id = child.job_id, "the end of a child is not told")
                }
            }
        });
    }

    /// Nobody is told any more.
    pub fn detach(&self) {
        self.job.on_reported(None);
    }

    /// When a batch of reports is done, or cut off.
    pub fn put_back(&self, mark: ReportMark) {
        *self.mark.lock() = Some(mark);
        self.settled.notify_waiters();
    }

    /// Of one that is lost: resolves when nothing of it is being applied any more.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.mark.lock().is_some() {
                return;
            }
            settled.await;
        }
    }

    pub fn is_lost(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Lost(_))
    }

    pub fn set_checkpoint(&self, state: Bytes) {
        *self.checkpoint.lock() = Some(state);
    }

    pub fn take_checkpoint(&self) -> Option<Bytes> {
        self.checkpoint.lock().take()
    }

    pub fn set_adopted_by(&self, place: Place) {
        *self.adopted_by.lock() = Some(place);
    }

    pub fn adopted_by(&self) -> Option<Place> {
        self.adopted_by.lock().take()
    }

    /// Nobody waits any more for the host of one that was recovered.
    pub fn forsake(self: &Arc<Self>) {
        let here = !self.is_over() && !self.job.is_elsewhere();
        let tell = here.then_some("the job is over");
        self.move_to(Phase::Lost("the job is over".into()));
        if let Some(place) = self.adopted_by() {
            place.host.drop_activation(self, tell);
            self.detach();
        }
    }

    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// True for whoever is to put it in line.
    pub fn queue_ack(&self) -> bool {
        !self.ack_queued.swap(true, Ordering::AcqRel)
    }

    pub fn take_ack(&self) -> HostReply {
        self.ack_queued.store(false, Ordering::Release);
        HostReply::Ack {
            of: self.reference(),
            seq: self.acked(),
        }
    }

    /// Applies reports in order; each answer is for the host. Waits while the
    /// log is behind.
    pub async fn apply(&self, reports: Vec<Report>) -> Vec<HostReply> {
        // Lost is looked at again for each report: once the mark is back after that,
        // `settled` has seen the last of it.
        let Some(mark) = self.mark.lock().take() else {
            // Another connection of the host is still at it.
            return vec![self.rejected(0, "reports: a connection before this one is not done")];
        };
        let mut applying = Applying::new(self, mark);
        for report in reports {
            if applying.take(report).await.is_break() {
                break;
            }
        }
        applying.push().await;
        std::mem::take(&mut applying.answers)
    }

    pub fn rejected(&self, seq: u64, message: impl Into<String>) -> HostReply {
        HostReply::Rejected {
            of: Some(self.reference()),
            seq,
            message: message.into(),
        }
    }
}

pub(crate) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token).to_vec()
}
