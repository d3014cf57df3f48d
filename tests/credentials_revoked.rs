//! Revocation is owed: whatever dies, and whatever the upstream says.

mod support;

use arcpd::wire::proto::envelope::Payload;
use serde_json::json;
use support::credentials::*;
use support::gateway::*;
use support::host::*;
use support::*;

fn runtime(dir: &std::path::Path, gateway: &Gateway, more: &str) -> Runtime {
    let toml = format!("{}{more}", gateway.toml(dir));
    Runtime::start_with(dir, &toml)
}

fn sleeper() -> arcpd::wire::proto::JobSubmit {
    submit("sleeper", json!({ "ms": 600_000 }))
}

#[tokio::test]
async fn what_was_live_at_a_kill_is_revoked_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let killed = runtime(dir.path(), &gateway, "");
    let mut alice = asking(&killed.address, ALICE).await;
    for _ in 0..20 {
        submitted(&mut alice, sleeper()).await;
    }
    assert_eq!(gateway.live().len(), 20);
    killed.kill();
    let _again = runtime(dir.path(), &gateway, "");
    gateway.until_all_deleted().await;
}

#[tokio::test]
async fn what_was_asked_for_at_a_kill_and_became_no_jobs_is_revoked_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let killed = runtime(dir.path(), &gateway, "issue_timeout_sec = 1\n");
    let mut alice = asking(&killed.address, ALICE).await;
    gateway.set(Mood::MakesAndHangs);
    alice.send("", Payload::JobSubmit(sleeper())).await;
    gateway.until(|keys| keys.len() == 1).await;
    killed.kill();
    gateway.set(Mood::Well);
    let again = runtime(dir.path(), &gateway, "issue_timeout_sec = 1\n");
    // Due when the upstream cannot be at it any more.
    gateway.until_all_deleted().await;
    again
        .until_metric("arcpd_credentials_outstanding", |left| left == 0)
        .await;
}

#[tokio::test]
async fn an_upstream_that_is_down_is_asked_until_it_is_up_also_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let first = runtime(dir.path(), &gateway, "");
    let mut alice = asking(&first.address, ALICE).await;
    let (job, _) = submitted(&mut alice, sleeper()).await;
    gateway.set(Mood::Down);
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    alice.until_terminal().await;
    gateway.until_deletions(2).await;
    assert_eq!(first.metric("arcpd_credentials_outstanding"), 1);
    assert_eq!(first.metric("arcpd_credentials_unrevocable"), 0);
    first.kill();
    let second = runtime(dir.path(), &gateway, "");
    gateway.until_deletions(3).await;
    gateway.set(Mood::Well);
    gateway.until_all_deleted().await;
    second
        .until_metric("arcpd_credentials_outstanding", |left| left == 0)
        .await;
}

#[tokio::test]
async fn one_that_cannot_be_revoked_is_shown_and_asked_for_again_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = runtime(dir.path(), &gateway, "");
    let mut alice = asking(&runtime.address, ALICE).await;
    let (job, shown) = submitted(&mut alice, sleeper()).await;
    let id = shown[0]["id"].as_str().unwrap();
    gateway.set(Mood::RefusesToDelete);
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    let one = |left: u64| left == 1;
    runtime
        .until_metric("arcpd_credentials_unrevocable", one)
        .await;
    runtime.until_logged("a credential cannot be revoked").await;
    let listed = arcpd(&runtime, &[]);
    for said in [id, &job, "unrevocable", "HTTP 403 auth_error"] {
        assert!(listed.contains(said), "{said} in {listed}");
    }
    assert_clean("the list", listed.as_bytes());
    gateway.set(Mood::Well);
    arcpd(&runtime, &["--retry", id]);
    gateway.until_all_deleted().await;
    runtime
        .until_metric("arcpd_credentials_outstanding", |left| left == 0)
        .await;
    assert!(!arcpd(&runtime, &[]).contains(id));
}

#[tokio::test]
async fn a_host_that_is_lost_takes_its_jobs_credential_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = runtime(dir.path(), &gateway, HOSTING_BRIEFLY);
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.a", 1).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let (_, shown) = submitted(&mut alice, submit("acme.a", json!({}))).await;
    let (assign, of) = host.assigned().await;
    let given: serde_json::Value = serde_json::from_str(&assign.credentials_json).unwrap();
    assert_eq!(given, shown, "the host that runs the job has it too");
    host.accept(&of).await;
    // Or it may be gone before it is known to have begun.
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;
    drop(host);
    alice.until_terminal().await;
    gateway.until_all_deleted().await;
}
