//! A cell is rolled as a StatefulSet is: one pod after the other, the last first, each
//! with the order of things that Kubernetes and the chart give it. Clients on both wires
//! and agent hosts come through a Service and do what they are told, no more: nobody
//! loses anything, nobody hears nothing for a second, every process is gone in time.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod host;
mod service;

use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use host::Host;
use service::{Endpoint, Service};
use support::both::Wire;
use support::nats::Nats;
use support::*;
use tokio::sync::watch;

const ROUNDS: usize = 2;
/// What each client hears between two pods, at least.
const HEARD_BETWEEN: u64 = 20;
/// `terminationGracePeriodSeconds` less the `preStop` sleep.
const GRACE: Duration = Duration::from_secs(30);
const SILENCE_MAX: Duration = Duration::from_secs(1);

const HOSTING: &str = "[[hosting]]\nprincipal = \"workers\"\nagents = [\"*\"]\n";

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
        // The sleep of preStop is for those that have not heard of that yet. Here everybody
        // has, and for the pod and its clients it is time like any other: it is left out.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_is_rolled_under_load_and_nobody_is_left_alone() {
    let (nats, service) = (Nats::single(), Service::start().await);
    let mut pods = Vec::new();
    for _ in 0..3 {
        pods.push(Pod::start(&nats, &service, HOSTING).await);
    }
    let (end, ending) = watch::channel(false);
    let mut hosts = tokio::task::JoinSet::new();
    for name in ["h0", "h1"] {
        hosts.spawn(Host::new(&service.address, name, ending.clone()).run());
    }
    let registered = |pods: &[Pod]| -> u64 {
        let of = |pod: &Pod| pod.runtime.metric("arcpd_hosts");
        pods.iter().map(of).sum()
    };
    while registered(&pods) < 2 {
        tokio::task::yield_now().await;
    }
    let (mut clients, mut progress) = (Vec::new(), Vec::new());
    for wire in [Wire::Grpc, Wire::WebSocket] {
        for _ in 0..2 {
            let client = Client::start(wire, &service.address).await;
            progress.push(client.progress());
            clients.push((wire, "follows", tokio::spawn(client.follow())));
        }
        let client = Client::start(wire, &service.address).await;
        progress.push(client.progress());
        let submitting = client.submit(clients.len(), ending.clone());
        clients.push((wire, "submits", tokio::spawn(submitting)));
    }

    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        for number in (0..3).rev() {
            for heard in &mut progress {
                let until = *heard.borrow() + HEARD_BETWEEN;
                let enough = heard.wait_for(|heard| *heard >= until).await;
                enough.expect("a client that has not failed");
            }
            let pod = pods.remove(number);
            let (pod, took) = pod.replaced(&nats, &service, HOSTING).await;
            pods.insert(number, pod);
            assert!(took < GRACE, "gone after {took:?}");
            longest = longest.max(took);
        }
    }
    end.send_replace(true);
    println!("every process gone within {longest:?}");
    for (wire, does, client) in clients {
        let told = client.await.expect("no panic");
        println!("{wire:?} {does}: {told:?}");
        // Whatever replica it was at, that one went in each round.
        assert!(told.resumes >= ROUNDS, "{told:?}");
        assert!(told.silence < SILENCE_MAX, "{told:?}");
    }
    hosts.shutdown().await;
}
