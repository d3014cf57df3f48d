//! What was asked of a log that did not answer in time is done or is not, and whoever
//! asked for it finds out which. A real server behind a link that takes and gives nothing.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use arcpd::wire::proto;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::json;
use support::host::*;
use support::link::{Link, State};
use support::nats::Nats;
use support::ws::Ws;
use support::*;

async fn linked() -> (Nats, Link) {
    let nats = Nats::single();
    let target = nats.url().trim_start_matches("nats://").to_owned();
    let link = Link::start(target).await;
    (nats, link)
}

fn replica(link: &Link, dir: &Path) -> Runtime {
    replica_with(link, dir, HOSTING)
}

fn replica_with(link: &Link, dir: &Path, hosting: &str) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, hosting).unwrap();
    let url = format!("nats://{}", link.address);
    let cluster = ["--cluster", &url, "--cluster-replication", "1"];
    Runtime::spawn(serve(dir).arg("--config").arg(path).args(cluster))
}

/// The answer to a delegation came too late: the child was in the log, its replica's own,
/// and nobody ever began it.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_was_made_before_the_log_answered_is_run() {
    let (_nats, link) = linked().await;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::task::block_in_place(|| replica(&link, dir.path()));
    let mut host = HostPeer::serving(&runtime.address, "h", "a", 4).await;
    let mut client = Ws::connect(&runtime, ALICE).await;
    let lease = json!({ "agent.delegate": ["a"] });
    let submit = json!({ "agent": "a", "input": 1, "lease_request": lease });
    client.say("job.submit", submit).await;
    let (_, parent) = host.assigned().await;
    host.accept(&parent).await;
    host.report(&parent, vec![log(1, "begun")]).await;
    host.acked(1).await;
    link.set(State::OneWay);
    host.say(Say::Delegate(proto::DelegateJob {
        r#ref: Some(parent.clone()),
        delegate_id: "d".into(),
        agent: "a".into(),
        input_json: "2".into(),
        ..Default::default()
    }))
    .await;
    // What was asked for behind it has waited as long as anything may.
    client
        .say("job.submit", json!({ "agent": "a", "input": 3 }))
        .await;
    let refused = client.hear_type("session.error").await;
    assert_eq!(refused["payload"]["code"], "INTERNAL_ERROR", "{refused}");
    link.set(State::Whole);
    let (mut made, mut inputs) = (None, BTreeSet::new());
    while made.is_none() || inputs.len() < 2 {
        match host.hear().await.expect("an open stream") {
            Hear::DelegateResult(result) => made = Some(result),
            Hear::Assign(assign) => drop(inputs.insert(assign.input_json)),
            _ => {}
        }
    }
    assert_eq!(inputs, ["2", "3"].map(String::from).into());
    let made = made.expect("it was heard");
    assert_eq!(made.code, "", "{made:?}");
}

/// It was connected for ever, as the log had it: nobody else could cancel its jobs, and
/// it was never forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_the_log_does_not_answer_is_parked_afterwards() {
    let (_nats, link) = linked().await;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::task::block_in_place(|| replica(&link, dir.path()));
    let mut client = Ws::connect(&runtime, ALICE).await;
    let accepted = client.submit("sleeper", json!({ "ms": 600_000 })).await;
    let job = accepted["job_id"].as_str().unwrap();
    let mut other = Ws::connect(&runtime, ALICE).await;
    link.set(State::OneWay);
    drop(client);
    runtime
        .until_logged("parking a session was not recorded")
        .await;
    link.set(State::Whole);
    runtime.until_logged("parking a session is recorded").await;
    other.say_about(job, "job.cancel", json!({})).await;
    assert_eq!(other.hear().await["type"], "job.cancelled");
}

/// The job was acknowledged and ended with "submit the job again", since its activation
/// was not stored in time.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_activation_the_log_does_not_answer_waits_for_it() {
    let (_nats, link) = linked().await;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::task::block_in_place(|| replica(&link, dir.path()));
    let mut host = HostPeer::serving(&runtime.address, "h", "a", 1).await;
    let mut client = Ws::connect(&runtime, ALICE).await;
    client.submit("a", json!(1)).await;
    let (_, first) = host.assigned().await;
    host.accept(&first).await;
    client.submit("a", json!(2)).await;
    link.set(State::OneWay);
    host.say(Say::Capacity(proto::Capacity { max_in_flight: 2 }))
        .await;
    runtime.until_logged("an activation was not stored").await;
    link.set(State::Whole);
    let (assign, second) = host.assigned().await;
    assert_eq!(assign.input_json, "2");
    host.accept(&second).await;
    host.report(&second, vec![result(1, "2")]).await;
    let ended = client.hear_type("job.result").await;
    assert_eq!(ended["job_id"], json!(second.job_id), "{ended}");
}

/// A host that dialled was seen once the log had answered what it offers: until then its
/// place was taken by what its stream before had told it in vain.
#[tokio::test(flavor = "multi_thread")]
async fn an_offer_to_a_host_that_dials_anew_is_withdrawn_before_the_log_answers() {
    let (_nats, link) = linked().await;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::task::block_in_place(|| replica(&link, dir.path()));
    let mut first = HostPeer::serving(&runtime.address, "h", "a", 1).await;
    let mut client = Ws::connect(&runtime, ALICE).await;
    client.submit("a", json!(1)).await;
    let (_, offered) = first.assigned().await;
    link.set(State::OneWay);
    let address = runtime.address.clone();
    let again = register("h", vec![agent("a")], 1);
    let again = tokio::spawn(async move { HostPeer::connect(&address, again).await });
    assert!(first.end().await.message().contains("taken over"));
    let taken = "arcpd_host_places_taken";
    runtime.until_metric(taken, |taken| taken == 0).await;
    link.set(State::Whole);
    let (mut second, _) = again.await.unwrap().expect("it was not told to dial again");
    let (assign, of) = second.assigned().await;
    assert_eq!(assign.attempt, 1);
    assert_ne!(of.lease_token, offered.lease_token);
}

/// Its job was lost, as if it had not come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dials_while_the_log_does_not_answer_keeps_its_job() {
    let (_nats, link) = linked().await;
    let dir = tempfile::tempdir().unwrap();
    let hosting = HOSTING.replace("lost_after_sec = 600", "lost_after_sec = 2");
    let runtime = tokio::task::block_in_place(|| replica_with(&link, dir.path(), &hosting));
    let mut client = Ws::connect(&runtime, ALICE).await;
    let (mut hosts, mut jobs) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let mut host = HostPeer::serving(&runtime.address, name, name, 1).await;
        client.submit(name, json!(1)).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "begun")]).await;
        host.acked(1).await;
        hosts.push(host);
        jobs.push(of);
    }
    let (b, a) = (hosts.pop().unwrap(), hosts.pop().unwrap());
    link.set(State::OneWay);
    drop(a);
    runtime.until_logged("a host is gone").await;
    let address = runtime.address.clone();
    let mut again = register("a", vec![agent("a")], 1);
    again.resume = vec![held(&jobs[0])];
    let again = tokio::spawn(async move { HostPeer::connect(&address, again).await });
    // It went later, and does not come back.
    drop(b);
    runtime.until_logged("a host did not come back").await;
    link.set(State::Whole);
    let (mut a, registered) = again.await.unwrap().expect("it was not told to dial again");
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    a.report(&jobs[0], vec![result(2, "2")]).await;
    let mut ends = BTreeSet::new();
    while ends.len() < 2 {
        let seen = client.until_terminal().await;
        let end = &seen.last().unwrap()["payload"];
        ends.insert(end["result"].to_string() + &end["code"].to_string());
    }
    assert_eq!(
        ends,
        ["2null", "null\"INTERNAL_ERROR\""].map(String::from).into()
    );
}

/// The same after the replica was killed: it waits as long as that for hosts to come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dials_a_new_replica_while_the_log_does_not_answer_keeps_its_job() {
    let (_nats, link) = linked().await;
    let dir = tempfile::tempdir().unwrap();
    let hosting = HOSTING.replace("lost_after_sec = 600", "lost_after_sec = 2");
    let start = || tokio::task::block_in_place(|| replica_with(&link, dir.path(), &hosting));
    let runtime = start();
    let mut client = Ws::connect(&runtime, ALICE).await;
    let mut hosts = Vec::new();
    for name in ["a", "b"] {
        let mut host = HostPeer::serving(&runtime.address, name, name, 1).await;
        client.submit(name, json!(1)).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "begun")]).await;
        host.acked(1).await;
        hosts.push((host, of));
    }
    runtime.kill();
    let runtime = start();
    runtime
        .until_metric("arcpd_jobs_running", |jobs| jobs == 2)
        .await;
    link.set(State::OneWay);
    let address = runtime.address.clone();
    let mut again = register("a", vec![agent("a")], 1);
    again.resume = vec![held(&hosts[0].1)];
    let again = tokio::spawn(async move { HostPeer::connect(&address, again).await });
    // Those of both jobs began at once, and that of the other, which does not come, is over.
    runtime
        .until_metric("arcpd_host_losses_total", |lost| lost > 0)
        .await;
    link.set(State::Whole);
    let (_a, registered) = again.await.unwrap().expect("it was not told to dial again");
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
}
