//! Sessions over gRPC against a real process: streams are exactly 1..n.

mod support;

use arcpd::wire::proto::{self, envelope::Payload};
use serde_json::json;
use support::*;

fn firehose(events: u64) -> serde_json::Value {
    json!({ "events": events, "bytes": 128, "pause_every": 500, "pause_ms": 5 })
}

#[tokio::test]
async fn a_job_streams_its_events_and_result() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice
        .submit("echo", json!({ "n": 9007199254740993u64 }))
        .await;
    let seen = alice.until_terminal().await;
    let Some(Payload::JobResult(result)) = &seen[0].payload else {
        panic!("{seen:?}")
    };
    assert_eq!(result.result_json, r#"{"n":9007199254740993}"#);
    alice
        .submit("failer", json!({ "code": "TIMEOUT", "message": "no" }))
        .await;
    let seen = alice.until_terminal().await;
    let Some(Payload::JobError(error)) = &seen[0].payload else {
        panic!("{seen:?}")
    };
    assert_eq!((&*error.code, &*error.final_status), ("TIMEOUT", "error"));
    assert_eq!(seqs(&seen), [2]);
    assert!(runtime.terminate().await.success());
}

#[tokio::test]
async fn a_dropped_client_resumes_without_a_gap_or_a_double() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut first = Peer::connect(&runtime.address, ALICE).await;
    first.submit("firehose", firehose(5_000)).await;
    let mut seen = Vec::new();
    while seen.len() < 1_000 {
        seen.push(first.next().await);
    }
    let (session_id, token) = (first.session_id.clone(), first.resume_token.clone());
    drop(first);
    let mut second = Peer::resume(&runtime.address, ALICE, &session_id, &token, 1_000)
        .await
        .welcomed()
        .await;
    assert_eq!(second.session_id, session_id);
    assert_ne!(second.resume_token, token);
    seen.extend(second.until_terminal().await);
    assert_eq!(seqs(&seen), (1..=5_001).collect::<Vec<_>>());
    // S-17: resuming at the end is no error. The old token is void once the
    // client has said anything with the new one.
    second.ping().await;
    let (session_id, fresh) = (second.session_id.clone(), second.resume_token.clone());
    drop(second);
    let mut stale = Peer::resume(&runtime.address, ALICE, &session_id, &token, 0).await;
    assert_eq!(stale.error().await.code, "RESUME_WINDOW_EXPIRED");
    let mut bob = Peer::resume(&runtime.address, BOB, &session_id, &fresh, 0).await;
    assert_eq!(bob.error().await.code, "RESUME_WINDOW_EXPIRED");
    let mut whole = Peer::resume(&runtime.address, ALICE, &session_id, &fresh, 0)
        .await
        .welcomed()
        .await;
    let replayed = whole.until_terminal().await;
    assert_eq!(replayed, seen, "the same ids, numbers and bodies");
}

#[tokio::test]
async fn an_observer_sees_history_then_live_once() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("firehose", firehose(5_000)).await;
    for _ in 0..700 {
        alice.next().await;
    }
    let mut observer = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    observer.send(&job, Payload::JobSubscribe(subscribe)).await;
    let subscribed = observer.next().await;
    assert!(
        matches!(subscribed.payload, Some(Payload::JobSubscribed(_))),
        "{subscribed:?}"
    );
    let seen = observer.until_terminal().await;
    assert_eq!(seqs(&seen), (1..=5_001).collect::<Vec<_>>());
    let payloads =
        |seen: &[proto::Envelope]| seen.iter().map(|e| e.payload.clone()).collect::<Vec<_>>();
    let token = observer.resume_token.clone();
    let id = observer.session_id.clone();
    drop(observer);
    let mut again = Peer::resume(&runtime.address, ALICE, &id, &token, 0)
        .await
        .welcomed()
        .await;
    assert_eq!(payloads(&again.until_terminal().await), payloads(&seen));
    // Nothing about another principal's job is told.
    let mut bob = Peer::connect(&runtime.address, BOB).await;
    bob.send(&job, Payload::JobSubscribe(subscribe)).await;
    assert_eq!(bob.error().await.code, "JOB_NOT_FOUND");
    bob.send(&job, Payload::JobCancel(Default::default())).await;
    assert_eq!(bob.error().await.code, "JOB_NOT_FOUND");
}

#[tokio::test]
async fn a_cancel_is_answered_and_ends_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("sleeper", json!({ "ms": 3_600_000 })).await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert!(matches!(
        alice.next().await.payload,
        Some(Payload::JobCancelled(_))
    ));
    let seen = alice.until_terminal().await;
    let Some(Payload::JobError(error)) = &seen[0].payload else {
        panic!()
    };
    assert_eq!(
        (&*error.code, &*error.final_status),
        ("CANCELLED", "cancelled")
    );
    // Said again it is answered again; another session of the principal may only watch.
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert!(matches!(
        alice.next().await.payload,
        Some(Payload::JobCancelled(_))
    ));
    let mut other = Peer::connect(&runtime.address, ALICE).await;
    other
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert_eq!(other.error().await.code, "PERMISSION_DENIED");
}

#[tokio::test]
async fn refusals_name_the_request_and_leave_the_session_alone() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut stranger = Peer::open(&runtime.address, hello("wrong")).await;
    assert_eq!(stranger.error().await.code, "UNAUTHENTICATED");
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for (agent, lease, code) in [
        ("nobody", "", "AGENT_NOT_AVAILABLE"),
        ("echo@9", "", "AGENT_VERSION_NOT_AVAILABLE"),
        ("NO", "", "INVALID_REQUEST"),
        ("echo", r#"{"tool.call":["a**b"]}"#, "INVALID_REQUEST"),
    ] {
        let submit = proto::JobSubmit {
            agent: agent.into(),
            lease_request_json: lease.into(),
            ..Default::default()
        };
        let id = alice.send("", Payload::JobSubmit(submit)).await;
        let error = alice.error().await;
        assert_eq!((&*error.code, &error.request_id), (code, &id));
    }
    // S-09: a forged event is refused and is in nobody's stream.
    alice
        .send("job_x", Payload::JobEvent(Default::default()))
        .await;
    assert_eq!(alice.error().await.code, "INVALID_REQUEST");
    alice.submit("echo", json!(1)).await;
    assert_eq!(seqs(&alice.until_terminal().await), [1]);
}

/// Everything that many channels held went out as one message of 24 MB, which a
/// gRPC client refuses, and its stream with it.
#[tokio::test]
async fn jobs_that_all_speak_at_once_make_no_message_that_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    // All are there before the first of them speaks.
    let input = json!({ "events": 1_000, "bytes": 200, "delay_ms": 500 });
    for _ in 0..60 {
        alice.submit("firehose", input.clone()).await;
    }
    runtime
        .until_metric("arcpd_jobs_running", |jobs| jobs == 0)
        .await;
    let mut seen = Vec::new();
    for _ in 0..60 {
        seen.extend(seqs(&alice.until_terminal().await));
    }
    assert_eq!(seen, (1..=60 * 1_001).collect::<Vec<_>>());
}
