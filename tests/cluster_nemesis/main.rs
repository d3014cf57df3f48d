//! Clients and agent hosts that go from replica to replica of a cell while its parts are
//! killed, paused, cut off and drained at random, for as long as `ARCPD_NEMESIS_SEC` says:
//! what every client was told holds in the end, at every replica. The seed is printed;
//! `ARCPD_NEMESIS_SEED` gives everyone the same choices again, and `ARCPD_NEMESIS_FAULTS`
//! leaves only some kinds of faults.

#[path = "../support/mod.rs"]
mod support;

mod budgets;
mod caller;
mod cell;
mod checker;
mod client;
mod fault;
mod files;
mod held;
mod history;
mod host;
mod jobs;
mod keys;
mod lead;
mod line;
mod nemesis;
mod replica;
mod sessions;
mod verify;
mod work;

use std::sync::Arc;
use std::time::Duration;

use caller::Caller;
use cell::Cell;
use client::Client;
use fault::Fault;
use history::History;
use host::Host;
use nemesis::Nemesis;
use tokio::task::JoinSet;
use work::{HOSTED, Shared};

const CLIENTS: u64 = 4;
const CALLERS: u64 = 2;
const HOSTS: u64 = 3;
/// The earlier version that replicas are rolled back to: the first that keeps what is
/// verified here.
const PREVIOUS: &str = "a151e5a";

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Clients and hosts, until all that they asked for is answered and over.
struct Load {
    shared: Arc<Shared>,
    history: Arc<History>,
    clients: JoinSet<()>,
    hosts: JoinSet<()>,
}

impl Load {
    async fn start(cell: &Arc<Cell>, seed: u64) -> Self {
        let (shared, history) = (Arc::<Shared>::default(), Arc::new(History::new(&cell.logs)));
        let mut load = Self {
            shared: shared.clone(),
            history: history.clone(),
            clients: JoinSet::new(),
            hosts: JoinSet::new(),
        };
        for number in 0..HOSTS {
            let seed = seed.wrapping_add(CLIENTS + CALLERS + number);
            let host = Host::new(cell.clone(), shared.clone(), history.clone(), number, seed);
            load.hosts.spawn(host.run());
        }
        for agent in HOSTED {
            cell.knows(agent).await;
        }
        for number in 0..CLIENTS {
            let seed = seed.wrapping_add(number);
            let client = Client::new(cell.clone(), shared.clone(), history.clone(), seed);
            load.clients.spawn(client.run());
        }
        for number in 0..CALLERS {
            let seed = seed.wrapping_add(CLIENTS + number);
            let caller = Caller::new(cell.clone(), shared.clone(), history.clone(), seed);
            load.clients.spawn(caller.run());
        }
        load
    }

    async fn end(mut self, cell: &Cell) -> Arc<History> {
        self.shared.stop();
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client that does not panic");
        }
        verify::all_over(cell).await;
        self.hosts.shutdown().await;
        self.history
    }
}

/// Without faults no replica may have ended.
async fn verdict(cell: &Cell, history: &History, seed: u64, unharmed: bool) {
    let recorded = history.take();
    println!("{:?}", recorded.counts);
    println!(
        "{} sessions, {} keys",
        recorded.sessions.len(),
        recorded.submits.len()
    );
    let mut faults = verify::faults(cell, recorded).await;
    let ends = cell.replicas.each_ref().map(|replica| replica.ends());
    println!("replicas ended {ends:?} times");
    if unharmed && ends != [0; 3] {
        faults.push(format!(
            "nobody ended a replica, and they ended {ends:?} times"
        ));
    }
    assert!(
        faults.is_empty(),
        "seed {seed}: {} faults; logs in {}\n{}",
        faults.len(),
        cell.logs.display(),
        faults
            .iter()
            .take(8)
            .map(|fault| truncated(fault))
            .collect::<Vec<_>>()
            .join("\n")
    );
    std::fs::remove_dir_all(&cell.logs).expect("the logs of this test");
}

fn truncated(text: &str) -> String {
    text.chars().take(600).collect()
}

fn logs(name: &str, seed: u64) -> std::path::PathBuf {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}"));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn seed() -> u64 {
    let seed = from_env("ARCPD_NEMESIS_SEED").unwrap_or_else(rand::random) >> 1;
    println!("ARCPD_NEMESIS_SEED={}", seed << 1);
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_go_from_replica_to_replica_lose_nothing() {
    under("moves", &[], Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_holds_whatever_becomes_of_replicas_servers_and_links() {
    let time = Duration::from_secs(from_env("ARCPD_NEMESIS_SEC").unwrap_or(60));
    under("nemesis", &fault::ALL, time).await;
}

/// Those of the kinds that `ARCPD_NEMESIS_FAULTS` names, by commas; all without it.
fn chosen(kinds: &[Fault]) -> Vec<Fault> {
    let wanted = std::env::var("ARCPD_NEMESIS_FAULTS").ok();
    let is_wanted = |kind: &&Fault| {
        let name = format!("{kind:?}");
        wanted
            .as_ref()
            .is_none_or(|wanted| wanted.split(',').any(|one| one == name))
    };
    kinds.iter().filter(is_wanted).copied().collect()
}

/// Plays under faults of these kinds, and judges.
async fn under(name: &str, kinds: &[Fault], time: Duration) {
    let seed = seed();
    let mut kinds = chosen(kinds);
    let rolls = kinds.contains(&Fault::RollReplica);
    let previous = rolls
        .then(|| tokio::task::block_in_place(|| support::previous::arcpd(PREVIOUS)))
        .flatten();
    if previous.is_none() {
        kinds.retain(|kind| *kind != Fault::RollReplica);
    }
    let (cell, nats) = Cell::start(&logs(name, seed)).await;
    let cell = Arc::new(cell);
    let load = Load::start(&cell, seed).await;
    let history = load.history.clone();
    let nemesis = Nemesis::new(cell.clone(), nats, history.clone(), seed, time, previous);
    let nats = nemesis.run(&kinds).await;
    history.note("nemesis", "all is whole");
    let history = load.end(&cell).await;
    history.note("nemesis", "all jobs are over");
    verdict(&cell, &history, seed, kinds.is_empty()).await;
    drop(nats);
}
