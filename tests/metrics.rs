//! Metrics: what Prometheus reads, what a collector gets, and the rules over both.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use arcpd::wire::proto::{self, envelope::Payload};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use serde_json::json;
use support::collector::Collector;
use support::host::*;
use support::nats::Nats;
use support::promtool::promtool;
use support::scrape::{names, series, value};
use support::*;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/arcpd/files");

/// One of everything: a job that ends well, one that fails, one of a host, a resume.
async fn busy(runtime: &Runtime) {
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 4).await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("echo", json!(1)).await;
    peer.until_terminal().await;
    let failing = json!({ "code": "TIMEOUT", "message": "late" });
    peer.submit("failer", failing).await;
    peer.until_terminal().await;
    let nobody = proto::JobSubmit {
        agent: "nobody".into(),
        ..Default::default()
    };
    peer.send("", Payload::JobSubmit(nobody)).await;
    peer.error().await;
    peer.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "begun"), result(2, "1")])
        .await;
    let seen = peer.until_terminal().await;
    let (session, token) = (peer.session_id.clone(), peer.resume_token.clone());
    let last = seen.last().unwrap().event_seq;
    drop(peer);
    let resumed = Peer::resume(&runtime.address, ALICE, &session, &token, last).await;
    let mut peer = resumed.welcomed().await;
    peer.ping().await;
}

fn start(dir: &Path, collector: &Collector) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, HOSTING).unwrap();
    let mut command = serve(dir);
    command.arg("--config").arg(path);
    Runtime::spawn(command.envs(collector.env("http/protobuf")))
}

#[tokio::test]
async fn what_happened_is_counted_under_one_name_for_prometheus_and_a_collector() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = start(dir.path(), &collector);
    busy(&runtime).await;
    let (status, text) = runtime.admin_get("/metrics");
    assert_eq!(status, 200);
    for (sample, expected) in [
        ("arcpd_jobs_submitted_total{agent=\"echo@1.0.0\"}", 1.0),
        (
            "arcpd_jobs_ended_total{agent=\"failer@1.0.0\",status=\"error\"}",
            1.0,
        ),
        (
            "arcpd_jobs_ended_total{agent=\"a@1.0.0\",status=\"success\"}",
            1.0,
        ),
        ("arcpd_job_run_seconds_count{agent=\"a@1.0.0\"}", 1.0),
        (
            "arcpd_jobs_refused_total{code=\"AGENT_NOT_AVAILABLE\"}",
            1.0,
        ),
        ("arcpd_job_queue_seconds_count", 1.0),
        ("arcpd_job_first_event_seconds_count", 3.0),
        ("arcpd_log_records_total", 4.0),
        ("arcpd_session_resumes_total{outcome=\"resumed\"}", 1.0),
        ("arcpd_session_hellos_total{code=\"OK\"}", 1.0),
        ("arcpd_host_places", 4.0),
        ("arcpd_host_places_taken", 0.0),
        ("arcpd_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(value(&text, sample), expected, "{sample}");
    }
    assert!(value(&text, "arcpd_commit_seconds_count") >= 4.0);
    assert!(value(&text, "arcpd_session_sent_bytes_total{transport=\"grpc\"}") > 100.0);
    assert!(value(&text, "arcpd_process_resident_memory_bytes") > 1e6);
    // The same, as a collector gets it, once it has all of it.
    let metrics: Vec<Metric> = collector
        .until(|seen| {
            let last = seen.metrics().pop()?;
            let metrics = last
                .resource_metrics
                .into_iter()
                .flat_map(|of| of.scope_metrics);
            let metrics: Vec<_> = metrics.flat_map(|scope| scope.metrics).collect();
            let resumes = metrics
                .iter()
                .any(|metric| metric.name == "arcpd_session_resumes_total" && total(metric) == 1.0);
            resumes.then_some(metrics)
        })
        .await;
    let pushed: BTreeSet<_> = metrics.iter().map(|metric| metric.name.clone()).collect();
    assert_eq!(pushed, names(&text));
}

fn total(counter: &Metric) -> f64 {
    let Some(Data::Sum(sum)) = &counter.data else {
        panic!("{counter:?}");
    };
    let values = sum.data_points.iter().map(|point| match point.value {
        Some(Value::AsInt(value)) => value as f64,
        Some(Value::AsDouble(value)) => value,
        None => 0.0,
    });
    values.sum()
}

/// An alert on a metric that was renamed never fires.
#[tokio::test]
async fn alerts_and_dashboard_ask_for_what_a_real_scrape_has() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = start(dir.path(), &collector);
    busy(&runtime).await;
    let (_, text) = runtime.admin_get("/metrics");
    let mut known = names(&text);
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    let replica = Runtime::spawn(serve(dir.path()).args(cluster));
    known.extend(names(&replica.admin_get("/metrics").1));
    for file in ["alerts.yaml", "dashboard.json"] {
        let asked = std::fs::read_to_string(Path::new(FILES).join(file)).unwrap();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let asked: BTreeSet<_> = asked
            .split(|c| !word(c))
            .filter(|name| name.starts_with("arcpd_"))
            .map(|name| name.trim_end_matches("_bucket").to_owned())
            .collect();
        assert!(asked.len() > 8, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
    serde_json::from_str::<serde_json::Value>(
        &std::fs::read_to_string(Path::new(FILES).join("dashboard.json")).unwrap(),
    )
    .unwrap();
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
    ] {
        let output = promtool(Path::new(FILES), &arguments, "");
        assert!(output.status.success(), "{output:?}");
    }
}

/// No label grows with sessions, jobs or principals.
#[tokio::test]
async fn more_use_makes_no_more_series() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = start(dir.path(), &collector);
    busy(&runtime).await;
    let before = series(&runtime.admin_get("/metrics").1);
    for _ in 0..100 {
        let mut peer = Peer::connect(&runtime.address, BOB).await;
        peer.submit("echo", json!(1)).await;
        peer.until_terminal().await;
    }
    let (_, text) = runtime.admin_get("/metrics");
    assert_eq!(series(&text), before);
    assert!(!text.contains("alice") && !text.contains("sess_") && !text.contains("job_0"));
}
