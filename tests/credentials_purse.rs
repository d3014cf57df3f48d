//! The purse of a tree of jobs is owed like a credential: the runtime is killed
//! between any two of its steps, and the gateway refuses to close it.
//!
//! ```text
//!  intent ─▶ team made ─▶ key made ─▶ job stored ─▶ … ─▶ end ─▶ team deleted ─▶ forgotten
//!         1            2           3                    4               5
//! ```

mod support;

use arcpd::wire::proto::{self, envelope::Payload};
use serde_json::json;
use support::credentials::*;
use support::gateway::*;
use support::*;

/// What was given up is settled after four times that.
const QUICK: &str = "issue_timeout_sec = 1\n";

fn runtime(dir: &std::path::Path, gateway: &Gateway) -> Runtime {
    Runtime::start_with(dir, &format!("{}{QUICK}", gateway.toml(dir)))
}

/// A job that may delegate.
fn root() -> proto::JobSubmit {
    let lease = json!({
        "model.use": ["tier-fast/a"], "cost.budget": ["USD:5"], "agent.delegate": ["sleeper"],
    });
    proto::JobSubmit {
        lease_request_json: lease.to_string(),
        ..submit("sleeper", json!({ "ms": 600_000 }))
    }
}

/// Neither the gateway nor the store has anything left.
async fn all_is_closed(gateway: &Gateway, runtime: &Runtime) {
    gateway.until_teams_are_deleted().await;
    gateway
        .until(|keys| keys.iter().all(|key| key.deleted))
        .await;
    let none = |left: u64| left == 0;
    runtime
        .until_metric("arcpd_credentials_outstanding", none)
        .await;
}

/// Steps 1 and 2: the gateway may not have heard, or has made it and did not say so.
#[tokio::test]
async fn a_purse_that_was_asked_for_at_a_kill_is_closed_after_it() {
    for (mood, made) in [(Mood::Hangs, 0), (Mood::MakesTeamAndHangs, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let gateway = Gateway::start().await;
        let killed = runtime(dir.path(), &gateway);
        let mut alice = asking(&killed.address, ALICE).await;
        gateway.set(mood);
        alice.send("", Payload::JobSubmit(root())).await;
        gateway.until_asked(1).await;
        killed.kill();
        assert_eq!(gateway.teams().len(), made, "{mood:?}");
        gateway.set(Mood::Well);
        let again = runtime(dir.path(), &gateway);
        // The intent is there from before the question, whatever became of that.
        gateway.until_deletions(1).await;
        all_is_closed(&gateway, &again).await;
        let mut alice = asking(&again.address, ALICE).await;
        assert_eq!(alice.running().await, 0);
    }
}

/// Step 3: with its key, and without a job.
#[tokio::test]
async fn a_purse_whose_key_was_asked_for_at_a_kill_is_closed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let killed = runtime(dir.path(), &gateway);
    let mut alice = asking(&killed.address, ALICE).await;
    gateway.set(Mood::MakesAndHangs);
    alice.send("", Payload::JobSubmit(root())).await;
    gateway.until(|keys| keys.len() == 1).await;
    killed.kill();
    gateway.set(Mood::Well);
    let again = runtime(dir.path(), &gateway);
    all_is_closed(&gateway, &again).await;
    assert_eq!((gateway.teams().len(), gateway.keys().len()), (1, 1));
}

/// Step 4: its job's end was stored, and the gateway has not heard of it.
#[tokio::test]
async fn a_purse_that_was_to_be_closed_at_a_kill_is_closed_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let killed = runtime(dir.path(), &gateway);
    let mut alice = asking(&killed.address, ALICE).await;
    let (job, _) = submitted(&mut alice, root()).await;
    gateway.set(Mood::Down);
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    alice.until_terminal().await;
    gateway.until_deletions(2).await;
    killed.kill();
    gateway.set(Mood::Well);
    let again = runtime(dir.path(), &gateway);
    all_is_closed(&gateway, &again).await;
}

/// Step 5: the gateway has closed it, and nobody heard.
#[tokio::test]
async fn a_purse_that_was_closed_unheard_at_a_kill_is_forgotten_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let killed = runtime(dir.path(), &gateway);
    let mut alice = asking(&killed.address, ALICE).await;
    let (job, _) = submitted(&mut alice, root()).await;
    gateway.set(Mood::DeletesTeamAndHangs);
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    alice.until_terminal().await;
    gateway.until_teams_are_deleted().await;
    killed.kill();
    gateway.set(Mood::Well);
    let again = runtime(dir.path(), &gateway);
    all_is_closed(&gateway, &again).await;
    assert_eq!(again.metric("arcpd_credentials_unrevocable"), 0);
    assert_eq!(gateway.teams().len(), 1);
}

/// The operator sees which it is, and has it asked for again.
#[tokio::test]
async fn a_purse_that_the_gateway_refuses_to_close_is_shown_and_closed_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let first = runtime(dir.path(), &gateway);
    let mut alice = asking(&first.address, ALICE).await;
    let (job, _) = submitted(&mut alice, root()).await;
    gateway.set(Mood::RefusesToDeleteTeams);
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    alice.until_terminal().await;
    let one = |left: u64| left == 1;
    first
        .until_metric("arcpd_credentials_unrevocable", one)
        .await;
    // Its key was not in the way, nor it in the key's.
    first
        .until_metric("arcpd_credentials_outstanding", one)
        .await;
    gateway.until_all_deleted().await;
    let purse = gateway.teams()[0].id.clone();
    let listed = arcpd(&first, &[]);
    for said in [&*purse, &*job, "unrevocable", "HTTP 403 auth_error"] {
        assert!(listed.contains(said), "{said} in {listed}");
    }
    assert_clean("the list", listed.as_bytes());
    assert_clean("the log", first.log().as_bytes());
    // It is owed over a kill, and asked for again at the start.
    first.kill();
    let asked = gateway.deletions();
    let second = runtime(dir.path(), &gateway);
    gateway.until_deletions(asked + 1).await;
    second
        .until_metric("arcpd_credentials_unrevocable", one)
        .await;
    gateway.set(Mood::Well);
    arcpd(&second, &["--retry", &purse]);
    all_is_closed(&gateway, &second).await;
    assert!(!arcpd(&second, &[]).contains(&purse));
}
