//! A cell is rolled as a StatefulSet is: one pod after the other, the last first, each
//! with the order of things that Kubernetes and the chart give it. Clients on both wires
//! and agent hosts come through a Service and do what they are told, no more: nobody
//! loses anything, nobody hears nothing for a second, every process is gone in time.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod host;
mod service;
mod told;
mod watcher;

use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use host::Host;
use service::{Endpoint, Service};
use support::both::Wire;
use support::helm::{object, objects, rendered, values};
use support::host::HOSTING;
use support::nats::Nats;
use support::*;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use told::Told;
use watcher::Watcher;

const ROUNDS: usize = 2;
/// What each client hears between two pods, at least.
const HEARD_BETWEEN: u64 = 20;
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// What the chart gives a pod of a cell: before its SIGTERM, and from then on.
fn grace() -> (Duration, Duration) {
    let all = objects(&rendered(&["--values", &values("cluster")]));
    let pod = &object(&all, "StatefulSet", "arcpd")["spec"]["template"]["spec"];
    let before = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
    let [whole, before] = [&pod["terminationGracePeriodSeconds"], before]
        .map(|seconds| Duration::from_secs(seconds.as_u64().expect("seconds")));
    (before, whole - before)
}

/// A pod of the StatefulSet: what it is called stays, its process and address do not.
struct Pod {
    dir: tempfile::TempDir,
    runtime: Runtime,
    endpoint: Endpoint,
}

impl Pod {
    async fn start(nats: &Nats, service: &Service, toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, endpoint) = serving(nats, service, dir.path(), toml).await;
        Self {
            dir,
            runtime,
            endpoint,
        }
    }

    /// Returns it with how long its process took to end.
    async fn replaced(self, nats: &Nats, service: &Service, toml: &str) -> (Self, Duration) {
        let Self {
            dir,
            runtime,
            endpoint,
        } = self;
        // Its deletion begins: no more connections come to it.
        drop(endpoint);
        // The sleep of preStop is for proxies that have not heard of that yet. Here all have,
        // and for the pod and its clients it is time like any other: it is left out.
        let told = Instant::now();
        let exit = runtime.terminate().await;
        let took = told.elapsed();
        assert!(exit.success(), "{exit}");
        let (runtime, endpoint) = serving(nats, service, dir.path(), toml).await;
        let pod = Self {
            dir,
            runtime,
            endpoint,
        };
        (pod, took)
    }
}

/// A process on a pod's volume, once the Service gives it connections.
async fn serving(nats: &Nats, service: &Service, dir: &Path, toml: &str) -> (Runtime, Endpoint) {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, toml).unwrap();
    let mut command = serve(dir);
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    command.arg("--config").arg(path).args(cluster);
    let starting = tokio::task::spawn_blocking(move || Runtime::spawn(&mut command));
    let runtime = starting.await.expect("a replica that starts");
    let mut endpoint = service.select(&runtime);
    endpoint.until_ready().await;
    (runtime, endpoint)
}

/// Three pods, two hosts that come through the Service, and who is to hear of their jobs.
struct Cell {
    nats: Nats,
    service: Service,
    pods: Vec<Pod>,
    toml: String,
    hosts: JoinSet<()>,
    clients: Vec<(String, JoinHandle<Told>)>,
    progress: Vec<watch::Receiver<u64>>,
    /// Turns when jobs are to end and no more are to be submitted.
    end: watch::Sender<bool>,
}

impl Cell {
    async fn start(more: &str) -> Self {
        let (nats, service) = (Nats::single(), Service::start().await);
        let toml = format!("{HOSTING}{more}");
        let mut pods = Vec::new();
        for _ in 0..3 {
            pods.push(Pod::start(&nats, &service, &toml).await);
        }
        let mut cell = Self {
            nats,
            service,
            pods,
            toml,
            hosts: JoinSet::new(),
            clients: Vec::new(),
            progress: Vec::new(),
            end: watch::Sender::new(false),
        };
        for name in ["h0", "h1"] {
            let host = Host::new(&cell.service.address, name, cell.end.subscribe());
            cell.hosts.spawn(host.run());
        }
        cell.until(
            |pod| pod.runtime.metric("arcpd_hosts"),
            |hosts| hosts.iter().sum::<u64>() == 2,
        )
        .await;
        cell
    }

    /// Waits until what is asked of each pod is as wanted.
    async fn until(&self, of: impl Fn(&Pod) -> u64, wanted: impl Fn(&[u64]) -> bool) {
        let began = Instant::now();
        loop {
            let all: Vec<_> = self.pods.iter().map(&of).collect();
            if wanted(&all) {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "it stays {all:?}"
            );
            tokio::task::yield_now().await;
        }
    }

    async fn follower(&mut self, wire: Wire) {
        let client = Client::start(wire, &self.service.address).await;
        self.progress.push(client.progress());
        let following = tokio::spawn(client.follow());
        self.clients.push((format!("{wire:?} follows"), following));
    }

    async fn submitter(&mut self, wire: Wire) {
        let client = Client::start(wire, &self.service.address).await;
        self.progress.push(client.progress());
        let submitting = client.submit(self.clients.len(), self.end.subscribe());
        let submitting = tokio::spawn(submitting);
        self.clients.push((format!("{wire:?} submits"), submitting));
    }

    async fn watcher(&mut self) {
        let watcher = Watcher::start(&self.service.address).await;
        self.progress.push(watcher.progress());
        let watching = tokio::spawn(watcher.watch());
        self.clients.push(("watches".into(), watching));
    }

    /// Waits until each client has heard something more.
    async fn all_hear(&mut self) {
        for heard in &mut self.progress {
            let until = *heard.borrow() + HEARD_BETWEEN;
            let enough = heard.wait_for(|heard| *heard >= until).await;
            enough.expect("a client that has not failed");
        }
    }

    /// Returns how long its process took to end.
    async fn replace(&mut self, number: usize) -> Duration {
        let pod = self.pods.remove(number);
        let (pod, took) = pod.replaced(&self.nats, &self.service, &self.toml).await;
        self.pods.insert(number, pod);
        took
    }

    /// When all jobs are over and checked.
    async fn end(mut self) -> Vec<Told> {
        self.end.send_replace(true);
        let mut all = Vec::new();
        for (does, client) in self.clients {
            let told = client.await.expect("no panic");
            let Told { silence, moves, .. } = told;
            println!("{does}: silent for {silence:?} at most, moved {moves} times");
            all.push(told);
        }
        self.hosts.shutdown().await;
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_is_rolled_under_load_and_nobody_is_left_alone() {
    let mut cell = Cell::start("").await;
    for wire in [Wire::Grpc, Wire::WebSocket] {
        cell.follower(wire).await;
        cell.follower(wire).await;
        cell.submitter(wire).await;
    }
    cell.watcher().await;
    let (before, grace) = tokio::task::spawn_blocking(grace).await.unwrap();
    assert!(!before.is_zero(), "proxies have no time to hear of it");
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        for number in (0..3).rev() {
            cell.all_hear().await;
            let took = cell.replace(number).await;
            assert!(took < grace, "gone after {took:?}");
            longest = longest.max(took);
        }
    }
    cell.all_hear().await;
    println!("every process gone within {longest:?}, its grace is {grace:?}");
    for told in cell.end().await {
        // Whatever replica it was at, that one went in each round.
        assert!(told.moves >= ROUNDS, "{}", told.moves);
        assert!(told.silence < SILENCE_MAX, "{:?}", told.silence);
        // Whom the Service sends on is taken.
        assert_eq!(told.refused, Vec::<String>::new());
    }
}

/// Sessions are streams that stay open: a replica that was away had none when it was back,
/// until another was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_at_every_replica_again_after_one_was_away() {
    let mut cell = Cell::start("[limits]\nconnection_age_max_sec = 2\n").await;
    for _ in 0..4 {
        cell.follower(Wire::Grpc).await;
        cell.follower(Wire::WebSocket).await;
    }
    cell.watcher().await;
    cell.all_hear().await;
    cell.replace(2).await;
    let attached = |pod: &Pod| pod.runtime.metric("arcpd_sessions_attached");
    cell.until(attached, |all| all.iter().all(|sessions| *sessions >= 2))
        .await;
    for told in cell.end().await {
        assert!(told.silence < SILENCE_MAX, "{:?}", told.silence);
    }
}
