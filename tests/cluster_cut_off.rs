//! A replica whose way to the servers of the log is cut, while clients and hosts still
//! reach it.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use support::host::*;
use support::link::{Link, State};
use support::nats::Nats;
use support::ws::{Ws, hello, seqs};
use support::*;

/// Six seconds by the documentation; a machine may have much to do.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

fn replica(url: &str, dir: &Path) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, HOSTING).unwrap();
    let cluster = ["--cluster", url, "--cluster-replication", "1"];
    Runtime::spawn(serve(dir).arg("--config").arg(path).args(cluster))
}

/// They stayed where nothing happened any more, for as long as the cut lasted: the client
/// heard nothing, and its host's job was lost though the host was well.
#[tokio::test(flavor = "multi_thread")]
async fn clients_and_hosts_of_a_replica_that_is_cut_off_are_told_to_go_elsewhere() {
    let nats = Nats::single();
    let target = nats.url().trim_start_matches("nats://").to_owned();
    let link = Link::start(target).await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let cut_url = format!("nats://{}", link.address);
    let cut = tokio::task::block_in_place(|| replica(&cut_url, dirs[0].path()));
    let other = tokio::task::block_in_place(|| replica(&nats.url(), dirs[1].path()));
    cut.until_metric("arcpd_cluster_replicas", |count| count == 2)
        .await;
    let mut host = HostPeer::serving(&cut.address, "h", "a", 4).await;
    let mut client = Ws::connect(&cut, ALICE).await;
    client.submit("a", json!(1)).await;
    let (_, job) = host.assigned().await;
    host.accept(&job).await;
    host.report(&job, vec![log(1, "before")]).await;
    let mut heard = vec![client.hear_type("job.event").await];

    link.set(State::Frozen);
    let told = async {
        while client.try_hear().await.is_some() {}
        while host.hear().await.is_ok() {}
    };
    let told = tokio::time::timeout(TOLD_WITHIN, told).await;
    assert!(told.is_ok(), "{}", cut.log());

    let last = seqs(&heard)[0];
    let resume = json!({
        "session_id": client.session_id, "resume_token": client.resume_token, "last_event_seq": last,
    });
    let mut client = Ws::open(&other, hello("r", ALICE, json!({ "resume": resume }))).await;
    let mut register = register("h", vec![agent("a")], 4);
    register.resume = vec![held(&job)];
    let (mut host, registered) = HostPeer::connect(&other.address, register).await.unwrap();
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    host.report(&job, vec![log(2, "after"), result(3, "1")])
        .await;
    heard.extend(client.until_terminal().await);
    assert_eq!(seqs(&heard), [1, 2, 3]);

    link.set(State::Whole);
    assert!(!cut.exited().await.success(), "its work is another's");
}
