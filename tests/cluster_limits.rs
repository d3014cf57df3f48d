//! What a principal may have at once it may have in the whole cell.

mod support;

use std::path::Path;
use std::time::Duration;

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::{self, admin_service_client::AdminServiceClient};
use serde_json::json;
use support::jobs::{Bearer, channel};
use support::nats::Nats;
use support::*;

const LIMITS: &str = "operators = [\"bob\"]\n[limits]\nsessions_per_principal_max = 2\nrunning_jobs_per_principal_max = 2";

/// For one replica to read what another wrote.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

fn replica(nats: &Nats, dir: &Path) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, LIMITS).unwrap();
    let url = nats.url();
    let cluster = ["--cluster", &url, "--cluster-replication", "1"];
    Runtime::spawn(serve(dir).arg("--config").arg(path).args(cluster))
}

/// What an operator is told of those limits at a replica: who has most, and how much.
async fn most(replica: &Runtime) -> Vec<(String, u64)> {
    let mut calls = AdminServiceClient::with_interceptor(channel(replica).await, Bearer(BOB));
    let overview = calls.get_overview(proto::GetOverviewRequest {}).await;
    let limits = overview.unwrap().into_inner().limits.into_iter();
    let limits = limits.filter(|limit| limit.name.contains("per_principal"));
    limits.map(|limit| (limit.principal, limit.used)).collect()
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
    for replica in [&a, &b] {
        let all = [(); 2].map(|()| ("alice".to_owned(), 2));
        let told = async { while most(replica).await != all {} };
        let told = tokio::time::timeout(KNOWN_WITHIN, told).await;
        told.unwrap_or_else(|_| panic!("another count is shown"));
    }
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
