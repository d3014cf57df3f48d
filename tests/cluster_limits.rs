//! What a principal may have at once it may have in the whole cell.

mod support;

use std::path::Path;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use serde_json::json;
use support::nats::Nats;
use support::*;

const LIMITS: &str = "[limits]\nsessions_per_principal_max = 2\nrunning_jobs_per_principal_max = 2";

fn replica(nats: &Nats, dir: &Path) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, LIMITS).unwrap();
    let url = nats.url();
    let cluster = ["--cluster", &url, "--cluster-replication", "1"];
    Runtime::spawn(serve(dir).arg("--config").arg(path).args(cluster))
}

/// Two replicas took twice what the limit says.
#[tokio::test]
async fn a_principal_has_as_much_in_a_cell_as_with_one_replica() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut first = Peer::connect(&a.address, ALICE).await;
    let mut second = Peer::connect(&b.address, ALICE).await;
    for replica in [&a, &b] {
        let mut third = Peer::open(&replica.address, hello(ALICE)).await;
        let refused = third.error().await;
        assert!(
            refused.message.contains("which is the limit"),
            "{refused:?}"
        );
        assert!(refused.retryable);
        // Each principal has its own.
        Peer::connect(&replica.address, BOB).await;
    }
    // The one that goes elsewhere is not one more.
    let (id, token) = (second.session_id.clone(), second.resume_token.clone());
    let moved = Peer::resume(&a.address, ALICE, &id, &token, 0).await;
    let mut moved = moved.welcomed().await;
    let sleep = json!({ "ms": 600_000 });
    let job = first.submit("sleeper", sleep.clone()).await;
    moved.submit("sleeper", sleep.clone()).await;
    // What has closed its stream makes room everywhere.
    moved
        .send("", Payload::SessionClose(Default::default()))
        .await;
    while moved.try_next().await.is_some() {}
    second = Peer::connect(&b.address, ALICE).await;
    let submit = proto::JobSubmit {
        agent: "sleeper".into(),
        input_json: sleep.to_string(),
        ..Default::default()
    };
    second.send("", Payload::JobSubmit(submit)).await;
    let refused = second.error().await;
    assert!(
        refused.message.contains("which is the limit"),
        "{refused:?}"
    );
    let cancel = Payload::JobCancel(proto::JobCancel::default());
    first.send(&job, cancel).await;
    first.until_terminal().await;
    second.submit("sleeper", sleep).await;
}
