//! Traces: what a collector is told of jobs, as whole trees.

mod support;

use arcpd::wire::proto;
use arcpd::wire::proto::LossPolicy;
use arcpd::wire::proto::job_event::Body;
use serde_json::json;
use support::collector::{Collector, Seen};
use support::host::*;
use support::jobs::{connect, of};
use support::ws::Ws;
use support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn run_of<'a>(spans: &'a [Seen], job_id: &str) -> &'a Seen {
    let found = spans.iter().find(|span| {
        span.name.starts_with("invoke_agent") && span.attributes["arcp.job.id"] == job_id
    });
    found.unwrap_or_else(|| panic!("a run of {job_id}"))
}

#[tokio::test]
async fn a_submit_is_a_child_of_its_caller_over_grpc_and_its_run_and_tools_are_below() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let mut command = serve(dir.path());
    command
        .envs(collector.env("grpc"))
        .env("OTEL_SERVICE_NAME", "agents")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k%201")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let runtime = Runtime::spawn(&mut command);
    let mut jobs = connect(&runtime, ALICE).await;
    let mut request = tonic::Request::new(of("word-count", json!({ "text": "a secret word" })));
    let parent = format!("00-{TRACE}-{CALLER}-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    request
        .metadata_mut()
        .insert("tracestate", "vendor=1".parse().unwrap());
    let job = jobs
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    let run = collector.span(TRACE, "invoke_agent word-count").await;
    assert_eq!(
        collector.tree(TRACE),
        format!(
            "caller {CALLER}\narcp.job submit\n  invoke_agent word-count\n    execute_tool rank\n"
        )
    );
    assert_eq!((&*run.service, &*run.tracestate), ("agents", "vendor=1"));
    run.has(&[
        ("arcp.job.id", &job.job_id),
        ("arcp.job.status", "success"),
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.agent.name", "word-count"),
        ("gen_ai.agent.version", "1.0.0"),
    ]);
    let submit = collector.span(TRACE, "arcp.job submit").await;
    let method = ("rpc.method", "arcp.v1.JobService/SubmitJob");
    submit.has(&[("rpc.system.name", "grpc"), method]);
    let tool = collector.span(TRACE, "execute_tool rank").await;
    tool.has(&[
        ("gen_ai.tool.name", "rank"),
        ("gen_ai.tool.call.id", "rank-1"),
    ]);
    assert!(run.start_ns <= tool.start_ns && tool.end_ns <= run.end_ns);
    assert_eq!(collector.headers()[0]["x-key"], "k 1");
    // Input, result and token are nobody's attribute.
    let raw = collector.raw();
    assert!(raw.contains(&job.job_id) && !raw.contains("secret") && !raw.contains(ALICE));
}

#[tokio::test]
async fn the_submit_of_a_running_job_is_exported_at_once() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let mut command = serve(dir.path());
    command
        .envs(collector.env("http/protobuf"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let runtime = Runtime::spawn(&mut command);
    let mut jobs = connect(&runtime, ALICE).await;
    let job = jobs
        .submit_job(of("sleeper", json!({ "ms": 3_600_000 })))
        .await
        .unwrap();
    let job = job.into_inner().job.unwrap();
    collector.span(&job.trace_id, "arcp.job submit").await;
    assert_eq!(collector.tree(&job.trace_id), "arcp.job submit\n");
    // A parent that is asked for is one that comes.
    let job_id = job.job_id.clone();
    jobs.cancel_job(proto::CancelJobRequest { job_id })
        .await
        .unwrap();
    assert!(runtime.terminate().await.success());
    let spans = collector.spans();
    assert!(run_of(&spans, &job.job_id).error.as_deref() == Some("CANCELLED"));
    assert_eq!(
        collector.tree(&job.trace_id),
        "arcp.job submit\n  invoke_agent sleeper !CANCELLED\n    arcp.job cancel\n"
    );
}

#[tokio::test]
async fn a_hosts_tools_are_in_the_job_and_its_own_spans_have_the_run_as_parent() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", HOSTING);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 4).await;
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let mut submit = ws.envelope("job.submit", json!({ "agent": "a", "input": 1 }));
    submit["trace_id"] = TRACE.into();
    submit["extensions"] = json!({ "x-vendor.opentelemetry.tracecontext": {
        "traceparent": format!("00-{TRACE}-{CALLER}-01"), "tracestate": "v=2", "baggage": "tenant=t1" } });
    ws.send(&submit.to_string()).await;
    let (assign, of) = host.assigned().await;
    assert_eq!(
        (&*assign.tracestate, &*assign.baggage),
        ("v=2", "tenant=t1")
    );
    host.accept(&of).await;
    let call = |id: &str, tool: &str| {
        Body::ToolCall(proto::ToolCall {
            tool: tool.into(),
            call_id: id.into(),
            args_json: r#"{"key":"hidden-argument"}"#.into(),
        })
    };
    let result = |id: &str, error_json: &str| {
        Body::ToolResult(proto::ToolResult {
            call_id: id.into(),
            result_json: if error_json.is_empty() { "1" } else { "" }.into(),
            error_json: error_json.into(),
        })
    };
    let cost = Body::Metric(proto::Metric {
        name: "cost.inference".into(),
        value: 0.25,
        unit: "USD".into(),
        ..Default::default()
    });
    let refused = r#"{"code":"PERMISSION_DENIED","message":"hidden-text"}"#;
    let reports = [
        event(1, call("1", "search")),
        event(2, call("2", "write")),
        event(3, result("1", "")),
        event(4, cost.clone()),
        event(5, cost),
        event(6, result("2", refused)),
        event(7, call("3", "left-open")),
        support::host::result(8, "1"),
    ];
    host.report(&of, reports.into()).await;
    ws.until_terminal().await;
    let run = collector.span(TRACE, "invoke_agent a").await;
    assert_eq!(assign.traceparent, format!("00-{TRACE}-{}-01", run.span_id));
    let children: Vec<_> = collector
        .tree(TRACE)
        .lines()
        .map(str::trim)
        .map(String::from)
        .collect();
    let mut tools = children[3..].to_vec();
    tools.sort();
    assert_eq!(
        children[..3],
        [
            format!("caller {CALLER}"),
            "arcp.job submit".into(),
            "invoke_agent a".into()
        ]
    );
    assert_eq!(
        tools,
        [
            "execute_tool left-open !success",
            "execute_tool search",
            "execute_tool write !PERMISSION_DENIED"
        ]
    );
    run.has(&[("arcp.cost.USD", "0.5"), ("arcp.job.events", "8")]);
    assert!(run.attributes.contains_key("arcp.job.queue_seconds"));
    let raw = collector.raw();
    assert!(!raw.contains("hidden-argument") && !raw.contains("hidden-text"));
}

#[tokio::test]
async fn a_lost_host_and_the_retry_after_it_are_in_the_trace() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", HOSTING_BRIEFLY);
    let with = |policy| vec![with_policy("a", policy)];
    let first = register("h1", with(LossPolicy::Retry), 1);
    let (mut h1, _) = HostPeer::connect(&runtime.address, first).await.unwrap();
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("a", json!(1)).await;
    let (assign, of) = h1.assigned().await;
    h1.accept(&of).await;
    let open = Body::ToolCall(proto::ToolCall {
        tool: "search".into(),
        call_id: "1".into(),
        args_json: "1".into(),
    });
    h1.report(&of, vec![log(1, "begun"), event(2, open)]).await;
    h1.acked(2).await;
    drop(h1);
    let second = register("h2", with(LossPolicy::Retry), 1);
    let (mut h2, _) = HostPeer::connect(&runtime.address, second).await.unwrap();
    let (again, of) = h2.assigned().await;
    assert_eq!(
        (again.attempt, &again.traceparent),
        (2, &assign.traceparent)
    );
    h2.accept(&of).await;
    h2.report(&of, vec![result(1, "1")]).await;
    let seen = peer.until_terminal().await;
    let trace = &seen[0].trace_id;
    collector.span(trace, "invoke_agent a").await;
    assert_eq!(
        collector.tree(trace),
        "arcp.job submit\n  invoke_agent a\n    execute_tool search !host_lost\n    \
         arcp.host lost !host_lost\n    arcp.job retry\n"
    );
    let lost = collector.span(trace, "arcp.host lost").await;
    lost.has(&[
        ("arcp.host.name", "h1"),
        ("arcp.job.attempt", "1"),
        ("arcp.host.loss_policy", "retry"),
    ]);
}

/// The span that one process began, another ends: with the ids that the first gave away.
#[tokio::test]
async fn a_job_that_outlives_its_runtime_has_one_run() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", HOSTING);
    let address = runtime.address.clone();
    let mut host = HostPeer::serving(&address, "h1", "a", 1).await;
    let mut jobs = connect(&runtime, ALICE).await;
    let job = jobs
        .submit_job(of("a", json!(1)))
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    let inside = jobs
        .submit_job(of("sleeper", json!({ "ms": 3_600_000 })))
        .await
        .unwrap();
    let inside = inside.into_inner().job.unwrap();
    let (assign, held_ref) = host.assigned().await;
    host.accept(&held_ref).await;
    let call = Body::ToolCall(proto::ToolCall {
        tool: "search".into(),
        call_id: "1".into(),
        args_json: "1".into(),
    });
    host.report(&held_ref, vec![event(1, call)]).await;
    host.acked(1).await;
    collector.span(&job.trace_id, "arcp.job submit").await;
    collector.span(&inside.trace_id, "arcp.job submit").await;
    runtime.kill();
    let mut command = serve_at(dir.path(), &address);
    command.arg("--config").arg(dir.path().join("arcpd.toml"));
    let runtime = Runtime::spawn(command.envs(collector.env("http/protobuf")));
    let mut register = register("h1", vec![agent("a")], 1);
    register.resume = vec![held(&held_ref)];
    let (mut host, registered) = HostPeer::connect(&address, register).await.unwrap();
    assert_eq!(registered.keep.len(), 1);
    let done = Body::ToolResult(proto::ToolResult {
        call_id: "1".into(),
        result_json: "1".into(),
        ..Default::default()
    });
    host.report(&held_ref, vec![event(2, done), result(3, "1")])
        .await;
    let run = collector.span(&job.trace_id, "invoke_agent a").await;
    assert_eq!(
        assign.traceparent,
        format!("00-{}-{}-01", job.trace_id, run.span_id)
    );
    assert_eq!(
        collector.tree(&job.trace_id),
        "arcp.job submit\n  invoke_agent a\n    execute_tool search\n"
    );
    // What ran inside the runtime ended with it, and is not open for ever.
    collector
        .span(&inside.trace_id, "invoke_agent sleeper")
        .await;
    assert_eq!(
        collector.tree(&inside.trace_id),
        "arcp.job submit\n  invoke_agent sleeper !INTERNAL_ERROR\n"
    );
    drop(runtime);
}

#[tokio::test]
async fn a_program_is_told_its_trace_and_a_runtime_that_records_nothing_passes_it_on() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"printf '{"result":"%s %s %s"}' "$TRACEPARENT" "$TRACESTATE" "$BAGGAGE""#;
    let toml = format!("[[agent]]\nname = \"env\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n");
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut jobs = connect(&runtime, ALICE).await;
    let mut request = tonic::Request::new(of("env", json!(null)));
    let parent = format!("00-{TRACE}-{CALLER}-01");
    for (name, value) in [
        ("traceparent", &*parent),
        ("tracestate", "v=1"),
        ("baggage", "a=b"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let job = jobs
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    let mut watch = jobs
        .watch_job(proto::WatchJobRequest {
            job_id: job.job_id,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let mut text = String::new();
    while let Some(more) = watch.message().await.unwrap() {
        text += &format!("{more:?}");
    }
    // No span of this runtime will ever arrive: the caller's own is the parent.
    assert!(text.contains(&format!("{parent} v=1 a=b")), "{text}");
}
