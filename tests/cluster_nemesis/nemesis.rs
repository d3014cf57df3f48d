//! Faults, one after another, chosen by a seed. Each is for a bounded time, and leaves
//! some two replicas and some two servers whole or is over soon.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until, timeout};

use crate::cell::Cell;
use crate::fault::Fault;
use crate::history::History;
use crate::support::gateway::Mood;
use crate::support::link::State;
use crate::support::nats::Cluster;

/// The stream of a cell with the default name.
const STREAM: &str = "ARCP_LOG_arcpd";
/// For what was done to be undone by itself: a replica that is started again, a stream
/// that has a leader again.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

pub struct Nemesis {
    cell: Arc<Cell>,
    nats: Cluster,
    history: Arc<History>,
    random: StdRng,
    until: Instant,
    /// The two that replicas are run with.
    versions: [PathBuf; 2],
}

impl Nemesis {
    pub fn new(
        cell: Arc<Cell>,
        nats: Cluster,
        history: Arc<History>,
        seed: u64,
        time: Duration,
        previous: Option<PathBuf>,
    ) -> Self {
        let present = PathBuf::from(env!("CARGO_BIN_EXE_arcpd"));
        Self {
            cell,
            nats,
            history,
            random: StdRng::seed_from_u64(seed),
            until: Instant::now() + time,
            versions: [previous.unwrap_or_else(|| present.clone()), present],
        }
    }

    /// Until its time is over; returns with everything whole. Every kind comes once
    /// before one comes again.
    pub async fn run(mut self, kinds: &[Fault]) -> Cluster {
        let mut left = Vec::new();
        while Instant::now() < self.until {
            if left.is_empty() {
                left = kinds.to_vec();
            }
            if left.is_empty() {
                sleep_until(self.until).await;
                break;
            }
            let fault = left.swap_remove(self.random.random_range(0..left.len()));
            self.history.note("nemesis", &format!("{fault:?}"));
            self.history.count(format!("{fault:?}"));
            let began = Instant::now();
            self.strike(fault).await;
            self.history.note("nemesis", "over");
            println!(
                "{fault:?}, whole after {:.1} s",
                began.elapsed().as_secs_f64()
            );
            self.rest(200..2_000).await;
        }
        self.cell.heal_links();
        self.cell.ready().await;
        self.nats.until_current();
        self.nats.until_followed(STREAM).await;
        self.nats
    }

    /// For a time of a range, in milliseconds.
    async fn rest(&mut self, ms: std::ops::Range<u64>) {
        let ms = self.random.random_range(ms);
        sleep_until(Instant::now() + Duration::from_millis(ms)).await;
    }

    async fn strike(&mut self, fault: Fault) {
        let replica = self.random.random_range(0..3);
        let server = match fault {
            Fault::KillLeader | Fault::PauseLeader | Fault::KillReplicaAndLeader => {
                self.nats.leader_of(STREAM).await
            }
            Fault::CutServer
            | Fault::FreezeServer
            | Fault::MuteServer
            | Fault::DeafenServer
            | Fault::CutRoute
                if self.random.random() =>
            {
                self.nats.leader_of(STREAM).await
            }
            _ => self.random.random_range(0..3),
        };
        self.history
            .note("nemesis", &format!("replica {replica}, server {server}"));
        match fault {
            Fault::KillReplica => drop(self.end(replica, Signal::KILL).await),
            Fault::DrainReplica => self.drain(replica).await,
            Fault::RollReplica => self.roll(replica).await,
            Fault::PauseReplica => self.pause(replica, 4_000..8_000).await,
            Fault::PauseReplicaBriefly => self.pause(replica, 200..2_500).await,
            Fault::KillServer | Fault::KillLeader => {
                self.nats.nodes[server].kill9();
                self.rest(500..5_000).await;
                self.nats.nodes[server].restart();
            }
            Fault::PauseServer | Fault::PauseLeader => {
                self.nats.nodes[server].pause();
                self.rest(1_000..8_000).await;
                // Half of the time until the replicas do without it.
                if self.random.random() {
                    self.whole(fault).await;
                }
                self.nats.nodes[server].resume();
            }
            Fault::PauseServers => {
                let both = [server, (server + 1) % 3];
                both.iter().for_each(|at| self.nats.nodes[*at].pause());
                self.rest(2_000..8_000).await;
                both.iter().for_each(|at| self.nats.nodes[*at].resume());
            }
            Fault::CutLink | Fault::FreezeLink => {
                let state = match fault {
                    Fault::CutLink => State::Cut,
                    _ => State::Frozen,
                };
                let cell = self.cell.clone();
                let links = &cell.links[replica];
                let used = links.iter().find(|link| link.is_used());
                let link = used.unwrap_or(&links[server]);
                link.set(state);
                self.rest(500..4_000).await;
                self.whole(fault).await;
                link.set(State::Whole);
            }
            Fault::CutReplica => self.links(replica, State::Cut).await,
            Fault::FreezeReplica => self.links(replica, State::Frozen).await,
            Fault::CutRoute
            | Fault::CutServer
            | Fault::FreezeServer
            | Fault::MuteServer
            | Fault::DeafenServer => self.routes(fault, server).await,
            Fault::LoseQuorum => {
                let other = (server + 1) % 3;
                self.nats.nodes[server].kill9();
                self.nats.nodes[other].pause();
                self.rest(11_000..14_000).await;
                self.nats.nodes[other].resume();
                self.nats.nodes[server].restart();
            }
            Fault::StopGateway => self.gateway(Mood::Down).await,
            Fault::HangGateway => self.gateway(Mood::MakesAndHangs).await,
            Fault::KillReplicaAndLeader => {
                self.cell.replicas[replica].signal(Signal::KILL);
                self.nats.nodes[server].kill9();
                self.rest(1_000..6_000).await;
                self.nats.nodes[server].restart();
            }
        }
        // The next finds two of each whole: the last one's damage is undone by itself.
        self.nats.until_followed(STREAM).await;
        self.history.note("nemesis", "the stream is followed");
        self.whole(fault).await;
    }

    /// Waits until all replicas take work.
    async fn whole(&self, fault: Fault) {
        let ready = timeout(WHOLE_WITHIN, self.cell.all_ready()).await;
        if ready.is_err() {
            self.history.fault(format!("not all ready after {fault:?}"));
        }
    }

    /// One that ends is started again.
    async fn end(&mut self, replica: usize, signal: Signal) -> ExitStatus {
        let replica = &self.cell.replicas[replica];
        let next = replica.next_end();
        replica.signal(signal);
        next.await
    }

    async fn drain(&mut self, replica: usize) {
        // An earlier version, and one that has not begun to listen for it, is ended by the
        // signal.
        let was_ready = self.cell.replicas[replica].address().is_some();
        let ended = self.end(replica, Signal::TERM).await;
        if was_ready && !ended.success() {
            self.history
                .fault(format!("a drain of {replica} ended with {ended}"));
        }
    }

    /// To the version that it is not. The earlier one begins with an empty directory, as
    /// what a later one has opened is not for it.
    async fn roll(&mut self, replica: usize) {
        let cell = self.cell.clone();
        let [previous, present] = self.versions.clone();
        let rolled = &cell.replicas[replica];
        let back = rolled.exchange(&previous);
        match back {
            true => rolled.lose_file(),
            false => drop(rolled.exchange(&present)),
        }
        self.history
            .count(if back { "rolled back" } else { "rolled on" });
        self.drain(replica).await;
    }

    async fn pause(&mut self, replica: usize, ms: std::ops::Range<u64>) {
        self.cell.replicas[replica].signal(Signal::STOP);
        self.rest(ms).await;
        self.cell.replicas[replica].signal(Signal::CONT);
    }

    /// Between a server and the others: longer than an election, or not.
    async fn routes(&mut self, fault: Fault, server: usize) {
        let cell = self.cell.clone();
        let routes = &cell.routes;
        match fault {
            Fault::CutRoute => routes.between(server, (server + 1) % 3, State::Frozen),
            Fault::CutServer => routes.around(server, State::Cut),
            Fault::FreezeServer => routes.around(server, State::Frozen),
            Fault::MuteServer => routes.mute(server),
            _ => routes.deafen(server),
        }
        self.rest(1_000..9_000).await;
        routes.heal();
        self.history.note("nemesis", "healed");
    }

    async fn gateway(&mut self, mood: Mood) {
        self.cell.gateway.set(mood);
        self.rest(1_000..5_000).await;
        self.cell.gateway.set(Mood::Well);
    }

    /// All of a replica's.
    async fn links(&mut self, replica: usize, state: State) {
        let cell = self.cell.clone();
        let links = &cell.links[replica];
        links.iter().for_each(|link| link.set(state));
        self.rest(500..8_000).await;
        links.iter().for_each(|link| link.set(State::Whole));
    }
}
