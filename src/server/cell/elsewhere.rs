//! What hosts here ask of the other replicas: room for a job, and the jobs that a host has
//! brought along.

use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::peers::Peers;
use crate::agent::host::{Arrival, Elsewhere, Eventually, Hosts, hash};
use crate::job::Jobs;
use crate::log::{Command, HostKey, Log, Outcome, ReplicaNumber, StreamId};
use crate::protocol::host::AssignmentRef;

/// That a host has come to a replica.
#[derive(Debug, Deserialize, Serialize)]
struct Came {
    replica: ReplicaNumber,
    principal: String,
    instance_id: String,
    #[serde(default)]
    dial: u64,
}

/// What hosts here ask of the other replicas.
pub(super) struct Others {
    pub me: ReplicaNumber,
    pub peers: Arc<Peers>,
    pub hosts: Weak<Hosts>,
    pub jobs: Arc<Jobs>,
    pub log: Log,
    /// One at a time takes up jobs.
    pub taking: Arc<tokio::sync::Mutex<()>>,
    pub client: async_nats::Client,
    pub came: String,
}

impl Elsewhere for Others {
    fn came(&self, host: HostKey, dial: u64) -> Eventually<()> {
        let came = Came {
            replica: self.me,
            principal: host.principal,
            instance_id: host.instance_id,
            dial,
        };
        let (client, subject) = (self.client.clone(), self.came.clone());
        Box::pin(async move {
            let Ok(payload) = serde_json::to_vec(&came) else {
                return;
            };
            // Who does not hear it finds out by the host's silence.
            if let Err(error) = client.publish(subject, payload.into()).await {
                tracing::debug!(%error, "that a host came was not said");
            }
        })
    }

    fn room_for(&self, agent: &str) -> Option<ReplicaNumber> {
        let here = self.hosts.upgrade()?.free_of(agent);
        // What waits here is about to be served.
        match here {
            Some(1..) => None,
            here => self.peers.choose(agent, here),
        }
    }

    fn more_room(&self) -> Eventually<()> {
        let peers = self.peers.clone();
        Box::pin(async move { peers.more_room().await })
    }

    fn give(&self, stream: StreamId, job_id: &str, to: ReplicaNumber) -> Eventually<bool> {
        let (log, job_id) = (self.log.clone(), job_id.to_owned());
        Box::pin(async move {
            let token_hash = None;
            let given = Command::MoveJob {
                stream,
                job_id,
                to,
                token_hash,
                dial: None,
            };
            // What was said of it here is written before it is another's.
            if log.settled().await.is_err() {
                return false;
            }
            match log.execute(given).await {
                Ok(outcome) => outcome == Outcome::Done,
                Err(error) => {
                    // It may have gone nevertheless, and is let go of then.
                    tracing::warn!(%error, to, "a job was not given away");
                    false
                }
            }
        })
    }

    fn fetch(
        &self,
        held: Vec<AssignmentRef>,
        dial: u64,
    ) -> Eventually<Result<Vec<String>, crate::log::Error>> {
        let (me, log, jobs) = (self.me, self.log.clone(), self.jobs.clone());
        let taking = self.taking.clone();
        Box::pin(async move {
            let (mut came, mut failed) = (Vec::new(), None);
            for of in held {
                match fetch(me, &log, &of, dial).await {
                    Ok(true) => came.push(of.job_id),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, job_id = of.job_id, "a job was not fetched");
                        // The next one would be waited for as long.
                        failed = Some(error);
                        break;
                    }
                }
            }
            receive(me, &jobs, &taking, came.clone()).await;
            failed.map_or(Ok(came), Err)
        })
    }
}

async fn fetch(
    me: ReplicaNumber,
    log: &Log,
    of: &AssignmentRef,
    dial: u64,
) -> Result<bool, crate::log::Error> {
    log.caught_up().await?;
    let Some(job) = log.job(&of.job_id).await? else {
        return Ok(false);
    };
    match log.owner(job.stream).await? {
        None => return Ok(false),
        // It is this replica's and may not have been begun yet. What another host has by now
        // will never wait for this one.
        Some(owner) if owner == me => {
            let rows = log.hosted_jobs(vec![job.stream]).await?;
            let token_hash = Some(hash(&of.lease_token));
            return Ok(rows.iter().any(|row| row.token_hash == token_hash));
        }
        Some(_) => {}
    }
    let taken = Command::MoveJob {
        stream: job.stream,
        job_id: job.id,
        to: me,
        token_hash: Some(hash(&of.lease_token)),
        dial: (dial > 0).then_some(dial),
    };
    Ok(log.execute(taken).await? == Outcome::Done)
}

/// Begins what was given to this replica.
pub(super) async fn receive(
    me: ReplicaNumber,
    jobs: &Jobs,
    taking: &tokio::sync::Mutex<()>,
    ids: Vec<String>,
) {
    if !ids.is_empty() {
        let _one = taking.lock().await;
        report(jobs.receive(me, ids).await);
    }
}

pub(super) fn report(taken_up: Result<usize, crate::log::Error>) {
    match taken_up {
        Ok(0) => {}
        Ok(ended) => tracing::warn!(jobs = ended, "ended jobs of a replica that is gone"),
        Err(error) => tracing::error!(%error, "jobs were not taken up"),
    }
}

/// Lets go of hosts that are at another replica now.
pub(super) async fn displace(
    mut came: async_nats::Subscriber,
    me: ReplicaNumber,
    hosts: Arc<Hosts>,
) {
    while let Some(message) = came.next().await {
        match serde_json::from_slice::<Came>(&message.payload) {
            Ok(came) if came.replica == me => {}
            Ok(came) => {
                let (replica, dial) = (came.replica, came.dial);
                let (principal, instance_id) = (came.principal, came.instance_id);
                let host = HostKey {
                    principal,
                    instance_id,
                };
                hosts.came_elsewhere(&host, Arrival { replica, dial });
            }
            Err(error) => tracing::warn!(%error, "an arrival that cannot be read"),
        }
    }
}
