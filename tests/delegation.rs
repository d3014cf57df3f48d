//! Jobs that jobs make, as the session sees them that submitted the first: their
//! events, their limits, and that they do not outlive their parent.

mod support;

use arcpd::wire::proto;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::{Value, json};
use support::both::*;
use support::host::{self, HOSTING, HostPeer};
use support::jobs::{self, get};
use support::*;

fn to(agent: &str, input: Value, lease: Value, times: u64) -> Value {
    json!({ "agent": agent, "input": input, "lease_request": lease, "times": times })
}

/// The children that a stream tells of, by the name that the parent has for each.
fn children(seen: &[Heard]) -> Vec<(String, String)> {
    let delegated = seen.iter().filter(|heard| heard.kind == "delegate");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    delegated
        .map(|heard| {
            (
                text(&heard.body["delegate_id"]),
                text(&heard.body["child_job_id"]),
            )
        })
        .collect()
}

/// What the delegator says of its refused children.
fn refused(result: &Value) -> Vec<&Value> {
    let children = result["children"].as_array().unwrap().iter();
    children
        .filter(|child| child["refused"].is_string())
        .collect()
}

fn delegate(of: &proto::AssignmentRef, name: &str, agent: &str, input: Value) -> Say {
    Say::Delegate(proto::DelegateJob {
        r#ref: Some(of.clone()),
        delegate_id: name.into(),
        agent: agent.into(),
        input_json: input.to_string(),
        ..Default::default()
    })
}

/// A host with one job, which may delegate to everybody.
async fn parent(
    runtime: &Runtime,
    client: &mut Client,
) -> (HostPeer, proto::AssignmentRef, String) {
    let mut host = HostPeer::serving(&runtime.address, "h", "boss", 1).await;
    let job = client
        .submit("boss", json!(null), json!({ "agent.delegate": ["**"] }))
        .await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    (host, of, job)
}

async fn delegated(host: &mut HostPeer) -> String {
    match host.next().await {
        Hear::DelegateResult(result) if result.code.is_empty() => result.child_job_id,
        other => panic!("expected a child, got {other:?}"),
    }
}

#[tokio::test]
async fn a_childs_events_are_in_the_session_of_its_parent() {
    on_both("", async |runtime, mut alice| {
        let lease = json!({ "agent.delegate": ["echo"] });
        let job = alice
            .submit(
                "delegator",
                to("echo", json!({ "n": 7 }), json!({}), 2),
                lease,
            )
            .await;
        // Which takes no job.accepted that nobody asked for.
        let mut seen = Vec::new();
        alice.until_ends(3, &mut seen).await;
        check_numbers(&seen);
        let mut children = children(&seen);
        children.sort();
        let names: Vec<_> = children.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["child-1", "child-2"]);
        for (_, child) in &children {
            let own = of(&seen, child);
            assert_eq!(own.last().unwrap().body["result"], json!({ "n": 7 }));
            let said = |heard: &Heard| heard.body["child_job_id"] == **child;
            let told = seen.iter().position(said).unwrap();
            let first = seen.iter().position(|heard| heard.job == *child).unwrap();
            assert!(told < first, "a child is told of before it speaks");
            assert_eq!(seen[told].body["agent"], "echo@1.0.0");
        }
        assert!(
            seen.iter()
                .any(|heard| heard.job == job && heard.kind == "job.result")
        );

        let mut unary = jobs::connect(&runtime, ALICE).await;
        let listed = alice.jobs().await;
        let parent_of = |id: &str| {
            let job = listed.iter().find(|job| job["job_id"] == id);
            job.unwrap()["parent_job_id"].clone()
        };
        assert_eq!(parent_of(&job), Value::Null);
        for (_, child) in &children {
            assert_eq!(parent_of(child), *job);
            assert_eq!(get(&mut unary, child).await.unwrap().parent_job_id, job);
        }
    })
    .await;
}

#[tokio::test]
async fn more_than_the_parent_has_is_refused_in_the_parents_stream() {
    on_both("", async |_runtime, mut alice| {
        let lease = json!({ "agent.delegate": ["toolbox"], "fs.read": ["/w/**"] });
        for (agent, asked, code) in [
            (
                "toolbox",
                json!({ "fs.read": ["/**"] }),
                "LEASE_SUBSET_VIOLATION",
            ),
            (
                "toolbox",
                json!({ "fs.write": ["/w/a"] }),
                "LEASE_SUBSET_VIOLATION",
            ),
            (
                "toolbox",
                json!({ "cost.budget": ["USD:1"] }),
                "LEASE_SUBSET_VIOLATION",
            ),
            ("echo", json!({}), "PERMISSION_DENIED"),
            ("nobody", json!({}), "AGENT_NOT_AVAILABLE"),
            ("toolbox", json!({ "fs.read": ["w"] }), "INVALID_REQUEST"),
        ] {
            let input = to(agent, json!({ "ops": [] }), asked, 1);
            let job = alice.submit("delegator", input, lease.clone()).await;
            let seen = alice.until_end(&job).await;
            assert_eq!(refusals(&seen), [("child-1", code)]);
            assert_eq!(refused(result(&seen))[0]["refused"], code);
            assert!(children(&seen).is_empty());
        }
        assert_eq!(alice.jobs().await.len(), 6, "no child was made");
        // Without agent.delegate there is nobody to delegate to.
        let input = to("echo", json!(1), json!({}), 1);
        let job = alice
            .submit("delegator", input, json!({ "fs.read": ["/w"] }))
            .await;
        let seen = alice.until_end(&job).await;
        assert_eq!(refusals(&seen), [("child-1", "PERMISSION_DENIED")]);
    })
    .await;
}

/// wire.md §4.9: children that asked for nothing had no bounds at all.
#[tokio::test]
async fn a_child_has_what_it_asked_for_and_not_what_its_parent_has() {
    on_both("", async |_runtime, mut alice| {
        let lease =
            json!({ "agent.delegate": ["*"], "fs.read": ["/w/**"], "model.use": ["small"] });
        let ops = json!({ "ops": [
            { "capability": "fs.read", "target": "/w/a" },
            { "capability": "fs.read", "target": "/w/a/b" },
            { "capability": "model.use", "target": "small" },
        ] });
        let input = to("toolbox", ops, json!({ "fs.read": ["/w/*"] }), 1);
        let expires_at = in_ms(3_600_000);
        let accepted = alice
            .try_submit(
                json!({ "agent": "delegator", "input": input, "lease_request": lease,
                "lease_constraints": { "expires_at": expires_at } }),
            )
            .await;
        let mut seen = Vec::new();
        alice.until_ends(2, &mut seen).await;
        let child = &children(&seen)[0].1;
        let own: Vec<Heard> = of(&seen, child).into_iter().cloned().collect();
        assert_eq!(
            refusals(&own),
            [("op-2", "PERMISSION_DENIED"), ("op-3", "PERMISSION_DENIED")]
        );
        let subscribed = alice.subscribe(child).await;
        assert_eq!(
            subscribed["lease"],
            json!({ "fs.read": ["/w/*"], "model.use": [] })
        );
        assert_eq!(subscribed["lease_constraints"]["expires_at"], expires_at);
        assert_eq!(subscribed["parent_job_id"], accepted.job);
    })
    .await;
}

#[tokio::test]
async fn siblings_share_what_their_parent_has_and_give_back_the_rest() {
    on_both("", async |_runtime, mut alice| {
        let lease = json!({ "agent.delegate": ["spender"], "tool.call": ["spend"], "cost.budget": ["USD:5"] });
        let spend = json!({ "currency": "USD", "per_step": 1.0, "steps": 1, "delay_ms": 1_000 });
        let asked = json!({ "tool.call": ["spend"], "cost.budget": ["USD:3"] });
        let job = alice.submit("delegator", to("spender", spend.clone(), asked, 2), lease.clone()).await;
        let mut seen = Vec::new();
        alice.until_ends(2, &mut seen).await;
        // Both at once: only one of them can have 3 of 5.
        let results = result_of(&seen, &job)["children"].as_array().unwrap().clone();
        let refused: Vec<_> = results.iter().filter(|child| child["refused"].is_string()).collect();
        assert_eq!((refused.len(), results.len()), (1, 2), "{results:?}");
        assert_eq!(refused[0]["refused"], "LEASE_SUBSET_VIOLATION");
        assert_eq!(metrics(&seen, &job, "cost.budget.remaining"), ["USD:2", "USD:4"]);

        // A child without a budget of its own spends its parent's.
        let spend = json!({ "currency": "USD", "per_step": 2.0, "steps": 9 });
        let asked = json!({ "tool.call": ["spend"] });
        let job = alice.submit("delegator", to("spender", spend, asked, 1), lease).await;
        let mut seen = Vec::new();
        alice.until_ends(2, &mut seen).await;
        let child = &children(&seen)[0].1;
        assert_eq!(result_of(&seen, &job)["children"][0]["result"], json!({ "steps": 3, "stopped": "budget" }));
        assert_eq!(metrics(&seen, child, "cost.step").len(), 3);
        assert_eq!(metrics(&seen, &job, "cost.budget.remaining"), ["USD:3", "USD:1", "USD:-1"]);
    })
    .await;
}

#[tokio::test]
async fn the_depth_and_the_number_of_children_have_limits() {
    let toml = "[limits]\ndelegation_depth_max = 2\ndelegation_children_max = 1\n";
    on_both(toml, async |_runtime, mut alice| {
        let all = json!({ "agent.delegate": ["**"] });
        let deeper = |input: Value| to("delegator", input, all.clone(), 1);
        let input = deeper(deeper(to("echo", json!(1), json!({}), 1)));
        alice.submit("delegator", input, all.clone()).await;
        let mut seen = Vec::new();
        alice.until_ends(3, &mut seen).await;
        assert_eq!(children(&seen).len(), 2);
        assert_eq!(refusals(&seen), [("child-1", "LEASE_SUBSET_VIOLATION")]);

        let many = to("sleeper", json!({ "ms": 2_000 }), json!({}), 3);
        let job = alice.submit("delegator", many, all.clone()).await;
        let mut seen = Vec::new();
        alice.until_ends(2, &mut seen).await;
        // All three at once: one of them is taken.
        let result = result_of(&seen, &job);
        let refused = refused(&result);
        assert_eq!((refused.len(), children(&seen).len()), (2, 1));
        for child in refused {
            assert_eq!(child["refused"], "INTERNAL_ERROR");
            assert!(
                child["message"]
                    .as_str()
                    .unwrap()
                    .contains("children of this job run"),
                "{child}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn children_made_while_the_session_was_away_are_in_its_stream() {
    on_both(HOSTING, async |runtime, mut alice| {
        let (mut host, of, job) = parent(&runtime, &mut alice).await;
        let (wire, ticket) = (alice.wire(), alice.ticket());
        drop(alice);
        runtime
            .until_metric("arcpd_sessions_attached", |n| n == 0)
            .await;
        host.say(delegate(
            &of,
            "a",
            "ticker",
            json!({ "count": 20, "interval_ms": 1 }),
        ))
        .await;
        host.say(delegate(&of, "b", "echo", json!(2))).await;
        let mut ended = 0;
        while ended < 2 {
            match host.next().await {
                Hear::DelegateResult(made) => assert_eq!(made.code, "", "{made:?}"),
                Hear::ChildEnded(_) => ended += 1,
                other => panic!("{other:?}"),
            }
        }
        host.report(&of, vec![host::result(1, "1")]).await;
        host.acked(1).await;
        let mut back = Client::resume(wire, &runtime, &ticket).await;
        let mut seen = Vec::new();
        back.until_ends(3, &mut seen).await;
        check_numbers(&seen);
        let children = children(&seen);
        assert_eq!(children.len(), 2);
        assert!(seen.iter().any(|heard| heard.job == job && heard.is_end()));
        let ticks = seen.iter().filter(|heard| heard.kind == "progress").count();
        assert_eq!(ticks, 20);
        for (_, child) in &children {
            assert_eq!(
                seen.iter()
                    .filter(|heard| heard.job == *child && heard.is_end())
                    .count(),
                1
            );
        }
        // The same numbers, ids and bodies whenever it is replayed.
        let ticket = back.ticket();
        drop(back);
        let mut again = Client::resume(wire, &runtime, &ticket).await;
        let mut replayed = Vec::new();
        again.until_ends(3, &mut replayed).await;
        assert_eq!(replayed, seen);
    })
    .await;
}

#[tokio::test]
async fn children_end_with_their_parent() {
    on_both(HOSTING, async |runtime, mut alice| {
        let (mut host, of, job) = parent(&runtime, &mut alice).await;
        host.say(delegate(&of, "a", "sleeper", json!({ "ms": 600_000 })))
            .await;
        let child = delegated(&mut host).await;
        host.report(&of, vec![host::result(1, "1")]).await;
        let seen = alice.until_end(&child).await;
        check_numbers(&seen);
        let error = &seen.last().unwrap().body;
        assert_eq!(
            (&error["code"], &error["final_status"]),
            (&json!("CANCELLED"), &json!("cancelled"))
        );
        assert_eq!(error["message"], "the job that delegated it is over");
        assert!(
            seen.iter()
                .any(|heard| heard.job == job && heard.kind == "job.result")
        );
    })
    .await;
}

#[tokio::test]
async fn a_cancel_of_the_parent_reaches_all_below_it() {
    on_both("", async |_runtime, mut alice| {
        let all = json!({ "agent.delegate": ["**"] });
        let sleep = to("sleeper", json!({ "ms": 600_000 }), json!({}), 2);
        let input = to("delegator", sleep, all.clone(), 1);
        let job = alice.submit("delegator", input, all).await;
        let mut seen = alice.until_kind("delegate").await;
        seen.extend(alice.until_kind("delegate").await);
        seen.extend(alice.until_kind("delegate").await);
        alice.cancel(&job, &mut seen).await;
        alice.until_ends(4, &mut seen).await;
        check_numbers(&seen);
        assert_eq!(children(&seen).len(), 3);
        let ends = seen.iter().filter(|heard| heard.is_end());
        for end in ends {
            assert_eq!(end.body["final_status"], "cancelled", "{end:?}");
        }
        let listed = alice.jobs().await;
        assert!(
            listed.iter().all(|job| job["status"] == "cancelled"),
            "{listed:?}"
        );
    })
    .await;
}
