//! Leases as a client meets them, on both wires: what was granted is told, what is
//! not granted is refused where it happens, and what is spent is counted.

mod support;

use serde_json::{Value, json};
use support::both::*;
use support::jobs::{self, get};
use support::*;

fn op(capability: &str, target: &str) -> Value {
    json!({ "capability": capability, "target": target })
}

#[tokio::test]
async fn what_was_granted_is_told_wherever_the_job_is() {
    on_both("", async |runtime, mut alice| {
        let expires_at = in_ms(3_600_000);
        let accepted = alice
            .try_submit(json!({
                "agent": "sleeper", "input": { "ms": 600_000 },
                "lease_request": {
                    "net.fetch": ["HTTPS://API.Example.com:443/v1/**", "https://api.example.com/v1/**"],
                    "cost.budget": ["USD:1.50", "credits:10", "USD:0.5"], "fs.write": [] },
                "lease_constraints": { "expires_at": expires_at },
            }))
            .await;
        let job = accepted.job.clone();
        let lease = json!({ "cost.budget": ["USD:2", "credits:10"],
            "net.fetch": ["https://api.example.com/v1/**"] });
        let until = json!({ "expires_at": expires_at });
        let mut observer = alice.another(&runtime, ALICE).await;
        let subscribed = observer.subscribe(&job).await;
        for told in [&accepted.body, &subscribed] {
            assert_eq!(told["lease"], lease);
            assert_eq!(told["lease_constraints"], until);
            assert_eq!(told["budget"], json!({ "USD": 2, "credits": 10 }));
        }
        assert_eq!(subscribed["parent_job_id"], Value::Null);
        let listed = &alice.jobs().await[0];
        assert_eq!((&listed["lease"], &listed["lease_constraints"]), (&lease, &until));

        let mut unary = jobs::connect(&runtime, ALICE).await;
        let got = get(&mut unary, &job).await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&got.lease_json).unwrap(), lease);
        let at = got.lease_expires_at.unwrap();
        let at = jiff::Timestamp::new(at.seconds, at.nanos).unwrap();
        assert_eq!(format!("{at:.3}"), expires_at);

        let nothing = alice.try_submit(json!({ "agent": "echo", "input": 1 })).await;
        assert_eq!(nothing.body["lease"], json!({}));
        assert_eq!((&nothing.body["budget"], &nothing.body["lease_constraints"]), (&Value::Null, &Value::Null));
    })
    .await;
}

#[tokio::test]
async fn what_was_not_negotiated_is_refused_by_its_name() {
    on_both("", async |runtime, alice| {
        let mut plain = Client::with_features(alice.wire(), &runtime, &["subscribe"]).await;
        let asked = [
            (
                "cost.budget",
                json!({ "lease_request": { "cost.budget": ["USD:1"] } }),
            ),
            (
                "model.use",
                json!({ "lease_request": { "model.use": ["m"] } }),
            ),
            (
                "lease_expires_at",
                json!({ "lease_constraints": { "expires_at": in_ms(60_000) } }),
            ),
        ];
        for (feature, mut submit) in asked {
            submit["agent"] = "echo".into();
            let (code, message) = plain.refused(submit).await;
            assert_eq!(code, "INVALID_REQUEST");
            assert!(message.starts_with(&format!("{feature}: ")), "{message}");
        }
        // What needs no feature needs none.
        let job = plain
            .submit("echo", json!(1), json!({ "tool.call": ["search.*"] }))
            .await;
        assert_eq!(result(&plain.until_end(&job).await), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_cannot_be_meant_is_refused_with_its_field() {
    on_both("", async |_runtime, mut alice| {
        for (lease, field) in [
            (
                json!({ "fs.read": ["/w/../etc"] }),
                "lease_request.fs.read[0]: ",
            ),
            (
                json!({ "cost.budget": ["USD:NaN"] }),
                "lease_request.cost.budget[0]: ",
            ),
            (
                json!({ "cost.budget": ["USD:-1"] }),
                "lease_request.cost.budget[0]: ",
            ),
            (
                json!({ "net.fetch": ["https://u@h/**"] }),
                "lease_request.net.fetch[0]: ",
            ),
            (json!({ "fs.raed": ["/w"] }), "lease_request.fs.raed: "),
        ] {
            let (code, message) = alice
                .refused(json!({ "agent": "echo", "lease_request": lease }))
                .await;
            assert_eq!(code, "INVALID_REQUEST");
            assert!(message.starts_with(field), "{message}");
        }
        let past = json!({ "agent": "echo", "lease_constraints": { "expires_at": in_ms(-1) } });
        let (code, message) = alice.refused(past).await;
        assert_eq!(code, "INVALID_REQUEST");
        assert!(
            message.starts_with("lease_constraints.expires_at: "),
            "{message}"
        );
        assert!(alice.jobs().await.is_empty(), "nothing refused is a job");
    })
    .await;
}

#[tokio::test]
async fn each_operation_is_decided_where_it_happens() {
    on_both("", async |_runtime, mut alice| {
        let lease = json!({ "fs.read": ["/w/**"], "net.fetch": ["https://*.example.com/**"],
            "tool.call": ["search.*"], "model.use": [] });
        let ops = json!({ "ops": [
            op("fs.read", "/w/a/./b"),
            op("fs.read", "/w/../etc/passwd"),
            op("fs.read", "/etc/passwd"),
            op("fs.write", "/w/a"),
            op("net.fetch", "HTTPS://a.Example.com:443/x#y"),
            op("net.fetch", "https://a.example.com.evil.org/"),
            op("tool.call", "search.web"),
            op("model.use", "m"),
            op("fs.delete", "/w/a"),
        ] });
        let job = alice.submit("toolbox", ops, lease).await;
        let seen = alice.until_end(&job).await;
        check_numbers(&seen);
        assert_eq!(
            refusals(&seen),
            [
                ("op-2", "PERMISSION_DENIED"),
                ("op-3", "PERMISSION_DENIED"),
                ("op-4", "PERMISSION_DENIED"),
                ("op-6", "PERMISSION_DENIED"),
                ("op-8", "PERMISSION_DENIED"),
                ("op-9", "INVALID_REQUEST"),
            ]
        );
        assert_eq!(result(&seen)["allowed"], 3);
        // Each call has one result, and a refusal tells nothing of being retryable.
        let of_kind = |kind: &str| seen.iter().filter(|heard| heard.kind == kind).count();
        assert_eq!((of_kind("tool_call"), of_kind("tool_result")), (9, 9));
        let refusal = seen
            .iter()
            .find(|heard| heard.body["call_id"] == "op-3" && heard.kind == "tool_result");
        assert_eq!(
            refusal.unwrap().body["error"],
            json!({ "code": "PERMISSION_DENIED", "retryable": false,
            "message": "lease: no pattern of the lease's fs.read matches /etc/passwd" })
        );

        // Without a lease nothing that is asked for is allowed.
        let job = alice
            .submit(
                "toolbox",
                json!({ "ops": [op("tool.call", "search.web")] }),
                json!({}),
            )
            .await;
        assert_eq!(
            refusals(&alice.until_end(&job).await),
            [("op-1", "PERMISSION_DENIED")]
        );
        // A budget of nothing is used up from the start.
        let lease = json!({ "tool.call": ["**"], "cost.budget": ["USD:0"] });
        let job = alice
            .submit("toolbox", json!({ "ops": [op("tool.call", "a")] }), lease)
            .await;
        assert_eq!(
            refusals(&alice.until_end(&job).await),
            [("op-1", "BUDGET_EXHAUSTED")]
        );
    })
    .await;
}

#[tokio::test]
async fn a_spender_is_told_what_is_left_and_stops() {
    on_both("", async |_runtime, mut alice| {
        let input = json!({ "currency": "USD", "per_step": 0.1, "steps": 10 });
        let lease = json!({ "tool.call": ["spend"], "cost.budget": ["USD:0.30", "credits:1"] });
        let job = alice.submit("spender", input, lease).await;
        let seen = alice.until_end(&job).await;
        assert_eq!(result(&seen), &json!({ "steps": 3, "stopped": "budget" }));
        assert_eq!(metrics(&seen, &job, "cost.step"), ["USD:0.1"; 3]);
        // Decimals: with floats something would be left.
        assert_eq!(
            metrics(&seen, &job, "cost.budget.remaining"),
            ["USD:0.2", "USD:0.1", "USD:0"]
        );
        assert_eq!(refusals(&seen), [("step-4", "BUDGET_EXHAUSTED")]);
        // A currency without a budget costs nothing that is counted.
        let input = json!({ "currency": "EUR", "per_step": 5.0, "steps": 3 });
        let lease = json!({ "tool.call": ["spend"], "cost.budget": ["USD:0.30"] });
        let job = alice.submit("spender", input, lease).await;
        let seen = alice.until_end(&job).await;
        assert_eq!(result(&seen), &json!({ "steps": 3 }));
        assert!(metrics(&seen, &job, "cost.budget.remaining").is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_expired_lease_ends_the_job_that_does_nothing() {
    on_both(
        "[limits]\nlease_expiry_grace_ms = 0\n",
        async |_runtime, mut alice| {
            let accepted = alice
                .try_submit(json!({ "agent": "sleeper", "input": { "ms": 600_000 },
                "lease_constraints": { "expires_at": in_ms(300) } }))
                .await;
            let seen = alice.until_end(&accepted.job).await;
            let end = seen.last().unwrap();
            assert_eq!(end.kind, "job.error");
            let error = ["code", "final_status", "retryable"].map(|key| end.body[key].clone());
            assert_eq!(
                error,
                [json!("LEASE_EXPIRED"), json!("error"), json!(false)]
            );
        },
    )
    .await;
}

/// §9.5: the refusal of the operation comes before the end of the job.
#[tokio::test]
async fn an_operation_after_the_expiry_is_refused_within_the_grace() {
    on_both(
        "[limits]\nlease_expiry_grace_ms = 60000\n",
        async |_runtime, mut alice| {
            let accepted = alice
                .try_submit(json!({ "agent": "toolbox",
                "input": { "ops": [op("tool.call", "a")], "delay_ms": 600 },
                "lease_request": { "tool.call": ["**"] },
                "lease_constraints": { "expires_at": in_ms(300) } }))
                .await;
            let seen = alice.until_end(&accepted.job).await;
            assert_eq!(refusals(&seen), [("op-1", "LEASE_EXPIRED")]);
            assert_eq!(result(&seen)["allowed"], 0);
        },
    )
    .await;
}

/// wire.md §4.8: a timer that overflowed ended such a job at once.
#[tokio::test]
async fn an_end_far_away_is_far_away() {
    on_both("", async |_runtime, mut alice| {
        let accepted = alice
            .try_submit(
                json!({ "agent": "toolbox", "input": { "ops": [op("tool.call", "a")] },
                "lease_request": { "tool.call": ["a"] },
                "lease_constraints": { "expires_at": "9000-01-01T00:00:00Z" } }),
            )
            .await;
        assert_eq!(
            accepted.body["lease_constraints"]["expires_at"],
            "9000-01-01T00:00:00.000Z"
        );
        assert_eq!(result(&alice.until_end(&accepted.job).await)["allowed"], 1);
    })
    .await;
}
