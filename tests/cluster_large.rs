//! Inputs as large as they may be, many at once, or on a file that is slow.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use arcpd::wire::proto::SubmitJobRequest;
use futures_util::future::join_all;
use serde_json::json;
use support::jobs::{connect, of};
use support::nats::Nats;
use support::*;

/// More than may be on its way to the stream and back, with 4 kB each.
const EVENTS: u64 = 20_000;

fn replica(nats: &Nats, dir: &Path) -> Runtime {
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    Runtime::spawn(serve(dir).args(cluster))
}

/// All were sent again and again over a connection that still had the first ones; the
/// replica was not heard of meanwhile, was declared gone, and stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_large_submits_is_taken_and_nobody_is_declared_gone() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    a.until_metric("arcpd_cluster_replicas", |count| count == 2)
        .await;
    let jobs = connect(&a, ALICE).await;
    let submitted = (0..64).map(|number| {
        let mut jobs = jobs.clone();
        let text = number.to_string().repeat(450_000);
        let request: SubmitJobRequest = of("word-count", json!({ "text": text }));
        async move { jobs.submit_job(request).await }
    });
    for submitted in join_all(submitted).await {
        submitted.expect("taken");
    }
    assert_eq!(a.metric("arcpd_cluster_takeovers_total"), 0);
    assert_eq!(b.metric("arcpd_cluster_takeovers_total"), 0);
    assert_eq!(b.metric("arcpd_cluster_replicas"), 2);
}

/// The thread that applied it was the only one, and nobody else was served.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_entry_on_a_slow_file_holds_nobody_up_who_wants_something_else() {
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    let mut one_thread = serve(dir.path());
    one_thread.args(cluster).env("TOKIO_WORKER_THREADS", "1");
    let replica = tokio::task::block_in_place(|| Runtime::spawn(&mut one_thread));
    let mut jobs = connect(&replica, ALICE).await;
    let slow = rusqlite::Connection::open(dir.path().join("arcpd.db")).unwrap();
    slow.execute_batch("BEGIN IMMEDIATE").unwrap();
    let request: SubmitJobRequest = of("word-count", json!({ "text": "w ".repeat(200_000) }));
    let submitted = tokio::spawn(async move { jobs.submit_job(request).await });
    let mut longest = Duration::ZERO;
    // After five seconds: it was at work until then.
    while !replica.log().contains("a commit failed") {
        let asked = Instant::now();
        assert_eq!(replica.admin_get("/livez").0, 200);
        longest = longest.max(asked.elapsed());
        look_again().await;
    }
    slow.execute_batch("ROLLBACK").unwrap();
    submitted.await.unwrap().expect("taken");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

/// As long as its file took nothing, a replica sent all that it had not applied twice a second,
/// though the stream had it, and a command that came then was not answered at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_commit_refuses_and_sends_nothing_again() {
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let replica = tokio::task::block_in_place(|| replica(&nats, dir.path()));
    let client = async_nats::connect(nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let sent = async || {
        let stream = jetstream.get_stream("ARCP_LOG_arcpd").await.unwrap();
        stream.cached_info().state.messages
    };
    let mut peer = Peer::connect(&replica.address, ALICE).await;
    let input = json!({ "events": EVENTS, "bytes": 4_000, "pause_every": 100, "pause_ms": 1 });
    peer.submit("firehose", input).await;
    let full = rusqlite::Connection::open(dir.path().join("arcpd.db")).unwrap();
    full.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Each takes five seconds.
    let failed = async |times| {
        while replica.log().matches("a commit failed").count() < times {
            look_again().await;
        }
    };
    let why = loop {
        match replica.admin_get("/readyz") {
            (200, _) => look_again().await,
            (_, why) => break why,
        }
    };
    assert!(!why.contains("does not answer"), "it is the file: {why}");
    failed(1).await;
    let before = sent().await;
    let began = Instant::now();
    let mut jobs = connect(&replica, ALICE).await;
    let request: SubmitJobRequest = of("echo", json!(1));
    let refused = jobs.submit_job(request).await.unwrap_err();
    assert!(refused.message().contains("not available"), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(5), "{refused}");
    failed(2).await;
    let after = sent().await;
    assert!(after - before < 16, "{before} messages, then {after}");
    full.execute_batch("ROLLBACK").unwrap();
    let seen = peer.until_terminal().await;
    assert_eq!(seqs(&seen), (1..=EVENTS + 1).collect::<Vec<_>>());
}
