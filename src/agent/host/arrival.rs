//! How a host comes, or comes back: who it is, what it offers, and which of the
//! jobs it still holds are its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::Elsewhere;
use super::activation::{Activation, Phase};
use super::connection::{Connection, Incoming, taken_over};
use super::process::{Host, Turn};
use super::registry::Hosts;
use crate::job::now;
use crate::log::{Command, HostedAgentRow, Log, Outcome};
use crate::protocol::host::{
    AssignmentRef, HostRefusal, HostReply, HostRequest, Kept, Register, Registered,
};

/// Largest message a host may send.
const MESSAGE_BYTES_MAX: u32 = 1_000_000;
/// Reports of one assignment, and their bytes, that may wait for an ack.
const UNACKED_REPORTS_MAX: u32 = 4_096;
const UNACKED_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// For jobs that have come with a host to be taken up here: a machine with much to do takes
/// its time.
const TAKE_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// A host of a runtime that goes away comes back after a part of this.
const RECONNECT_MAX: Duration = Duration::from_secs(5);

fn no_store(_: crate::log::Error) -> HostRefusal {
    HostRefusal::Unavailable("the store is not available".into())
}

/// Well before it would be given up.
pub(super) fn away_max(hosts: &Hosts) -> Duration {
    RECONNECT_MAX.min(hosts.options.lost_after / 2)
}

/// Who dials, its turn taken: from here on nobody counts it as gone.
pub(super) async fn open(
    hosts: &Arc<Hosts>,
    token: &str,
    inbound: &mut Incoming,
) -> Result<(Arc<Host>, Turn, Register), HostRefusal> {
    let unauthenticated =
        || HostRefusal::Unauthenticated("authorization: the token is not valid".into());
    let principal = hosts.rights.principal(token).ok_or_else(unauthenticated)?;
    let first = tokio::time::timeout(hosts.options.lost_after, inbound.next()).await;
    let register = match first {
        Ok(Some(Ok(HostRequest::Register(register)))) => register,
        Ok(Some(Ok(_))) => {
            let text = "message: the first must be register";
            return Err(HostRefusal::Invalid(text.into()));
        }
        Ok(Some(Err(invalid))) => return Err(HostRefusal::Invalid(invalid.message)),
        Ok(None) => {
            return Err(HostRefusal::Invalid(
                "register: the stream ended before it".into(),
            ));
        }
        Err(_) => {
            return Err(HostRefusal::Invalid(
                "register: it did not come in time".into(),
            ));
        }
    };
    if hosts.drain.is_begun() {
        let departure = hosts.drain.departure(away_max(hosts));
        return Err(HostRefusal::Away(departure));
    }
    hosts.check(&principal, &register)?;
    let (host, turn) = hosts.host_of(&principal, &register);
    Ok((host, turn, register))
}

impl Connection {
    /// That it has dialled, the number of which is returned, or 0, and what it offers: its agents
    /// are its principal's, also after a restart and at the other replicas.
    pub async fn note(&self, register: &Register, log: &Log) -> Result<u64, HostRefusal> {
        let rows = register.agents.iter().map(|agent| HostedAgentRow {
            name: agent.name.clone(),
            version: agent.version.clone(),
            principal: self.host.principal.clone(),
            seen_at_ms: now().0,
            instance_id: self.host.instance_id.clone(),
        });
        let kept = log.execute(Command::KeepAgents(rows.collect())).await;
        match kept.map_err(no_store)? {
            Outcome::Dialled(number) => Ok(number),
            _ => Ok(0),
        }
    }

    /// Jobs of it that another replica has are to be here before it is told what to keep:
    /// while that is not sure it is told nothing, and dials again.
    pub async fn fetch(
        &self,
        elsewhere: &dyn Elsewhere,
        register: &Register,
        dial: u64,
    ) -> Result<(), HostRefusal> {
        let held = register.resume.iter();
        let held = held.filter(|of| self.host.find(of).is_none()).cloned();
        let held: Vec<_> = held.collect();
        if held.is_empty() {
            return Ok(());
        }
        // To its end, whatever becomes of this connection.
        let fetched = tokio::spawn(elsewhere.fetch(held, dial)).await;
        let not_here = || HostRefusal::Unavailable("its jobs are not here yet; dial again".into());
        // Cut short: the runtime ends.
        let came = fetched.map_err(|_| not_here())?.map_err(no_store)?;
        // Taken up, they wait for their host: a moment after they have come.
        let waiting = self.hosts.until_orphans(&came);
        let waited = tokio::time::timeout(TAKE_UP_TIMEOUT, waiting).await;
        waited.map_err(|_| {
            tracing::warn!(jobs = ?came, "jobs that were fetched do not wait for their host");
            not_here()
        })
    }

    /// Of two dials at two replicas the later one gets the jobs; this one may not have got
    /// them, and the others are not told that the host is here without them.
    pub async fn is_last(&self, dial: u64, log: &Log) -> Result<(), HostRefusal> {
        let last = log.is_last_dial(self.host.key(), dial).await;
        match dial == 0 || last.map_err(no_store)? {
            true => Ok(()),
            false => Err(taken_over()),
        }
    }

    /// What the process still holds is its own again, or to be dropped; what it
    /// does not know of any more is lost.
    pub fn resume(&self, register: &Register) -> Registered {
        let options = &self.hosts.options;
        let (mut keep, mut drop) = (Vec::new(), Vec::new());
        for of in &register.resume {
            match self.take_back(of) {
                Some(activation) => keep.push(Kept {
                    of: of.clone(),
                    acked_seq: activation.acked(),
                    cancelled: activation.job.is_cancelled(),
                }),
                None => drop.push(of.clone()),
            }
        }
        self.hosts.disown(&self.host);
        for activation in self.host.held() {
            let kept = keep
                .iter()
                .any(|kept| kept.of.job_id == activation.job.job_id());
            if !kept {
                activation.move_to(Phase::Lost("the host no longer has the job".into()));
            }
        }
        Registered {
            host_id: self.host.id.to_string(),
            heartbeat_interval: options.heartbeat_interval,
            lost_after: options.lost_after,
            accept_within: options.accept_within,
            message_bytes_max: MESSAGE_BYTES_MAX,
            unacked_reports_max: UNACKED_REPORTS_MAX,
            unacked_bytes_max: UNACKED_BYTES_MAX,
            keep,
            drop,
        }
    }

    fn take_back(&self, of: &AssignmentRef) -> Option<Arc<Activation>> {
        let found = self.host.find(of);
        let activation = match found {
            Some(activation) => activation,
            None => {
                let orphan = self.hosts.adopt(&self.host, of)?;
                self.host.hold(orphan.clone());
                // Its place is taken before anybody in line is served.
                let place = self.hosts.occupied(&self.host, orphan.job.agent());
                orphan.set_adopted_by(place);
                if orphan.is_over() {
                    orphan.forsake();
                    return None;
                }
                orphan
            }
        };
        activation.attach(&self.host.outbox, Some(&of.lease_token));
        activation.move_to(Phase::Running);
        // They may have been replaced while nobody could be told.
        if let Some(json) = activation.job.credentials_json() {
            let of = of.clone();
            let reply = HostReply::Credentials { of, json };
            self.host.outbox.push_about(&activation, reply);
        }
        (!activation.is_over()).then_some(activation)
    }
}
