//! What credentials of a tree of jobs may spend together, whatever agents report.

mod support;

use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, serve_request::Message as Say};
use serde_json::{Value, json};
use support::credentials::*;
use support::gateway::*;
use support::host::HostPeer;
use support::*;

const AGENTS: [&str; 3] = ["acme.a", "acme.b", "acme.c"];

async fn start(dir: &std::path::Path, gateway: &Gateway, more: &str) -> (Runtime, HostPeer) {
    let toml = format!("{}{more}{}", gateway.toml(dir), host::HOSTING);
    let runtime = Runtime::start_with(dir, &toml);
    let agents = AGENTS.map(host::agent).to_vec();
    let (host, _) = HostPeer::connect(&runtime.address, host::register("h1", agents, 8))
        .await
        .unwrap();
    (runtime, host)
}

fn granted(usd: &str, agents: &[&str]) -> String {
    let mut lease = json!({ "model.use": ["tier-fast/a"], "cost.budget": [format!("USD:{usd}")] });
    if !agents.is_empty() {
        lease["agent.delegate"] = json!(agents);
    }
    lease.to_string()
}

fn root(usd: &str) -> proto::JobSubmit {
    let mut root = submit(AGENTS[0], json!({}));
    root.lease_request_json = granted(usd, &AGENTS[1..]);
    root
}

/// The key that comes with the next job, and the job.
async fn given(host: &mut HostPeer) -> (String, proto::AssignmentRef) {
    let assign = loop {
        if let Hear::Assign(assign) = host.next().await {
            break assign;
        }
    };
    let given: Value = serde_json::from_str(&assign.credentials_json).unwrap();
    let of = assign.r#ref.unwrap();
    host.accept(&of).await;
    (given[0]["value"].as_str().unwrap().into(), of)
}

async fn delegate(
    host: &mut HostPeer,
    of: &proto::AssignmentRef,
    id: &str,
    agent: &str,
    usd: &str,
) {
    let child = proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: id.into(),
        agent: agent.into(),
        lease_request_json: granted(usd, &AGENTS[2..]),
        ..Default::default()
    };
    host.say(Say::Delegate(child)).await;
}

/// The runtime counts what agents report, and gave a child's whole budget back to a
/// parent whose child had reported nothing.
#[tokio::test]
async fn children_that_report_nothing_do_not_spend_more_than_their_root_was_granted() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let (_runtime, mut host) = start(dir.path(), &gateway, "").await;
    let mut alice = asking(&_runtime.address, ALICE).await;
    submitted(&mut alice, root("5")).await;
    let (_, parent) = given(&mut host).await;
    let mut spent = 0;
    for n in 0..4 {
        delegate(&mut host, &parent, &format!("d{n}"), AGENTS[1], "3").await;
        let (key, child) = given(&mut host).await;
        while gateway.use_model(&key, 1.0) {
            spent += 1;
        }
        host.report(&child, vec![host::result(1, "1")]).await;
        while !matches!(host.next().await, Hear::ChildEnded(_)) {}
    }
    assert_eq!(spent, 5);
    let [team] = &gateway.teams()[..] else {
        panic!()
    };
    assert_eq!(team.asked["max_budget"].to_string(), "5");
    let keys = gateway.keys();
    assert_eq!(keys.len(), 5);
    assert!(keys.iter().all(|key| key.asked["team_id"] == *team.id));
    host.report(&parent, vec![host::result(1, "1")]).await;
    gateway.until_teams_are_deleted().await;
}

#[tokio::test]
async fn grandchildren_share_the_purse_of_their_root_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let (runtime, mut host) = start(dir.path(), &gateway, "").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, root("5")).await;
    let (_, parent) = given(&mut host).await;
    delegate(&mut host, &parent, "d1", AGENTS[1], "3").await;
    let (_, child) = given(&mut host).await;
    delegate(&mut host, &child, "d1", AGENTS[2], "2").await;
    given(&mut host).await;
    let [team] = &gateway.teams()[..] else {
        panic!()
    };
    assert!(
        gateway
            .keys()
            .iter()
            .all(|key| key.asked["team_id"] == *team.id)
    );
    // Nobody takes up the jobs: they end as lost, and the purse with them.
    runtime.kill();
    drop(host);
    let toml = format!("{}{}", gateway.toml(dir.path()), host::HOSTING_BRIEFLY);
    let _again = Runtime::start_with(dir.path(), &toml);
    gateway.until_teams_are_deleted().await;
    gateway.until_all_deleted().await;
    assert_eq!(gateway.teams().len(), 1);
}

/// What a child did not ask for it shares with its parent; its key had no cap at all.
#[tokio::test]
async fn a_child_that_leaves_out_its_budget_is_capped_by_what_it_shares() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let (runtime, mut host) = start(dir.path(), &gateway, "uncapped = true\n").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, root("5")).await;
    let (_, parent) = given(&mut host).await;
    delegate(&mut host, &parent, "d1", AGENTS[1], "2").await;
    let (_, child) = given(&mut host).await;
    let nothing = proto::DelegateJob {
        r#ref: Some(child),
        delegate_id: "d2".into(),
        agent: AGENTS[2].into(),
        lease_request_json: json!({ "model.use": ["tier-fast/a"] }).to_string(),
        ..Default::default()
    };
    host.say(Say::Delegate(nothing)).await;
    given(&mut host).await;
    let caps: Vec<_> = gateway
        .keys()
        .iter()
        .map(|key| key.asked["max_budget"].to_string())
        .collect();
    assert_eq!(caps, ["5", "2", "2"]);
}

/// The gateway takes a key for a team that it does not have, and holds it to nothing.
#[tokio::test]
async fn a_tree_whose_root_has_no_purse_gets_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = Runtime::start_with(dir.path(), host::HOSTING);
    let register = || host::register("h1", AGENTS.map(host::agent).to_vec(), 8);
    let (mut host, _) = HostPeer::connect(&runtime.address, register())
        .await
        .unwrap();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice
        .send("", proto::envelope::Payload::JobSubmit(root("5")))
        .await;
    let (_, parent) = host.assigned().await;
    host.accept(&parent).await;
    host.report(&parent, vec![host::log(1, "on")]).await;
    host.acked(1).await;
    drop(host);
    runtime.kill();
    let toml = format!("{}{}", gateway.toml(dir.path()), host::HOSTING);
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut back = register();
    back.resume = vec![host::held(&parent)];
    let (mut host, _) = HostPeer::connect(&runtime.address, back).await.unwrap();
    delegate(&mut host, &parent, "d1", AGENTS[1], "3").await;
    let Hear::DelegateResult(refused) = host.next().await else {
        panic!()
    };
    assert_eq!(refused.code, "INVALID_REQUEST", "{refused:?}");
    assert!(refused.message.contains("submit it again"), "{refused:?}");
    assert!(gateway.keys().is_empty() && gateway.teams().is_empty());
}

/// The purse and the key had the whole of the limit each.
#[tokio::test]
async fn a_purse_and_its_key_take_no_longer_together_than_one_may() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let (runtime, _host) = start(dir.path(), &gateway, "issue_timeout_sec = 1\n").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    gateway.set(Mood::Slow);
    alice
        .send("", proto::envelope::Payload::JobSubmit(root("5")))
        .await;
    let refused = alice.next().await;
    assert!(
        format!("{refused:?}").contains("INTERNAL_ERROR"),
        "{refused:?}"
    );
    gateway.until_teams_are_deleted().await;
    gateway
        .until(|keys| keys.iter().all(|key| key.deleted))
        .await;
}

/// A purse is stored like a credential, and is not one of the job's.
#[tokio::test]
async fn a_purse_stays_open_over_the_kill_of_the_runtime_while_its_tree_lives() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let seal = secret_file(dir.path(), "seal.key", &"0f".repeat(32));
    let more = format!("encryption_key_file = {seal:?}\n");
    let (runtime, mut host) = start(dir.path(), &gateway, &more).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, root("5")).await;
    let (_, parent) = given(&mut host).await;
    host.report(&parent, vec![host::log(1, "on")]).await;
    host.acked(1).await;
    drop(host);
    runtime.kill();
    let toml = format!("{}{more}{}", gateway.toml(dir.path()), host::HOSTING);
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut back = host::register("h1", AGENTS.map(host::agent).to_vec(), 8);
    back.resume = vec![host::held(&parent)];
    let (mut host, _) = HostPeer::connect(&runtime.address, back).await.unwrap();
    delegate(&mut host, &parent, "d1", AGENTS[1], "3").await;
    given(&mut host).await;
    let [team] = &gateway.teams()[..] else {
        panic!()
    };
    assert!(!team.deleted);
    let keys = gateway.keys();
    assert_eq!(keys.len(), 2, "the root's is the one it had");
    assert!(keys.iter().all(|key| key.asked["team_id"] == *team.id));
    host.report(&parent, vec![host::result(2, "1")]).await;
    gateway.until_teams_are_deleted().await;
}

#[tokio::test]
async fn a_key_in_the_place_of_another_spends_from_the_same_purse() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let short = "ttl_sec = 3\nrotate_before_sec = 1\n";
    let (runtime, mut host) = start(dir.path(), &gateway, short).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, root("5")).await;
    let (_, parent) = given(&mut host).await;
    let Hear::Credentials(_) = host.next().await else {
        panic!("expected credentials")
    };
    let [team] = &gateway.teams()[..] else {
        panic!()
    };
    assert_eq!(gateway.keys()[1].asked["team_id"], *team.id);
    assert!(!team.deleted);
    host.report(&parent, vec![host::result(1, "1")]).await;
    gateway.until_teams_are_deleted().await;
    gateway.until_all_deleted().await;
}

#[tokio::test]
async fn a_job_that_delegates_nothing_has_no_purse() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let (runtime, mut host) = start(dir.path(), &gateway, "").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let mut alone = submit(AGENTS[0], json!({}));
    alone.lease_request_json = granted("5", &[]);
    submitted(&mut alice, alone).await;
    given(&mut host).await;
    assert!(gateway.teams().is_empty());
    assert!(gateway.keys()[0].asked.get("team_id").is_none());
}

/// Between the purse and its job comes the key.
#[tokio::test]
async fn a_purse_whose_job_got_no_key_is_closed() {
    // What was given up is asked for again after four times that.
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let (runtime, _host) = start(dir.path(), &gateway, "issue_timeout_sec = 3\n").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    gateway.set(Mood::BudgetExceeded);
    alice
        .send("", proto::envelope::Payload::JobSubmit(root("5")))
        .await;
    let refused = alice.next().await;
    assert!(
        format!("{refused:?}").contains("BUDGET_EXHAUSTED"),
        "{refused:?}"
    );
    gateway.until_teams_are_deleted().await;
    assert_eq!(gateway.teams().len(), 1);
    let none = |left: u64| left == 0;
    runtime
        .until_metric("arcpd_credentials_outstanding", none)
        .await;
}

/// A key never grows again: what its job's child had reserved when it was made was gone
/// from it for good.
#[tokio::test]
async fn a_key_that_is_replaced_while_a_child_runs_is_not_smaller_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let short = "ttl_sec = 4\nrotate_before_sec = 2\n";
    let (runtime, mut host) = start(dir.path(), &gateway, short).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, root("5")).await;
    let (key, parent) = given(&mut host).await;
    assert!(gateway.use_model(&key, 1.0));
    host.report(&parent, vec![cost(1, 1.0)]).await;
    delegate(&mut host, &parent, "d1", AGENTS[1], "3").await;
    let (key, child) = given(&mut host).await;
    assert!(gateway.use_model(&key, 0.5));
    host.report(&child, vec![cost(1, 0.5)]).await;
    // Of both jobs, the parent's twice.
    let mut caps = Vec::new();
    while caps.len() < 2 {
        let said = match host.next().await {
            Hear::Credentials(said) => said,
            // It may come after the child that it tells of was assigned.
            Hear::DelegateResult(_) => continue,
            other => panic!("expected credentials, got {other:?}"),
        };
        let all: Value = serde_json::from_str(&said.credentials_json).unwrap();
        let cap = all[0]["constraints"]["cost.budget"][0].clone();
        match said.r#ref.unwrap() == parent {
            true => caps.push(cap),
            false => assert_eq!(cap, "USD:2.5"),
        }
    }
    // What the child has spent is spent, what it has reserved comes back.
    assert_eq!(caps, ["USD:3.5", "USD:3.5"]);
    host.report(&parent, vec![host::result(2, "1")]).await;
    gateway.until_teams_are_deleted().await;
}

fn cost(seq: u64, usd: f64) -> proto::Report {
    let metric = proto::Metric {
        name: "cost.call".into(),
        value: usd,
        unit: "USD".into(),
        ..Default::default()
    };
    host::event(seq, proto::job_event::Body::Metric(metric))
}
