//! Credentials of jobs: what is issued, who sees it, and that nobody else does.

mod support;

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::{self, job_service_client::JobServiceClient};
use serde_json::{Value, json};
use support::credentials::*;
use support::gateway::*;
use support::*;

async fn start(more: &str) -> (tempfile::TempDir, Gateway, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let toml = format!("{}{more}", gateway.toml(dir.path()));
    let runtime = Runtime::start_with(dir.path(), &toml);
    (dir, gateway, runtime)
}

#[tokio::test]
async fn a_job_is_accepted_with_a_credential_that_ends_with_it() {
    let (_dir, gateway, runtime) = start("").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let (job, shown) = submitted(&mut alice, submit("sleeper", json!({ "ms": 600_000 }))).await;
    let [key] = &gateway.live()[..] else { panic!() };
    let credential = &shown[0];
    assert_eq!(credential["value"], key.value);
    assert_eq!(credential["id"], key.alias);
    assert_eq!(credential["scheme"], "bearer");
    assert_eq!(credential["profile"], "openai");
    assert_eq!(
        credential["endpoint"],
        format!("http://{}", gateway.address)
    );
    let constraints = &credential["constraints"];
    assert_eq!(constraints["cost.budget"], json!(["USD:5"]));
    assert_eq!(
        constraints["model.use"],
        json!(["tier-fast/a", "tier-fast/b"])
    );
    assert!(constraints["expires_at"].is_string());
    assert_eq!(key.asked["metadata"]["arcp_job_id"], job);
    assert_eq!(key.asked["metadata"]["arcp_principal"], "alice");
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    alice.until_terminal().await;
    gateway.until_all_deleted().await;
    let none = |left: u64| left == 0;
    runtime
        .until_metric("arcpd_credentials_outstanding", none)
        .await;
}

#[tokio::test]
async fn every_terminal_revokes() {
    let (_dir, gateway, runtime) = start("").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let timed_out = proto::JobSubmit {
        max_runtime_sec: 1,
        ..submit("sleeper", json!({ "ms": 600_000 }))
    };
    for (submit, cancel, status) in [
        (submit("echo", json!({})), false, "success"),
        (submit("failer", json!({})), false, "error"),
        (
            submit("sleeper", json!({ "ms": 600_000 })),
            true,
            "cancelled",
        ),
        (timed_out, false, "timed_out"),
    ] {
        let (job, _) = submitted(&mut alice, submit).await;
        if cancel {
            alice
                .send(&job, Payload::JobCancel(Default::default()))
                .await;
        }
        let ended = alice.until_terminal().await;
        let said = match &ended.last().unwrap().payload {
            Some(Payload::JobResult(result)) => &result.final_status,
            Some(Payload::JobError(error)) => &error.final_status,
            other => panic!("{other:?}"),
        };
        assert_eq!(said, status);
        gateway.until_all_deleted().await;
    }
    assert_eq!(gateway.keys().len(), 4);
}

#[tokio::test]
async fn a_credential_is_in_no_place_but_its_submitters_answer() {
    for encrypted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let gateway = Gateway::start().await;
        let mut toml = gateway.toml(dir.path());
        if encrypted {
            let key = secret_file(dir.path(), "seal.key", &"0f".repeat(32));
            toml += &format!("encryption_key_file = {key:?}\n");
        }
        let path = dir.path().join("arcpd.toml");
        std::fs::write(&path, toml).unwrap();
        let mut command = serve(dir.path());
        command.arg("--config").arg(&path).env("RUST_LOG", "trace");
        let runtime = Runtime::spawn(&mut command);
        let mut alice = asking(&runtime.address, ALICE).await;
        let input = json!({ "ms": 600_000 });
        let (job, shown) = submitted(&mut alice, submit("sleeper", input)).await;
        assert_eq!(shown[0]["value"], gateway.live()[0].value);
        assert_scanner_works(&gateway);
        // The same principal, watching.
        let mut watcher = asking(&runtime.address, ALICE).await;
        let subscribe = proto::JobSubscribe {
            history: true,
            ..Default::default()
        };
        watcher.send(&job, Payload::JobSubscribe(subscribe)).await;
        watcher
            .send("", Payload::SessionListJobs(Default::default()))
            .await;
        watcher
            .send("job_nobodys", Payload::JobCancel(Default::default()))
            .await;
        let mut seen = watcher.ping_collect().await;
        // JobService, all but the submit.
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", runtime.address));
        let channel = endpoint.unwrap().connect().await.unwrap();
        let mut jobs = JobServiceClient::with_interceptor(channel, support::jobs::Bearer(ALICE));
        let got = support::jobs::get(&mut jobs, &job).await.unwrap();
        let list = jobs
            .list_jobs(proto::ListJobsRequest::default())
            .await
            .unwrap();
        alice
            .send(&job, Payload::JobCancel(Default::default()))
            .await;
        seen.extend(watcher.until_terminal().await);
        let records = support::jobs::watch_all(&mut jobs, &job).await;
        assert!(seen.len() >= 3 && !records.is_empty());
        let text = format!("{seen:?}{got:?}{list:?}{records:?}");
        assert!(text.contains(&job));
        assert_clean("what was sent", text.as_bytes());
        assert_clean("/metrics", runtime.admin_get("/metrics").1.as_bytes());
        assert_files_clean(dir.path());
        gateway.until_all_deleted().await;
        runtime.until_logged("issued a credential").await;
        assert_clean("the log", runtime.log().as_bytes());
    }
}

#[tokio::test]
async fn a_retry_by_the_same_principal_is_shown_it_again_and_another_clients_job_is_not() {
    let (_dir, gateway, runtime) = start("").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let keyed = proto::JobSubmit {
        idempotency_key: "k".into(),
        ..submit("sleeper", json!({ "ms": 600_000 }))
    };
    let (job, shown) = submitted(&mut alice, keyed.clone()).await;
    let mut again = asking(&runtime.address, ALICE).await;
    assert_eq!(
        submitted(&mut again, keyed.clone()).await,
        (job.clone(), shown)
    );
    // A client that did not ask is shown none, and bob's is another job.
    let mut plain = Peer::connect(&runtime.address, ALICE).await;
    assert_eq!(
        submitted(&mut plain, keyed.clone()).await,
        (job.clone(), Value::Null)
    );
    assert_eq!(gateway.keys().len(), 1, "one job, one credential");
    let mut bob = asking(&runtime.address, BOB).await;
    let (bobs, shown) = submitted(&mut bob, keyed).await;
    assert_ne!(bobs, job);
    assert_eq!(shown[0]["value"], gateway.keys()[1].value);
}

#[tokio::test]
async fn a_submit_without_a_session_is_answered_with_it() {
    let (_dir, gateway, runtime) = start("").await;
    let mut jobs = support::jobs::connect(&runtime, ALICE).await;
    let request = proto::SubmitJobRequest {
        agent: "sleeper".into(),
        input_json: r#"{"ms":600000}"#.into(),
        lease_request_json: lease().to_string(),
        ..Default::default()
    };
    let submitted = jobs.submit_job(request).await.unwrap().into_inner();
    let shown: Value = serde_json::from_str(&submitted.credentials_json).unwrap();
    assert_eq!(shown[0]["value"], gateway.live()[0].value);
    let job = submitted.job.unwrap().job_id;
    support::jobs::cancel(&mut jobs, &job).await.unwrap();
    gateway.until_all_deleted().await;
}

#[tokio::test]
async fn no_credential_no_job() {
    let (_dir, gateway, runtime) = start("issue_timeout_sec = 1\n").await;
    let mut alice = asking(&runtime.address, ALICE).await;
    for (mood, code, retryable) in [
        (Mood::BudgetExceeded, "BUDGET_EXHAUSTED", false),
        (Mood::Down, "INTERNAL_ERROR", true),
        (Mood::MakesAndHangs, "INTERNAL_ERROR", true),
    ] {
        gateway.set(mood);
        let refused = submit("echo", json!({}));
        alice.send("", Payload::JobSubmit(refused)).await;
        let error = alice.error().await;
        assert_eq!(
            (&*error.code, error.retryable),
            (code, retryable),
            "{mood:?}"
        );
        assert_clean("the refusal", format!("{error:?}").as_bytes());
    }
    gateway.set(Mood::Well);
    // The one that was made and not told of is taken back.
    gateway.until_all_deleted().await;
    let unlisted = json!({ "model.use": ["other/*"], "cost.budget": ["USD:1"] });
    let mut unsuitable = submit("echo", json!({}));
    unsuitable.lease_request_json = unlisted.to_string();
    alice.send("", Payload::JobSubmit(unsuitable)).await;
    let error = alice.error().await;
    assert_eq!(error.code, "INVALID_REQUEST");
    assert!(error.message.contains("model.use"), "{}", error.message);
    assert_eq!(alice.running().await, 0);
}

#[tokio::test]
async fn the_feature_is_there_with_a_provisioner_alone() {
    let (_dir, _gateway, runtime) = start("agents = [\"word-*\"]\n").await;
    let dir = tempfile::tempdir().unwrap();
    let plain = Runtime::start(dir.path());
    for (runtime, there) in [(&runtime, true), (&plain, false)] {
        let mut peer = Peer::open(&runtime.address, hello_asking(ALICE)).await;
        let Some(Payload::SessionWelcome(welcome)) = peer.next().await.payload else {
            panic!("expected a welcome")
        };
        let named = welcome
            .features
            .iter()
            .any(|f| f == "provisioned_credentials");
        assert_eq!(named, there);
    }
    let mut alice = asking(&runtime.address, ALICE).await;
    let (_, shown) = submitted(&mut alice, submit("echo", json!({}))).await;
    assert_eq!(shown, Value::Null, "for the agents that are listed");
    let mut no_models = submit("word-count", json!({ "text": "a" }));
    no_models.lease_request_json = r#"{"cost.budget":["USD:1"]}"#.into();
    let (_, shown) = submitted(&mut alice, no_models).await;
    assert_eq!(shown, Value::Null, "a key without models would be for all");
}

/// Says the length of what it was given, twice, and what its environment has of it.
const READS: &str = r#"
[[agent]]
name = "reads"
command = ["bash", "-c", 'read -r -u "$ARCP_CREDENTIALS_FD" one; read -r -u 3 two; echo "$one" > "$DIR/one"; echo "$two" > "$DIR/two"; env > "$DIR/env"; tr "\\0" " " < /proc/$$/cmdline > "$DIR/arguments"']
env = { DIR = "@DIR@" }

[[agent]]
name = "has-none"
command = ["bash", "-c", 'echo "{\"result\": \"${ARCP_CREDENTIALS_FD-none}\"}"']
"#;

#[tokio::test]
async fn a_program_reads_its_credentials_from_a_descriptor_and_has_them_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let agents = READS.replace("@DIR@", out.path().to_str().unwrap());
    let short = "ttl_sec = 3\nrotate_before_sec = 1\n";
    let toml = format!("{}{short}{agents}", gateway.toml(dir.path()));
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut alice = asking(&runtime.address, ALICE).await;
    let (_, shown) = submitted(&mut alice, submit("reads", json!({}))).await;
    let ended = alice.until_terminal().await;
    let ended = &ended.last().unwrap().payload;
    assert!(matches!(ended, Some(Payload::JobResult(_))), "{ended:?}");
    let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
    let one: Value = serde_json::from_str(&read("one")).unwrap();
    let two: Value = serde_json::from_str(&read("two")).unwrap();
    assert_eq!(one, shown);
    assert_eq!(two[0]["value"], gateway.keys()[1].value);
    assert!(read("env").contains("ARCP_JOB_ID"));
    assert_clean("its environment", read("env").as_bytes());
    assert_clean("its arguments", read("arguments").as_bytes());
    let none = alice.submit("has-none", json!({})).await;
    let ended = alice.until_terminal().await;
    let Some(Payload::JobResult(result)) = &ended.last().unwrap().payload else {
        panic!("{none}: {ended:?}")
    };
    assert_eq!(result.result_json, "\"none\"");
    gateway.until_all_deleted().await;
}

/// Heartbeats and the reports of all other jobs of the host waited for the gateway.
#[tokio::test]
async fn a_gateway_that_hangs_holds_up_the_delegation_and_not_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let toml = gateway.toml(dir.path());
    let toml = format!("{toml}issue_timeout_sec = 2\n{}", host::HOSTING);
    let runtime = Runtime::start_with(dir.path(), &toml);
    let mut host = host::HostPeer::serving(&runtime.address, "h1", "acme.a", 2).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let mut parent = submit("acme.a", json!({}));
    let mut lease = lease();
    lease["agent.delegate"] = json!(["acme.a"]);
    parent.lease_request_json = lease.to_string();
    submitted(&mut alice, parent).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    gateway.set(Mood::MakesAndHangs);
    let child = proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: "d1".into(),
        agent: "acme.a".into(),
        lease_request_json: json!({ "model.use": ["tier-fast/a"], "cost.budget": ["USD:2"] })
            .to_string(),
        ..Default::default()
    };
    host.say(proto::serve_request::Message::Delegate(child))
        .await;
    gateway.until(|keys| keys.len() == 2).await;
    host.beat().await;
    let heard = host.hear().await.unwrap();
    assert!(
        matches!(heard, proto::serve_response::Message::HeartbeatAck(_)),
        "{heard:?}"
    );
    let proto::serve_response::Message::DelegateResult(refused) = host.next().await else {
        panic!("expected the end of the delegation");
    };
    assert_eq!(refused.code, "INTERNAL_ERROR", "{refused:?}");
}

#[tokio::test]
async fn a_child_has_a_credential_of_its_own_that_ends_with_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let toml = format!("{}{}", gateway.toml(dir.path()), host::HOSTING);
    let runtime = Runtime::start_with(dir.path(), &toml);
    let register = host::register("h1", vec![host::agent("acme.a"), host::agent("acme.b")], 2);
    let (mut host, _) = host::HostPeer::connect(&runtime.address, register)
        .await
        .unwrap();
    let mut alice = asking(&runtime.address, ALICE).await;
    let mut parent = submit("acme.a", json!({}));
    let mut lease = lease();
    lease["agent.delegate"] = json!(["acme.b"]);
    parent.lease_request_json = lease.to_string();
    submitted(&mut alice, parent).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let child = proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: "d1".into(),
        agent: "acme.b".into(),
        lease_request_json: json!({ "model.use": ["tier-fast/a"], "cost.budget": ["USD:2"] })
            .to_string(),
        ..Default::default()
    };
    host.say(proto::serve_request::Message::Delegate(child))
        .await;
    let assign = loop {
        if let proto::serve_response::Message::Assign(assign) = host.next().await {
            break assign;
        }
    };
    let given: Value = serde_json::from_str(&assign.credentials_json).unwrap();
    let key = gateway.keys()[1].clone();
    assert_eq!(given[0]["value"], key.value);
    assert_eq!(key.asked["models"], json!(["tier-fast/a"]));
    assert_eq!(key.asked["max_budget"].to_string(), "2");
    host.report(&of, vec![host::result(1, "1")]).await;
    gateway.until_all_deleted().await;
    assert_eq!(gateway.keys().len(), 2);
    let seen = alice.ping_collect().await;
    assert_clean("the session's view", format!("{seen:?}").as_bytes());
}
