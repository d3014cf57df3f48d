//! Agents in Python with spans of their own, by OpenTelemetry's SDK: they and the
//! runtime's are one trace.

mod support;

use serde_json::json;
use support::collector::{Collector, Seen};
use support::host::{HOSTING, HOSTING_BRIEFLY, WORKERS};
use support::python::{Program, root};
use support::*;

fn traced(runtime: &Runtime, collector: &Collector, service: &str, role: [&str; 2]) -> Program {
    let script = root("tests/python/traced.py");
    let arguments = [script.to_str().unwrap(), role[0], role[1]];
    let env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.clone()),
        ("OTEL_SERVICE_NAME", service.into()),
    ];
    Program::start_with(&runtime.address, WORKERS, &arguments, env)
}

fn host(runtime: &Runtime, collector: &Collector, name: &str) -> Program {
    let host = traced(runtime, collector, name, ["host", name]);
    host.until("registered with arcpd");
    host
}

fn services(spans: &[Seen], trace: &str) -> Vec<String> {
    let of = spans.iter().filter(|span| span.trace_id == trace);
    let mut names: Vec<_> = of
        .map(|span| format!("{} {}", span.service, span.name))
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_the_runtime_a_host_and_a_child_are_one_trace() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "grpc", HOSTING);
    let _host = host(&runtime, &collector, "agents");
    let client = traced(&runtime, &collector, "shop", ["client", ALICE]);
    let over = client.until("over ");
    let trace = over.strip_prefix("over ").unwrap();
    collector.span(trace, "ask").await;
    collector.span(trace, "invoke_agent boss").await;
    assert_eq!(
        collector.shape(trace),
        "ask\n\
         \x20 arcp.job submit\n\
         \x20   invoke_agent boss\n\
         \x20     arcp.job submit\n\
         \x20       invoke_agent worker\n\
         \x20         work\n\
         \x20     execute_tool search\n\
         \x20     plan\n\
         \x20       ask the model\n"
    );
    let spans = collector.spans();
    assert_eq!(
        services(&spans, trace),
        [
            "agents ask the model",
            "agents plan",
            "agents work",
            "arcpd arcp.job submit",
            "arcpd arcp.job submit",
            "arcpd execute_tool search",
            "arcpd invoke_agent boss",
            "arcpd invoke_agent worker",
            "shop ask",
        ]
    );
    // What the client said goes all the way down.
    let work = collector.span(trace, "work").await;
    work.has(&[("tenant", "t1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_killed_and_the_one_after_it_are_in_one_run() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", HOSTING_BRIEFLY);
    let first = host(&runtime, &collector, "first");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("steps", json!(null)).await;
    let trace = loop {
        let envelope = peer.next().await;
        if envelope.event_seq > 0 {
            break envelope.trace_id;
        }
    };
    collector.span(&trace, "attempt 1").await;
    first.signal("-KILL");
    let _second = host(&runtime, &collector, "second");
    peer.until_terminal().await;
    collector.span(&trace, "invoke_agent steps").await;
    assert_eq!(
        collector.shape(&trace),
        "arcp.job submit\n\
         \x20 invoke_agent steps\n\
         \x20   arcp.host lost !host_lost\n\
         \x20   arcp.job retry\n\
         \x20   attempt 1\n\
         \x20   attempt 2\n"
    );
    let lost = collector.span(&trace, "arcp.host lost").await;
    lost.has(&[("arcp.host.name", "first"), ("arcp.job.attempt", "1")]);
    let run = collector.span(&trace, "invoke_agent steps").await;
    run.has(&[("arcp.job.attempt", "2")]);
}
