//! Jobs that delegate, and their children, at different replicas of a cell. Real servers,
//! real processes, real kills.

mod support;

use std::time::{Duration, Instant};

use arcpd::wire::proto;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::{Value, json};
use support::host::*;
use support::link::{Link, State};
use support::nats::Nats;
use support::replicas::*;
use support::ws::{Ws, seqs};
use support::*;

/// From a replica's death to what the others do about it.
const TAKEN_OVER: Duration = Duration::from_secs(8);
const OTHERS: usize = 400;
const CHILDREN: u32 = 60;

/// A job that may delegate to `a`, with two dollars.
fn leading() -> Value {
    let lease = json!({ "agent.delegate": ["a"], "cost.budget": ["USD:2"] });
    json!({ "agent": "boss", "input": 1, "lease_request": lease })
}

/// A host with such a job.
async fn boss(replica: &Runtime, client: &mut Ws) -> (HostPeer, proto::AssignmentRef) {
    let mut host = HostPeer::serving(&replica.address, "boss", "boss", 1).await;
    client.say("job.submit", leading()).await;
    client.hear_type("job.accepted").await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    (host, of)
}

async fn delegate(host: &mut HostPeer, of: &proto::AssignmentRef, id: &str, lease: Value) {
    host.say(Say::Delegate(proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: id.into(),
        agent: "a".into(),
        input_json: "1".into(),
        lease_request_json: lease.to_string(),
        ..Default::default()
    }))
    .await;
}

fn budget(amount: &str) -> Value {
    json!({ "cost.budget": [format!("USD:{amount}")] })
}

/// The child, or why there is none.
async fn delegated(host: &mut HostPeer) -> Result<String, String> {
    match host.next().await {
        Hear::DelegateResult(made) if made.code.is_empty() => Ok(made.child_job_id),
        Hear::DelegateResult(refused) => Err(refused.code),
        other => panic!("expected an answer, got {other:?}"),
    }
}

/// A child that comes to the host of its parent: the answer and the offer may come in
/// either order.
async fn delegated_to_itself(host: &mut HostPeer) -> proto::AssignmentRef {
    let (mut made, mut offered) = (None, None);
    loop {
        match host.next().await {
            Hear::DelegateResult(answer) => made = Some(answer),
            Hear::Assign(assign) => offered = assign.r#ref,
            other => panic!("expected an answer or an offer, got {other:?}"),
        }
        if let (Some(made), Some(offered)) = (&made, &offered) {
            assert_eq!(made.child_job_id, offered.job_id, "{made:?}");
            return offered.clone();
        }
    }
}

/// The name of a child that is over.
async fn ended(host: &mut HostPeer) -> String {
    match host.next().await {
        Hear::ChildEnded(ended) => ended.delegate_id,
        other => panic!("expected a child's end, got {other:?}"),
    }
}

fn spent(seq: u64, value: f64) -> proto::Report {
    let metric = proto::Metric {
        name: "cost.step".into(),
        value,
        unit: "USD".into(),
        ..Default::default()
    };
    event(seq, proto::job_event::Body::Metric(metric))
}

/// What a record says is left of a budget.
fn left_of(record: proto::JobRecord) -> Option<f64> {
    let Some(proto::job_record::Record::JobEvent(event)) = record.record else {
        return None;
    };
    match event.body {
        Some(proto::job_event::Body::Metric(metric)) => {
            (metric.name == "cost.budget.remaining").then_some(metric.value)
        }
        _ => None,
    }
}

/// A host that keeps all it holds; until then its jobs are on their way.
async fn back(replica: &Runtime, register: proto::Register) -> HostPeer {
    let began = Instant::now();
    loop {
        let came = HostPeer::connect(&replica.address, register.clone()).await;
        // Refused while it is not known where they are.
        match came {
            Ok((peer, registered)) if registered.drop.is_empty() => return peer,
            other => {
                let told = other.map(|(_, registered)| registered);
                assert!(began.elapsed() < TAKEN_OVER, "{told:?}");
            }
        }
    }
}

/// It waited for a host at its parent's replica.
#[tokio::test]
async fn a_child_runs_where_its_host_is_and_what_it_did_not_spend_comes_back() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&c, ALICE).await;
    let mut worker = HostPeer::serving(&b.address, "w", "a", 4).await;
    let (mut boss, parent) = boss(&a, &mut client).await;
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    let first = delegated(&mut boss).await.unwrap();
    let (assign, of) = worker.assigned().await;
    assert_eq!(of.job_id, first);
    assert_eq!(assign.parent_job_id, parent.job_id);
    worker.accept(&of).await;
    // What is reserved is not the parent's to give again, wherever it is.
    delegate(&mut boss, &parent, "two", budget("1")).await;
    let refused = delegated(&mut boss).await;
    assert_eq!(refused, Err("LEASE_SUBSET_VIOLATION".into()));
    // And where the child is nobody lets it spend more.
    worker.report(&of, vec![spent(1, 1.5)]).await;
    worker
        .say(Say::Authorize(proto::Authorize {
            r#ref: Some(of.clone()),
            call_id: "c".into(),
            capability: "agent.delegate".into(),
            target: "a".into(),
        }))
        .await;
    match worker.next().await {
        Hear::AuthorizeResult(answer) => assert!(!answer.allowed, "{answer:?}"),
        other => panic!("expected an answer, got {other:?}"),
    }
    worker.report(&of, vec![result(2, "7")]).await;
    match boss.next().await {
        Hear::ChildEnded(ended) => assert_eq!(ended.child_job_id, first),
        other => panic!("expected the child's end, got {other:?}"),
    }
    delegate(&mut boss, &parent, "three", budget("0.6")).await;
    assert_eq!(
        delegated(&mut boss).await,
        Err("LEASE_SUBSET_VIOLATION".into())
    );
    delegate(&mut boss, &parent, "four", budget("0.5")).await;
    let last = delegated(&mut boss).await.unwrap();
    let (_, of) = worker.assigned().await;
    worker.accept(&of).await;
    worker.report(&of, vec![result(1, "8")]).await;
    match boss.next().await {
        Hear::ChildEnded(ended) => assert_eq!(ended.child_job_id, last),
        other => panic!("expected the child's end, got {other:?}"),
    }
    boss.report(&parent, vec![result(1, "9")]).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(client.until_terminal().await);
    }
    assert_eq!(seqs(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
    let told = seen
        .iter()
        .position(|frame| frame["payload"]["kind"] == "delegate");
    let spoke = seen.iter().position(|frame| frame["job_id"] == *first);
    assert!(told < spoke, "a child is told of before it speaks");
}

#[tokio::test]
async fn a_cancel_and_an_end_reach_a_child_at_another_replica() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut worker = HostPeer::serving(&b.address, "w", "a", 4).await;
    for cancel in [true, false] {
        let mut client = Ws::connect(&c, ALICE).await;
        let (mut boss, parent) = boss(&a, &mut client).await;
        delegate(&mut boss, &parent, "one", budget("1")).await;
        delegated(&mut boss).await.unwrap();
        let (_, of) = worker.assigned().await;
        worker.accept(&of).await;
        worker.report(&of, vec![log(1, "begun")]).await;
        worker.acked(1).await;
        if cancel {
            client
                .say_about(&parent.job_id, "job.cancel", json!({}))
                .await;
            let told = worker.next().await;
            assert!(matches!(told, Hear::Cancel(_)), "{told:?}");
            let cancelled = proto::complete::Outcome::Cancelled(proto::Cancelled {});
            worker.report(&of, vec![complete(2, cancelled)]).await;
        } else {
            boss.report(&parent, vec![result(1, "9")]).await;
            assert_eq!(worker.revoked().await, "the job is over");
        }
    }
}

/// The parent's host was told to drop the job, as a child of it ran.
#[tokio::test]
async fn a_job_with_a_child_follows_its_host_to_another_replica() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&c, ALICE).await;
    let mut worker = HostPeer::serving(&a.address, "w", "a", 4).await;
    let (mut boss, parent) = boss(&a, &mut client).await;
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    let child = delegated(&mut boss).await.unwrap();
    let (_, of) = worker.assigned().await;
    worker.accept(&of).await;
    worker.report(&of, vec![log(1, "begun")]).await;
    worker.acked(1).await;
    drop(boss);
    let mut again = register("boss", vec![agent("boss")], 1);
    again.resume = vec![held(&parent)];
    let (mut boss, registered) = HostPeer::connect(&b.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    // What its child has reserved is still not its own.
    delegate(&mut boss, &parent, "two", budget("1")).await;
    assert_eq!(
        delegated(&mut boss).await,
        Err("LEASE_SUBSET_VIOLATION".into())
    );
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    assert_eq!(delegated(&mut boss).await, Ok(child.clone()));
    worker.report(&of, vec![result(2, "7")]).await;
    match boss.next().await {
        Hear::ChildEnded(ended) => assert_eq!(ended.child_job_id, child),
        other => panic!("expected the child's end, got {other:?}"),
    }
    delegate(&mut boss, &parent, "two again", budget("1")).await;
    assert!(delegated(&mut boss).await.is_ok());
}

/// It began anew with nothing spent, so it could spend its budget once more at each replica.
#[tokio::test]
async fn what_a_child_has_spent_elsewhere_counts_when_it_is_back() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&c, ALICE).await;
    let mut worker = HostPeer::serving(&b.address, "w", "a", 4).await;
    let (mut boss, parent) = boss(&a, &mut client).await;
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    let child = delegated(&mut boss).await.unwrap();
    let (_, of) = worker.assigned().await;
    worker.accept(&of).await;
    worker.report(&of, vec![spent(1, 1.0)]).await;
    worker.acked(1).await;
    drop(worker);
    let mut again = register("w", vec![agent("a")], 4);
    again.resume = vec![held(&of)];
    let (mut worker, registered) = HostPeer::connect(&a.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    worker
        .report(&of, vec![spent(2, 0.5), result(3, "7")])
        .await;
    match boss.next().await {
        Hear::ChildEnded(ended) => assert_eq!(ended.child_job_id, child),
        other => panic!("expected the child's end, got {other:?}"),
    }
    delegate(&mut boss, &parent, "two", budget("0.6")).await;
    assert_eq!(
        delegated(&mut boss).await,
        Err("LEASE_SUBSET_VIOLATION".into())
    );
    delegate(&mut boss, &parent, "three", budget("0.5")).await;
    assert!(delegated(&mut boss).await.is_ok());
    let mut jobs = support::jobs::connect(&b, ALICE).await;
    let told = support::jobs::watch_all(&mut jobs, &child).await;
    let left = told.into_iter().filter_map(left_of).next_back();
    assert_eq!(left, Some(0.0), "of its own budget");
}

/// What a child had reserved was free again when it was made while its parent's replica was
/// still about the other jobs that it had inherited: it was not known to run yet.
#[tokio::test]
async fn a_child_that_is_made_while_others_are_taken_up_keeps_what_it_reserved() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut client = Ws::connect(&first, ALICE).await;
    let agents = || ["boss", "a", "other"].map(agent).to_vec();
    drop(HostPeer::connect(&first.address, register("known", agents(), 1)).await);
    // Or it is assigned the job, and the other replica waits for it to come back.
    first.until_metric("arcpd_hosts", |hosts| hosts == 0).await;
    // They wait for a host, and the others are taken up after it.
    let others = ["other"; OTHERS].map(|agent| json!({ "agent": agent, "input": 1 }));
    for submit in std::iter::once(leading()).chain(others) {
        client.say("job.submit", submit).await;
        client.hear_type("job.accepted").await;
    }
    first.kill();
    let mut boss = HostPeer::serving(&second.address, "boss", "boss", 1).await;
    let (_, parent) = boss.assigned().await;
    boss.accept(&parent).await;
    for number in 0..CHILDREN {
        delegate(&mut boss, &parent, &number.to_string(), budget("0.01")).await;
        delegated(&mut boss).await.unwrap();
    }
    let left = 2.0 - 0.01 * f64::from(CHILDREN);
    let one_more = budget(&format!("{:.2}", left + 0.01));
    delegate(&mut boss, &parent, "too much", one_more).await;
    let refused = delegated(&mut boss).await;
    assert_eq!(refused, Err("LEASE_SUBSET_VIOLATION".into()));
    let all = budget(&format!("{left:.2}"));
    delegate(&mut boss, &parent, "all", all).await;
    assert!(delegated(&mut boss).await.is_ok());
}

/// Its host heard of the end, and what the child had not spent was refused it.
#[tokio::test]
async fn what_a_child_elsewhere_has_left_is_there_when_its_parent_hears_of_the_end() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&c, ALICE).await;
    let mut worker = HostPeer::serving(&b.address, "w", "a", 4).await;
    let (mut boss, parent) = boss(&a, &mut client).await;
    let all = json!({ "agent.delegate": ["a"], "cost.budget": ["USD:2"] });
    delegate(&mut boss, &parent, "one", all).await;
    delegated(&mut boss).await.unwrap();
    let (_, child) = worker.assigned().await;
    worker.accept(&child).await;
    // What each of them has spent is asked for before the sum is known.
    for number in 0..20 {
        delegate(&mut worker, &child, &number.to_string(), budget("0.1")).await;
        let below = delegated_to_itself(&mut worker).await;
        worker.accept(&below).await;
        worker.report(&below, vec![result(1, "7")]).await;
        worker.acked(1).await;
        ended(&mut worker).await;
    }
    worker.report(&child, vec![result(1, "7")]).await;
    assert_eq!(ended(&mut boss).await, "one");
    delegate(&mut boss, &parent, "two", budget("2")).await;
    assert!(delegated(&mut boss).await.is_ok());
}

/// The child has the lower number, as the replica that made it was there first. It was
/// taken up before its parent, whose budget was then whole again.
#[tokio::test]
async fn a_parent_that_is_inherited_with_its_child_has_no_more_than_before() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut client = Ws::connect(&second, ALICE).await;
    let mut worker = HostPeer::serving(&first.address, "w", "a", 4).await;
    let (mut boss, parent) = boss(&first, &mut client).await;
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    delegated(&mut boss).await.unwrap();
    let (_, child) = worker.assigned().await;
    worker.accept(&child).await;
    worker.report(&child, vec![log(1, "begun")]).await;
    worker.acked(1).await;
    first.kill();
    // Not one by one, each with its host.
    second
        .until_metric("arcpd_cluster_takeovers_total", |count| count == 1)
        .await;
    let mut again = register("w", vec![agent("a")], 4);
    again.resume = vec![held(&child)];
    let mut worker = back(&second, again).await;
    let mut again = register("boss", vec![agent("boss")], 1);
    again.resume = vec![held(&parent)];
    let mut boss = back(&second, again).await;
    delegate(&mut boss, &parent, "two", budget("1")).await;
    assert_eq!(
        delegated(&mut boss).await,
        Err("LEASE_SUBSET_VIOLATION".into())
    );
    worker.report(&child, vec![result(2, "7")]).await;
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    assert_eq!(delegated(&mut boss).await, Ok(child.job_id));
    match boss.next().await {
        Hear::ChildEnded(ended) => assert_eq!(ended.delegate_id, "one"),
        other => panic!("expected the child's end, got {other:?}"),
    }
    delegate(&mut boss, &parent, "three", budget("2")).await;
    assert!(delegated(&mut boss).await.is_ok());
}

/// It was made once the log answered again, and nobody began it: its parent waited for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_answered_too_late_is_made_and_runs() {
    let nats = Nats::single();
    let link = Link::start(nats.url().trim_start_matches("nats://").into()).await;
    let dir = tempfile::tempdir().unwrap();
    let through = format!("nats://{}", link.address);
    let a = tokio::task::block_in_place(|| replica_at(&through, dir.path()));
    let mut client = Ws::connect(&a, ALICE).await;
    let mut worker = HostPeer::serving(&a.address, "w", "a", 4).await;
    let (mut boss, parent) = boss(&a, &mut client).await;
    link.set(State::OneWay);
    delegate(&mut boss, &parent, "one", budget("1.5")).await;
    // What was sent behind it is refused by now.
    client
        .say("job.submit", json!({ "agent": "echo", "input": 7 }))
        .await;
    client.hear_type("session.error").await;
    link.set(State::Whole);
    let child = delegated(&mut boss).await.unwrap();
    let (_, of) = worker.assigned().await;
    assert_eq!(of.job_id, child);
}
