//! Agent hosts against a real process: a job's way to a host and back.

mod support;

use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, Envelope, complete, envelope::Payload, job_event::Body};
use serde_json::json;
use support::host::*;
use support::*;

fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING);
    (dir, runtime)
}

fn bodies(seen: &[Envelope]) -> Vec<String> {
    let text = |envelope: &Envelope| match &envelope.payload {
        Some(Payload::JobEvent(event)) => match &event.body {
            Some(Body::Log(log)) => log.message.clone(),
            Some(Body::Status(status)) => format!("status {}", status.phase),
            other => format!("{other:?}"),
        },
        Some(Payload::JobResult(result)) => format!("result {}", result.result_json),
        Some(Payload::JobError(error)) => format!("error {}", error.code),
        other => format!("{other:?}"),
    };
    seen.iter().map(text).collect()
}

async fn status_of(alice: &mut Peer, job: &str) -> String {
    alice
        .send("", Payload::SessionListJobs(Default::default()))
        .await;
    loop {
        if let Some(Payload::SessionJobs(jobs)) = alice.next().await.payload {
            let found = jobs.jobs.iter().find(|summary| summary.job_id == job);
            return found.expect("the job").status.clone();
        }
    }
}

#[tokio::test]
async fn a_job_runs_on_a_host_and_what_it_reports_is_the_jobs_stream() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.count", 2).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice
        .submit("acme.count", json!({ "n": 9007199254740993u64 }))
        .await;
    let (assign, of) = host.assigned().await;
    assert_eq!(
        (assign.attempt, &*assign.agent, &*assign.version),
        (1, "acme.count", "1.0.0")
    );
    assert_eq!(assign.input_json, r#"{"n":9007199254740993}"#);
    assert_eq!(assign.principal, "alice");
    assert_eq!(of.job_id, job);
    let mut watcher = Peer::connect(&runtime.address, ALICE).await;
    assert_eq!(
        status_of(&mut watcher, &job).await,
        "pending",
        "until it is accepted"
    );
    host.accept(&of).await;
    let vendor = Body::Other(proto::OtherEvent {
        kind: "x-vendor.acme.note".into(),
        body_json: r#"{"any":[1]}"#.into(),
    });
    host.report(&of, vec![log(1, "one"), event(2, vendor)])
        .await;
    host.acked(2).await;
    assert_eq!(status_of(&mut watcher, &job).await, "running");
    host.report(&of, vec![result(3, r#"{"ok":true}"#)]).await;
    host.acked(3).await;
    let seen = alice.until_terminal().await;
    assert_eq!(seqs(&seen), [1, 2, 3]);
    assert_eq!(bodies(&seen)[0], "one");
    assert!(bodies(&seen)[1].contains("x-vendor.acme.note"));
    assert_eq!(bodies(&seen)[2], r#"result {"ok":true}"#);
    // The place is free again, and what the host says of the job now is of no use.
    host.report(&of, vec![log(4, "late")]).await;
    host.revoked().await;
    alice.submit("acme.count@1.0.0", json!(1)).await;
    host.assigned().await;
}

#[tokio::test]
async fn a_result_in_parts_is_one_chunked_result() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.report", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let part = |seq, part| proto::Report {
        seq,
        report: Some(proto::report::Report::ResultPart(proto::ResultPart {
            part: Some(part),
        })),
    };
    let summary = || {
        complete::Outcome::Parts(proto::ResultSummary {
            summary: "done".into(),
        })
    };
    alice.submit("acme.report", json!(null)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let long = "é\u{1}".repeat(200_000);
    host.report(
        &of,
        vec![part(1, proto::result_part::Part::Text(long.clone()))],
    )
    .await;
    host.report(&of, vec![support::host::complete(2, summary())])
        .await;
    let seen = alice.until_terminal().await;
    let (mut text, mut more, mut numbers) = (String::new(), Vec::new(), Vec::new());
    for envelope in &seen {
        if let Some(Payload::JobEvent(event)) = &envelope.payload
            && let Some(Body::ResultChunk(chunk)) = &event.body
        {
            text.push_str(&chunk.data);
            more.push(chunk.more);
            numbers.push(chunk.chunk_seq);
            assert_eq!(chunk.encoding, "utf8");
        }
    }
    assert_eq!(text, long);
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert!(!more.pop().unwrap() && more.iter().all(|more| *more));
    let Some(Payload::JobResult(end)) = &seen.last().unwrap().payload else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (end.result_size, &*end.summary),
        (long.len() as u64, "done")
    );
}

/// A part of the other sort was left out, and what was left was a success.
#[tokio::test]
async fn a_result_of_text_and_data_is_no_result() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.report", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("acme.report", json!(null)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let part = |seq, part| proto::Report {
        seq,
        report: Some(proto::report::Report::ResultPart(proto::ResultPart {
            part: Some(part),
        })),
    };
    let text = part(1, proto::result_part::Part::Text("a".into()));
    let data = part(2, proto::result_part::Part::Data(vec![1]));
    host.report(&of, vec![text, data]).await;
    let seen = alice.until_terminal().await;
    let Some(Payload::JobError(error)) = &seen.last().unwrap().payload else {
        panic!("{seen:?}")
    };
    assert_eq!(error.code, "INVALID_REQUEST");
    assert!(
        error.message.contains("all text or all data"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_failure_is_the_jobs_error_and_an_end_that_cannot_be_used_is_one_too() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "failing", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let failure = |code: &str| {
        complete::Outcome::Failure(proto::Failure {
            code: code.into(),
            message: "no".into(),
            retryable: true,
            details_json: r#"{"why":1}"#.into(),
        })
    };
    for (outcome, code, text) in [
        (failure("TIMEOUT"), "TIMEOUT", "no"),
        (failure("OTHER"), "INVALID_REQUEST", "complete.failure.code"),
        (
            complete::Outcome::ResultJson("{".into()),
            "INVALID_REQUEST",
            "complete.result_json",
        ),
        (
            complete::Outcome::Parts(Default::default()),
            "INVALID_REQUEST",
            "complete.parts",
        ),
    ] {
        alice.submit("failing", json!(1)).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![support::host::complete(1, outcome)])
            .await;
        let seen = alice.until_terminal().await;
        let Some(Payload::JobError(error)) = &seen[0].payload else {
            panic!("{seen:?}")
        };
        assert_eq!(error.code, code);
        assert!(error.message.contains(text), "{}", error.message);
    }
}

#[tokio::test]
async fn an_offer_that_is_declined_or_ignored_goes_to_another_and_costs_no_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let toml = HOSTING.replace("accept_within_sec = 600", "accept_within_sec = 1");
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut first = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, offered) = first.assigned().await;
    let mut second = HostPeer::serving(&runtime.address, "h2", "a", 1).await;
    // Not a word from the first: its offer is taken back.
    let (assign, of) = second.assigned().await;
    assert_eq!(assign.attempt, 1);
    assert_ne!(of.lease_token, offered.lease_token);
    assert!(first.revoked().await.contains("not accepted"));
    // A late accept changes nothing.
    first.accept(&offered).await;
    while !matches!(first.next().await, Hear::Revoked(of) if of.r#ref.as_ref() == Some(&offered)) {}
    let reason = "no gpu".into();
    let r#ref = Some(of);
    second
        .say(Say::Decline(proto::Decline { r#ref, reason }))
        .await;
    // Whichever has it next; one that is late with its accept is offered it once more.
    let end = alice.until_terminal();
    tokio::pin!(end);
    let seen = loop {
        let (host, message) = tokio::select! {
            seen = &mut end => break seen,
            message = first.next() => (&mut first, message),
            message = second.next() => (&mut second, message),
        };
        if let Hear::Assign(assign) = message {
            assert_eq!(assign.attempt, 1);
            let of = assign.r#ref.unwrap();
            host.accept(&of).await;
            host.report(&of, vec![result(1, "1")]).await;
        }
    };
    assert_eq!(bodies(&seen), ["result 1"]);
}

#[tokio::test]
async fn places_are_absolute_and_the_line_is_served_when_they_grow() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..3 {
        alice.submit("a", json!(1)).await;
    }
    let (_, first) = host.assigned().await;
    host.accept(&first).await;
    // One place: the rest waits. A beat is answered behind what was assigned.
    host.beat().await;
    assert!(matches!(host.hear().await.unwrap(), Hear::HeartbeatAck(_)));
    host.say(Say::Capacity(proto::Capacity { max_in_flight: 2 }))
        .await;
    let (_, second) = host.assigned().await;
    host.accept(&second).await;
    host.report(&first, vec![result(1, "1")]).await;
    let (_, third) = host.assigned().await;
    host.accept(&third).await;
    for of in [second, third] {
        host.report(&of, vec![result(1, "1")]).await;
    }
    let mut ended = 0;
    while ended < 3 {
        ended += alice.until_terminal().await.len();
    }
}

#[tokio::test]
async fn two_hosts_share_the_work_of_one_agent() {
    let (_dir, runtime) = start();
    let mut hosts = [
        HostPeer::serving(&runtime.address, "h1", "a", 8).await,
        HostPeer::serving(&runtime.address, "h2", "a", 8).await,
    ];
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..8 {
        alice.submit("a", json!(1)).await;
    }
    for host in &mut hosts {
        for _ in 0..4 {
            let (_, of) = host.assigned().await;
            host.accept(&of).await;
        }
        host.beat().await;
        assert!(
            matches!(host.hear().await.unwrap(), Hear::HeartbeatAck(_)),
            "four each"
        );
    }
}

#[tokio::test]
async fn a_cancel_is_pushed_and_the_grace_ends_what_does_not_listen() {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("{HOSTING}\n[limits]\ncancel_grace_sec = 1\n");
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 2).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "busy")]).await;
    host.acked(1).await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    let Hear::Cancel(cancel) = host.next().await else {
        panic!("expected a cancel")
    };
    assert_eq!(cancel.grace.unwrap().seconds, 1);
    let cancelled = complete::Outcome::Cancelled(proto::Cancelled {});
    host.report(&of, vec![support::host::complete(2, cancelled)])
        .await;
    assert_eq!(
        bodies(&alice.until_terminal().await),
        ["busy", "error CANCELLED"]
    );

    let job = alice.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "deaf")]).await;
    host.acked(1).await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert!(matches!(host.next().await, Hear::Cancel(_)));
    assert_eq!(
        bodies(&alice.until_terminal().await),
        ["deaf", "error CANCELLED"]
    );
    host.revoked().await;

    // One that waits for a place ends at once.
    host.say(Say::Capacity(proto::Capacity { max_in_flight: 0 }))
        .await;
    let job = alice.submit("a", json!(1)).await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert_eq!(bodies(&alice.until_terminal().await), ["error CANCELLED"]);
}

#[tokio::test]
async fn max_runtime_ends_the_job_and_takes_it_from_its_host() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let submit = proto::JobSubmit {
        agent: "a".into(),
        // Time enough for the offer.
        max_runtime_sec: 3,
        ..Default::default()
    };
    alice.send("", Payload::JobSubmit(submit)).await;
    let (assign, of) = host.assigned().await;
    assert!(assign.deadline.is_some());
    host.accept(&of).await;
    assert_eq!(bodies(&alice.until_terminal().await), ["error TIMEOUT"]);
    host.revoked().await;
}

#[tokio::test]
async fn a_known_agent_without_a_place_waits_and_an_unknown_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let submit = |agent: &str| {
        Payload::JobSubmit(proto::JobSubmit {
            agent: agent.into(),
            ..Default::default()
        })
    };
    alice.send("", submit("a")).await;
    assert_eq!(alice.error().await.code, "AGENT_NOT_AVAILABLE");
    let host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut bob = Peer::open(&runtime.address, hello(BOB)).await;
    let Some(Payload::SessionWelcome(welcome)) = bob.next().await.payload else {
        panic!("no welcome")
    };
    assert!(welcome.agents.iter().any(|agent| agent.name == "a"));
    alice.send("", submit("a@2.0.0")).await;
    assert_eq!(alice.error().await.code, "AGENT_VERSION_NOT_AVAILABLE");
    drop(host);
    // Known, and nobody there: it waits for the next host.
    let job = alice.submit("a", json!(1)).await;
    assert_eq!(status_of(&mut alice, &job).await, "pending");
    let mut host = HostPeer::serving(&runtime.address, "h2", "a", 1).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![result(1, "1")]).await;
    assert_eq!(bodies(&alice.until_terminal().await), ["result 1"]);
}

#[tokio::test]
async fn a_job_does_not_wait_for_a_place_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let toml = HOSTING.replace("pending_max_sec = 600", "pending_max_sec = 1");
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    host.say(Say::Capacity(proto::Capacity { max_in_flight: 0 }))
        .await;
    alice.submit("a", json!(1)).await;
    assert_eq!(
        bodies(&alice.until_terminal().await),
        ["error AGENT_NOT_AVAILABLE"]
    );
}

#[tokio::test]
async fn a_draining_host_gets_no_more_and_its_deadline_counts() {
    let (_dir, runtime) = start();
    let mut first = HostPeer::serving(&runtime.address, "h1", "a", 4).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = first.assigned().await;
    first.accept(&of).await;
    let deadline = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    first.say(Say::Draining(proto::Draining { deadline })).await;
    first.beat().await;
    assert!(matches!(first.hear().await.unwrap(), Hear::HeartbeatAck(_)));
    alice.submit("a", json!(2)).await;
    let mut second = HostPeer::serving(&runtime.address, "h2", "a", 4).await;
    let (assign, other) = second.assigned().await;
    assert_eq!(assign.input_json, "2");
    second.accept(&other).await;
    second.report(&other, vec![result(1, "2")]).await;
    assert_eq!(bodies(&alice.until_terminal().await), ["result 2"]);
    assert!(first.revoked().await.contains("drain deadline"));
    assert_eq!(
        bodies(&alice.until_terminal().await),
        ["error INTERNAL_ERROR"]
    );
}

#[tokio::test]
async fn a_drain_ends_with_its_stream_and_is_said_again() {
    let (_dir, runtime) = start();
    let seconds = |seconds| {
        let deadline = Some(prost_types::Duration { seconds, nanos: 0 });
        Say::Draining(proto::Draining { deadline })
    };
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let mut back = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = back.assigned().await;
    back.accept(&of).await;
    back.say(seconds(1)).await;
    back.beat().await;
    assert!(matches!(back.hear().await.unwrap(), Hear::HeartbeatAck(_)));
    drop(back);
    let mut again = register("h1", vec![agent("a")], 2);
    again.resume = vec![held(&of)];
    let (mut back, registered) = HostPeer::connect(&runtime.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1);
    // It takes jobs again, and when a later deadline is over its own would have been.
    alice.submit("a", json!(2)).await;
    let (_, second) = back.assigned().await;
    back.accept(&second).await;
    let mut other = HostPeer::serving(&runtime.address, "h2", "a", 1).await;
    alice.submit("a", json!(3)).await;
    let (_, third) = other.assigned().await;
    other.accept(&third).await;
    other.say(seconds(1)).await;
    assert!(other.revoked().await.contains("drain deadline"));
    assert_eq!(
        bodies(&alice.until_terminal().await),
        ["error INTERNAL_ERROR"]
    );
    back.report(&of, vec![result(1, "1")]).await;
    back.acked(1).await;
    // Said again it holds again.
    back.say(seconds(1)).await;
    assert!(back.revoked().await.contains("drain deadline"));
}

#[tokio::test]
async fn a_thousand_hosts_each_get_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", runtime.address));
    let endpoint = endpoint.unwrap();
    let mut hosts = Vec::new();
    let mut channel = endpoint.connect().await.unwrap();
    for index in 0..1_000 {
        if index % 250 == 0 {
            channel = endpoint.connect().await.unwrap();
        }
        let mut host = HostPeer::on(channel.clone(), WORKERS).await.unwrap();
        let instance = format!("h{index}");
        host.say(Say::Register(register(&instance, vec![agent("a")], 1)))
            .await;
        assert!(matches!(host.hear().await, Ok(Hear::Registered(_))));
        hosts.push(host);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for mut host in hosts {
        tasks.spawn(async move {
            let mut beats = tokio::time::interval(std::time::Duration::from_millis(500));
            loop {
                tokio::select! {
                    _ = beats.tick() => host.beat().await,
                    message = host.next() => if let Hear::Assign(assign) = message {
                        let of = assign.r#ref.unwrap();
                        host.accept(&of).await;
                        host.report(&of, vec![result(1, "1")]).await;
                        host.acked(1).await;
                        return;
                    },
                }
            }
        });
    }
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..1_000 {
        alice.submit("a", json!(1)).await;
    }
    let mut ended = 0;
    while ended < 1_000 {
        ended += alice.until_terminal().await.len();
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Libraries refuse a time after the year 9999, and the agent failed for it.
#[tokio::test]
async fn a_limit_of_ages_is_still_a_deadline_that_can_be_read() {
    let (_dir, runtime) = start();
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 2).await;
    let mut alice = support::jobs::connect(&runtime, ALICE).await;
    for max_runtime_sec in [1_000_000_000_000, u64::MAX] {
        let request = arcpd::wire::proto::SubmitJobRequest {
            max_runtime_sec,
            ..support::jobs::of("a", json!(1))
        };
        alice.submit_job(request).await.unwrap();
        let (assign, _) = host.assigned().await;
        assert_eq!(assign.deadline.unwrap().seconds, 253_402_300_799);
    }
}
