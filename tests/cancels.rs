//! A cancel that was answered holds, whatever runs the job and whatever is killed before
//! its end. Real processes, real kills.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use arcpd::wire::proto;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::{Value, json};
use support::host::*;
use support::nats::Nats;
use support::replicas::{Cell, replica};
use support::ws::{Ws, hello};
use support::*;

/// A program that does not stop for a cancel; it ends when nobody reads it.
const PROGRAM: &str = r#"
[[agent]]
name = "program"
command = ["sh", "-c", "trap '' TERM; while echo up; do sleep 1; done"]
"#;

/// Longer than a test.
const MS: u64 = 600_000;

fn start(dir: &Path) -> Runtime {
    Runtime::start_with(dir, &format!("{HOSTING}{PROGRAM}"))
}

async fn resume(runtime: &Runtime, from: &Ws) -> Ws {
    let resume = json!({
        "session_id": from.session_id, "resume_token": from.resume_token, "last_event_seq": 0,
    });
    Ws::open(runtime, hello("r", ALICE, json!({ "resume": resume }))).await
}

async fn submit(client: &mut Ws, agent: &str) -> String {
    let accepted = client.submit(agent, json!({ "ms": MS })).await;
    accepted["job_id"].as_str().expect("a job").into()
}

/// Answered, and the agent goes on for the grace.
async fn cancel(client: &mut Ws, job: &str) {
    client.say_about(job, "job.cancel", json!({})).await;
    let answer = client.hear_type("job.cancelled").await;
    assert_eq!(answer["job_id"], job);
}

/// What so many jobs end with.
async fn ends(client: &mut Ws, jobs: usize) -> HashMap<String, Value> {
    let mut ends = HashMap::new();
    while ends.len() < jobs {
        let seen = client.until_terminal().await;
        let end = seen.last().expect("a terminal");
        let job = end["job_id"].as_str().expect("of a job");
        ends.insert(job.to_owned(), end["payload"]["code"].clone());
    }
    ends
}

/// They ended INTERNAL_ERROR, and their client was told to submit them again.
#[tokio::test]
async fn an_answered_cancel_of_a_job_that_no_host_runs_holds_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path());
    let mut client = Ws::connect(&runtime, ALICE).await;
    let (inside, other) = (
        submit(&mut client, "stubborn").await,
        submit(&mut client, "stubborn").await,
    );
    let program = submit(&mut client, "program").await;
    client.hear_type("job.event").await;
    for job in [&inside, &program] {
        cancel(&mut client, job).await;
    }
    runtime.kill();
    let runtime = start(dir.path());
    let ends = ends(&mut resume(&runtime, &client).await, 3).await;
    assert_eq!(ends[&inside], "CANCELLED");
    assert_eq!(ends[&program], "CANCELLED");
    assert_eq!(ends[&other], "INTERNAL_ERROR");
}

/// The host has the cancelled job for the grace; the child ended INTERNAL_ERROR.
#[tokio::test]
async fn what_a_cancelled_job_delegated_is_cancelled_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path());
    let mut client = Ws::connect(&runtime, ALICE).await;
    let mut host = HostPeer::serving(&runtime.address, "h", "boss", 1).await;
    let lease = json!({ "agent.delegate": ["stubborn"] });
    let boss = json!({ "agent": "boss", "input": 1, "lease_request": lease });
    client.say("job.submit", boss).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.say(Say::Delegate(proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: "d".into(),
        agent: "stubborn".into(),
        input_json: json!({ "ms": MS }).to_string(),
        ..Default::default()
    }))
    .await;
    let Hear::DelegateResult(made) = host.next().await else {
        panic!("no child was made")
    };
    assert_eq!(made.code, "", "{made:?}");
    cancel(&mut client, &of.job_id).await;
    runtime.kill();
    let runtime = start(dir.path());
    let ends = ends(&mut resume(&runtime, &client).await, 1).await;
    assert_eq!(ends[&made.child_job_id], "CANCELLED");
}

/// One is cancelled where it runs, one at another replica; then that where they run dies.
#[tokio::test]
async fn an_answered_cancel_holds_at_the_replica_that_inherits_the_job() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&a, ALICE).await;
    let here = submit(&mut client, "stubborn").await;
    let there = submit(&mut client, "stubborn").await;
    let other = submit(&mut client, "stubborn").await;
    cancel(&mut client, &here).await;
    client.say("session.bye", json!({})).await;
    while client.try_hear().await.is_some() {}
    let mut elsewhere = Ws::connect(&b, ALICE).await;
    cancel(&mut elsewhere, &there).await;
    a.kill();
    let mut observer = Ws::connect(&c, ALICE).await;
    for job in [&here, &there, &other] {
        let about = json!({ "job_id": job, "history": true });
        observer.say("job.subscribe", about).await;
    }
    let ends = ends(&mut observer, 3).await;
    assert_eq!(ends[&here], "CANCELLED");
    assert_eq!(ends[&there], "CANCELLED");
    assert_eq!(ends[&other], "INTERNAL_ERROR");
}

#[tokio::test]
async fn an_answered_cancel_moves_into_a_cell_with_its_job() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("alone")).unwrap();
    let runtime = start(&at("alone"));
    let mut client = Ws::connect(&runtime, ALICE).await;
    let job = submit(&mut client, "stubborn").await;
    cancel(&mut client, &job).await;
    runtime.kill();
    let file = at("alone.export");
    let cell = ["--cluster", &nats.url(), "--cluster-replication", "1"].map(String::from);
    for (what, data, more) in [("export", "alone", &[][..]), ("import", "a", &cell[..])] {
        let mut arcpd = Command::new(env!("CARGO_BIN_EXE_arcpd"));
        arcpd.arg(what).arg(&file).arg("--data-dir").arg(at(data));
        let done = arcpd.args(more).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
    let a = replica(&nats, &at("a"));
    let ends = ends(&mut resume(&a, &client).await, 1).await;
    assert_eq!(ends[&job], "CANCELLED");
}
