//! One host: a process that dials in, across its connections.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::activation::{Activation, Phase};
use super::outbox::Outbox;
use super::placement::HostId;
use super::registry::Arrival;
use crate::log::HostKey;
use crate::protocol::host::{Assign, AssignmentRef, HostReply, HostedAgent};

pub(super) struct Host {
    pub id: HostId,
    pub principal: String,
    pub instance_id: String,
    pub name: String,
    pub outbox: Arc<Outbox>,
    /// By job.
    held: Mutex<HashMap<String, Arc<Activation>>>,
    pub state: Mutex<State>,
}

pub(super) struct State {
    pub agents: Vec<HostedAgent>,
    /// Its present connection has said what it holds.
    pub arrived: bool,
    /// Counted as connected in the inventory.
    pub listed: bool,
    /// Grows with each connection.
    pub generation: u64,
    /// Turns when another connection of the host takes over.
    pub displaced: CancellationToken,
    /// Turns when the connection has let go.
    pub released: CancellationToken,
    /// The number of its present connection's dial, once the log has it; 0 where it has none.
    pub dial: Option<u64>,
    /// It has come to another replica while that was waited for: which dial is the later
    /// one is not known yet.
    pub also_at: Option<Arrival>,
    /// Its last connection has ended and it has not dialled since.
    pub away: bool,
    pub lost: bool,
}

/// One connection's turn with a host.
pub(super) struct Turn {
    pub generation: u64,
    pub displaced: CancellationToken,
    pub released: CancellationToken,
    /// Turns when the connection before this one has let go.
    pub before: CancellationToken,
}

impl Host {
    pub fn new(id: HostId, principal: String, instance_id: String, name: String) -> Self {
        let state = State {
            agents: Vec::new(),
            arrived: false,
            listed: false,
            generation: 0,
            displaced: CancellationToken::new(),
            released: CancellationToken::new(),
            dial: None,
            also_at: None,
            away: false,
            lost: false,
        };
        Self {
            id,
            principal,
            instance_id,
            name,
            outbox: Arc::default(),
            held: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    pub fn key(&self) -> HostKey {
        HostKey {
            principal: self.principal.clone(),
            instance_id: self.instance_id.clone(),
        }
    }

    /// The next connection: the one before it is told to let go.
    pub fn claim(&self) -> Turn {
        let (displaced, released) = (CancellationToken::new(), CancellationToken::new());
        let mut state = self.state.lock();
        state.generation += 1;
        state.arrived = false;
        state.away = false;
        (state.dial, state.also_at) = (None, None);
        state.displaced.cancel();
        state.displaced = displaced.clone();
        let before = std::mem::replace(&mut state.released, released.clone());
        if state.generation == 1 {
            // There was none.
            before.cancel();
        }
        Turn {
            generation: state.generation,
            displaced,
            released,
            before,
        }
    }

    /// Its connection is over: it takes no offer until it dials again. False where another connection has it, or it is lost.
    pub fn leave(&self, displaced: &CancellationToken) -> bool {
        let mut state = self.state.lock();
        if displaced.is_cancelled() || state.lost {
            return false;
        }
        state.away = true;
        true
    }

    /// What it was offered and has neither accepted nor named as its own.
    pub fn withdraw_offers(&self, named: &[AssignmentRef]) {
        for activation in self.held() {
            let job_id = activation.job.job_id();
            let is_named =
                |of: &AssignmentRef| of.job_id == job_id && activation.is_named_by(&of.lease_token);
            if !named.iter().any(is_named) {
                // Nobody has said that it has begun: another host may have it at once.
                activation.withdraw();
            }
        }
    }

    /// It has dialled, and has yet to say what it has.
    pub fn is_arriving(&self) -> bool {
        let state = self.state.lock();
        !(state.arrived || state.away || state.lost)
    }

    fn takes_offers(&self) -> bool {
        let state = self.state.lock();
        state.arrived && !state.away && !state.lost
    }

    /// Offers an activation that is durable.
    pub fn assign(&self, activation: &Arc<Activation>, checkpoint: Option<Vec<u8>>) {
        activation.attach(&self.outbox, None);
        self.hold(activation.clone());
        // Looked at after it is held: it went, or dialled anew, while the store was waited
        // for, and either this withdraws the offer or whoever marked it does.
        if !self.takes_offers() {
            activation.withdraw();
            return;
        }
        let job = &activation.job;
        let (agent, version) = job.agent().split_once('@').unwrap_or((job.agent(), ""));
        let assign = Assign {
            of: activation.reference(),
            attempt: activation.attempt,
            agent: agent.into(),
            version: version.into(),
            input_json: job.input_json().into(),
            principal: job.principal().into(),
            traceparent: job.traceparent(),
            tracestate: job.tracestate().into(),
            baggage: job.baggage().into(),
            deadline: job.deadline(),
            lease_json: job.lease_json(),
            lease_expires_at: job.lease_expires_at(),
            parent_job_id: job.parent_id().map(Into::into),
            checkpoint,
            credentials_json: job.credentials_json(),
        };
        self.outbox.push(HostReply::Assign(Box::new(assign)));
    }

    pub fn hold(&self, activation: Arc<Activation>) {
        let job_id = activation.job.job_id().to_owned();
        self.held.lock().insert(job_id, activation);
    }

    /// The activation a message is about; none when the token is not its own.
    pub fn find(&self, of: &AssignmentRef) -> Option<Arc<Activation>> {
        let held = self.held.lock();
        let activation = held.get(&of.job_id)?;
        activation
            .is_named_by(&of.lease_token)
            .then(|| activation.clone())
    }

    /// Lets go of it, and says so unless the host knows.
    pub fn drop_activation(&self, activation: &Arc<Activation>, tell: Option<&str>) {
        let mut held = self.held.lock();
        let job_id = activation.job.job_id();
        if held
            .get(job_id)
            .is_some_and(|other| Arc::ptr_eq(other, activation))
        {
            held.remove(job_id);
        }
        drop(held);
        if let Some(reason) = tell {
            self.outbox.push(HostReply::Revoked {
                of: activation.reference(),
                reason: reason.into(),
            });
        }
    }

    pub fn held(&self) -> Vec<Arc<Activation>> {
        self.held.lock().values().cloned().collect()
    }

    /// Takes from it what it works on. What it has completed it keeps: the ack is due.
    pub fn take_away(&self, reason: &str) {
        for activation in self.held() {
            if activation.move_to(Phase::Lost(reason.into())) {
                self.drop_activation(&activation, Some(reason));
            }
        }
    }

    /// Everything it held goes its policy's way.
    pub fn lose_all(&self, reason: &str) {
        for activation in self.held() {
            activation.move_to(Phase::Lost(reason.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobContext;
    use crate::log::{Durability, Log, OpenOptions};
    use crate::protocol::host::LossPolicy;

    fn activation(dir: &std::path::Path) -> Arc<Activation> {
        let options = OpenOptions {
            dir: dir.into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        let job = JobContext::for_test(log);
        Arc::new(Activation::new(job, 1, LossPolicy::Fail))
    }

    fn host() -> Host {
        Host::new(1, "workers".into(), "h1".into(), "h1".into())
    }

    /// An offer that was stored while its host's connection ended waited for as long as an
    /// offer may wait, although nobody was there to answer it.
    #[tokio::test]
    async fn an_offer_to_a_host_that_went_meanwhile_is_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let host = host();
        let turn = host.claim();
        assert!(host.leave(&turn.displaced));
        let offered = activation(dir.path());
        host.assign(&offered, None);
        assert!(offered.is_lost() && !offered.has_started());
        assert!(host.outbox.pop().is_none());
        // It dials again and is offered as before; the connection before has no say.
        let _turn = host.claim();
        assert!(!host.leave(&turn.displaced));
        host.state.lock().arrived = true;
        let dir = tempfile::tempdir().unwrap();
        let offered = activation(dir.path());
        host.assign(&offered, None);
        assert!(!offered.is_over());
        assert!(matches!(host.outbox.pop(), Some(HostReply::Assign(_))));
    }

    /// An offer that the connection before had not told its host of waited until that of
    /// the next one was heard, which may be as long as the log does not answer.
    #[tokio::test]
    async fn what_a_host_that_dials_anew_does_not_name_is_offered_elsewhere_at_once() {
        let host = host();
        let _turn = host.claim();
        host.state.lock().arrived = true;
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [named, unheard, late] = dirs.each_ref().map(|dir| activation(dir.path()));
        host.assign(&named, None);
        host.withdraw_offers(&[named.reference()]);
        assert!(!named.is_over());
        host.assign(&unheard, None);
        let _turn = host.claim();
        host.withdraw_offers(&[]);
        assert!(unheard.is_lost() && !unheard.has_started());
        // Stored while the host has yet to say what it has.
        host.assign(&late, None);
        assert!(late.is_lost() && host.is_arriving());
    }

    /// A host that had dialled anew without naming a job was told of the end of that job's
    /// child, if the child ended while the log was waited for.
    #[tokio::test]
    async fn what_is_about_a_job_that_the_host_did_not_name_is_not_said() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [named, unnamed] = dirs.each_ref().map(|dir| activation(dir.path()));
        let host = host();
        for activation in [&named, &unnamed] {
            activation.move_to(Phase::Running);
            let of = activation.reference();
            let json = "[]".into();
            host.outbox
                .push_about(activation, HostReply::Credentials { of, json });
        }
        unnamed.move_to(Phase::Lost("the host no longer has the job".into()));
        match host.outbox.pop() {
            Some(HostReply::Credentials { of, .. }) => assert_eq!(of, named.reference()),
            told => panic!("{told:?}"),
        }
        assert!(host.outbox.pop().is_none());
    }

    /// A host was told that a job it had completed was not its own, ahead of the ack.
    #[tokio::test]
    async fn what_is_taken_away_is_said_and_what_is_completed_is_not_taken() {
        for last in [Phase::Completed, Phase::Running] {
            let dir = tempfile::tempdir().unwrap();
            let host = host();
            let activation = activation(dir.path());
            host.hold(activation.clone());
            activation.move_to(last.clone());
            host.take_away("the end");
            let kept = last == Phase::Completed;
            assert_eq!(host.find(&activation.reference()).is_some(), kept);
            assert_eq!(activation.is_lost(), !kept);
            let told = host.outbox.pop();
            assert_eq!(told.is_none(), kept, "{told:?}");
        }
    }
}
