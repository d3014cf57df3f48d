//! The benchmark runs, checks its streams and writes its results.

mod support;

use std::process::Command;

use support::nats;

#[test]
fn a_quick_run_has_its_rows_beside_their_floor() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_arcpd"))
        .args([
            "bench",
            "--quick",
            "--only",
            "latency,setup,stream,many,replay,fanout,aged,hosts,authorize,telemetry",
            "--json",
        ])
        .arg(&json)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let results: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let rows = results["rows"].as_array().unwrap();
    for measure in [
        "submit→result, 64 clients, p50, WebSocket",
        "sessions set up, 64 at a time, WebSocket",
        "one job, gRPC",
        "one job, WebSocket",
        "20 jobs at once, 1 session, gRPC",
        "64 jobs at once, 64 sessions, WebSocket",
        "replay of a job's events, WebSocket",
        "100 observers, gRPC",
        "1000 observers, WebSocket",
        "resume of a session that has had 600 jobs, gRPC",
        "one job on a remote agent, gRPC",
        "authorize over a host's stream, p50",
        "jobs, 64 clients, every span exported",
    ] {
        let row = rows.iter().find(|row| row["measure"] == measure);
        let row = row.unwrap_or_else(|| panic!("no row {measure}"));
        assert!(row["arcpd"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn a_quick_run_over_a_cluster_has_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("results.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command
        .args(["bench", "--cluster", "--nats-server"])
        .arg(nats::program())
        .args(["--quick", "--json"])
        .arg(&json);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let rows = results["rows"].as_array().unwrap();
    let row = |measure: &str| {
        let row = rows.iter().find(|row| row["measure"] == measure);
        row.unwrap_or_else(|| panic!("no row {measure}"))
    };
    for measure in [
        "one job, replicated",
        "64 jobs at one replica, replicated",
        "event to a client at another replica, one each 10 ms, p50",
        "event to a client at another replica, one after the other, p50",
        "NATS stream leader killed: a client's longest silence",
    ] {
        assert!(row(measure)["ratio"].as_f64().unwrap() > 0.0, "{said}");
    }
    for measure in [
        "100 observers at the other replicas",
        "replica killed: a client's longest silence",
        "replica drained: a client's longest silence",
        "60 jobs over 2 replicas",
        "short jobs at 1 of 2 replicas",
        "sessions at 1 of 2 replicas",
    ] {
        assert!(row(measure)["arcpd"].as_f64().unwrap() > 0.0, "{said}");
    }
}

#[test]
fn what_needs_a_cluster_is_not_measured_without_one() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    let refused = command
        .args(["bench", "--only", "failover"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("--cluster"), "{text}");
}
