//! The alert rules on numbers of a real runtime: none while all is well, the right one
//! when something is not.

mod support;

use std::path::Path;

use serde_json::json;
use support::host::*;
use support::nats::Nats;
use support::promtool::promtool;
use support::scrape::samples;
use support::*;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/arcpd/files/alerts.yaml");

/// What `promtool` would see of a runtime whose numbers were those of the first scrape,
/// and from then on change each minute as they did between the two.
fn series(first: &str, second: &str) -> String {
    let before: std::collections::BTreeMap<_, _> = samples(first).collect();
    let line = |(sample, value): (&str, f64)| {
        let was = before.get(sample).copied().unwrap_or(0.0);
        let labels = match sample.strip_suffix('}') {
            Some(sample) => format!("{sample},instance=\"x\"}}"),
            None => format!("{sample}{{instance=\"x\"}}"),
        };
        let counter = sample.contains("_total") || sample.contains("_bucket");
        let values = match counter {
            true => format!("{was}+{}x60", value - was),
            false => format!("{value}x60"),
        };
        format!("      - {{ series: '{labels}', values: '{values}' }}\n")
    };
    samples(second).map(line).collect()
}

/// The alerts that fire after half an hour. One `promtool` for all of them: sessions of
/// the test answer no pings meanwhile.
fn firing(dir: &Path, first: &str, second: &str) -> Vec<String> {
    let rules = std::fs::read_to_string(RULES).unwrap();
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<_> = names.collect();
    // Each fails, and so says that there is one, when it fires.
    let none = names
        .iter()
        .map(|name| format!("      - {{ eval_time: 30m, alertname: {name}, exp_alerts: [] }}\n"));
    let test = format!(
        "rule_files: [{RULES}]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    \
         input_series:\n{}    alert_rule_test:\n{}",
        series(first, second),
        none.collect::<String>()
    );
    std::fs::write(dir.join("test.yaml"), test).unwrap();
    let output = promtool(dir, &["test", "rules", "test.yaml"], "");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stderr);
    let fired = |name: &&&str| said.contains(&format!("alertname: {name},"));
    let fired: Vec<_> = names
        .iter()
        .filter(fired)
        .map(|name| name.to_string())
        .collect();
    assert_eq!(output.status.success(), fired.is_empty(), "{said}");
    fired
}

#[tokio::test]
async fn no_alert_while_all_is_well_and_the_right_ones_when_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let scrape = || runtime.admin_get("/metrics").1;
    let idle = scrape();
    for _ in 0..5 {
        peer.submit("echo", json!(1)).await;
        peer.until_terminal().await;
    }
    let well = scrape();
    assert_eq!(firing(dir.path(), &idle, &well), Vec::<String>::new());

    for _ in 0..5 {
        peer.submit("failer", json!({ "code": "TIMEOUT", "message": "late" }))
            .await;
        peer.until_terminal().await;
    }
    peer.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;
    let ill = scrape();
    assert_eq!(
        firing(dir.path(), &well, &ill),
        ["ArcpdJobsFailing", "ArcpdHostsFull"]
    );
}

/// Its numbers go on as they did: a replica that is gone once is gone each minute.
#[tokio::test]
async fn no_alert_of_a_cell_that_is_whole_and_the_right_ones_when_a_replica_is_gone() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = dirs.each_ref().map(|dir| {
        let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
        Runtime::spawn(serve(dir.path()).args(cluster))
    });
    let both = |replicas: u64| replicas == 2;
    a.until_metric("arcpd_cluster_replicas", both).await;
    let mut peer = Peer::connect(&a.address, ALICE).await;
    let scrape = || a.admin_get("/metrics").1;
    let idle = scrape();
    for _ in 0..5 {
        peer.submit("echo", json!(1)).await;
        peer.until_terminal().await;
    }
    let well = scrape();
    let dir = dirs[0].path();
    assert_eq!(firing(dir, &idle, &well), Vec::<String>::new());

    b.kill();
    let once = |takeovers: u64| takeovers == 1;
    a.until_metric("arcpd_cluster_takeovers_total", once).await;
    assert_eq!(
        firing(dir, &well, &scrape()),
        ["ArcpdReplicaAlone", "ArcpdReplicasComeAndGo"]
    );
}
