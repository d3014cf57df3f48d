//! A credential that ends before its job is replaced: the log says so to all, and
//! the value goes to the submitter's session and to whoever runs the job.

mod support;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::{Value, json};
use support::credentials::*;
use support::gateway::*;
use support::host::*;
use support::*;

const SHORT: &str = "ttl_sec = 3\nrotate_before_sec = 1\n";

fn runtime(dir: &std::path::Path, gateway: &Gateway, more: &str) -> Runtime {
    let toml = format!("{}{more}", gateway.toml(dir));
    Runtime::start_with(dir, &toml)
}

async fn next_rotation(peer: &mut Peer) -> (Value, u64) {
    loop {
        let envelope = peer.next().await;
        if let Some(details) = rotation(&envelope) {
            return (details, envelope.event_seq);
        }
    }
}

#[tokio::test]
async fn the_submitter_gets_the_new_value_and_an_observer_the_word_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = runtime(dir.path(), &gateway, SHORT);
    let mut alice = asking(&runtime.address, ALICE).await;
    let (job, shown) = submitted(&mut alice, submit("sleeper", json!({ "ms": 600_000 }))).await;
    let id = shown[0]["id"].as_str().unwrap().to_owned();
    gateway.spend(&id, 2.0);
    let mut watcher = asking(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    watcher.send(&job, Payload::JobSubscribe(subscribe)).await;
    let (told, seq) = next_rotation(&mut alice).await;
    let second = gateway.keys()[1].clone();
    assert_eq!(told["id"], id);
    assert_eq!(told["value"], second.value);
    assert_eq!(
        second.asked["max_budget"].as_f64(),
        Some(3.0),
        "what was spent is spent"
    );
    assert_eq!(seq, 1, "a record like any other");
    let (seen, _) = next_rotation(&mut watcher).await;
    assert_eq!(seen, json!({ "id": id, "generation": 2 }));
    // The prior one goes, and only that.
    let keys = gateway.until(|keys| keys[0].deleted).await;
    assert!(!keys[1].deleted);
    assert_files_clean(dir.path());
    // Replayed after it was replaced in turn, it tells of no value any more.
    let (third, _) = next_rotation(&mut alice).await;
    assert_eq!(third["value"], gateway.keys()[2].value);
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    drop(alice);
    let mut hello = hello_asking(ALICE);
    hello.resume = Some(proto::Resume {
        session_id: session,
        resume_token: token,
        last_event_seq: 0,
    });
    let mut alice = Peer::open(&runtime.address, hello).await.welcomed().await;
    let (replayed, seq) = next_rotation(&mut alice).await;
    assert_eq!((replayed["generation"].as_u64(), seq), (Some(2), 1));
    assert_eq!(replayed["value"], Value::Null);
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    gateway.until_all_deleted().await;
}

#[tokio::test]
async fn the_host_of_the_job_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = runtime(dir.path(), &gateway, &format!("{SHORT}{HOSTING}"));
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.a", 1).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, submit("acme.a", json!({}))).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let said = host.next().await;
    let Hear::Credentials(said) = said else {
        panic!("expected credentials, got {said:?}")
    };
    assert_eq!(said.r#ref, Some(of.clone()));
    let all: Value = serde_json::from_str(&said.credentials_json).unwrap();
    assert_eq!(all[0]["value"], gateway.keys()[1].value);
    host.report(&of, vec![support::host::result(1, "1")]).await;
    gateway.until_all_deleted().await;
}

/// What was to be said to a host is forgotten when it comes back on another connection,
/// and its agent went on with a value that was revoked.
#[tokio::test]
async fn a_host_that_was_away_at_a_rotation_is_told_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    // Time enough between two rotations to come back in.
    let slow = "ttl_sec = 6\nrotate_before_sec = 2\n";
    let runtime = runtime(dir.path(), &gateway, &format!("{slow}{HOSTING}"));
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.a", 1).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, submit("acme.a", json!({}))).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![support::host::log(1, "on")]).await;
    host.acked(1).await;
    drop(host);
    next_rotation(&mut alice).await;
    let second = gateway.keys()[1].value.clone();
    let mut again = register("h1", vec![agent("acme.a")], 1);
    again.resume = vec![held(&of)];
    let (mut host, registered) = HostPeer::connect(&runtime.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1);
    let Hear::Credentials(said) = host.next().await else {
        panic!("expected credentials")
    };
    let all: Value = serde_json::from_str(&said.credentials_json).unwrap();
    assert_eq!(all[0]["value"], second);
    host.report(&of, vec![support::host::result(2, "1")]).await;
    gateway.until_all_deleted().await;
}

/// A host's job goes on when the runtime is killed: with the credential it has
/// where that is stored, with another where it is not.
#[tokio::test]
async fn a_restart_loses_a_value_that_is_not_stored_and_makes_another() {
    for stored in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let gateway = Gateway::start().await;
        let mut more = "rotate_before_sec = 1\n".to_owned();
        if stored {
            let key = secret_file(dir.path(), "seal.key", &"0f".repeat(32));
            more += &format!("encryption_key_file = {key:?}\n");
        }
        more += HOSTING;
        let killed = runtime(dir.path(), &gateway, &more);
        let mut host = HostPeer::serving(&killed.address, "h1", "acme.a", 1).await;
        let mut alice = asking(&killed.address, ALICE).await;
        let keyed = proto::JobSubmit {
            idempotency_key: "k".into(),
            ..submit("acme.a", json!({}))
        };
        let (job, shown) = submitted(&mut alice, keyed.clone()).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "here")]).await;
        host.acked(1).await;
        killed.kill();
        assert_files_clean(dir.path());
        let runtime = runtime(dir.path(), &gateway, &more);
        let mut register = register("h1", vec![agent("acme.a")], 1);
        register.resume = vec![held(&of)];
        let (mut host, registered) = HostPeer::connect(&runtime.address, register).await.unwrap();
        assert_eq!(registered.keep.len(), 1);
        if !stored {
            let said = host.next().await;
            assert!(matches!(said, Hear::Credentials(_)), "{said:?}");
            // The first one is void within seconds.
            gateway
                .until(|keys| keys.len() == 2 && keys[0].deleted)
                .await;
        }
        let mut alice = asking(&runtime.address, ALICE).await;
        let (again, shown_again) = submitted(&mut alice, keyed).await;
        assert_eq!(again, job);
        let value = &gateway.live()[0].value;
        assert_eq!(shown_again[0]["value"], *value);
        assert_eq!(shown_again[0]["id"], shown[0]["id"]);
        assert_eq!(shown_again == shown, stored);
        host.report(&of, vec![support::host::result(2, "1")]).await;
        gateway.until_all_deleted().await;
    }
}

/// The key whose answer was lost had the name and the number of the next one: until it was
/// revoked there was no other, and then the job's own was taken for it.
#[tokio::test]
async fn a_replacement_whose_answer_is_lost_is_made_again_in_time_and_the_lost_one_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    // Whether the gateway is still at what was given up is open for 4 s: as long as the
    // prior one has to live.
    let short = "ttl_sec = 8\nrotate_before_sec = 4\nissue_timeout_sec = 1\n";
    let hosting = HOSTING.replace("lost_after_sec = 2", "lost_after_sec = 30");
    let runtime = runtime(dir.path(), &gateway, &format!("{short}{hosting}"));
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.a", 1).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    let keyed = proto::JobSubmit {
        idempotency_key: "k".into(),
        ..submit("acme.a", json!({}))
    };
    let (_, shown) = submitted(&mut alice, keyed.clone()).await;
    let ends_at = &shown[0]["constraints"]["expires_at"];
    let ends_at: jiff::Timestamp = ends_at.as_str().unwrap().parse().unwrap();
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    gateway.set(Mood::MakesAndHangs);
    let until_lost = async {
        gateway.until(|keys| keys.len() == 2).await;
        runtime.until_logged("no credential was issued").await;
        gateway.set(Mood::Well);
        std::future::pending::<()>().await;
    };
    let told = tokio::select! {
        told = told(&mut host) => told,
        () = until_lost => unreachable!(),
    };
    assert!(jiff::Timestamp::now() < ends_at, "the agent had none");
    assert_eq!(told["value"], gateway.keys()[2].value);
    let keys = gateway
        .until(|keys| keys[0].deleted && keys[1].deleted)
        .await;
    assert!(!keys[2].deleted);
    // What is revoked was never the job's, which keeps its own and hears of the next.
    let (_, shown) = submitted(&mut alice, keyed).await;
    assert_eq!(shown[0]["value"], keys[2].value);
    let told = self::told(&mut host).await;
    assert_eq!(told["value"], gateway.keys()[3].value);
    host.report(&of, vec![support::host::result(1, "1")]).await;
    gateway.until_all_deleted().await;
}

/// The next credential that a host is told of.
async fn told(host: &mut HostPeer) -> Value {
    let Hear::Credentials(said) = host.next().await else {
        panic!("expected credentials")
    };
    let all: Value = serde_json::from_str(&said.credentials_json).unwrap();
    all[0].clone()
}

#[tokio::test]
async fn an_agent_cannot_say_that_a_credential_was_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = runtime(dir.path(), &gateway, HOSTING);
    let mut host = HostPeer::serving(&runtime.address, "h1", "acme.a", 1).await;
    let mut alice = asking(&runtime.address, ALICE).await;
    submitted(&mut alice, submit("acme.a", json!({}))).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let forged = proto::job_event::Body::Status(proto::Status {
        phase: "credential_rotated".into(),
        message: String::new(),
        details_json: r#"{"id":"cred_1","value":"sk-mine"}"#.into(),
    });
    host.report(&of, vec![event(1, forged)]).await;
    assert!(host.rejected().await.contains("credential_rotated"));
}

#[tokio::test]
async fn json_says_it_where_the_sdks_look() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start().await;
    let runtime = runtime(dir.path(), &gateway, SHORT);
    let features = [
        "subscribe",
        "cost.budget",
        "model.use",
        "provisioned_credentials",
    ];
    let more = json!({ "capabilities": { "features": features } });
    let mut alice = ws::Ws::open(&runtime, ws::hello("h", ALICE, more.clone())).await;
    let submit = json!({
        "agent": "sleeper", "input": { "ms": 600_000 }, "lease_request": lease(),
    });
    alice.say("job.submit", submit).await;
    let accepted = alice.hear_type("job.accepted").await;
    let shown = &accepted["payload"]["credentials"][0];
    assert_eq!(shown["value"], gateway.live()[0].value);
    let job = accepted["job_id"].as_str().unwrap();
    let mut watcher = ws::Ws::open(&runtime, ws::hello("h", ALICE, more)).await;
    let subscribe = json!({ "job_id": job, "history": true });
    watcher.say_about(job, "job.subscribe", subscribe).await;
    let body = alice.hear_type("job.event").await["payload"]["body"].clone();
    let value = &gateway.keys()[1].value;
    assert_eq!(body["phase"], "credential_rotated");
    assert_eq!(
        (&body["id"], &body["message"]),
        (&shown["id"], &shown["id"])
    );
    assert_eq!(body["value"], *value);
    assert_eq!(body["details"]["value"], *value);
    let body = watcher.hear_type("job.event").await["payload"]["body"].clone();
    assert_eq!((&body["id"], &body["value"]), (&shown["id"], &Value::Null));
    assert_clean("the observer's copy", body.to_string().as_bytes());
    alice.say_about(job, "job.cancel", json!({})).await;
    gateway.until_all_deleted().await;
}
