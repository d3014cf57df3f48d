//! A replica among others: what it does when one of them comes, goes or is not heard of.
//!
//! [Presence](super::presence) is a message each second on a subject of its own, lost
//! without harm: it is never what decides. A replica that is not heard of for
//! some seconds is declared gone in the log, by whoever is first, who then has its jobs;
//! if it was only slow it finds that nothing it writes counts any more, and stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::elsewhere::{Others, displace, receive, report};
use super::peers::Peers;
use super::presence::{self, Present, Pulse};
use super::readers::Readers;
use crate::agent::host::Hosts;
use crate::job::now;
use crate::log::jetstream::{ClusterOptions, Joined, News};
use crate::log::{Command, Log, Outcome, ReplicaNumber};
use crate::protocol::TraceContext;
use crate::session::Sessions;
use crate::telemetry::Via;

/// Between two presences, when what hosts offer changes.
const PRESENCE_PAUSE: Duration = Duration::from_millis(20);
/// What is heard of the log at once.
const NEWS_MAX: usize = 256;

/// All that a replica needs to be one of several.
pub(in crate::server) struct Membership {
    pub joined: Joined,
    pub cluster: ClusterOptions,
    pub peers: Arc<Peers>,
    pub sessions: Arc<Sessions>,
    pub hosts: Arc<Hosts>,
    pub taking: Arc<tokio::sync::Mutex<()>>,
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
        if self.peers.is_newly_deaf() {
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
                self.peers.took_over();
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
