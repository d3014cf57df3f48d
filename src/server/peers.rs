//! The other replicas of the cell: who is there, what their hosts have room for, and
//! what this one does when one of them goes.
//!
//! [Presence](super::presence) is a message each second on a subject of its own, lost
//! without harm: it is never what decides. A replica that is not heard of for [`LOST_AFTER`] is declared gone
//! in the log, by whoever is first, who then has its jobs; if it was only slow it finds
//! that nothing it writes counts any more, and stops.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::presence::{self, Presence, Present, Pulse};
use super::readers::Readers;
use crate::agent::host::{Arrival, Elsewhere, Eventually, Hosts, hash};
use crate::job::{Jobs, now};
use crate::log::jetstream::{ClusterOptions, Joined, News};
use crate::log::{Command, HostKey, Log, Outcome, ReplicaNumber, StreamId};
use crate::protocol::TraceContext;
use crate::protocol::host::AssignmentRef;
use crate::session::Sessions;
use crate::telemetry::Via;

/// Between two presences, when what hosts offer changes.
const PRESENCE_PAUSE: Duration = Duration::from_millis(20);
/// What is heard of the log at once.
const NEWS_MAX: usize = 256;
/// Silence after which a replica is declared gone.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// A replica that has not heard itself for so long may have missed the others too.
const UNHEARD_MAX: Duration = Duration::from_secs(2);

/// That a host has come to a replica.
#[derive(Debug, Deserialize, Serialize)]
struct Came {
    replica: ReplicaNumber,
    principal: String,
    instance_id: String,
    #[serde(default)]
    dial: u64,
}

struct Peer {
    heard_at: Instant,
    free: BTreeMap<String, u32>,
}

/// That this replica hears itself: so far back it could have heard the others.
#[derive(Clone, Copy)]
struct Hearing {
    since: Instant,
    last: Instant,
}

#[derive(Default)]
pub(super) struct Peers {
    others: Mutex<HashMap<ReplicaNumber, Peer>>,
    /// When any of them was heard of.
    heard_at: Mutex<Option<Instant>>,
    hearing: Mutex<Option<Hearing>>,
    /// Whether it was without hearing itself when it last looked.
    deaf: AtomicBool,
    takeovers: AtomicU64,
    /// A replica has room that had none.
    more: Notify,
}

/// All that a replica needs to be one of several.
pub(super) struct Membership {
    pub joined: Joined,
    pub cluster: ClusterOptions,
    pub peers: Arc<Peers>,
    pub sessions: Arc<Sessions>,
    pub hosts: Arc<Hosts>,
    pub taking: Arc<tokio::sync::Mutex<()>>,
}

impl Peers {
    /// Where a job of an agent should run, if not here: where most room is, by what was
    /// said last and what was sent there since. A place here is as good as one there, and
    /// so is the line.
    fn choose(&self, agent: &str, here: Option<u32>) -> Option<ReplicaNumber> {
        let mut others = self.others.lock();
        let with = others.iter_mut();
        let with = with.filter_map(|(replica, peer)| Some((peer.free.get_mut(agent)?, *replica)));
        let (free, replica) = with.max_by_key(|(free, replica)| (**free, *replica))?;
        if here.is_some_and(|here| here >= *free) {
            return None;
        }
        *free = free.saturating_sub(1);
        Some(replica)
    }

    /// Whether it offers other agents than it did.
    pub fn heard(&self, presence: Presence) -> bool {
        let (replica, free) = (presence.replica, presence.free);
        let mut others = self.others.lock();
        let before = others.get(&replica);
        let had = |agent: &str| before.and_then(|peer| peer.free.get(agent)).copied();
        let more = (free.iter()).any(|(agent, free)| *free > 0 && had(agent).unwrap_or(0) == 0);
        let same = before.is_some_and(|peer| peer.free.keys().eq(free.keys()));
        let heard_at = Instant::now();
        *self.heard_at.lock() = Some(heard_at);
        others.insert(replica, Peer { heard_at, free });
        drop(others);
        if more {
            self.more.notify_waiters();
        }
        !same
    }

    /// What this replica says of itself comes back to it as to the others.
    pub fn heard_own(&self) {
        let now = Instant::now();
        let mut hearing = self.hearing.lock();
        let since = match *hearing {
            Some(before) if before.last.elapsed() <= UNHEARD_MAX => before.since,
            _ => now,
        };
        *hearing = Some(Hearing { since, last: now });
    }

    /// Whether it does not: then it may not be heard, and what it does not hear says nothing.
    fn is_deaf(&self) -> bool {
        let hearing = *self.hearing.lock();
        hearing.is_some_and(|hearing| hearing.last.elapsed() > LOST_AFTER)
    }

    /// `name@version` of what their hosts offer.
    pub fn offered(&self) -> BTreeSet<String> {
        let others = self.others.lock();
        others
            .values()
            .flat_map(|peer| peer.free.keys().cloned())
            .collect()
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

    /// Whether none of them is heard of that were.
    fn all_silent(&self) -> bool {
        let heard_at = *self.heard_at.lock();
        self.count() > 0 && heard_at.is_some_and(|at| at.elapsed() > LOST_AFTER)
    }

    /// Replicas whose work went to this one.
    pub fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    /// While this one heard itself, not before: its connection may have been down.
    fn silent(&self) -> Vec<ReplicaNumber> {
        let since = (*self.hearing.lock()).map(|hearing| hearing.since);
        let others = self.others.lock();
        let silent = others.iter();
        let waited = |peer: &Peer| since.map_or(peer.heard_at, |since| since.max(peer.heard_at));
        silent
            .filter(|(_, peer)| waited(peer).elapsed() > LOST_AFTER)
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
    client: async_nats::Client,
    came: String,
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
        Box::pin(async move { peers.more.notified().await })
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
async fn receive(
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

fn report(taken_up: Result<usize, crate::log::Error>) {
    match taken_up {
        Ok(0) => {}
        Ok(ended) => tracing::warn!(jobs = ended, "ended jobs of a replica that is gone"),
        Err(error) => tracing::error!(%error, "jobs were not taken up"),
    }
}

/// Lets go of hosts that are at another replica now.
async fn displace(mut came: async_nats::Subscriber, me: ReplicaNumber, hosts: Arc<Hosts>) {
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

impl Membership {
    /// Before a client or a host is heard: from then on it may be about another replica.
    pub fn prepare(&self) {
        let others = Arc::new(Others {
            me: self.joined.number,
            peers: self.peers.clone(),
            hosts: Arc::downgrade(&self.hosts),
            jobs: self.sessions.jobs.clone(),
            log: self.log().clone(),
            taking: self.taking.clone(),
            client: self.joined.client.clone(),
            came: self.arrivals(),
        });
        self.hosts.set_elsewhere(others.clone());
        (self.sessions.jobs).place_by(move |agent| {
            let here = others.hosts.upgrade()?.free_of(agent);
            others.peers.choose(agent, here)
        });
    }

    fn arrivals(&self) -> String {
        format!("arcp.{}.hosts", self.cluster.name)
    }

    /// Who knows what sessions at other replicas read.
    pub fn readers(&self) -> Readers {
        Readers {
            me: self.joined.number,
            subject: format!("arcp.{}.trim", self.cluster.name),
            client: self.joined.client.clone(),
            log: self.log().clone(),
        }
    }

    fn present(&self) -> Present {
        Present {
            me: self.joined.number,
            subject: format!("arcp.{}.presence", self.cluster.name),
            peers: self.peers.clone(),
            hosts: self.hosts.clone(),
            client: self.joined.client.clone(),
        }
    }

    /// Runs until this replica is fenced or its log ends.
    pub async fn run(mut self) {
        let present = self.present();
        // Before all that takes its time.
        let _pulse = Pulse::start(present.clone(), self.cluster.clone());
        let _listening = match self.listen(&present).await {
            Ok(listening) => listening,
            Err(error) => {
                tracing::error!(%error, "cannot listen to the other replicas");
                return self.joined.fenced.cancel();
            }
        };
        if let Err(error) = self.look_around().await {
            tracing::error!(%error, "the other replicas are not known");
        }
        self.peers.heard_own();
        let mut tick = tokio::time::interval(presence::INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticked_at = Instant::now();
        let hosts = self.hosts.clone();
        let mut news = Vec::new();
        // When what hosts here offer is said again, before its time.
        let mut due: Option<Instant> = None;
        let mut said_at = Instant::now();
        loop {
            let said_next = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                count = self.joined.news.recv_many(&mut news, NEWS_MAX) => match count {
                    0 => return,
                    _ => if !self.on_all(news.drain(..)).await {
                        return self.joined.fenced.cancel();
                    },
                },
                () = hosts.changed(), if due.is_none() => {
                    due = Some(said_at + PRESENCE_PAUSE);
                }
                () = said_next => {
                    (due, said_at) = (None, Instant::now());
                    present.say(&self.joined.client).await;
                }
                _ = tick.tick() => {
                    let late = ticked_at.elapsed() > 2 * presence::INTERVAL;
                    ticked_at = Instant::now();
                    present.say(&self.joined.client).await;
                    self.look_whether_cut_off();
                    self.look_for_silent(late).await;
                }
            }
        }
    }

    /// Apart, so that what is known of the others, and what they ask, does not wait for
    /// what is done here.
    async fn listen(
        &self,
        present: &Present,
    ) -> Result<[AbortOnDropHandle<()>; 3], async_nats::SubscribeError> {
        let (client, readers) = (&self.joined.client, self.readers());
        let heard = client.subscribe(present.subject.clone()).await?;
        let came = client.subscribe(self.arrivals()).await?;
        let asked = client.subscribe(readers.subject.clone()).await?;
        let displacing = displace(came, self.joined.number, self.hosts.clone());
        let answering = readers.answer(asked, self.sessions.hub.clone());
        Ok([
            tokio::spawn(present.clone().listen(heard)),
            tokio::spawn(displacing),
            tokio::spawn(answering),
        ]
        .map(AbortOnDropHandle::new))
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

    /// Then the others have this one's work by now, or there is no log at all: nobody who
    /// is here is told anything more.
    fn look_whether_cut_off(&self) {
        let cut_off = !self.log().healthy() && self.peers.all_silent();
        if self.sessions.drain.set_cut_off(cut_off) {
            match cut_off {
                true => tracing::error!(
                    "cut off from the log and from all other replicas; clients and hosts are \
                     told to go elsewhere"
                ),
                false => tracing::info!("the log is heard of again"),
            }
        }
    }

    async fn look_for_silent(&self, late: bool) {
        let silent = self.peers.silent();
        let deaf = self.peers.is_deaf();
        if !self.peers.deaf.swap(deaf, Ordering::Relaxed) && deaf {
            let subject = &self.present().subject;
            tracing::error!(
                subject,
                "what this replica says of itself does not come back; may its user publish and \
                 subscribe there? The others may give it up"
            );
        }
        if late || deaf || !self.log().healthy() {
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
            Ok(_) => self.forget(replica),
            Err(error) => tracing::warn!(%error, replica, "a replica was not taken over"),
        }
    }

    fn forget(&self, replica: ReplicaNumber) {
        self.peers.forget(replica);
        self.hosts.forget_elsewhere(replica);
        self.hosts.set_elsewhere_offered(self.peers.offered());
    }

    /// In order; jobs that come are begun together.
    async fn on_all(&self, all: impl Iterator<Item = News>) -> bool {
        let mut came = Vec::new();
        for news in all {
            match news {
                News::Moved { to, job_id } if to == self.joined.number => came.push(job_id),
                news => {
                    self.receive(std::mem::take(&mut came)).await;
                    if !self.on(news).await {
                        return false;
                    }
                }
            }
        }
        self.receive(came).await;
        true
    }

    async fn receive(&self, ids: Vec<String>) {
        receive(self.joined.number, &self.sessions.jobs, &self.taking, ids).await;
    }

    /// False when this replica has to stop.
    async fn on(&self, news: News) -> bool {
        match news {
            News::Joined { own: true, .. } => {}
            News::Joined { replica, .. } => self.peers.expect(replica),
            News::Left(replica) => self.inherit(replica).await,
            News::Inherited(replica) => {
                self.forget(replica);
                self.peers.takeovers.fetch_add(1, Ordering::Relaxed);
                let _one = self.taking.lock().await;
                report(self.sessions.jobs.inherit(self.joined.number).await);
            }
            News::Moved { job_id, .. } => self.sessions.jobs.let_go(&job_id),
            News::SessionTaken(id) => self.sessions.taken_elsewhere(&id).await,
            News::Delegated { session_id, stream } => self.sessions.delegated(&session_id, stream),
            News::CancelAsked { job_id } => {
                let nobody = TraceContext::default();
                self.sessions.jobs.cancel(&job_id, &nobody, Via::Inside);
            }
            News::Agents(agents) => self.hosts.remember(&agents),
            News::Fenced => return false,
            News::Lost(why) => {
                tracing::error!(why, "this replica cannot follow the log; it stops");
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: ReplicaNumber = 2;

    async fn pass(time: Duration, mut each: impl FnMut()) {
        for _ in 0..time.as_secs() {
            tokio::time::advance(presence::INTERVAL).await;
            each();
        }
    }

    fn presence() -> Presence {
        Presence {
            replica: OTHER,
            free: BTreeMap::new(),
        }
    }

    /// It heard itself again a moment before the other, which then had been silent for too
    /// long: a replica that had not stood still for a moment was given up.
    #[tokio::test(start_paused = true)]
    async fn who_was_deaf_waits_anew_for_the_others() {
        let peers = Peers::default();
        peers.heard(presence());
        pass(LOST_AFTER, || {
            peers.heard_own();
            peers.heard(presence());
        })
        .await;
        // Its connection is down.
        pass(2 * LOST_AFTER, || {}).await;
        assert!(peers.is_deaf());
        peers.heard_own();
        assert!(!peers.is_deaf() && peers.silent().is_empty());
        pass(LOST_AFTER, || peers.heard_own()).await;
        assert!(peers.silent().is_empty());
        pass(presence::INTERVAL, || peers.heard_own()).await;
        assert_eq!(peers.silent(), [OTHER]);
    }
}
