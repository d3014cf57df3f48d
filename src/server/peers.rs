//! The other replicas of the cell: who is there, what their hosts have room for, and
//! what this one does when one of them goes.
//!
//! Presence is a message each second on a subject of its own, lost without harm: it is
//! never what decides. A replica that is not heard of for [`LOST_AFTER`] is declared gone
//! in the log, by whoever is first, who then has its jobs; if it was only slow it finds
//! that nothing it writes counts any more, and stops.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::host::{Elsewhere, Eventually, Hosts, hash};
use crate::job::{Jobs, now};
use crate::log::jetstream::{Joined, News};
use crate::log::{Command, Log, Outcome, ReplicaNumber, StreamId};
use crate::protocol::TraceContext;
use crate::protocol::host::AssignmentRef;
use crate::session::Sessions;
use crate::telemetry::Via;

const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);
/// Silence after which a replica is declared gone.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// What a replica says of itself.
#[derive(Debug, Deserialize, Serialize)]
struct Presence {
    replica: ReplicaNumber,
    /// Free places by `name@version`.
    #[serde(default)]
    free: BTreeMap<String, u32>,
}

struct Peer {
    heard_at: Instant,
    free: BTreeMap<String, u32>,
}

#[derive(Default)]
pub(super) struct Peers {
    others: Mutex<HashMap<ReplicaNumber, Peer>>,
    takeovers: AtomicU64,
}

/// All that a replica needs to be one of several.
pub(super) struct Membership {
    pub joined: Joined,
    pub cluster: String,
    pub peers: Arc<Peers>,
    pub sessions: Arc<Sessions>,
    pub hosts: Arc<Hosts>,
    /// Turns when this replica may not go on; why is in the log.
    pub fenced: CancellationToken,
    pub taking: Arc<tokio::sync::Mutex<()>>,
}

impl Peers {
    /// Where a job of an agent should run when no host here has room: where most is.
    fn choose(&self, agent: &str, here: Option<u32>) -> Option<ReplicaNumber> {
        if here.is_some_and(|free| free > 0) {
            return None;
        }
        let others = self.others.lock();
        let with = others.iter().filter_map(|(replica, peer)| {
            let free = *peer.free.get(agent)?;
            Some((free, *replica))
        });
        let (free, replica) = with.max()?;
        // In line here is as good as in line there.
        (free > 0 || here.is_none()).then_some(replica)
    }

    fn heard(&self, presence: Presence) {
        let peer = Peer {
            heard_at: Instant::now(),
            free: presence.free,
        };
        self.others.lock().insert(presence.replica, peer);
    }

    /// One that is to be waited for from now on, or was just not listened to.
    fn expect(&self, replica: ReplicaNumber) {
        let mut others = self.others.lock();
        let peer = others.entry(replica).or_insert_with(|| Peer {
            heard_at: Instant::now(),
            free: BTreeMap::new(),
        });
        peer.heard_at = Instant::now();
    }

    fn forget(&self, replica: ReplicaNumber) {
        self.others.lock().remove(&replica);
    }

    /// Other replicas that are there, as far as it is known here.
    pub fn count(&self) -> usize {
        self.others.lock().len()
    }

    /// Replicas whose work went to this one.
    pub fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    fn silent(&self) -> Vec<ReplicaNumber> {
        let others = self.others.lock();
        let silent = others.iter();
        silent
            .filter(|(_, peer)| peer.heard_at.elapsed() > LOST_AFTER)
            .map(|(replica, _)| *replica)
            .collect()
    }
}

/// What hosts here ask of the other replicas.
struct Others {
    me: ReplicaNumber,
    peers: Arc<Peers>,
    hosts: Weak<Hosts>,
    jobs: Arc<Jobs>,
    log: Log,
    /// One at a time takes up jobs.
    taking: Arc<tokio::sync::Mutex<()>>,
}

impl Elsewhere for Others {
    fn room_for(&self, agent: &str) -> Option<ReplicaNumber> {
        let here = self.hosts.upgrade()?.free().get(agent).copied();
        self.peers.choose(agent, here)
    }

    fn give(&self, stream: StreamId, job_id: &str, to: ReplicaNumber) -> Eventually<()> {
        let (log, job_id) = (self.log.clone(), job_id.to_owned());
        Box::pin(async move {
            let token_hash = None;
            let given = Command::MoveJob {
                stream,
                job_id,
                to,
                token_hash,
            };
            if let Err(error) = log.execute(given).await {
                tracing::warn!(%error, to, "a job was not given away");
            }
        })
    }

    fn fetch(&self, held: Vec<AssignmentRef>) -> Eventually<Vec<String>> {
        let (me, log, jobs) = (self.me, self.log.clone(), self.jobs.clone());
        let taking = self.taking.clone();
        Box::pin(async move {
            let mut came = Vec::new();
            for of in held {
                match fetch(me, &log, &of).await {
                    Ok(true) => came.push(of.job_id),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, job_id = of.job_id, "a job was not fetched");
                    }
                }
            }
            if !came.is_empty() {
                take_up(me, &jobs, &taking).await;
            }
            came
        })
    }
}

async fn fetch(
    me: ReplicaNumber,
    log: &Log,
    of: &AssignmentRef,
) -> Result<bool, crate::log::Error> {
    log.caught_up().await?;
    let Some(job) = log.job(&of.job_id).await? else {
        return Ok(false);
    };
    if log.owner(job.stream).await?.is_none_or(|owner| owner == me) {
        return Ok(false);
    }
    let taken = Command::MoveJob {
        stream: job.stream,
        job_id: job.id,
        to: me,
        token_hash: Some(hash(&of.lease_token)),
    };
    Ok(log.execute(taken).await? == Outcome::Done)
}

async fn take_up(me: ReplicaNumber, jobs: &Jobs, taking: &tokio::sync::Mutex<()>) {
    let _one = taking.lock().await;
    match jobs.inherit(me).await {
        Ok(0) => {}
        Ok(ended) => tracing::warn!(jobs = ended, "ended jobs of a replica that is gone"),
        Err(error) => tracing::error!(%error, "jobs were not taken up"),
    }
}

impl Membership {
    /// Runs until this replica is fenced or its log ends.
    pub async fn run(mut self) {
        let others = Arc::new(Others {
            me: self.joined.number,
            peers: self.peers.clone(),
            hosts: Arc::downgrade(&self.hosts),
            jobs: self.sessions.jobs.clone(),
            log: self.log().clone(),
            taking: self.taking.clone(),
        });
        self.hosts.set_elsewhere(others.clone());
        (self.sessions.jobs).place_by(move |agent| others.room_for(agent));
        if let Err(error) = self.look_around().await {
            tracing::error!(%error, "the other replicas are not known");
        }
        let subject = format!("arcp.{}.presence", self.cluster);
        let mut heard = match self.joined.client.subscribe(subject.clone()).await {
            Ok(heard) => heard,
            Err(error) => {
                tracing::error!(%error, "cannot listen to the other replicas");
                return self.fenced.cancel();
            }
        };
        let mut tick = tokio::time::interval(PRESENCE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticked_at = Instant::now();
        loop {
            tokio::select! {
                news = self.joined.news.recv() => match news {
                    Some(news) => if !self.on(news).await {
                        return self.fenced.cancel();
                    },
                    None => return,
                },
                Some(message) = heard.next() => {
                    match serde_json::from_slice::<Presence>(&message.payload) {
                        Ok(presence) if presence.replica == self.joined.number => {}
                        Ok(presence) => self.peers.heard(presence),
                        Err(error) => tracing::warn!(%error, "a presence that cannot be read"),
                    }
                }
                _ = tick.tick() => {
                    let late = ticked_at.elapsed() > 2 * PRESENCE_INTERVAL;
                    ticked_at = Instant::now();
                    self.tick(&subject, late).await;
                }
            }
        }
    }

    fn log(&self) -> &Log {
        &self.sessions.log
    }

    /// Those that the log has, heard of or not.
    async fn look_around(&self) -> Result<(), crate::log::Error> {
        for replica in self.log().replicas().await? {
            if replica.gone {
                self.inherit(replica.number).await;
            } else if replica.number != self.joined.number {
                self.peers.expect(replica.number);
            }
        }
        Ok(())
    }

    async fn tick(&self, subject: &str, late: bool) {
        let presence = Presence {
            replica: self.joined.number,
            free: self.hosts.free(),
        };
        if let Ok(payload) = serde_json::to_vec(&presence) {
            let said = self
                .joined
                .client
                .publish(subject.to_owned(), payload.into());
            if let Err(error) = said.await {
                tracing::debug!(%error, "presence was not said");
            }
        }
        let silent = self.peers.silent();
        if late || !self.log().healthy() {
            // Whoever does not listen cannot say who is silent.
            silent
                .into_iter()
                .for_each(|replica| self.peers.expect(replica));
            return;
        }
        for replica in silent {
            tracing::warn!(replica, "a replica is not heard of; its work is taken over");
            self.inherit(replica).await;
        }
    }

    /// In the log; what follows from it comes as news.
    async fn inherit(&self, replica: ReplicaNumber) {
        let at_ms = now().0;
        match self
            .log()
            .execute(Command::Inherit { replica, at_ms })
            .await
        {
            Ok(Outcome::Done) => {}
            // Another was first.
            Ok(_) => self.peers.forget(replica),
            Err(error) => tracing::warn!(%error, replica, "a replica was not taken over"),
        }
    }

    /// False when this replica has to stop.
    async fn on(&self, news: News) -> bool {
        let me = self.joined.number;
        match news {
            News::Joined { own: true, .. } => {}
            News::Joined { replica, .. } => self.peers.expect(replica),
            News::Left(replica) => self.inherit(replica).await,
            News::Inherited(replica) => {
                self.peers.forget(replica);
                self.peers.takeovers.fetch_add(1, Ordering::Relaxed);
                self.take_up().await;
            }
            News::Moved { to, .. } if to == me => self.take_up().await,
            News::Moved { job_id, .. } => self.sessions.jobs.let_go(&job_id),
            News::SessionTaken(id) => self.sessions.taken_elsewhere(&id),
            News::Delegated { session_id, stream } => self.sessions.delegated(&session_id, stream),
            News::CancelAsked { job_id } => {
                let nobody = TraceContext::default();
                self.sessions.jobs.cancel(&job_id, &nobody, Via::Inside);
            }
            News::Agents(agents) => self.hosts.remember(&agents),
            News::Fenced => {
                tracing::error!("another replica has taken over from this one; it stops");
                return false;
            }
            News::Lost(why) => {
                tracing::error!(why, "this replica cannot follow the log; it stops");
                return false;
            }
        }
        true
    }

    async fn take_up(&self) {
        take_up(self.joined.number, &self.sessions.jobs, &self.taking).await;
    }
}
