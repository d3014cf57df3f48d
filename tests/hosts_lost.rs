//! Agent hosts by breaking things: what is lost, what goes on, and that nothing
//! of a host that lost its job is applied.

mod support;

use arcpd::wire::proto::LossPolicy::{self, Checkpoint, Fail, Retry};
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef, Envelope, envelope::Payload, job_event::Body};
use serde_json::json;
use support::host::*;
use support::*;

fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING);
    (dir, runtime)
}

/// The same for scripts that wait for a host to be lost.
fn start_losing() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING_BRIEFLY);
    (dir, runtime)
}

/// Started again where it was, with the configuration it had.
fn restart(dir: &tempfile::TempDir, address: &str) -> Runtime {
    let config = dir.path().join("arcpd.toml");
    Runtime::spawn(serve_at(dir.path(), address).arg("--config").arg(config))
}

fn words(seen: &[Envelope]) -> Vec<String> {
    let text = |envelope: &Envelope| match &envelope.payload {
        Some(Payload::JobEvent(event)) => match &event.body {
            Some(Body::Log(log)) => log.message.clone(),
            Some(Body::Status(status)) => status.phase.clone(),
            other => format!("{other:?}"),
        },
        Some(Payload::JobResult(result)) => format!("result {}", result.result_json),
        Some(Payload::JobError(error)) => format!("{} {}", error.code, error.retryable),
        other => format!("{other:?}"),
    };
    seen.iter().map(text).collect()
}

fn checkpoint(seq: u64, state: &[u8]) -> proto::Report {
    let state = state.to_vec();
    proto::Report {
        seq,
        report: Some(proto::report::Report::Checkpoint(proto::Checkpoint {
            state,
        })),
    }
}

async fn host_of(runtime: &Runtime, instance: &str, policy: LossPolicy) -> HostPeer {
    let register = register(instance, vec![with_policy("a", policy)], 4);
    HostPeer::connect(&runtime.address, register)
        .await
        .unwrap()
        .0
}

/// The host with what it still holds, again.
async fn again(
    address: &str,
    instance: &str,
    policy: LossPolicy,
    of: &AssignmentRef,
) -> (HostPeer, proto::Registered) {
    let mut register = register(instance, vec![with_policy("a", policy)], 4);
    register.resume = vec![held(of)];
    HostPeer::connect(address, register).await.unwrap()
}

async fn running(host: &mut HostPeer) -> AssignmentRef {
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "one")]).await;
    host.acked(1).await;
    of
}

#[tokio::test]
async fn a_host_that_falls_silent_loses_its_job_as_its_policy_says() {
    for policy in [Fail, Retry, Checkpoint] {
        let (_dir, runtime) = start_losing();
        let mut silent = host_of(&runtime, "h1", policy).await;
        let mut alice = Peer::connect(&runtime.address, ALICE).await;
        alice.submit("a", json!(1)).await;
        let of = running(&mut silent).await;
        silent.report(&of, vec![checkpoint(2, b"half")]).await;
        silent.acked(2).await;
        silent.stop_beating();
        if policy == Fail {
            // It is told, should it still listen.
            assert!(silent.revoked().await.contains("not heard"));
            assert_eq!(silent.end().await.code(), tonic::Code::Unavailable);
            assert_eq!(
                words(&alice.until_terminal().await),
                ["one", "INTERNAL_ERROR true"]
            );
            continue;
        }
        let mut other = host_of(&runtime, "h2", policy).await;
        let (assign, second) = other.assigned().await;
        assert_eq!(assign.attempt, 2);
        let state: &[u8] = if policy == Checkpoint { b"half" } else { b"" };
        // A checkpoint is taken whatever the policy, and handed on where it says so.
        assert_eq!(assign.checkpoint, state);
        other.accept(&second).await;
        // The zombie wakes: nothing of it is applied, and it is told.
        silent.report(&of, vec![log(3, "zombie")]).await;
        let (_zombie, registered) = again(&runtime.address, "h1", policy, &of).await;
        assert_eq!((registered.keep.len(), registered.drop), (0, vec![of]));
        other
            .report(&second, vec![log(1, "two"), result(2, "2")])
            .await;
        let seen = alice.until_terminal().await;
        assert_eq!(words(&seen), ["one", "retrying", "two", "result 2"]);
        assert_eq!(seqs(&seen), [1, 2, 3, 4]);
    }
}

/// Its beats were in the socket, and it was given up for silent without a look at them.
#[tokio::test]
async fn what_a_host_said_while_the_process_stood_still_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let toml = HOSTING.replace("lost_after_sec = 600", "lost_after_sec = 2");
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    runtime.signal("-STOP");
    // It goes on beating. Longer than a host may be silent; nothing can tell when the
    // runtime's clock has passed that.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    runtime.signal("-CONT");
    host.report(&of, vec![result(2, "2")]).await;
    host.acked(2).await;
    assert_eq!(words(&alice.until_terminal().await), ["one", "result 2"]);
}

#[tokio::test]
async fn a_job_that_loses_every_host_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let toml = HOSTING.replace("[hosts]", "[hosts]\nattempts_max = 2");
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let mut first = host_of(&runtime, "h1", Retry).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut first).await;
    // Given back after it was accepted: as good as lost.
    let decline = |of| proto::Decline {
        r#ref: Some(of),
        reason: "no".into(),
    };
    first.say(Say::Decline(decline(of))).await;
    let of = running(&mut first).await;
    first.say(Say::Decline(decline(of))).await;
    let seen = alice.until_terminal().await;
    assert_eq!(
        words(&seen),
        ["one", "retrying", "one", "INTERNAL_ERROR true"]
    );
}

#[tokio::test]
async fn a_connection_that_is_cut_and_back_goes_on_with_the_same_attempt() {
    let (_dir, runtime) = start();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    drop(host);
    let (mut host, registered) = again(&runtime.address, "h1", Fail, &of).await;
    assert_eq!(registered.keep.len(), 1);
    assert_eq!(registered.keep[0].acked_seq, 1);
    // What may have arrived is sent again.
    host.report(&of, vec![log(1, "one"), log(2, "two"), result(3, "3")])
        .await;
    host.acked(3).await;
    let seen = alice.until_terminal().await;
    assert_eq!(words(&seen), ["one", "two", "result 3"]);
    assert_eq!(seqs(&seen), [1, 2, 3]);
    // An end whose ack was lost is of no use any more, and the host may forget it.
    drop(host);
    let (_host, registered) = again(&runtime.address, "h1", Fail, &of).await;
    assert_eq!((registered.keep.len(), registered.drop), (0, vec![of]));
}

#[tokio::test]
async fn a_second_stream_of_a_host_takes_over_from_the_first() {
    let (_dir, runtime) = start();
    let mut first = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut first).await;
    let (mut second, registered) = again(&runtime.address, "h1", Fail, &of).await;
    assert_eq!(registered.keep.len(), 1);
    assert!(first.end().await.message().contains("taken over"));
    second.report(&of, vec![result(2, "2")]).await;
    assert_eq!(words(&alice.until_terminal().await), ["one", "result 2"]);
}

/// Whoever takes over was not told of it.
#[tokio::test]
async fn an_offer_on_a_stream_that_another_takes_over_is_made_again_at_once() {
    let (_dir, runtime) = start();
    let mut first = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, offered) = first.assigned().await;
    let mut second = host_of(&runtime, "h1", Fail).await;
    assert!(first.end().await.message().contains("taken over"));
    let (assign, of) = second.assigned().await;
    assert_eq!(assign.attempt, 1);
    assert_ne!(of.lease_token, offered.lease_token);
    second.accept(&of).await;
    second.report(&of, vec![result(1, "1")]).await;
    assert_eq!(words(&alice.until_terminal().await), ["result 1"]);
}

#[tokio::test]
async fn a_cut_host_that_does_not_come_back_or_forgot_its_job_has_lost_it() {
    let (_dir, runtime) = start_losing();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let mut host = host_of(&runtime, "h1", Fail).await;
    alice.submit("a", json!(1)).await;
    running(&mut host).await;
    drop(host);
    assert_eq!(
        words(&alice.until_terminal().await),
        ["one", "INTERNAL_ERROR true"]
    );
    let mut host = host_of(&runtime, "h2", Fail).await;
    alice.submit("a", json!(1)).await;
    running(&mut host).await;
    drop(host);
    let _forgetful = host_of(&runtime, "h2", Fail).await;
    assert_eq!(
        words(&alice.until_terminal().await),
        ["one", "INTERNAL_ERROR true"]
    );
}

#[tokio::test]
async fn a_killed_runtime_takes_the_job_up_where_the_host_is() {
    let (dir, runtime) = start();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    // Not acked: nobody knows whether it is in the log.
    host.report(&of, vec![log(2, "two")]).await;
    let mut seen = vec![alice.next().await];
    let address = runtime.address.clone();
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    runtime.kill();
    let runtime = restart(&dir, &address);
    let (mut host, registered) = again(&address, "h1", Fail, &of).await;
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    let acked = registered.keep[0].acked_seq;
    assert!(acked == 1 || acked == 2);
    host.report(&of, vec![log(1, "one"), log(2, "two"), log(3, "three")])
        .await;
    host.report(&of, vec![result(4, "4")]).await;
    host.acked(4).await;
    let alice = Peer::resume(&address, ALICE, &session, &token, 1).await;
    seen.extend(alice.welcomed().await.until_terminal().await);
    assert_eq!(words(&seen), ["one", "two", "three", "result 4"]);
    assert_eq!(seqs(&seen), [1, 2, 3, 4]);
    drop(runtime);
}

#[tokio::test]
async fn after_a_kill_what_no_host_comes_back_for_goes_its_policys_way() {
    let (dir, runtime) = start_losing();
    let address = runtime.address.clone();
    let mut alice = Peer::connect(&address, ALICE).await;
    let mut host = host_of(&runtime, "h1", Checkpoint).await;
    let job = alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    host.report(&of, vec![checkpoint(2, b"half")]).await;
    host.acked(2).await;
    // One that nobody has accepted, and its place is taken by no one.
    host.say(Say::Capacity(proto::Capacity { max_in_flight: 1 }))
        .await;
    let waiting = alice.submit("a", json!(2)).await;
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    runtime.kill();
    let runtime = restart(&dir, &address);
    // Known from before, so a job for it waits for a host.
    let mut other = host_of(&runtime, "h2", Checkpoint).await;
    let (first, of) = other.assigned().await;
    assert_eq!((first.input_json.as_str(), first.attempt), ("2", 1));
    assert_eq!(of.job_id, waiting);
    other.accept(&of).await;
    other.report(&of, vec![result(1, "2")]).await;
    let (second, of) = other.assigned().await;
    assert_eq!((of.job_id.as_str(), second.attempt), (&*job, 2));
    assert_eq!(second.checkpoint, b"half");
    other.accept(&of).await;
    other.report(&of, vec![result(1, "1")]).await;
    let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
    let mut alice = alice.welcomed().await;
    let mut seen = alice.until_terminal().await;
    seen.extend(alice.until_terminal().await);
    assert_eq!(seqs(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
    let of_job = |id: &str| -> Vec<String> {
        let own: Vec<_> = seen.iter().filter(|e| e.job_id == id).cloned().collect();
        words(&own)
    };
    assert_eq!(of_job(&job), ["one", "retrying", "result 1"]);
    assert_eq!(of_job(&waiting), ["result 2"]);
}

/// It counted as begun: a policy that fails a lost job ended it, the others lost an attempt.
#[tokio::test]
async fn an_offer_that_nobody_accepted_before_a_kill_is_made_again() {
    for policy in [Fail, Retry] {
        let (dir, runtime) = start();
        let address = runtime.address.clone();
        let mut host = host_of(&runtime, "h1", policy).await;
        let mut alice = Peer::connect(&address, ALICE).await;
        let job = alice.submit("a", json!(1)).await;
        let (_, stale) = host.assigned().await;
        let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
        runtime.kill();
        let runtime = restart(&dir, &address);
        // The same process, which has not begun.
        let mut host = host_of(&runtime, "h1", policy).await;
        let (assign, of) = host.assigned().await;
        assert_eq!((of.job_id.as_str(), assign.attempt), (&*job, 1));
        assert_ne!(of, stale);
        host.report(&stale, vec![log(1, "stale")]).await;
        host.revoked().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "one"), result(2, "2")]).await;
        let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
        let seen = alice.welcomed().await.until_terminal().await;
        assert_eq!(words(&seen), ["one", "result 2"], "{policy:?}");
    }
}

/// An accept that the kill overtook: who has begun goes on, whatever was stored.
#[tokio::test]
async fn a_host_that_accepted_in_the_moment_of_a_kill_keeps_its_job() {
    let (dir, runtime) = start();
    let address = runtime.address.clone();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    runtime.kill();
    let _runtime = restart(&dir, &address);
    let (mut host, registered) = again(&address, "h1", Fail, &of).await;
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    host.report(&of, vec![log(1, "one"), result(2, "2")]).await;
    let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
    let seen = alice.welcomed().await.until_terminal().await;
    assert_eq!(words(&seen), ["one", "result 2"]);
}

#[tokio::test]
async fn an_offer_whose_host_is_gone_with_the_runtime_goes_its_policys_way() {
    for policy in [Fail, Retry] {
        let (dir, runtime) = start_losing();
        let address = runtime.address.clone();
        let mut host = host_of(&runtime, "h1", policy).await;
        let mut alice = Peer::connect(&address, ALICE).await;
        alice.submit("a", json!(1)).await;
        host.assigned().await;
        let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
        runtime.kill();
        let runtime = restart(&dir, &address);
        let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
        let mut alice = alice.welcomed().await;
        let mut other = host_of(&runtime, "h2", policy).await;
        if policy == Fail {
            let seen = alice.until_terminal().await;
            assert_eq!(words(&seen), ["INTERNAL_ERROR true"]);
            continue;
        }
        let (assign, of) = other.assigned().await;
        assert_eq!(assign.attempt, 1);
        other.accept(&of).await;
        other.report(&of, vec![result(1, "1")]).await;
        assert_eq!(words(&alice.until_terminal().await), ["result 1"]);
    }
}

#[tokio::test]
async fn a_drained_runtime_tells_its_hosts_and_the_next_one_has_them_back() {
    let (dir, runtime) = start();
    let address = runtime.address.clone();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    runtime.signal("-TERM");
    let Hear::Drain(drain) = host.next().await else {
        panic!("expected drain")
    };
    assert!(drain.reconnect_after.is_some() && drain.reason.contains("shutting down"));
    assert_eq!(host.end().await.code(), tonic::Code::Unavailable);
    drop((host, alice));
    assert!(runtime.exited().await.success());
    let _runtime = restart(&dir, &address);
    let (mut host, registered) = again(&address, "h1", Fail, &of).await;
    assert_eq!(registered.keep.len(), 1);
    host.report(&of, vec![result(2, "2")]).await;
    let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
    let seen = alice.welcomed().await.until_terminal().await;
    assert_eq!(words(&seen), ["one", "result 2"]);
}

/// Whoever showed the token was given the job.
#[tokio::test]
async fn after_a_kill_a_token_is_of_use_to_its_own_principal_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bobs = "[[hosting]]\nprincipal = \"bob\"\nagents = [\"b\"]\n";
    let runtime = Runtime::start_with(dir.path(), &format!("{bobs}{HOSTING}"));
    let address = runtime.address.clone();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    runtime.kill();
    let _runtime = restart(&dir, &address);
    let stolen = proto::Register {
        resume: vec![held(&of)],
        ..register("h1", vec![agent("b")], 4)
    };
    let bob = HostPeer::connect_as(BOB, &address, stolen).await;
    let (_bob, registered) = bob.unwrap();
    assert_eq!(registered.keep.len(), 0);
    assert_eq!(registered.drop, std::slice::from_ref(&of));
    // It waits for its own host still, which is another instance by now.
    let (mut host, registered) = again(&address, "h2", Fail, &of).await;
    assert_eq!(registered.keep.len(), 1);
    host.report(&of, vec![result(2, "2")]).await;
    let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
    let seen = alice.welcomed().await.until_terminal().await;
    assert_eq!(words(&seen), ["one", "result 2"]);
}

#[tokio::test]
async fn a_cancel_before_a_kill_still_holds_after_it() {
    let (dir, runtime) = start();
    let address = runtime.address.clone();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&address, ALICE).await;
    let job = alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert!(matches!(host.next().await, Hear::Cancel(_)));
    // The cancel is stored by the time the host's next report is.
    host.report(&of, vec![log(2, "two")]).await;
    host.acked(2).await;
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    runtime.kill();
    let _runtime = restart(&dir, &address);
    let (mut host, registered) = again(&address, "h1", Fail, &of).await;
    assert!(registered.keep[0].cancelled);
    host.report(&of, vec![result(3, "3")]).await;
    let alice = Peer::resume(&address, ALICE, &session, &token, 0).await;
    let seen = alice.welcomed().await.until_terminal().await;
    assert_eq!(words(&seen), ["one", "two", "CANCELLED false"]);
}

/// It was answered once the host had been asked, before it was stored.
#[tokio::test]
async fn cancels_that_were_answered_hold_after_a_kill_at_once() {
    let jobs = 16;
    let (dir, runtime) = start();
    let address = runtime.address.clone();
    let mut host = HostPeer::serving(&address, "h1", "a", jobs).await;
    let mut alice = Peer::connect(&address, ALICE).await;
    let (mut ids, mut held_jobs) = (Vec::new(), Vec::new());
    for n in 0..jobs {
        ids.push(alice.submit("a", json!(n)).await);
        held_jobs.push(held(&running(&mut host).await));
    }
    for id in &ids {
        alice.send(id, Payload::JobCancel(Default::default())).await;
    }
    let mut answered = 0;
    while answered < jobs {
        let next = alice.next().await.payload;
        answered += u32::from(matches!(next, Some(Payload::JobCancelled(_))));
    }
    runtime.kill();
    let _runtime = restart(&dir, &address);
    let again = proto::Register {
        resume: held_jobs,
        ..register("h1", vec![agent("a")], jobs)
    };
    let (_host, registered) = HostPeer::connect(&address, again).await.unwrap();
    assert_eq!(registered.keep.len(), jobs as usize);
    let lost = registered.keep.iter().filter(|kept| !kept.cancelled);
    assert_eq!(lost.count(), 0, "answered, and not asked of the host again");
}

/// What a host came back with was counted after the line had been served.
#[tokio::test]
async fn a_host_that_is_back_after_a_restart_is_given_no_more_than_it_takes() {
    let (dir, runtime) = start();
    let only = |resume: Vec<proto::HeldAssignment>| proto::Register {
        resume,
        ..register("h1", vec![with_policy("a", Retry)], 1)
    };
    let (mut host, _) = HostPeer::connect(&runtime.address, only(vec![]))
        .await
        .unwrap();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..3 {
        alice.submit("a", json!(1)).await;
    }
    let of = running(&mut host).await;
    let address = runtime.address.clone();
    runtime.kill();
    let _runtime = restart(&dir, &address);
    let (mut host, registered) = HostPeer::connect(&address, only(vec![held(&of)]))
        .await
        .unwrap();
    assert_eq!(registered.keep.len(), 1);
    for _ in 0..3 {
        host.beat().await;
        let heard = host.hear().await.unwrap();
        assert!(matches!(heard, Hear::HeartbeatAck(_)), "{heard:?}");
    }
    host.report(&of, vec![result(2, "1")]).await;
    let (_, next) = host.assigned().await;
    assert_ne!(next.job_id, of.job_id);
}

/// Its entry stayed, and the host that came for it was told to go on.
#[tokio::test]
async fn a_job_that_ended_before_its_host_was_back_is_not_the_hosts_to_keep() {
    let (dir, runtime) = start();
    let mut host = host_of(&runtime, "h1", Retry).await;
    let mut alice = support::jobs::connect(&runtime, ALICE).await;
    let mut request = support::jobs::of("a", json!(1));
    // Time enough to begin in.
    request.max_runtime_sec = 5;
    let job = alice.submit_job(request).await.unwrap().into_inner().job;
    let of = running(&mut host).await;
    let address = runtime.address.clone();
    runtime.kill();
    let runtime = restart(&dir, &address);
    let mut alice = support::jobs::connect(&runtime, ALICE).await;
    support::jobs::watch_all(&mut alice, &job.unwrap().job_id).await;
    let (_, registered) = again(&address, "h1", Retry, &of).await;
    assert_eq!((registered.keep.len(), registered.drop), (0, vec![of]));
}

/// The ack of what an earlier connection reported went ahead.
#[tokio::test]
async fn nothing_goes_ahead_of_registered() {
    let (_dir, runtime) = start();
    let mut host = host_of(&runtime, "h1", Retry).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let of = running(&mut host).await;
    let mut register = register("h1", vec![with_policy("a", Retry)], 4);
    register.resume = vec![held(&of)];
    let mut seq = 1;
    for _ in 0..200 {
        let mut next = HostPeer::dial(&runtime.address, WORKERS).await.unwrap();
        let say = next.say(Say::Register(register.clone()));
        let more = vec![log(seq + 1, "more"), log(seq + 2, "more")];
        tokio::join!(say, host.report(&of, more));
        let heard = next.hear().await.unwrap();
        let Hear::Registered(registered) = &heard else {
            panic!("{heard:?}")
        };
        let kept = registered.keep.first();
        let kept = kept.unwrap_or_else(|| panic!("{registered:?}\n{}", runtime.log()));
        (host, seq) = (next, kept.acked_seq);
    }
}

/// Whoever waited for the accept saw only the loss behind it, and offered the job
/// again: one that must not run twice ran as often as it was given back.
#[tokio::test]
async fn a_job_that_is_accepted_and_given_back_at_once_has_run() {
    let (_dir, runtime) = start();
    let mut host = host_of(&runtime, "h1", Fail).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..20 {
        alice.submit("a", json!(1)).await;
        let (assign, of) = host.assigned().await;
        assert_eq!(assign.attempt, 1);
        host.accept(&of).await;
        host.report(&of, vec![log(1, "one")]).await;
        let (r#ref, reason) = (Some(of), "no".into());
        host.say(Say::Decline(proto::Decline { r#ref, reason }))
            .await;
        let seen = alice.until_terminal().await;
        assert_eq!(words(&seen), ["one", "INTERNAL_ERROR true"]);
    }
}
