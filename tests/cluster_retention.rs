//! What one replica of a cell removes is gone at all of them: a reader elsewhere is asked
//! for first.

mod support;

use std::path::Path;
use std::time::Duration;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::job_event::Body;
use futures_util::StreamExt;
use serde_json::json;
use support::nats::Nats;
use support::*;

const TRIMS_SOON: &str = "[retention]\nage_max_sec = 1\ncheck_interval_sec = 1";
/// More than the buffers between a session and a client that does not read.
const EVENTS: u64 = 40_000;
const OTHERS_TAKE: Duration = Duration::from_millis(1_500);

fn replica(nats: &Nats, dir: &Path) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, TRIMS_SOON).unwrap();
    let url = nats.url();
    let cluster = ["--cluster", &url, "--cluster-replication", "1"];
    Runtime::spawn(serve(dir).arg("--config").arg(path).args(cluster))
}

async fn until_trims(runtime: &Runtime, times: usize) {
    while runtime.log().matches("trimmed ended jobs").count() < times {
        tokio::task::yield_now().await;
    }
}

/// Retention knew the sessions of its own replica only: a slow reader at another one lost
/// the rest of its job.
#[tokio::test]
async fn a_job_that_is_read_at_another_replica_stays_until_it_is_read() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut alice = Peer::connect(&a.address, ALICE).await;
    let mut slow = Peer::connect(&b.address, ALICE).await;
    let events = json!({ "events": EVENTS, "bytes": 512 });
    let job = alice.submit("firehose", events).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    slow.send(&job, Payload::JobSubscribe(subscribe)).await;
    alice.until_terminal().await;
    // This one nobody reads any more, and it ended later.
    alice.submit("echo", json!(1)).await;
    alice.until_terminal().await;
    until_trims(&a, 1).await;
    let seen = slow.until_terminal().await;
    let said = |envelope: &&proto::Envelope| match &envelope.payload {
        Some(Payload::JobEvent(event)) => !matches!(event.body, Some(Body::Status(_))),
        _ => false,
    };
    assert_eq!(seen.iter().filter(said).count() as u64, EVENTS);
    until_trims(&a, 2).await;
    slow.send(&job, Payload::JobSubscribe(Default::default()))
        .await;
    assert_eq!(slow.error().await.code, "JOB_NOT_FOUND");
}

/// Whoever had answered let readers in after a second, while a slower replica was still
/// waited for: what was trimmed then went under them, and they heard no more.
#[tokio::test]
async fn nobody_begins_to_read_until_whoever_trims_is_done() {
    let nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    let b = support::replicas::replica(&nats, dir.path());
    let mut alice = Peer::connect(&b.address, ALICE).await;
    let job = alice.submit("echo", json!(1)).await;
    alice.until_terminal().await;
    let mut bob = Peer::connect(&b.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };

    let trims = async_nats::connect(nats.url()).await.unwrap();
    let mut answers = trims.subscribe("arcp.arcpd.trim.answers").await.unwrap();
    let question = json!({ "replica": 99, "streams": [1] }).to_string();
    let asked = trims.publish_with_reply(
        "arcp.arcpd.trim",
        "arcp.arcpd.trim.answers",
        question.into(),
    );
    asked.await.unwrap();
    assert!(answers.next().await.is_some());
    bob.send(&job, Payload::JobSubscribe(subscribe)).await;
    let early = tokio::time::timeout(OTHERS_TAKE, bob.until_terminal()).await;
    assert!(early.is_err(), "{early:?}");
    let over = json!({ "replica": 99, "streams": [] }).to_string();
    trims.publish("arcp.arcpd.trim", over.into()).await.unwrap();
    bob.until_terminal().await;
}
