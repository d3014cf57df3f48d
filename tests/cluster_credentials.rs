//! Credentials of jobs in a cell: a job's key is where the job is, and whoever has the
//! job's replica's work revokes it. Real replicas, a real NATS server, a gateway.

mod support;

use std::path::Path;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::{Value, json};
use support::credentials::*;
use support::gateway::*;
use support::host::*;
use support::nats::Nats;
use support::*;

const SHORT: &str = "ttl_sec = 3\nrotate_before_sec = 1\n";
const SEAL: &str = "0f";

/// Replicas of one cell that ask one gateway.
struct Cell {
    nats: Nats,
    gateway: Gateway,
    more: &'static str,
}

impl Cell {
    async fn start(more: &'static str) -> Self {
        Self {
            nats: Nats::single(),
            gateway: Gateway::start().await,
            more,
        }
    }

    fn replica(&self, dir: &Path) -> Runtime {
        let seal = secret_file(dir, "seal.key", &SEAL.repeat(32));
        let toml = format!(
            "{}encryption_key_file = {seal:?}\n{}{HOSTING}",
            self.gateway.toml(dir),
            self.more
        );
        let path = dir.join("arcpd.toml");
        std::fs::write(&path, toml).unwrap();
        Runtime::spawn(
            serve(dir)
                .arg("--config")
                .arg(path)
                .args(["--cluster", &self.nats.url()])
                .args(["--cluster-replication", "1"]),
        )
    }
}

async fn next_rotation(peer: &mut Peer) -> Value {
    loop {
        if let Some(details) = rotation(&peer.next().await) {
            return details;
        }
    }
}

fn value_of(credentials_json: &str) -> Value {
    let all: Value = serde_json::from_str(credentials_json).unwrap();
    all[0]["value"].clone()
}

/// Its key is made where it is submitted, kept and replaced where it runs, and shown to
/// both: whoever submitted it and its host.
#[tokio::test]
async fn a_jobs_key_goes_with_it_to_the_replica_of_its_host() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cell = Cell::start(SHORT).await;
    let (a, b) = (cell.replica(near.path()), cell.replica(far.path()));
    let mut host = HostPeer::serving(&b.address, "h1", "acme.a", 1).await;
    let mut alice = asking(&a.address, ALICE).await;
    let (_, shown) = submitted(&mut alice, submit("acme.a", json!({}))).await;
    let first = cell.gateway.keys()[0].value.clone();
    assert_eq!(shown[0]["value"], first);
    let (assign, of) = host.assigned().await;
    assert_eq!(value_of(&assign.credentials_json), first);
    host.accept(&of).await;
    let Hear::Credentials(said) = host.next().await else {
        panic!("expected credentials")
    };
    let second = cell.gateway.keys()[1].value.clone();
    assert_eq!(value_of(&said.credentials_json), second);
    assert_eq!(next_rotation(&mut alice).await["value"], second);
    host.report(&of, vec![support::host::result(1, "1")]).await;
    cell.gateway.until_all_deleted().await;
    for dir in [near.path(), far.path()] {
        std::fs::remove_file(dir.join("seal.key")).unwrap();
        assert_files_clean(dir);
    }
    assert_clean("a's log", a.log().as_bytes());
    assert_clean("b's log", b.log().as_bytes());
}

/// The gateway is down when a job ends, and its replica is killed before it is back.
#[tokio::test]
async fn another_replica_goes_on_revoking() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let cell = Cell::start("").await;
    let [a, b] = dirs.each_ref().map(|dir| cell.replica(dir.path()));
    let mut alice = asking(&a.address, ALICE).await;
    let sleeper = submit("sleeper", json!({ "ms": 600_000 }));
    let (job, _) = submitted(&mut alice, sleeper.clone()).await;
    let (_, _) = submitted(&mut alice, sleeper).await;
    cell.gateway.set(Mood::Down);
    alice
        .send(&job, Payload::JobCancel(proto::JobCancel::default()))
        .await;
    alice.until_terminal().await;
    b.until_metric("arcpd_credentials_outstanding", |left| left == 1)
        .await;
    assert_eq!(cell.gateway.live().len(), 2);
    // One key is of a job that is over, one of a job that ran in the killed process.
    a.kill();
    cell.gateway.set(Mood::Well);
    cell.gateway.until_all_deleted().await;
    b.until_metric("arcpd_credentials_outstanding", |left| left == 0)
        .await;
}

/// Only one replica asks the gateway, whoever an operator tells to try again.
#[tokio::test]
async fn a_retry_is_asked_for_at_any_replica() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let cell = Cell::start("").await;
    let [a, b] = dirs.each_ref().map(|dir| cell.replica(dir.path()));
    let mut alice = asking(&a.address, ALICE).await;
    let (job, shown) = submitted(&mut alice, submit("sleeper", json!({ "ms": 600_000 }))).await;
    cell.gateway.set(Mood::RefusesToDelete);
    alice
        .send(&job, Payload::JobCancel(proto::JobCancel::default()))
        .await;
    b.until_metric("arcpd_credentials_unrevocable", |left| left == 1)
        .await;
    cell.gateway.set(Mood::Well);
    let id = shown[0]["id"].as_str().unwrap();
    assert!(arcpd(&b, &[]).contains(id));
    arcpd(&b, &["--retry", id]);
    cell.gateway.until_all_deleted().await;
}

#[tokio::test]
async fn without_a_key_for_values_at_rest_they_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let path = dir.path().join("arcpd.toml");
    std::fs::write(&path, gateway.toml(dir.path())).unwrap();
    let refused = serve(dir.path())
        .arg("--config")
        .arg(path)
        .args(["--cluster", "nats://127.0.0.1:1"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("credentials.encryption_key_file"), "{text}");
}
