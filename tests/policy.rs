//! What a policy makes of a request, and the audit log of all that is decided.

mod support;

use serde_json::{Value, json};
use support::both::*;
use support::*;

fn op(capability: &str, target: &str) -> Value {
    json!({ "capability": capability, "target": target })
}

/// The audit lines of an operation, once one is as wanted.
async fn audit(runtime: &Runtime, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = std::time::Instant::now();
    loop {
        let lines = runtime.log();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut audit = lines.filter(|line| line["target"] == "arcpd::audit");
        if let Some(line) = audit.find(|line| wanted(&line["fields"])) {
            assert_eq!(line["level"], "INFO");
            return line["fields"].clone();
        }
        assert!(started.elapsed().as_secs() < 30, "not in {}", runtime.log());
        tokio::task::yield_now().await;
    }
}

/// A policy file beside the runtime's configuration.
fn with_policy(policy: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    std::fs::write(&path, policy).unwrap();
    let toml = format!("policy_file = {:?}\n", path.to_str().unwrap());
    (dir, toml)
}

const POLICY: &str = r#"
[[bound]]
principals = ["alice"]
agents = ["toolbox", "sleeper"]
max_lifetime_sec = 60
[bound.lease]
"net.fetch" = ["https://*.example.com/**"]
"tool.call" = ["search.*"]
"cost.budget" = ["USD:5"]
"#;

#[tokio::test]
async fn a_policy_cuts_adds_and_refuses() {
    let (_dir, toml) = with_policy(POLICY);
    on_both(&toml, async |runtime, mut alice| {
        let ask = json!({ "agent": "toolbox",
            "input": { "ops": [op("tool.call", "search.web"), op("tool.call", "shell"), op("fs.read", "/w")] },
            "lease_request": { "tool.call": ["**"], "fs.read": ["/**"], "net.fetch": ["https://evil.org/**"] } });
        let accepted = alice.try_submit(ask.clone()).await;
        // Cut to the bound; the currency that was left out is bounded all the same.
        let effective = json!({ "tool.call": ["search.*"], "cost.budget": ["USD:5"] });
        assert_eq!(accepted.body["lease"], effective);
        assert_eq!(accepted.body["budget"], json!({ "USD": 5 }));
        let end: jiff::Timestamp = accepted.body["lease_constraints"]["expires_at"].as_str().unwrap().parse().unwrap();
        assert!(end <= jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60));
        let seen = alice.until_end(&accepted.job).await;
        assert_eq!(refusals(&seen), [("op-2", "PERMISSION_DENIED"), ("op-3", "PERMISSION_DENIED")]);

        let line = audit(&runtime, |line| line["operation"] == "grant").await;
        assert_eq!((&line["principal"], &line["agent"], &line["decision"]),
            (&json!("alice"), &json!("toolbox@1.0.0"), &json!("cut")));
        assert_eq!(line["effective"], effective.to_string());
        assert!(line["asked"].as_str().unwrap().contains("evil.org"));

        // No bound fits: another agent, and another principal.
        let (code, message) = alice.refused(json!({ "agent": "echo", "input": 1 })).await;
        assert_eq!((&*code, &*message), ("PERMISSION_DENIED", "policy: no policy lets alice run echo@1.0.0"));
        let mut bob = alice.another(&runtime, BOB).await;
        assert_eq!(bob.refused(ask).await.0, "PERMISSION_DENIED");
        let line = audit(&runtime, |line| line["operation"] == "grant" && line["principal"] == "bob").await;
        assert_eq!((&line["decision"], &line["effective"]), (&json!("refused"), &json!("")));
        assert!(line["rule"].as_str().unwrap().contains("no policy lets bob run toolbox"));
    })
    .await;
}

#[tokio::test]
async fn decisions_are_in_the_audit_log() {
    on_both("", async |runtime, mut alice| {
        let lease = json!({ "fs.read": ["/w/**"] });
        let ops = json!({ "ops": [op("fs.read", "/w/./a"), op("fs.read", "/etc/passwd")] });
        let job = alice.submit("toolbox", ops, lease).await;
        alice.until_end(&job).await;
        let by = |line: &Value| {
            [
                "principal",
                "job_id",
                "agent",
                "capability",
                "target",
                "decision",
                "rule",
                "code",
            ]
            .map(|key| line[key].as_str().unwrap().to_owned())
        };
        let allowed = audit(&runtime, |line| {
            line["decision"] == "allowed" && line["operation"] == "authorize"
        })
        .await;
        assert_eq!(
            by(&allowed),
            [
                "alice",
                &*job,
                "toolbox@1.0.0",
                "fs.read",
                "/w/./a",
                "allowed",
                "/w/**",
                ""
            ]
        );
        let refused = audit(&runtime, |line| line["decision"] == "refused").await;
        assert_eq!(
            by(&refused),
            [
                "alice",
                &*job,
                "toolbox@1.0.0",
                "fs.read",
                "/etc/passwd",
                "refused",
                "lease: no pattern of the lease's fs.read matches /etc/passwd",
                "PERMISSION_DENIED"
            ]
        );
        assert_eq!(allowed["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(allowed["trace_id"], refused["trace_id"]);

        // Who wanted to watch whose job; who watches their own is no news.
        let mut observer = alice.another(&runtime, ALICE).await;
        observer.subscribe(&job).await;
        let by = |line: &Value| {
            ["principal", "job_id", "owner", "decision", "rule"].map(|key| line[key].clone())
        };
        let mut bob = alice.another(&runtime, BOB).await;
        assert_eq!(bob.subscribe(&job).await["code"], "JOB_NOT_FOUND");
        let line = audit(&runtime, |line| line["operation"] == "subscribe").await;
        assert_eq!(
            by(&line),
            ["bob", &*job, "alice", "refused", "same_principal"].map(Value::from)
        );
    })
    .await;
}

/// It was taken from the row that is hidden from who is refused: a look at somebody's
/// job and a slip of the pen were one line.
#[tokio::test]
async fn the_audit_of_a_refused_subscription_names_no_owner() {
    on_both("", async |runtime, mut alice| {
        let job = alice.submit("echo", json!(1), json!({})).await;
        let mut bob = alice.another(&runtime, BOB).await;
        for asked in [&*job, "job_nobodys"] {
            assert_eq!(bob.subscribe(asked).await["code"], "JOB_NOT_FOUND");
        }
        let of = async |job: &str| audit(&runtime, |line| line["job_id"] == job).await;
        assert_eq!(of(&job).await["owner"], "alice");
        let nobodys = of("job_nobodys").await;
        assert_eq!(
            (&nobodys["owner"], &nobodys["decision"]),
            (&Value::Null, &json!("refused"))
        );
    })
    .await;
}

/// What a child asked for beyond its parent was refused in the stream alone.
#[tokio::test]
async fn a_refused_delegation_is_in_the_audit_log() {
    on_both("", async |runtime, mut alice| {
        let lease = json!({ "agent.delegate": ["echo"] });
        let input = json!({ "agent": "echo", "lease_request": { "fs.read": ["/**"] } });
        let job = alice.submit("delegator", input, lease.clone()).await;
        alice.until_end(&job).await;
        let delegate = |line: &Value, decision: &str| {
            line["operation"] == "delegate" && line["decision"] == decision
        };
        let line = audit(&runtime, |line| delegate(line, "refused")).await;
        let by = |line: &Value| {
            [
                "principal",
                "job_id",
                "agent",
                "delegate_id",
                "target",
                "asked",
                "code",
            ]
            .map(|key| line[key].as_str().unwrap().to_owned())
        };
        let asked = r#"{"fs.read":["/**"]}"#;
        let code = "LEASE_SUBSET_VIOLATION";
        assert_eq!(
            by(&line),
            [
                "alice",
                &*job,
                "delegator@1.0.0",
                "child-1",
                "echo",
                asked,
                code
            ]
        );
        assert_eq!(line["child_job_id"], "");
        assert_eq!(
            line["rule"],
            "lease_request.fs.read: the parent's lease does not grant it"
        );

        let job = alice
            .submit("delegator", json!({ "agent": "echo" }), lease)
            .await;
        let mut seen = Vec::new();
        alice.until_ends(2, &mut seen).await;
        let line = audit(&runtime, |line| delegate(line, "allowed")).await;
        assert_eq!(line["job_id"], job);
        let told = seen.iter().find(|heard| heard.kind == "delegate").unwrap();
        assert_eq!(line["child_job_id"], told.body["child_job_id"]);
    })
    .await;
}

/// What no lease may be as long as was written down whole: a line of 800 KB.
#[tokio::test]
async fn a_lease_that_is_too_long_filled_the_audit_log() {
    on_both("", async |runtime, mut alice| {
        let lease = json!({ "agent.delegate": ["echo"] });
        let long = "é".repeat(200_000);
        let input = json!({ "agent": "echo", "lease_request": { "tool.call": [long] } });
        alice.submit("delegator", input, lease).await;
        let line = audit(&runtime, |line| line["operation"] == "delegate").await;
        assert_eq!(line["code"], "INVALID_REQUEST");
        let asked = line["asked"].as_str().unwrap();
        assert!(asked.starts_with("{\"tool.call\":[\"éé"), "{:.20}", asked);
        assert!(
            (64 * 1024 - 1..=64 * 1024).contains(&asked.len()),
            "{}",
            asked.len()
        );
    })
    .await;
}

/// Without any policy it said what policy leaves, of a text that grows when its
/// letters are encoded.
#[tokio::test]
async fn a_lease_too_long_in_its_canonical_form_was_blamed_on_policy() {
    on_both("", async |_runtime, mut alice| {
        let url = format!("https://h.example/{}", "é".repeat(400));
        let asked = json!({ "agent": "echo", "input": 1, "lease_request": { "net.fetch": [url] } });
        let (code, message) = alice.refused(asked).await;
        assert_eq!(code, "INVALID_REQUEST");
        let why = "lease_request: in its canonical form: lease_request.net.fetch[0]: longer than";
        assert!(message.contains(why), "{message}");
    })
    .await;
}

/// The budget that a policy adds was taken for the child's wish, and refused to it
/// once the parent had less.
#[tokio::test]
async fn a_budget_that_policy_adds_to_a_child_is_no_reason_to_refuse_it() {
    let policy = r#"
[[bound]]
principals = ["*"]
unbounded = ["agent.delegate", "tool.call"]
[bound.lease]
"cost.budget" = ["USD:5"]
"#;
    let (_dir, toml) = with_policy(policy);
    on_both(&toml, async |_runtime, mut alice| {
        let spend = json!({ "currency": "USD", "per_step": 1.0, "steps": 9, "delay_ms": 500 });
        let input = json!({ "agent": "spender", "input": spend, "times": 2,
            "lease_request": { "tool.call": ["spend"] } });
        let lease = json!({ "agent.delegate": ["spender"], "tool.call": ["spend"],
            "cost.budget": ["USD:2"] });
        let job = alice.submit("delegator", input, lease).await;
        let mut seen = Vec::new();
        alice.until_ends(3, &mut seen).await;
        let result = result_of(&seen, &job);
        let of = |n: usize| result["children"][n]["result"]["steps"].as_u64().unwrap();
        // Both share the two dollars, and neither goes beyond by more than a step.
        assert!((2..=3).contains(&(of(0) + of(1))), "{result}");
    })
    .await;
}

/// What policy leaves of a lease may be more than one may ask for: such a job was taken
/// and ended by the next restart, which could not read its lease.
#[tokio::test]
async fn a_lease_that_could_not_be_read_again_is_refused_at_once() {
    let names = |of: &str| -> Vec<String> { (0..990).map(|n| format!("{of}{n}")).collect() };
    let bound = [names("bound."), vec!["asked.*".into()]].concat();
    let (_dir, toml) = with_policy(&format!(
        "[[bound]]\nprincipals = [\"alice\"]\n[bound.lease]\n\"tool.call\" = {}\n",
        json!(bound)
    ));
    on_both(&toml, async |_runtime, mut alice| {
        let asked = [names("asked."), vec!["bound.*".into()]].concat();
        let asked = json!({ "agent": "echo", "input": 1, "lease_request": { "tool.call": asked } });
        let (code, message) = alice.refused(asked).await;
        assert_eq!(code, "INVALID_REQUEST");
        assert!(message.contains("what policy leaves of it"), "{message}");
        assert!(message.contains("1000 patterns"), "{message}");
    })
    .await;
}
