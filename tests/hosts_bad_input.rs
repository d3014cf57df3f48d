//! What hosts must not do, and what each of it is answered; a host beside it
//! never notices.

mod support;

use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef, envelope::Payload, job_event::Body, report};
use serde_json::json;
use support::host::*;
use support::*;
use tonic::Code;

const RIGHTS: &str = r#"
[[hosting]]
principal = "workers"
agents = ["count", "acme.*"]
[[hosting]]
principal = "bob"
agents = ["*"]
"#;

fn start(toml: &str) -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), toml);
    (dir, runtime)
}

async fn refused(address: &str, token: &str, first: Say) -> tonic::Status {
    let mut host = match HostPeer::dial(address, token).await {
        Ok(host) => host,
        Err(status) => return status,
    };
    host.say(first).await;
    match host.hear().await {
        Err(status) => status,
        Ok(other) => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn only_who_has_the_right_hosts_and_only_under_names_that_are_theirs() {
    let (_dir, runtime) = start(RIGHTS);
    let address = &runtime.address;
    let offer = |name: &str| Say::Register(register("h", vec![agent(name)], 1));
    let status = refused(address, "wrong", offer("count")).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = refused(address, ALICE, offer("count")).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("hosting"), "{}", status.message());
    let status = refused(address, WORKERS, offer("counter")).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    // Nobody takes the place of an agent of the runtime, or of somebody else's.
    let status = refused(address, BOB, offer("echo")).await;
    assert!(
        status.message().contains("runtime's own"),
        "{}",
        status.message()
    );
    let mut host = HostPeer::serving(address, "h1", "count", 1).await;
    let status = refused(address, BOB, offer("count")).await;
    assert!(
        status.message().contains("another principal"),
        "{}",
        status.message()
    );
    host.beat().await;
    assert!(matches!(host.hear().await, Ok(Hear::HeartbeatAck(_))));
}

#[tokio::test]
async fn a_name_stays_its_owners_after_a_restart() {
    let (dir, runtime) = start(RIGHTS);
    let host = HostPeer::serving(&runtime.address, "h1", "count", 1).await;
    drop(host);
    runtime.kill();
    let config = dir.path().join("arcpd.toml");
    let runtime = Runtime::spawn(serve(dir.path()).arg("--config").arg(config));
    let offer = Say::Register(register("h", vec![agent("count")], 1));
    let status = refused(&runtime.address, BOB, offer).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    HostPeer::serving(&runtime.address, "h1", "count", 1).await;
}

#[tokio::test]
async fn a_register_that_cannot_be_used_is_refused_by_field() {
    let (_dir, runtime) = start(RIGHTS);
    let good = || register("h", vec![agent("count")], 1);
    let with = |change: fn(&mut proto::Register)| {
        let mut register = good();
        change(&mut register);
        Say::Register(register)
    };
    let cases: Vec<(Say, &str)> = vec![
        (
            Say::Heartbeat(Default::default()),
            "the first must be register",
        ),
        (
            with(|r| r.host_instance_id.clear()),
            "register.host_instance_id",
        ),
        (
            with(|r| r.host_instance_id = "i".repeat(129)),
            "register.host_instance_id",
        ),
        (
            with(|r| r.host_name = "n".repeat(129)),
            "register.host_name",
        ),
        (with(|r| r.agents.clear()), "register.agents"),
        (
            with(|r| r.agents = vec![agent("count"); 257]),
            "register.agents",
        ),
        (
            with(|r| r.agents[0].name = "Count".into()),
            "register.agents",
        ),
        (
            with(|r| r.agents[0].version = "1 0".into()),
            "register.agents",
        ),
        (
            with(|r| r.agents[0].input_schema_json = "{".into()),
            "input_schema_json",
        ),
        (
            with(|r| r.agents[0].description = "d".repeat(65_537)),
            "description",
        ),
        (
            with(|r| {
                r.labels.insert("k".repeat(129), String::new());
            }),
            "register.labels",
        ),
        (with(|r| r.sdk_name = "s".repeat(300)), "register.sdk_name"),
        (
            with(|r| r.resume = vec![Default::default()]),
            "register.resume.ref",
        ),
    ];
    for (first, field) in cases {
        let status = refused(&runtime.address, WORKERS, first).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        assert!(
            status.message().contains(field),
            "{field}: {}",
            status.message()
        );
    }
}

/// A job that runs on the host, beside one of another host.
async fn at_work(runtime: &Runtime) -> (HostPeer, AssignmentRef, HostPeer, AssignmentRef, Peer) {
    let mut host = HostPeer::serving(&runtime.address, "h1", "count", 4).await;
    let mut beside = HostPeer::serving(&runtime.address, "h2", "acme.x", 4).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("count", json!(1)).await;
    alice.submit("acme.x", json!(1)).await;
    let (_, of) = host.assigned().await;
    let (_, other) = beside.assigned().await;
    host.accept(&of).await;
    beside.accept(&other).await;
    (host, of, beside, other, alice)
}

#[tokio::test]
async fn a_report_that_breaks_a_rule_is_rejected_and_the_next_one_is_taken() {
    let (_dir, runtime) = start(RIGHTS);
    let (mut host, of, mut beside, other, mut alice) = at_work(&runtime).await;
    let typed = |seq, body| event(seq, body);
    let bad: Vec<(Body, &str)> = vec![
        (
            Body::Log(proto::Log {
                level: "loud".into(),
                message: "m".into(),
                ..Default::default()
            }),
            "level",
        ),
        (
            Body::Log(proto::Log {
                level: "info".into(),
                ..Default::default()
            }),
            "message",
        ),
        (Body::Thought(Default::default()), "text"),
        (
            Body::ToolCall(proto::ToolCall {
                tool: "t".into(),
                ..Default::default()
            }),
            "call_id",
        ),
        (
            Body::ToolResult(proto::ToolResult {
                call_id: "c".into(),
                ..Default::default()
            }),
            "result_json",
        ),
        (Body::Status(Default::default()), "phase"),
        (
            Body::Metric(proto::Metric {
                name: "n".into(),
                value: f64::NAN,
                ..Default::default()
            }),
            "value",
        ),
        (Body::ArtifactRef(Default::default()), "uri"),
        (Body::Delegate(Default::default()), "delegate"),
        (Body::ResultChunk(Default::default()), "result_part"),
        (
            Body::Progress(proto::Progress {
                current: 2.0,
                total: Some(1.0),
                ..Default::default()
            }),
            "current",
        ),
        (
            Body::Other(proto::OtherEvent {
                kind: "mine".into(),
                body_json: "{}".into(),
            }),
            "kind",
        ),
        (
            Body::Other(proto::OtherEvent {
                kind: "x-vendor.a.b".into(),
                body_json: "[1".into(),
            }),
            "body",
        ),
        (
            Body::Log(proto::Log {
                level: "info".into(),
                message: "m".repeat(950_000),
                ..Default::default()
            }),
            "the limit is",
        ),
        (
            Body::Log(proto::Log {
                level: "info".into(),
                message: "m".into(),
                attributes_json: "{".into(),
            }),
            "attributes",
        ),
    ];
    let mut seq = 0;
    for (body, names) in bad {
        seq += 1;
        host.report(&of, vec![typed(seq, body)]).await;
        let message = host.rejected().await;
        assert!(message.contains(names), "{names}: {message}");
    }
    for (report, names) in [
        (None, "report: missing"),
        (
            Some(report::Report::ResultPart(Default::default())),
            "result_part",
        ),
        (
            Some(report::Report::Checkpoint(proto::Checkpoint {
                state: vec![0; 262_145],
            })),
            "checkpoint.state",
        ),
    ] {
        seq += 1;
        host.report(&of, vec![proto::Report { seq, report }]).await;
        let message = host.rejected().await;
        assert!(message.contains(names), "{names}: {message}");
    }
    // A number is used up by what was rejected; one after a gap is not taken.
    host.report(&of, vec![log(seq + 2, "gap"), log(seq + 3, "gap")])
        .await;
    assert!(
        host.rejected()
            .await
            .contains(&format!("{} was due", seq + 1))
    );
    host.report(&of, vec![log(seq + 1, "good"), result(seq + 2, "1")])
        .await;
    beside.report(&other, vec![result(1, "2")]).await;
    let mut seen = alice.until_terminal().await;
    seen.extend(alice.until_terminal().await);
    let own: Vec<_> = seen.iter().filter(|e| e.job_id == of.job_id).collect();
    assert_eq!(own.len(), 2, "one event and the end: {own:?}");
}

#[tokio::test]
async fn another_jobs_token_an_old_one_and_none_are_all_revoked() {
    let (_dir, runtime) = start(RIGHTS);
    let (mut host, of, mut beside, other, mut alice) = at_work(&runtime).await;
    let token = |lease_token: &str| AssignmentRef {
        job_id: of.job_id.clone(),
        lease_token: lease_token.into(),
    };
    for stale in [
        other.clone(),
        token(&other.lease_token),
        token(""),
        AssignmentRef {
            job_id: "job_x".into(),
            ..of.clone()
        },
    ] {
        host.report(&stale, vec![log(1, "stolen")]).await;
        host.revoked().await;
        host.accept(&stale).await;
        host.revoked().await;
        let r#ref = Some(stale.clone());
        host.say(Say::Decline(proto::Decline {
            r#ref: r#ref.clone(),
            reason: String::new(),
        }))
        .await;
        host.revoked().await;
        host.say(Say::Authorize(proto::Authorize {
            r#ref: r#ref.clone(),
            ..Default::default()
        }))
        .await;
        host.revoked().await;
        host.say(Say::Delegate(proto::DelegateJob {
            r#ref,
            ..Default::default()
        }))
        .await;
        host.revoked().await;
    }
    // A token outside its own job's host is no better.
    beside.report(&of, vec![log(1, "stolen")]).await;
    beside.revoked().await;
    host.report(&of, vec![result(1, "1")]).await;
    beside.report(&other, vec![result(1, "2")]).await;
    let mut seen = alice.until_terminal().await;
    seen.extend(alice.until_terminal().await);
    assert_eq!(seqs(&seen), [1, 2]);
}

#[tokio::test]
async fn what_lacks_a_field_and_what_is_not_said_twice_is_answered_clearly() {
    let (_dir, runtime) = start(RIGHTS);
    let (mut host, of, _beside, _, _alice) = at_work(&runtime).await;
    let r#ref = Some(of.clone());
    let authorize = proto::Authorize {
        r#ref: r#ref.clone(),
        call_id: "c".into(),
        ..Default::default()
    };
    host.say(Say::Authorize(authorize)).await;
    let Hear::AuthorizeResult(answer) = host.next().await else {
        panic!()
    };
    assert_eq!(
        (answer.allowed, &*answer.code, &*answer.call_id),
        (false, "INVALID_REQUEST", "c")
    );
    let delegate = proto::DelegateJob {
        r#ref,
        delegate_id: "d".into(),
        ..Default::default()
    };
    host.say(Say::Delegate(delegate)).await;
    let Hear::DelegateResult(answer) = host.next().await else {
        panic!()
    };
    assert_eq!(
        (&*answer.code, &*answer.delegate_id),
        ("INVALID_REQUEST", "d")
    );
    host.say(Say::Register(register("h1", vec![agent("count")], 1)))
        .await;
    assert!(host.rejected().await.contains("register"));
    host.say(Say::Accept(Default::default())).await;
    assert!(host.rejected().await.contains("accept.ref"));
    let deadline = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    host.say(Say::Draining(proto::Draining { deadline })).await;
    assert!(host.rejected().await.contains("draining.deadline"));
}

/// The agent that asked waits for an answer, and found it in no message of its job's.
#[tokio::test]
async fn a_question_with_a_part_that_is_too_long_is_answered_as_that_question() {
    let (_dir, runtime) = start(RIGHTS);
    let (mut host, of, _beside, _, _alice) = at_work(&runtime).await;
    let ask = |call_id: &str, capability: &str, target: &str| proto::Authorize {
        r#ref: Some(of.clone()),
        call_id: call_id.into(),
        capability: capability.into(),
        target: target.into(),
    };
    let long = |bytes| "x".repeat(bytes);
    let asked = [
        (ask(&long(129), "tool.call", "t"), "call_id", "128"),
        (ask("c", &long(129), "t"), "capability", "128"),
        (ask("c", "tool.call", &long(4_097)), "target", "4096"),
    ];
    for (question, field, limit) in asked {
        host.say(Say::Authorize(question.clone())).await;
        let mut answer = host.next().await;
        // The stream of the job is its submitter's; the host reads the answer alone.
        let Hear::AuthorizeResult(answer) = &mut answer else {
            panic!("{answer:?}")
        };
        assert_eq!((answer.allowed, &answer.r#ref), (false, &question.r#ref));
        assert_eq!(answer.call_id, question.call_id);
        let said = format!("{field}: longer than {limit} bytes");
        assert!(answer.message.contains(&said), "{}", answer.message);
    }
    let delegate = |delegate_id: &str, agent: &str| proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: delegate_id.into(),
        agent: agent.into(),
        ..Default::default()
    };
    let asked = [
        (delegate(&long(129), "count"), "delegate_id"),
        (delegate("d", &long(129)), "agent"),
    ];
    for (question, field) in asked {
        host.say(Say::Delegate(question.clone())).await;
        let Hear::DelegateResult(answer) = host.next().await else {
            panic!()
        };
        assert_eq!(
            (answer.r#ref, &*answer.code),
            (question.r#ref, "INVALID_REQUEST")
        );
        assert_eq!(answer.delegate_id, question.delegate_id);
        assert!(answer.message.contains(field) && answer.message.contains("128"));
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_costs_its_host_the_stream_and_nobody_else() {
    let (_dir, runtime) = start(RIGHTS);
    let (mut host, of, mut beside, other, mut alice) = at_work(&runtime).await;
    host.report(&of, vec![log(1, &"m".repeat(1_100_000))]).await;
    assert!(host.rejected().await.contains("1000000"));
    assert_eq!(host.end().await.code(), Code::Unavailable);
    beside.report(&other, vec![result(1, "2")]).await;
    assert_eq!(alice.until_terminal().await[0].job_id, other.job_id);
    // It may come back for its job.
    let mut again = register("h1", vec![agent("count")], 4);
    again.resume = vec![held(&of)];
    let (mut host, registered) = HostPeer::connect(&runtime.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1);
    host.report(&of, vec![result(1, "1")]).await;
    assert_eq!(alice.until_terminal().await[0].job_id, of.job_id);
}

#[tokio::test]
async fn a_flood_of_reports_is_bounded_by_the_log_and_all_of_it_arrives() {
    let (_dir, runtime) = start(RIGHTS);
    let (mut host, of, mut beside, other, mut alice) = at_work(&runtime).await;
    let (batches, each) = (200u64, 100u64);
    // Far beyond what may wait for an ack, without a look at one.
    let flood = tokio::spawn(async move {
        for batch in 0..batches {
            let first = batch * each;
            let reports = (1..=each).map(|n| log(first + n, "flood")).collect();
            host.report(&of, reports).await;
        }
        host.report(&of, vec![result(batches * each + 1, "1")])
            .await;
        host
    });
    beside.report(&other, vec![result(1, "2")]).await;
    beside.acked(1).await;
    let mut seen = Vec::new();
    while seen.len() < (batches * each + 2) as usize {
        seen.extend(alice.until_terminal().await);
    }
    assert_eq!(seqs(&seen), (1..=batches * each + 2).collect::<Vec<_>>());
    flood.await.unwrap();
}

#[tokio::test]
async fn a_host_that_never_reads_is_lost_and_its_offers_go_elsewhere() {
    let toml = HOSTING_BRIEFLY.replace("accept_within_sec = 600", "accept_within_sec = 1");
    let (_dir, runtime) = start(&toml);
    // It beats, and takes nothing.
    let mut deaf = HostPeer::serving(&runtime.address, "h1", "a", 1_000).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..50 {
        alice.submit("a", json!("x".repeat(10_000))).await;
    }
    let mut reading = HostPeer::serving(&runtime.address, "h2", "a", 1_000).await;
    let ends = async {
        for _ in 0..50 {
            alice.until_terminal().await;
        }
    };
    tokio::pin!(ends);
    loop {
        let message = tokio::select! {
            () = &mut ends => break,
            message = reading.next() => message,
        };
        // One that is late with its accept is offered it once more.
        if let Hear::Assign(assign) = message {
            let of = assign.r#ref.unwrap();
            reading.accept(&of).await;
            reading.report(&of, vec![result(1, "1")]).await;
        }
    }
    deaf.stop_beating();
    runtime
        .until_metric("arcpd_hosts", |hosts| hosts == 1)
        .await;
}

#[tokio::test]
async fn a_token_that_is_taken_back_ends_the_stream_and_a_refreshed_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    let write = |text: &str| {
        std::fs::write(&tokens, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&tokens, mode).unwrap();
    };
    let fresh = "fresh-token-0123456789";
    write(&format!(
        "alice = {ALICE}\nworkers = {WORKERS}\nworkers = {fresh}\n"
    ));
    let config = dir.path().join("arcpd.toml");
    std::fs::write(&config, HOSTING).unwrap();
    let mut command = serve(dir.path());
    command
        .arg("--config")
        .arg(&config)
        .arg("--tokens-file")
        .arg(&tokens);
    command.env_remove("ARCPD_TOKENS");
    let runtime = Runtime::spawn(&mut command);
    let mut kept = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut left = HostPeer::serving(&runtime.address, "h2", "a", 1).await;
    let refresh = |token: &str| {
        Say::RefreshAuth(proto::RefreshAuth {
            bearer_token: token.into(),
        })
    };
    kept.say(refresh(ALICE)).await;
    assert!(kept.rejected().await.contains("refresh_auth.bearer_token"));
    kept.say(refresh(fresh)).await;
    assert!(matches!(kept.next().await, Hear::AuthRefreshed(_)));
    write(&format!("alice = {ALICE}\nworkers = {fresh}\n"));
    // Both beat until the runtime has read the file.
    let status = loop {
        left.beat().await;
        kept.beat().await;
        match left.hear().await {
            Ok(_) => {
                assert!(matches!(kept.hear().await, Ok(Hear::HeartbeatAck(_))));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(matches!(kept.hear().await, Ok(Hear::HeartbeatAck(_))));
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = kept.assigned().await;
    kept.accept(&of).await;
    kept.report(&of, vec![result(1, "1")]).await;
    let seen = alice.until_terminal().await;
    assert!(matches!(seen[0].payload, Some(Payload::JobResult(_))));
}

/// Its answers filled the stream, nothing more was read of it, and its silence was
/// not seen either: its job was its own for ever.
#[tokio::test]
async fn a_host_that_asks_reads_no_answer_and_falls_silent_is_lost() {
    let (_dir, runtime) = start(HOSTING_BRIEFLY);
    let deaf = register("h1", vec![with_policy("a", proto::LossPolicy::Retry)], 1);
    let (mut deaf, _) = HostPeer::connect(&runtime.address, deaf).await.unwrap();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = deaf.assigned().await;
    deaf.accept(&of).await;
    deaf.stop_beating();
    let nobodys = AssignmentRef {
        job_id: "j".repeat(128),
        lease_token: "t".repeat(128),
    };
    let ask = async {
        for _ in 0..20_000 {
            deaf.accept(&nobodys).await;
        }
    };
    let full = tokio::time::timeout(std::time::Duration::from_secs(1), ask).await;
    assert!(full.is_err(), "the runtime reads on");
    let mut other = HostPeer::serving(&runtime.address, "h2", "a", 1).await;
    // Its job goes to another.
    assert_eq!(other.assigned().await.0.attempt, 2);
}

#[tokio::test]
async fn a_result_part_too_many_ends_the_job_and_is_not_left_out() {
    let (_dir, runtime) = start(&format!("{HOSTING}\n[limits]\nresult_bytes_max = 1024\n"));
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = support::jobs::connect(&runtime, ALICE).await;
    let job = support::jobs::submit(&mut alice, "a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let part = |seq, bytes: usize| proto::Report {
        seq,
        report: Some(report::Report::ResultPart(proto::ResultPart {
            part: Some(proto::result_part::Part::Text("x".repeat(bytes))),
        })),
    };
    let end = proto::complete::Outcome::Parts(Default::default());
    let reports = vec![part(1, 900), part(2, 900), part(3, 50), complete(4, end)];
    host.report(&of, reports).await;
    support::jobs::watch_all(&mut alice, &job).await;
    let job = support::jobs::get(&mut alice, &job).await.unwrap();
    let Some(proto::job::Outcome::Error(error)) = job.outcome else {
        panic!("{job:?}")
    };
    assert_eq!(error.code, "INTERNAL_ERROR");
    assert!(
        error.message.starts_with("result_part: "),
        "{}",
        error.message
    );
}

/// The token was looked at with each heartbeat only: a host that said anything
/// else instead was given jobs for ever.
#[tokio::test]
async fn a_token_that_is_taken_back_ends_the_stream_of_a_host_that_never_beats() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    let write = |text: String| {
        std::fs::write(&tokens, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&tokens, mode).unwrap();
    };
    write(format!("alice = {ALICE}\nworkers = {WORKERS}\n"));
    let config = dir.path().join("arcpd.toml");
    std::fs::write(&config, HOSTING).unwrap();
    let mut command = serve(dir.path());
    command.arg("--config").arg(&config);
    command.arg("--tokens-file").arg(&tokens);
    command.env_remove("ARCPD_TOKENS");
    let runtime = Runtime::spawn(&mut command);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    host.stop_beating();
    write(format!("alice = {ALICE}\n"));
    let end = async {
        loop {
            let capacity = proto::Capacity { max_in_flight: 1 };
            host.say(Say::Capacity(capacity)).await;
            let rest = std::time::Duration::from_millis(300);
            if let Ok(end) = tokio::time::timeout(rest, host.end()).await {
                return end;
            }
        }
    };
    let limit = std::time::Duration::from_secs(15);
    let end = tokio::time::timeout(limit, end).await.expect("an end");
    assert_eq!(end.code(), tonic::Code::Unauthenticated, "{end:?}");
}
