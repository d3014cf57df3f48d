//! Traces of what is asked for: a resume, a subscribe, a submit that is refused.

mod support;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use serde_json::json;
use support::collector::Collector;
use support::ws::Ws;
use support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_resume_and_a_subscribe_are_traces_of_their_own_that_link_to_the_run() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", "");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job_id = peer
        .submit("ticker", json!({ "count": 3_000, "interval_ms": 1_000 }))
        .await;
    let (session, token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    let resumed = Peer::resume(&runtime.address, ALICE, &session, &token, 0).await;
    let mut peer = resumed.welcomed().await;
    let mut observer = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    observer
        .send(&job_id, Payload::JobSubscribe(subscribe))
        .await;
    observer.ping().await;
    peer.send(&job_id, Payload::JobCancel(proto::JobCancel::default()))
        .await;
    let trace = peer.until_terminal().await[0].trace_id.clone();
    let run = collector.span(&trace, "invoke_agent ticker").await;
    let link = vec![(trace.clone(), run.span_id.clone())];
    for name in ["arcp.session resume", "arcp.job subscribe"] {
        let span = collector
            .until(|seen| seen.spans().into_iter().find(|span| span.name == name))
            .await;
        assert!(span.trace_id != trace && span.parent.is_empty(), "{span:?}");
        assert_eq!(span.links, link, "{name}");
    }
    assert_eq!(
        collector.tree(&trace),
        "arcp.job submit\n  invoke_agent ticker !CANCELLED\n    arcp.job cancel\n"
    );
    assert!(!collector.raw().contains(&token));
}

#[tokio::test]
async fn a_refused_submit_and_an_unsampled_one() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", "");
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let mut submit = ws.envelope("job.submit", json!({ "agent": "nobody", "input": 1 }));
    submit["trace_id"] = format!("00-{TRACE}-{CALLER}-01").into();
    ws.send(&submit.to_string()).await;
    let span = collector.span(TRACE, "arcp.job submit").await;
    assert_eq!(span.error.as_deref(), Some("AGENT_NOT_AVAILABLE"));
    assert_eq!(span.parent, CALLER);
    // A caller that does not record its trace gets no part of one.
    let mut submit = ws.envelope("job.submit", json!({ "agent": "echo", "input": 1 }));
    let unsampled = "aaf92f3577b34da6a3ce929d0e0e4736";
    submit["trace_id"] = format!("00-{unsampled}-{CALLER}-00").into();
    ws.send(&submit.to_string()).await;
    ws.until_terminal().await;
    // An extension that cannot be read is refused by field.
    let mut submit = ws.envelope("job.submit", json!({ "agent": "echo", "input": 1 }));
    submit["extensions"] = json!({ "x-vendor.opentelemetry.tracecontext": { "traceparent": "x" } });
    ws.send(&submit.to_string()).await;
    let refused = ws.hear_type("session.error").await;
    let message = refused["payload"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("extensions.x-vendor.opentelemetry.tracecontext.traceparent:"),
        "{message}"
    );
    // A trace_id that cannot be read is told to whoever looks for it.
    let mut submit = ws.envelope("job.submit", json!({ "agent": "echo", "input": 1 }));
    submit["trace_id"] = "free text".into();
    ws.send(&submit.to_string()).await;
    let accepted = ws.hear_type("job.accepted").await;
    let span = collector
        .span(accepted["trace_id"].as_str().unwrap(), "arcp.job submit")
        .await;
    span.has(&[("arcp.trace_id.ignored", "true")]);
    assert!(runtime.terminate().await.success());
    assert_eq!(collector.tree(unsampled), "");
}

/// Whoever reaches the port would write into traces of others.
#[tokio::test]
async fn a_peer_that_nobody_knows_writes_no_span() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let runtime = collector.runtime(dir.path(), "http/protobuf", "");
    for token in ["a token that nobody has", ALICE] {
        let mut ws = Ws::dial(&runtime).await;
        let mut hello = support::ws::hello("h", token, json!({}));
        hello["trace_id"] = format!("00-{TRACE}-{CALLER}-01").into();
        ws.send(&hello.to_string()).await;
        ws.hear().await;
    }
    let opened = collector.span(TRACE, "arcp.session open").await;
    assert!(runtime.terminate().await.success());
    // The one that was let in, and nothing of the one before it.
    assert_eq!(opened.error, None);
    let in_trace = collector.spans().into_iter();
    assert_eq!(in_trace.filter(|span| span.trace_id == TRACE).count(), 1);
}
