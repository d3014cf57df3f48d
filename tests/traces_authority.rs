//! Traces of what jobs may do: refusals, budgets, credentials, and the jobs they
//! delegate, as whole trees.

mod support;

use arcpd::wire::proto;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::{Value, json};
use support::collector::Collector;
use support::gateway::{Gateway, Mood};
use support::host::{self, HOSTING, HostPeer};
use support::jobs;
use support::*;
use tonic::Request;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A submit of a caller that traces.
async fn submit(
    runtime: &Runtime,
    agent: &str,
    input: Value,
    lease: Value,
) -> Result<proto::Job, tonic::Status> {
    let mut request = Request::new(proto::SubmitJobRequest {
        lease_request_json: lease.to_string(),
        ..jobs::of(agent, input)
    });
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    for (name, value) in [
        ("traceparent", &*traceparent),
        ("tracestate", "v=1"),
        ("baggage", "tenant=t1"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let mut jobs = jobs::connect(runtime, ALICE).await;
    let submitted = jobs.submit_job(request).await?.into_inner();
    Ok(submitted.job.unwrap())
}

#[tokio::test]
async fn a_refused_operation_is_in_the_run_with_its_code_and_not_its_target() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "grpc", "");
    let op = |capability: &str, target: &str| json!({ "capability": capability, "target": target });
    let ops = json!({ "ops": [op("tool.call", "a.x"), op("tool.call", "hidden-target"),
        op("hidden-capability", "a")] });
    let lease = json!({ "tool.call": ["a.*"] });
    let job = submit(&runtime, "toolbox", ops, lease).await.unwrap();
    collector.run_of(&job.job_id).await;
    assert_eq!(
        collector.shape(TRACE),
        format!(
            "caller {CALLER}\n\
             arcp.job submit\n\
             \x20 invoke_agent toolbox\n\
             \x20   arcp.job authorize !INVALID_REQUEST\n\
             \x20   arcp.job authorize !PERMISSION_DENIED\n\
             \x20   execute_tool hidden-capability !INVALID_REQUEST\n\
             \x20   execute_tool tool.call\n\
             \x20   execute_tool tool.call !PERMISSION_DENIED\n"
        )
    );
    let refused = collector.span(TRACE, "arcp.job authorize").await;
    refused.has(&[("arcp.job.id", &job.job_id)]);
    let spans = collector.spans();
    let refusals = spans.iter().filter(|span| span.name == refused.name);
    let mut about: Vec<_> = refusals
        .map(|span| &*span.attributes["arcp.lease.capability"])
        .collect();
    about.sort_unstable();
    assert_eq!(about, ["", "tool.call"]);
    assert!(!collector.raw().contains("hidden-target"));
}

#[tokio::test]
async fn a_run_says_what_it_may_spend_what_it_did_and_what_is_left() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", "");
    let lease = json!({ "cost.budget": ["USD:1.00", "EUR:3"], "tool.call": ["spend"] });
    let input = json!({ "currency": "USD", "per_step": 0.25, "steps": 3 });
    let job = submit(&runtime, "spender", input, lease).await.unwrap();
    let run = collector.run_of(&job.job_id).await;
    run.has(&[
        ("arcp.budget.granted.EUR", "3"),
        ("arcp.budget.granted.USD", "1"),
        ("arcp.budget.remaining.EUR", "3"),
        ("arcp.budget.remaining.USD", "0.25"),
        ("arcp.cost.USD", "0.75"),
        ("arcp.job.status", "success"),
    ]);
    // The one that is told that nothing is left is refused in its trace.
    let lease = json!({ "cost.budget": ["USD:0.50"], "tool.call": ["spend"] });
    let input = json!({ "currency": "USD", "per_step": 0.25, "steps": 9 });
    let job = submit(&runtime, "spender", input, lease).await.unwrap();
    let run = collector.run_of(&job.job_id).await;
    run.has(&[("arcp.budget.remaining.USD", "0"), ("arcp.cost.USD", "0.5")]);
    let refused = collector.span(TRACE, "arcp.job authorize").await;
    assert_eq!(refused.error.as_deref(), Some("BUDGET_EXHAUSTED"));
    assert_eq!(refused.parent, run.span_id);
}

#[tokio::test]
async fn children_are_below_the_run_of_their_parent_and_so_is_the_one_that_was_refused() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "grpc", "");
    let lease = json!({ "agent.delegate": ["echo"], "cost.budget": ["USD:1"] });
    let input = json!({ "agent": "echo", "input": 1, "times": 2 });
    let job = submit(&runtime, "delegator", input, lease.clone())
        .await
        .unwrap();
    let run = collector.run_of(&job.job_id).await;
    let child = "\x20   arcp.job submit\n\x20     invoke_agent echo\n";
    assert_eq!(
        collector.shape(TRACE),
        format!("caller {CALLER}\narcp.job submit\n  invoke_agent delegator\n{child}{child}")
    );
    let spans = collector.spans();
    let echoes = spans.iter().filter(|span| span.name == "invoke_agent echo");
    let mut linked = Vec::new();
    for echo in echoes {
        echo.has(&[("arcp.job.parent_id", &job.job_id)]);
        assert_eq!(echo.tracestate, "v=1");
        linked.push((TRACE.to_owned(), echo.span_id.clone()));
    }
    linked.sort();
    let mut links = run.links.clone();
    links.sort();
    assert_eq!(links, linked, "the run names its children's");

    let other = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let runtime = other.runtime(dir.path(), "grpc", "");
    let input = json!({ "agent": "ticker", "input": {}, "times": 1 });
    let job = submit(&runtime, "delegator", input, lease).await.unwrap();
    other.run_of(&job.job_id).await;
    assert_eq!(
        other.shape(TRACE),
        format!(
            "caller {CALLER}\narcp.job submit\n  invoke_agent delegator\n\
             \x20   arcp.job authorize !PERMISSION_DENIED\n\
             \x20   arcp.job submit !PERMISSION_DENIED\n"
        )
    );
}

/// Two hosts, one of which delegates to the other; the client cancels.
#[tokio::test]
async fn a_cancel_of_a_hosts_job_is_in_its_trace_and_in_its_childs() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "grpc", HOSTING);
    let mut boss = HostPeer::serving(&runtime.address, "h1", "boss", 1).await;
    let mut worker = HostPeer::serving(&runtime.address, "h2", "worker", 1).await;
    let lease = json!({ "agent.delegate": ["worker"] });
    let job = submit(&runtime, "boss", json!(1), lease).await.unwrap();
    let (_, of) = boss.assigned().await;
    boss.accept(&of).await;
    boss.say(Say::Delegate(proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: "d1".into(),
        agent: "worker".into(),
        input_json: "1".into(),
        ..Default::default()
    }))
    .await;
    let (assign, of_child) = worker.assigned().await;
    worker.accept(&of_child).await;
    // Whoever works on the child is below the child's run, with what the caller said.
    assert_eq!(
        (&*assign.tracestate, &*assign.baggage),
        ("v=1", "tenant=t1")
    );
    let child_run = assign.traceparent.clone();
    match boss.next().await {
        Hear::DelegateResult(result) => assert_eq!(result.code, ""),
        other => panic!("expected a child, got {other:?}"),
    }
    let mut jobs = jobs::connect(&runtime, ALICE).await;
    let job_id = job.job_id.clone();
    let cancel = proto::CancelJobRequest { job_id };
    jobs.cancel_job(cancel).await.unwrap();
    let cancelled = || {
        let outcome = proto::complete::Outcome::Cancelled(proto::Cancelled {});
        host::complete(1, outcome)
    };
    assert!(matches!(worker.next().await, Hear::Cancel(_)));
    worker.report(&of_child, vec![cancelled()]).await;
    let child = collector.span(TRACE, "invoke_agent worker").await;
    assert_eq!(child_run, format!("00-{TRACE}-{}-01", child.span_id));
    while !matches!(boss.next().await, Hear::Cancel(_)) {}
    boss.report(&of, vec![cancelled()]).await;
    collector.run_of(&job.job_id).await;
    assert_eq!(
        collector.shape(TRACE),
        format!(
            "caller {CALLER}\n\
             arcp.job submit\n\
             \x20 invoke_agent boss !CANCELLED\n\
             \x20   arcp.job cancel\n\
             \x20   arcp.job submit\n\
             \x20     invoke_agent worker !CANCELLED\n\
             \x20       arcp.job cancel\n"
        )
    );
}

#[tokio::test]
async fn who_hands_out_credentials_is_told_a_span_that_comes_also_when_it_refuses() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let gateway = Gateway::start().await;
    let runtime = collector.runtime(dir.path(), "grpc", &gateway.toml(dir.path()));
    let job = submit(&runtime, "echo", json!(1), credentials::lease()).await;
    let job = job.unwrap();
    collector.run_of(&job.job_id).await;
    let tree =
        format!("caller {CALLER}\narcp.job submit\n  arcp.credential issue\n  invoke_agent echo\n");
    assert_eq!(collector.shape(TRACE), tree);
    let issue = collector.span(TRACE, "arcp.credential issue").await;
    let told = &gateway.keys()[0].traceparent;
    assert_eq!(*told, format!("00-{TRACE}-{}-01", issue.span_id));

    let other = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    gateway.set(Mood::Down);
    let runtime = other.runtime(dir.path(), "grpc", &gateway.toml(dir.path()));
    let refused = submit(&runtime, "echo", json!(1), credentials::lease()).await;
    let code = refused.unwrap_err().code();
    other.span(TRACE, "arcp.job submit").await;
    assert_eq!(
        other.shape(TRACE),
        format!(
            "caller {CALLER}\narcp.job submit !INTERNAL_ERROR\n  arcp.credential issue !INTERNAL_ERROR\n"
        ),
        "{code:?}"
    );
    // Nothing that was handed out is in what was sent.
    for raw in [collector.raw(), other.raw()] {
        credentials::assert_clean("the trace", raw.as_bytes());
    }
    credentials::assert_scanner_works(&gateway);
}
