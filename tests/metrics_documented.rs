//! Every metric that the documentation names is there, says something when something
//! happens, and no other is.

mod support;

use std::collections::BTreeSet;

use arcpd::wire::proto::{self, envelope::Payload};
use serde_json::json;
use support::collector::Collector;
use support::host::*;
use support::nats::Nats;
use support::scrape::{names, sums, value};
use support::ws::Ws;
use support::*;

const DOCUMENTED: &str = include_str!("../docs/observability.md");

/// What stays 0 while all is well. Credentials move in `credentials_revoked.rs`, the
/// store in `durability.rs`, dropped spans in `traces_collector.rs`.
const TROUBLE: [&str; 8] = [
    "arcpd_commit_failures_total",
    "arcpd_credentials_outstanding",
    "arcpd_credentials_unrevocable",
    "arcpd_fanout_lag_blocks",
    "arcpd_runtime_queue_depth",
    "arcpd_session_lag_records",
    "arcpd_sessions_stalled",
    "arcpd_telemetry_spans_dropped_total",
];

const SLOW_READERS: &str = "[limits]\nack_lag_max = 1\n";

/// What only a replica of a cell has.
const OF_A_CELL: &str = "arcpd_cluster_";

/// The first column of the tables of metrics: of any runtime, and of a cell's only.
fn documented() -> (BTreeSet<String>, BTreeSet<String>) {
    let rows = DOCUMENTED.lines();
    let names = rows.filter_map(|row| row.strip_prefix("| `arcpd_")?.split('`').next());
    let names = names.map(|name| format!("arcpd_{name}"));
    names.partition(|name| !name.starts_with(OF_A_CELL))
}

#[test]
fn the_documentation_has_a_table_of_metrics() {
    assert!(documented().0.len() > 40, "{:?}", documented());
}

fn with_lease(agent: &str, input: serde_json::Value, lease: serde_json::Value) -> Payload {
    Payload::JobSubmit(proto::JobSubmit {
        agent: agent.into(),
        input_json: input.to_string(),
        lease_request_json: lease.to_string(),
        ..Default::default()
    })
}

/// A job runs, one waits, a host has work, a session is attached and one parked.
#[tokio::test]
async fn what_is_documented_moves_when_something_happens() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("arcpd.toml");
    std::fs::write(&path, format!("{HOSTING_BRIEFLY}{SLOW_READERS}")).unwrap();
    let mut command = serve(dir.path());
    command.arg("--config").arg(path);
    let runtime = Runtime::spawn(command.envs(collector.env("http/protobuf")));

    // A client that acks falls behind, then one that does not read at all.
    let mut slow = Peer::connect(&runtime.address, BOB).await;
    slow.submit(
        "firehose",
        json!({ "events": 20, "bytes": 10, "pause_every": 1, "pause_ms": 20 }),
    )
    .await;
    slow.next().await;
    let ack = proto::SessionAck {
        last_processed_seq: 1,
    };
    slow.send("", Payload::SessionAck(ack)).await;
    slow.until_terminal().await;
    slow.submit("firehose", json!({ "events": 40_000, "bytes": 1_000 }))
        .await;
    let none = |jobs: u64| jobs == 0;
    runtime.until_metric("arcpd_jobs_running", none).await;
    runtime
        .until_metric("arcpd_sessions_stalled", |sessions| sessions == 1)
        .await;
    let behind = |records: u64| records > 10_000;
    runtime
        .until_metric("arcpd_session_lag_records", behind)
        .await;
    slow.until_terminal().await;

    // A budget is used up, and something is asked for that nobody has.
    let spending = json!({ "currency": "USD", "per_step": 1, "steps": 3 });
    let lease = json!({ "tool.call": ["*"], "cost.budget": ["USD:1.50"] });
    slow.send("", with_lease("spender", spending, lease)).await;
    slow.until_terminal().await;
    slow.send("", with_lease("nobody", json!(1), json!({})))
        .await;
    slow.error().await;
    // What cannot be read is a submit that was refused as well.
    slow.send("", with_lease("echo", json!(1), json!("no lease")))
        .await;
    slow.error().await;
    let mut jobs = support::jobs::connect(&runtime, BOB).await;
    let unreadable = proto::SubmitJobRequest {
        input_json: "{".into(),
        ..support::jobs::of("echo", json!(1))
    };
    jobs.submit_job(unreadable).await.unwrap_err();

    let mut nobody = Peer::open(&runtime.address, hello("nobodys-token")).await;
    nobody.error().await;

    // It is cut off and comes back; another one stays away, a third is of WebSocket.
    let (session, token) = (slow.session_id.clone(), slow.resume_token.clone());
    drop(slow);
    let mut ahead = Peer::resume(&runtime.address, BOB, &session, &token, 1 << 40).await;
    assert_eq!(ahead.error().await.code, "RESUME_WINDOW_EXPIRED");
    drop(ahead);
    let resumed = Peer::resume(&runtime.address, BOB, &session, &token, 1).await;
    drop(resumed.welcomed().await);
    let mut ws = Ws::connect(&runtime, BOB).await;
    ws.ping().await;

    // A host is lost with its job; the next one has a place, and two jobs want it.
    let mut lost = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = lost.assigned().await;
    lost.accept(&of).await;
    lost.report(&of, vec![log(1, "begun")]).await;
    lost.acked(1).await;
    drop(lost);
    alice.until_terminal().await;
    let mut host = HostPeer::serving(&runtime.address, "h2", "a", 1).await;
    alice.submit("a", json!(1)).await;
    alice.submit("a", json!(2)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;

    runtime
        .until_metric("arcpd_telemetry_spans_exported_total", |spans| spans > 0)
        .await;
    let (_, text) = runtime.admin_get("/metrics");
    assert_eq!(
        names(&text),
        documented().0,
        "in a scrape, in the documentation"
    );
    let still: BTreeSet<_> = sums(&text)
        .into_iter()
        .filter_map(|(name, sum)| (sum == 0.0).then_some(name))
        .collect();
    let expected = TROUBLE.map(String::from).into_iter().collect();
    assert_eq!(still, expected);
    let of_tools = |decision: &str| {
        let labels = format!("capability=\"tool.call\",decision=\"{decision}\"");
        value(&text, &format!("arcpd_authorizations_total{{{labels}}}"))
    };
    assert_eq!((of_tools("allowed"), of_tools("refused")), (2.0, 1.0));
    for (sample, expected) in [
        ("arcpd_budgets_exhausted_total", 1.0),
        (
            "arcpd_jobs_refused_total{code=\"AGENT_NOT_AVAILABLE\"}",
            1.0,
        ),
        ("arcpd_jobs_refused_total{code=\"INVALID_REQUEST\"}", 2.0),
        ("arcpd_jobs{agent=\"a@1.0.0\",status=\"pending\"}", 1.0),
        ("arcpd_jobs{agent=\"a@1.0.0\",status=\"running\"}", 1.0),
        ("arcpd_sessions{transport=\"none\",state=\"parked\"}", 1.0),
        (
            "arcpd_sessions{transport=\"websocket\",state=\"attached\"}",
            1.0,
        ),
        ("arcpd_session_resumes_total{outcome=\"expired\"}", 1.0),
    ] {
        assert_eq!(value(&text, sample), expected, "{sample}");
    }
}

/// A replica works, hears of another, and takes over from it.
#[tokio::test]
async fn what_is_documented_of_a_cell_moves_in_a_cell() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = dirs.each_ref().map(|dir| {
        let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
        Runtime::spawn(serve(dir.path()).args(cluster))
    });
    let mut client = Peer::connect(&a.address, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    a.until_metric("arcpd_cluster_replicas", |replicas| replicas == 2)
        .await;
    let (_, text) = a.admin_get("/metrics");
    let mut found = names(&text);
    found.retain(|name| name.starts_with(OF_A_CELL));
    assert_eq!(found, documented().1, "in a scrape, in the documentation");
    assert_eq!(value(&text, "arcpd_cluster_lag_entries"), 0.0);
    assert!(value(&text, "arcpd_cluster_sequence") > 1.0);
    let published = value(&text, "arcpd_cluster_entries_published_total");
    let applied = value(&text, "arcpd_cluster_entries_applied_total");
    assert!(published >= 3.0, "it joined, a session, a job: {published}");
    assert!(applied > published, "{applied} with those of the other");
    let timed = value(&text, "arcpd_cluster_entry_seconds_count");
    assert!(timed >= published, "{timed}");
    b.kill();
    a.until_metric("arcpd_cluster_takeovers_total", |takeovers| takeovers == 1)
        .await;
    assert_eq!(a.metric("arcpd_cluster_replicas"), 1);
}
