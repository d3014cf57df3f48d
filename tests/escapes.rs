//! Ways around a lease that need a running service to try: each test names where the
//! rule stands, a section of draft-arcp-1.1 or of the wire reference ("wire"). The
//! spellings that no service is needed for are in `authority.rs`.

mod support;

use arcpd::wire::proto::job_event::Body;
use arcpd::wire::proto::job_record::Record;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef, envelope::Payload};
use serde_json::{Value, json};
use support::host::*;
use support::*;

const CONFIG: &str = r#"
policy_file = "POLICY"
[[hosting]]
principal = "workers"
agents = ["*"]
"#;

/// Silent about models, which the deployment allows.
const POLICY: &str = "default = \"allow\"\nmodel_use_default = \"allow\"\n";

/// A runtime, a host of `w` that runs a job, and the client that submitted it.
struct Scene {
    dir: tempfile::TempDir,
    runtime: Runtime,
    host: HostPeer,
    client: Peer,
    of: AssignmentRef,
    calls: u32,
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn start(dir: &tempfile::TempDir) -> Runtime {
    let policy = dir.path().join("policy.toml");
    std::fs::write(&policy, POLICY).unwrap();
    let config = CONFIG.replace("POLICY", policy.to_str().unwrap());
    Runtime::start_with(dir.path(), &config)
}

async fn serve(runtime: &Runtime, resume: &[&AssignmentRef]) -> (HostPeer, proto::Registered) {
    let agents = vec![with_policy("w", proto::LossPolicy::Retry)];
    let register = proto::Register {
        resume: resume.iter().map(|of| held(of)).collect(),
        ..register("h", agents, 100)
    };
    HostPeer::connect(&runtime.address, register).await.unwrap()
}

impl Scene {
    async fn of(lease: Value) -> Self {
        Self::until(lease, None).await
    }

    async fn until(lease: Value, end: Option<prost_types::Timestamp>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = start(&dir);
        let (mut host, _) = serve(&runtime, &[]).await;
        let mut client = Peer::connect(&runtime.address, ALICE).await;
        let submit = proto::JobSubmit {
            agent: "w".into(),
            lease_request_json: lease.to_string(),
            lease_expires_at: end,
            ..Default::default()
        };
        client.send("", Payload::JobSubmit(submit)).await;
        let of = host.assigned().await.1;
        host.accept(&of).await;
        Self {
            dir,
            runtime,
            host,
            client,
            of,
            calls: 0,
        }
    }

    async fn say_authorize(&mut self, of: &AssignmentRef, capability: &str, target: &str) {
        self.calls += 1;
        let authorize = proto::Authorize {
            r#ref: Some(of.clone()),
            call_id: format!("call-{}", self.calls),
            capability: capability.into(),
            target: target.into(),
        };
        self.host.say(Say::Authorize(authorize)).await;
    }

    /// Empty when allowed, or the code of the refusal.
    async fn authorize(&mut self, of: &AssignmentRef, capability: &str, target: &str) -> String {
        self.say_authorize(of, capability, target).await;
        match self.host.next().await {
            Hear::AuthorizeResult(answer) => answer.code,
            other => panic!("{other:?}"),
        }
    }

    async fn call(&mut self) -> String {
        let of = self.of.clone();
        self.authorize(&of, "tool.call", "t").await
    }

    async fn say_delegate(&mut self, of: &AssignmentRef, name: &str, agent: &str, lease: Value) {
        let delegate = proto::DelegateJob {
            r#ref: Some(of.clone()),
            delegate_id: name.into(),
            agent: agent.into(),
            lease_request_json: lease.to_string(),
            ..Default::default()
        };
        self.host.say(Say::Delegate(delegate)).await;
    }

    /// The answer to a delegation, and what was assigned before it.
    async fn delegated(&mut self) -> (proto::DelegateResult, Option<proto::Assign>) {
        let mut assigned = None;
        loop {
            match self.host.next().await {
                Hear::DelegateResult(result) => return (result, assigned),
                Hear::Assign(assign) => assigned = Some(assign),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A child that runs, on this host too.
    async fn child(&mut self, name: &str, lease: Value) -> (proto::Assign, AssignmentRef) {
        let of = self.of.clone();
        self.say_delegate(&of, name, "w", lease).await;
        let (made, assigned) = self.delegated().await;
        assert_eq!(made.code, "", "{made:?}");
        let assign = match assigned {
            Some(assign) => assign,
            None => self.host.assigned().await.0,
        };
        let of = assign.r#ref.clone().unwrap();
        assert_eq!(of.job_id, made.child_job_id);
        self.host.accept(&of).await;
        (assign, of)
    }

    async fn spend(&mut self, of: &AssignmentRef, seq: u64, amount: f64) {
        self.host.report(of, vec![cost(seq, amount)]).await;
        self.host.acked(seq).await;
    }

    /// The costs that a job's stream has, once it has ended.
    async fn costs(&self, job_id: &str) -> Vec<f64> {
        let mut client = jobs::connect(&self.runtime, ALICE).await;
        let records = jobs::watch_all(&mut client, job_id).await;
        let metrics = records.iter().filter_map(|record| match &record.record {
            Some(Record::JobEvent(event)) => match &event.body {
                Some(Body::Metric(metric)) if metric.name == "cost.x" => Some(metric.value),
                _ => None,
            },
            _ => None,
        });
        metrics.collect()
    }
}

fn cost(seq: u64, amount: f64) -> proto::Report {
    let metric = proto::Metric {
        name: "cost.x".into(),
        value: amount,
        unit: "USD".into(),
        ..Default::default()
    };
    event(seq, Body::Metric(metric))
}

fn lease() -> Value {
    json!({ "cost.budget": ["USD:5"], "tool.call": ["*"], "agent.delegate": ["w"] })
}

/// §9.6; a report whose ack was lost is sent again, on this stream or the next.
#[tokio::test]
async fn replayed_reports_do_not_spend_twice() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    scene.spend(&of, 1, 4.0).await;
    scene.host.report(&of, vec![cost(1, 4.0)]).await;
    scene
        .host
        .report(&of, vec![cost(1, 4.0), cost(2, 0.5)])
        .await;
    scene.host.acked(2).await;
    assert_eq!(scene.call().await, "", "0.5 is left");
    scene.runtime.kill();
    scene.runtime = start(&scene.dir);
    scene.host = serve(&scene.runtime, &[&of]).await.0;
    scene
        .host
        .report(&of, vec![cost(1, 4.0), cost(2, 0.5)])
        .await;
    assert_eq!(scene.call().await, "", "0.5 is left");
    scene.host.report(&of, vec![cost(3, 0.5)]).await;
    assert_eq!(scene.call().await, "BUDGET_EXHAUSTED");
    scene.host.report(&of, vec![result(4, "1")]).await;
    assert_eq!(scene.costs(&of.job_id).await, [4.0, 0.5, 0.5]);
}

/// §9.6, and §10 for what the first attempt delegated: an attempt is not a job.
#[tokio::test]
async fn a_retried_activation_does_not_get_a_fresh_budget() {
    let mut scene = Scene::of(lease()).await;
    let first = scene.of.clone();
    let (_, child) = scene.child("c", json!({ "cost.budget": ["USD:2"] })).await;
    scene.spend(&first, 1, 2.5).await;
    let decline = proto::Decline {
        r#ref: Some(first.clone()),
        reason: "tired".into(),
    };
    scene.host.say(Say::Decline(decline)).await;
    let (assign, second) = scene.host.assigned().await;
    assert_eq!((assign.attempt, &second.job_id), (2, &first.job_id));
    scene.host.accept(&second).await;
    scene.of = second.clone();
    scene.say_delegate(&second, "d", "w", lease()).await;
    let (refused, _) = scene.delegated().await;
    assert!(refused.message.contains("more than the 0.5"), "{refused:?}");
    // Under the same name it is the same child, with the budget that it had.
    let again = json!({ "cost.budget": ["USD:2"] });
    scene.say_delegate(&second, "c", "w", again).await;
    assert_eq!(scene.delegated().await.0.child_job_id, child.job_id);
    scene.spend(&second, 1, 0.5).await;
    assert_eq!(scene.call().await, "BUDGET_EXHAUSTED");
}

/// The architecture's fence: a token is of one activation, and of nothing after it.
#[tokio::test]
async fn a_stale_token_neither_authorizes_nor_delegates() {
    let mut scene = Scene::of(lease()).await;
    let stale = scene.of.clone();
    let decline = proto::Decline {
        r#ref: Some(stale.clone()),
        reason: String::new(),
    };
    scene.host.say(Say::Decline(decline)).await;
    let (_, current) = scene.host.assigned().await;
    scene.host.accept(&current).await;
    let forged = AssignmentRef {
        lease_token: "lt_00000000000000000000000000000000".into(),
        ..current.clone()
    };
    let nameless = AssignmentRef {
        lease_token: String::new(),
        ..current.clone()
    };
    for of in [&stale, &forged, &nameless] {
        scene.say_authorize(of, "tool.call", "t").await;
        assert!(!scene.host.revoked().await.is_empty());
        scene.say_delegate(of, "c", "w", json!({})).await;
        assert!(!scene.host.revoked().await.is_empty());
        scene.host.report(of, vec![cost(1, 5.0)]).await;
        assert!(!scene.host.revoked().await.is_empty());
    }
    scene.of = current.clone();
    assert_eq!(scene.call().await, "", "nothing was spent");
    scene.host.report(&current, vec![result(1, "1")]).await;
    scene.host.acked(1).await;
    scene.say_authorize(&current, "tool.call", "t").await;
    assert!(!scene.host.revoked().await.is_empty(), "the job is over");
    let mut client = jobs::connect(&scene.runtime, ALICE).await;
    let list = proto::ListJobsRequest::default();
    let listed = client.list_jobs(list).await.unwrap().into_inner().jobs;
    assert_eq!(listed.len(), 1, "no child was made");
}

/// §7.4 and wire 4.13: observing never gives the right to cancel, of a child neither.
#[tokio::test]
async fn an_observer_does_not_cancel() {
    let mut scene = Scene::of(lease()).await;
    let (_, child) = scene.child("c", json!({})).await;
    for (token, code) in [(ALICE, "PERMISSION_DENIED"), (BOB, "JOB_NOT_FOUND")] {
        let mut observer = Peer::connect(&scene.runtime.address, token).await;
        for job in [&scene.of.job_id, &child.job_id] {
            if token == ALICE {
                observer
                    .send(job, Payload::JobSubscribe(Default::default()))
                    .await;
                observer.ping_collect().await;
            }
            observer
                .send(job, Payload::JobCancel(Default::default()))
                .await;
            assert_eq!(observer.error().await.code, code);
        }
    }
    assert_eq!(scene.call().await, "", "it runs on");
    assert_eq!(
        scene.authorize(&child, "fs.read", "/").await,
        "PERMISSION_DENIED"
    );
}

/// wire 4.10: a cost below zero would be a refund; Go emits it, Py raises.
#[tokio::test]
async fn a_refund_is_refused_by_its_field() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    scene.spend(&of, 1, 5.0).await;
    for (seq, amount, why) in [
        (2, -5.0, "negative"),
        (3, f64::NAN, "not a number"),
        (4, f64::NEG_INFINITY, "infinite"),
        (5, f64::INFINITY, "infinite"),
        (6, 1e300, "18 digits"),
    ] {
        scene.host.report(&of, vec![cost(seq, amount)]).await;
        let rejected = scene.host.rejected().await;
        assert!(
            rejected.starts_with("value: ") && rejected.contains(why),
            "{rejected}"
        );
    }
    assert_eq!(scene.call().await, "BUDGET_EXHAUSTED");
    scene.host.report(&of, vec![result(7, "1")]).await;
    assert_eq!(scene.costs(&of.job_id).await, [5.0]);
}

/// wire 4.9: siblings could each take the whole of what was left.
#[tokio::test]
async fn siblings_that_are_delegated_at_once_do_not_spend_twice() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    for name in ["a", "b", "c", "d"] {
        let asked = json!({ "cost.budget": ["USD:2"] });
        scene.say_delegate(&of, name, "w", asked).await;
    }
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(scene.delegated().await.0.code);
    }
    let refused = "LEASE_SUBSET_VIOLATION";
    assert_eq!(codes, ["", "", refused, refused]);
}

/// The same in-process, where the parent's calls run side by side.
#[tokio::test]
async fn siblings_that_are_delegated_side_by_side_do_not_spend_twice() {
    let mut scene = Scene::of(lease()).await;
    let submit = proto::JobSubmit {
        agent: "delegator".into(),
        input_json: json!({
            "agent": "spender",
            "times": 8,
            "lease_request": { "cost.budget": ["USD:2"], "tool.call": ["spend"] },
            "input": { "currency": "USD", "per_step": 0.5, "steps": 100 },
        })
        .to_string(),
        lease_request_json: json!({
            "cost.budget": ["USD:5"], "tool.call": ["spend"], "agent.delegate": ["spender"],
        })
        .to_string(),
        ..Default::default()
    };
    scene.client.send("", Payload::JobSubmit(submit)).await;
    let result = loop {
        let envelope = scene.client.next().await;
        match envelope.payload {
            Some(Payload::JobResult(result)) if result.result_json.contains("children") => {
                break result.result_json;
            }
            Some(Payload::JobError(error)) => panic!("{error:?}"),
            _ => {}
        }
    };
    let result: Value = serde_json::from_str(&result).unwrap();
    let children = result["children"].as_array().unwrap();
    let steps = children
        .iter()
        .filter_map(|c| c["result"]["steps"].as_u64());
    let refused = children
        .iter()
        .filter(|child| child["refused"] == "LEASE_SUBSET_VIOLATION");
    assert_eq!(steps.collect::<Vec<_>>(), [4, 4], "{result}");
    assert_eq!(refused.count(), 6, "{result}");
}

/// wire 4.9: a child lost what it did not ask to be bound by.
#[tokio::test]
async fn a_child_does_not_escape_by_leaving_out() {
    let year = 4_102_444_800;
    let lease = json!({
        "cost.budget": ["USD:5"], "tool.call": ["*"], "agent.delegate": ["w"], "model.use": ["m"],
    });
    let mut scene = Scene::until(lease, at(year)).await;
    let (assign, child) = scene.child("c", json!({ "tool.call": ["t"] })).await;
    assert_eq!(assign.lease_expires_at, at(year));
    assert_eq!(assign.parent_job_id, scene.of.job_id);
    let denied = "PERMISSION_DENIED";
    // The deployment would allow it any model.
    assert_eq!(scene.authorize(&child, "model.use", "m").await, denied);
    assert_eq!(scene.authorize(&child, "tool.call", "u").await, denied);
    assert_eq!(scene.authorize(&child, "tool.call", "t").await, "");
    scene.spend(&child, 1, 5.0).await;
    let exhausted = "BUDGET_EXHAUSTED";
    assert_eq!(scene.authorize(&child, "tool.call", "t").await, exhausted);
    assert_eq!(scene.call().await, exhausted, "it spent its parent's");
}

/// wire 4.12: TS delegates without a look at `agent.delegate`.
#[tokio::test]
async fn delegation_is_a_capability() {
    let lease = json!({ "tool.call": ["*"], "agent.delegate": ["w@2.*", "echo"] });
    let mut scene = Scene::of(lease).await;
    let of = scene.of.clone();
    for (agent, lease, code) in [
        ("w", json!({}), "PERMISSION_DENIED"),
        ("w@1.0.0", json!({}), "PERMISSION_DENIED"),
        (
            "echo",
            json!({ "agent.delegate": ["w"] }),
            "LEASE_SUBSET_VIOLATION",
        ),
        (
            "echo",
            json!({ "tool.call": ["**"] }),
            "LEASE_SUBSET_VIOLATION",
        ),
        (
            "echo",
            json!({ "cost.budget": ["USD:0"] }),
            "LEASE_SUBSET_VIOLATION",
        ),
        ("echo", json!({}), ""),
    ] {
        scene.say_delegate(&of, "c", agent, lease.clone()).await;
        let (answer, _) = scene.delegated().await;
        assert_eq!(answer.code, code, "{agent} {lease}: {answer:?}");
    }
    // A child has it only if it was given it.
    let mut scene = Scene::of(self::lease()).await;
    let (_, child) = scene.child("c", json!({ "tool.call": ["*"] })).await;
    scene.say_delegate(&child, "d", "w", json!({})).await;
    assert_eq!(scene.delegated().await.0.code, "PERMISSION_DENIED");
}

/// wire 4.7: in TS a lease that ended after more than 24.8 days had ended at once.
#[tokio::test]
async fn a_lease_may_end_at_any_later_time() {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let the_last = 253_402_300_799;
    for end in [now + 25 * 86_400, now + 50 * 86_400, the_last] {
        let mut scene = Scene::until(lease(), at(end)).await;
        assert_eq!(scene.call().await, "");
        let (assign, child) = scene.child("c", json!({ "tool.call": ["t"] })).await;
        assert_eq!(assign.lease_expires_at, at(end));
        scene.runtime.kill();
        scene.runtime = start(&scene.dir);
        let (host, registered) = serve(&scene.runtime, &[&scene.of, &child]).await;
        scene.host = host;
        assert_eq!(registered.keep.len(), 2);
        assert_eq!(scene.call().await, "");
        assert_eq!(scene.authorize(&child, "tool.call", "t").await, "");
    }
}

/// §9.6: what is reserved below a job that a restart ends was kept from all above it.
#[tokio::test]
async fn a_restart_gives_back_what_the_jobs_that_it_ends_had_reserved() {
    let lease = json!({ "cost.budget": ["USD:10"], "agent.delegate": ["**"] });
    let mut scene = Scene::of(lease).await;
    let of = scene.of.clone();
    let below = json!({
        "agent": "sleeper", "input": { "ms": 600_000 }, "lease_request": { "cost.budget": ["USD:8"] },
    });
    let delegate = proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: "c".into(),
        agent: "delegator".into(),
        input_json: below.to_string(),
        lease_request_json: json!({ "cost.budget": ["USD:8"], "agent.delegate": ["**"] })
            .to_string(),
        ..Default::default()
    };
    scene.host.say(Say::Delegate(delegate)).await;
    let child = scene.delegated().await.0.child_job_id;
    let mut client = jobs::connect(&scene.runtime, ALICE).await;
    let mut stream = jobs::watch(&mut client, &child, 0).await.unwrap();
    let tells = |record: &proto::JobRecord| match &record.record {
        Some(Record::JobEvent(event)) => matches!(event.body, Some(Body::Delegate(_))),
        _ => false,
    };
    loop {
        let records = jobs::next(&mut stream).await.unwrap();
        if records.expect("the job runs").iter().any(tells) {
            break;
        }
    }
    scene.runtime.kill();
    scene.runtime = start(&scene.dir);
    scene.host = serve(&scene.runtime, &[&of]).await.0;
    let whole = json!({ "cost.budget": ["USD:10"] });
    scene.say_delegate(&of, "d", "w", whole).await;
    loop {
        match scene.host.next().await {
            Hear::DelegateResult(made) => break assert_eq!(made.code, "", "{made:?}"),
            Hear::Assign(_) | Hear::ChildEnded(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// §7.4: a job that was asked to stop could go on making others until its grace was over.
#[tokio::test]
async fn a_job_that_was_asked_to_stop_makes_no_children() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    // Behind the accept, which the cancel could overtake on its own connection.
    assert_eq!(scene.call().await, "");
    let cancel = Payload::JobCancel(Default::default());
    scene.client.send(&of.job_id, cancel).await;
    let Hear::Cancel(_) = scene.host.next().await else {
        panic!("expected a cancel");
    };
    scene.say_delegate(&of, "c", "w", json!({})).await;
    let (refused, _) = scene.delegated().await;
    assert_eq!(refused.code, "CANCELLED", "{refused:?}");
}

/// §8.3: the event that tells of a child is held to the limit of every other event.
#[tokio::test]
async fn a_child_that_makes_too_large_an_event_is_refused() {
    let mut scene = Scene::of(lease()).await;
    let delegate = proto::DelegateJob {
        r#ref: Some(scene.of.clone()),
        delegate_id: "c".into(),
        agent: "w".into(),
        // Below the limit of a message; as JSON it is escaped, and above that of an event.
        input_json: json!("\u{1}".repeat(160_000)).to_string(),
        ..Default::default()
    };
    scene.host.say(Say::Delegate(delegate)).await;
    let (refused, _) = scene.delegated().await;
    assert_eq!(refused.code, "INVALID_REQUEST", "{refused:?}");
    assert!(refused.message.contains("the limit is"), "{refused:?}");
}

/// §9.3: what an agent left behind asked on when its job was over, and no budget held it.
#[tokio::test]
async fn a_job_that_is_over_is_allowed_nothing() {
    use arcpd::job::{AgentDirectory, JobContext, Jobs, Limits, NewJob};
    use arcpd::protocol::message::Submit;
    use arcpd::protocol::{ErrorCode, EventBody, Failure};

    let dir = tempfile::tempdir().unwrap();
    let options = arcpd::log::OpenOptions {
        dir: dir.path().into(),
        durability: arcpd::log::Durability::Process,
    };
    let (committed, mut blocks) = tokio::sync::mpsc::channel(64);
    let log = arcpd::log::Log::open(options, committed).unwrap();
    let (leave, mut left) = tokio::sync::mpsc::channel(1);
    let agent = move |job: JobContext| {
        let leave = leave.clone();
        async move {
            assert_eq!(job.authorize("c", "tool.call", "t").await, Ok(()));
            job.emit(EventBody::Metric {
                name: "cost.x".into(),
                value: 5.0,
                unit: Some("USD".into()),
                dimensions: vec![],
            })
            .await?;
            let spent = job.authorize("c", "tool.call", "t").await.unwrap_err();
            assert_eq!(spent.code, ErrorCode::BudgetExhausted);
            leave.send(job.clone()).await.unwrap();
            Ok::<_, Failure>("1".to_owned())
        }
    };
    let mut agents = AgentDirectory::default();
    agents.register("a", "1.0.0", agent).unwrap();
    let jobs = Jobs::new(
        log.clone(),
        agents,
        Limits::default(),
        Default::default(),
        None,
        0,
        Default::default(),
    );
    let submit = Submit {
        agent: "a".into(),
        input_json: "null".into(),
        lease_request_json: lease().to_string(),
        lease_expires_at: None,
        idempotency_key: None,
        max_runtime_sec: 0,
    };
    let new = NewJob {
        session_id: String::new(),
        principal: "alice".into(),
        trace: Default::default(),
        via: arcpd::telemetry::Via::Inside,
        submit,
    };
    let accepted = jobs.submit(new, |_| None).await.unwrap();
    jobs.start(accepted);
    let job = left.recv().await.unwrap();
    while !blocks
        .recv()
        .await
        .unwrap()
        .iter()
        .any(|block| block.terminal)
    {}
    let late = job.authorize("c", "tool.call", "t").await.unwrap_err();
    assert_eq!(late.code, ErrorCode::InvalidRequest, "{late}");
    assert!(late.message.contains("over"), "{late}");
    tokio::task::spawn_blocking(move || log.close())
        .await
        .unwrap();
}

/// Readers of a stream take this metric for the runtime's word.
#[tokio::test]
async fn an_agent_cannot_say_what_is_left_of_its_budget() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    let forged = proto::Metric {
        name: "cost.budget.remaining".into(),
        value: 1_000.0,
        unit: "USD".into(),
        ..Default::default()
    };
    let reports = vec![event(1, Body::Metric(forged)), cost(2, 1.0)];
    scene.host.report(&of, reports).await;
    let said = scene.host.rejected().await;
    assert!(said.contains("name: cost.budget.remaining"), "{said}");
    scene.host.report(&of, vec![result(3, "1")]).await;
    scene.host.acked(3).await;
    let mut client = jobs::connect(&scene.runtime, ALICE).await;
    let records = jobs::watch_all(&mut client, &of.job_id).await;
    let told = records.iter().filter_map(|record| match &record.record {
        Some(Record::JobEvent(event)) => match &event.body {
            Some(Body::Metric(metric)) if metric.name == "cost.budget.remaining" => {
                Some(metric.value)
            }
            _ => None,
        },
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [4.0]);
}

/// §9.3: a process that does not run sees no clock, and what waits for it was asked
/// while the lease was good.
#[tokio::test]
async fn a_runtime_that_was_stopped_over_the_end_of_a_lease_allows_nothing_after_it() {
    let now = jiff::Timestamp::now();
    let end = now.as_second() + 2;
    let mut scene = Scene::until(lease(), at(end)).await;
    assert_eq!(scene.call().await, "");
    scene.runtime.signal("-STOP");
    // One thread takes the signal and stops the others, which run on until it does.
    let stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('T')
    };
    let tasks = format!("/proc/{}/task", scene.runtime.pid());
    let is_still = || std::fs::read_dir(&tasks).unwrap().flatten().all(stopped);
    while !is_still() {
        assert!(jiff::Timestamp::now().as_second() < end, "it does not stop");
        look_again().await;
    }
    let of = scene.of.clone();
    scene.say_authorize(&of, "tool.call", "t").await;
    // Time itself is waited for: the end, and the grace after it.
    let past = jiff::Timestamp::from_second(end + 2).unwrap();
    let wait = past.duration_since(jiff::Timestamp::now()).unsigned_abs();
    tokio::time::sleep(wait).await;
    scene.runtime.signal("-CONT");
    match scene.host.next().await {
        Hear::AuthorizeResult(answer) => assert!(!answer.allowed, "{answer:?}"),
        // The end of the job has gone ahead of the question.
        Hear::Cancel(_) | Hear::Revoked(_) => {}
        other => panic!("{other:?}"),
    }
    let seen = scene.client.until_terminal().await;
    let Some(Payload::JobError(error)) = seen.last().and_then(|last| last.payload.clone()) else {
        panic!("{seen:?}")
    };
    assert_eq!(error.code, "LEASE_EXPIRED");
}

/// What a lease may cost is a bound on requests: a job that was granted more, by an
/// earlier release, was ended by the restart into this one.
#[tokio::test]
async fn a_lease_that_would_be_refused_today_is_kept_by_the_job_that_has_it() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    assert_eq!(scene.call().await, "");
    scene.runtime.kill();
    let dear: Vec<_> = (0..900).map(|n| format!("*a{n}b*c")).collect();
    let currencies: Vec<_> = (0..40).map(|n| format!("C{n}:1")).collect();
    let granted = json!({ "cost.budget": currencies, "tool.call": dear });
    let store = rusqlite::Connection::open(scene.dir.path().join("arcpd.db")).unwrap();
    let changed = store.execute("UPDATE job SET lease_json = ?1", [granted.to_string()]);
    assert_eq!(changed.unwrap(), 1);
    drop(store);
    scene.runtime = start(&scene.dir);
    let (host, registered) = serve(&scene.runtime, &[&of]).await;
    scene.host = host;
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    assert_eq!(scene.call().await, "PERMISSION_DENIED");
    let allowed = scene.authorize(&of, "tool.call", "xa899by-c").await;
    assert_eq!(allowed, "");
    // And nobody is granted it anew.
    let submit = proto::JobSubmit {
        agent: "w".into(),
        lease_request_json: json!({ "tool.call": dear }).to_string(),
        ..Default::default()
    };
    let mut client = Peer::connect(&scene.runtime.address, ALICE).await;
    client.send("", Payload::JobSubmit(submit)).await;
    let refused = client.error().await;
    assert!(
        refused.message.contains("lease_request.tool.call"),
        "{refused:?}"
    );
}

/// §10: the word of a child was on its way into the log when its parent was told that
/// there is one; who was killed then never said it.
#[tokio::test]
async fn a_child_that_its_parent_was_told_of_is_in_the_parents_stream_after_a_kill() {
    let mut scene = Scene::of(lease()).await;
    let of = scene.of.clone();
    let mut made = Vec::new();
    for n in 0..12 {
        let name = format!("c{n}");
        scene.say_delegate(&of, &name, "w", json!({})).await;
        let child = loop {
            match scene.host.next().await {
                Hear::DelegateResult(made) => break made.child_job_id,
                Hear::Assign(_) => {}
                other => panic!("{other:?}"),
            }
        };
        made.push(child);
        scene.runtime.kill();
        scene.runtime = start(&scene.dir);
        scene.host = serve(&scene.runtime, &[&of]).await.0;
    }
    scene.host.report(&of, vec![result(1, "1")]).await;
    let mut client = jobs::connect(&scene.runtime, ALICE).await;
    let records = jobs::watch_all(&mut client, &of.job_id).await;
    let told = records.iter().filter_map(|record| match &record.record {
        Some(Record::JobEvent(event)) => match &event.body {
            Some(Body::Delegate(delegate)) => Some(&delegate.child_job_id),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), made.iter().collect::<Vec<_>>());
}
