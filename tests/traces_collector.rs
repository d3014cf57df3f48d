//! Collectors that are down, slow, or say no: spans are dropped and counted, and
//! nothing waits.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::collector::{Answer, Collector};
use support::*;

const BOTH: [&str; 2] = ["grpc", "http/protobuf"];
const DROPPED: &str = "arcpd_telemetry_spans_dropped_total";
const EXPORTED: &str = "arcpd_telemetry_spans_exported_total";
const EXPORT_TIMEOUT: &str = "OTEL_BSP_EXPORT_TIMEOUT";

type Set<'a> = &'a [(&'a str, &'a str)];

/// A runtime with these variables and no others of their kind.
fn with(dir: &Path, set: Set<'_>) -> Runtime {
    Runtime::spawn(serve(dir).envs(set.iter().copied()))
}

/// Nothing of what the runtime needs to end may wait for its own worker.
#[tokio::test]
async fn one_worker_on_one_cpu_exports_and_ends() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start().await;
        let mut demo = Command::new("taskset");
        demo.args(["-c", "0", env!("CARGO_BIN_EXE_arcpd"), "demo"])
            .env("TOKIO_WORKER_THREADS", "1")
            .envs(collector.env(protocol));
        // Beside the collector, which has to answer meanwhile.
        let demo = tokio::task::spawn_blocking(move || demo.output());
        let demo = demo.await.unwrap().unwrap();
        let said = String::from_utf8(demo.stdout).unwrap();
        assert!(demo.status.success(), "{said}");
        let trace = said
            .lines()
            .find_map(|line| line.strip_prefix("trace      "))
            .unwrap();
        // All of it was there before the process had gone.
        assert_eq!(
            collector.tree(trace),
            "arcp.job submit\n  invoke_agent word-count\n    execute_tool rank\n"
        );
        let spans = collector.spans();
        let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let run = named("invoke_agent word-count");
        let link = vec![(run.trace_id.clone(), run.span_id.clone())];
        assert_eq!(named("arcp.session resume").links, link);
        assert_eq!(named("arcp.job subscribe").links, link);
    }
}

/// A collector that takes connections and never answers, on one worker.
#[tokio::test]
async fn a_collector_that_hangs_costs_dropped_spans_and_nothing_else() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    for protocol in ["grpc", "http/protobuf"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = serve(dir.path());
        command
            .env("TOKIO_WORKER_THREADS", "1")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &url)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_METRICS_EXPORTER", "none")
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            .env("OTEL_BSP_EXPORT_TIMEOUT", "300")
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
        let runtime = Runtime::spawn(&mut command);
        let mut peer = Peer::connect(&runtime.address, ALICE).await;
        for _ in 0..50 {
            peer.submit("echo", json!(1)).await;
            peer.until_terminal().await;
        }
        let name = "arcpd_telemetry_spans_dropped_total";
        runtime.until_metric(name, |dropped| dropped >= 40).await;
        runtime.until_logged("spans cannot be exported").await;
        drop(peer);
        let asked = Instant::now();
        assert!(runtime.terminate().await.success());
        assert!(
            asked.elapsed() < Duration::from_secs(10),
            "{:?}",
            asked.elapsed()
        );
    }
}

async fn jobs(runtime: &Runtime, count: u64) -> Duration {
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let started = Instant::now();
    for _ in 0..count {
        peer.submit("echo", json!(1)).await;
        peer.until_terminal().await;
    }
    started.elapsed()
}

/// Each job has two spans and the session one. What does not arrive is counted.
#[tokio::test]
async fn what_a_collector_does_not_take_is_counted_to_the_last_span_and_costs_no_job() {
    const JOBS: u64 = 200;
    let spans = 2 * JOBS + 1;
    // What the jobs would take if each waited for the collector once.
    let waiting = JOBS as u32 * Duration::from_secs(1);
    for protocol in BOTH {
        for answer in [Answer::Busy, Answer::Refuses, Answer::Hangs] {
            let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
            collector.set(answer);
            let mut command = serve(dir.path());
            command
                .envs(collector.env(protocol))
                .env("OTEL_METRICS_EXPORTER", "none")
                .env(EXPORT_TIMEOUT, "1000");
            let runtime = Runtime::spawn(&mut command);
            let took = jobs(&runtime, JOBS).await;
            assert!(took < waiting / 2, "{answer:?}: {took:?}");
            runtime
                .until_metric(DROPPED, |dropped| dropped == spans)
                .await;
            assert_eq!(runtime.metric(EXPORTED), 0);
            // What came too late is gone; what comes now is not.
            collector.set(Answer::Takes);
            jobs(&runtime, 1).await;
            runtime
                .until_metric(EXPORTED, |exported| exported == 3)
                .await;
            assert_eq!(runtime.metric(DROPPED), spans, "{protocol} {answer:?}");
            runtime.until_logged("spans are exported again").await;
        }
    }
}

#[tokio::test]
async fn nobody_there_costs_dropped_spans_and_what_is_refused_in_part_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let runtime = with(dir.path(), &[endpoint, (EXPORT_TIMEOUT, "100")]);
    jobs(&runtime, 20).await;
    runtime.until_metric(DROPPED, |dropped| dropped == 41).await;

    for protocol in BOTH {
        let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
        collector.set(Answer::RefusesOne);
        let runtime = collector.runtime(dir.path(), protocol, "");
        jobs(&runtime, 20).await;
        let all = |exported| exported + collector.batches().len() as u64 == 41;
        let exported = runtime.until_metric(EXPORTED, all).await;
        assert_eq!(runtime.metric(DROPPED), 41 - exported, "{protocol}");
    }
}

/// With all of its defaults, of which the longest is 30 s.
#[tokio::test]
async fn a_collector_that_hangs_keeps_no_runtime_from_its_end() {
    for protocol in BOTH {
        let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
        collector.set(Answer::Hangs);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url);
        let set = [endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        let runtime = with(dir.path(), &set);
        jobs(&runtime, 5).await;
        collector
            .until(|seen| (!seen.batches().is_empty()).then_some(()))
            .await;
        let asked = Instant::now();
        assert!(runtime.terminate().await.success());
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(10), "{protocol}: {took:?}");
    }
}

/// The last spans and the last metrics were given three seconds each, one after the
/// other.
#[tokio::test]
async fn a_collector_that_hangs_held_an_exit_up_twice() {
    for protocol in BOTH {
        // The system takes connections for it, and nobody answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let set = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let runtime = with(dir.path(), &set);
        jobs(&runtime, 5).await;
        let asked = Instant::now();
        assert!(runtime.terminate().await.success());
        let took = asked.elapsed();
        assert!(took < Duration::from_millis(5_500), "{protocol}: {took:?}");
    }
}
