//! A replica that is busy is not one that is gone.

mod support;

use std::time::{Duration, Instant};

use arcpd::job::{AgentDirectory, JobContext};
use arcpd::log::jetstream::ClusterOptions;
use arcpd::protocol::Failure;
use arcpd::server::{Config, Server, Tokens};
use serde_json::json;
use support::nats::{Cluster, Nats};
use support::*;
use tokio::sync::oneshot;

/// Longer than others wait for a word.
const BUSY: Duration = Duration::from_secs(6);

/// Has the only thread there is for itself.
async fn busy(_job: JobContext) -> Result<String, Failure> {
    std::thread::sleep(BUSY);
    Ok("1".into())
}

/// A runtime in this process with one thread for all that it does.
fn embedded(config: Config, bound: oneshot::Sender<String>, stop: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // The future that is blocked on is not on that thread: as a task it is.
    let served = runtime.spawn(async move {
        let server = Server::bind(config).await.unwrap();
        let address = server.address().unwrap().to_string();
        bound.send(address).expect("the test waits");
        server
            .run(async {
                let _ = stop.await;
            })
            .await
    });
    runtime.block_on(served).unwrap().expect("not fenced");
}

/// What it says of itself was said between all else that it did: one that was busy for
/// 3 s was declared gone, and stopped.
#[tokio::test]
async fn a_replica_that_gets_to_nothing_for_a_while_is_not_declared_gone() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut agents = AgentDirectory::default();
    agents.register("busy", "1.0.0", busy).unwrap();
    let tokens = Tokens::parse(&format!("alice={ALICE}")).unwrap();
    let mut config = Config::new(dirs[0].path(), tokens, agents);
    config.cluster = Some(ClusterOptions {
        servers: nats.url(),
        name: "arcpd".into(),
        replica: "busy".into(),
        replication: 1,
        access: Default::default(),
    });
    let (bound_tx, bound) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let serving = std::thread::spawn(move || embedded(config, bound_tx, stopped));
    let address = bound.await.unwrap();
    let url = nats.url();
    let cluster = ["--cluster", &url, "--cluster-replication", "1"];
    let other = Runtime::spawn(serve(dirs[1].path()).args(cluster));
    let mut alice = Peer::connect(&address, ALICE).await;
    alice.submit("busy", json!(null)).await;
    let seen = alice.until_terminal().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    // And it still writes.
    alice.submit("busy", json!(null)).await;
    alice.until_terminal().await;
    assert_eq!(other.metric("arcpd_cluster_takeovers_total"), 0);
    stop.send(()).unwrap();
    tokio::task::spawn_blocking(move || serving.join().expect("it ends well"))
        .await
        .unwrap();
}

/// Both of its connections were to a server that stood still: for as long as they took to
/// go to another nobody heard of it, and it was given up.
#[tokio::test]
async fn a_replica_speaks_by_two_servers() {
    let servers = tokio::task::spawn_blocking(Nats::cluster).await.unwrap();
    let urls = servers.urls().join(",");
    let dir = tempfile::tempdir().unwrap();
    // Each is to a server at random: not once in ten times are they apart each time.
    for _ in 0..6 {
        let replica = Runtime::spawn(serve(dir.path()).args(["--cluster", &urls]));
        until(&servers, |all| {
            let at = |what: &str| all.iter().position(|names| has(names, what));
            let (writes, presence) = (at("writes"), at("presence"));
            writes.is_some() && presence.is_some() && writes != presence
        })
        .await;
        replica.kill();
        until(&servers, |all| all.iter().all(Vec::is_empty)).await;
    }
}

fn has(names: &[String], what: &str) -> bool {
    names.iter().any(|name| name.ends_with(what))
}

/// Until what each server calls its connections is as wanted.
async fn until(servers: &Cluster, wanted: impl Fn(&[Vec<String>; 3]) -> bool) {
    let started = Instant::now();
    loop {
        let all = servers.nodes.each_ref().map(Nats::connections);
        if wanted(&all) {
            return;
        }
        assert!(started.elapsed().as_secs() < 30, "{all:?}");
        look_again().await;
    }
}
