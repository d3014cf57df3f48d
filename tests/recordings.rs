//! The published TypeScript and Go clients, as recorded: what they sent in each
//! scenario is played against a real runtime over WebSocket, every frame that
//! comes back is held against what that client requires of it, and each scenario
//! must end as it did for the client.

mod recorded;
mod support;

use std::collections::HashSet;

use recorded::Sdk;
use recorded::broken::{broken, put};
use recorded::ends::ends;
use recorded::expect::Known;
use recorded::play::{Peer, lines};
use serde_json::{Value, json};

async fn scenario(sdk: Sdk, name: &str) {
    let peers = sdk.play(name).await;
    for (client, ends) in ends(sdk, name) {
        let mut heard = peers[client].heard.iter();
        for end in ends {
            assert!(
                heard.any(|frame| holds(frame, &end)),
                "{client} never heard {end} in its place: {:#?}",
                peers[client].heard
            );
        }
    }
}

/// Whether all members of `part` are in `whole`.
fn holds(whole: &Value, part: &Value) -> bool {
    match part {
        Value::Object(members) => members.iter().all(|(key, part)| {
            let whole = whole.get(key);
            whole.is_some_and(|whole| holds(whole, part))
        }),
        _ => whole == part,
    }
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        const SCENARIOS: &[&str] = &[$(stringify!($name)),*];
        mod typescript {
            $(#[tokio::test]
            async fn $name() {
                super::scenario(super::Sdk::TypeScript, stringify!($name)).await;
            })*
        }
        mod go {
            $(#[tokio::test]
            async fn $name() {
                super::scenario(super::Sdk::Go, stringify!($name)).await;
            })*
        }
    };
}

scenarios! {
    connect bad_token submit ticker word_count chunks_text chunks_base64 chunks_big failing
    unknown_agent unknown_version cancel timeout list subscribe unsubscribe subscribe_unknown
    resume resume_cancel resume_refused ping_ack idempotency idempotency_live close
}

#[test]
fn every_recorded_scenario_is_played() {
    for sdk in [Sdk::TypeScript, Sdk::Go] {
        let mut names: Vec<String> = lines(sdk.recording())
            .into_iter()
            .map(|l| l.scenario)
            .collect();
        names.sort();
        names.dedup();
        let mut played = SCENARIOS.to_vec();
        played.sort();
        assert_eq!(names, played);
    }
}

/// Real frames of every type, each with what its client knew.
async fn samples(sdk: Sdk) -> Vec<(Value, Known)> {
    let mut samples = Vec::new();
    let scenarios = [
        "word_count",
        "chunks_text",
        "list",
        "subscribe",
        "cancel",
        "failing",
        "unknown_agent",
        "bad_token",
        "subscribe_unknown",
        "ping_ack",
    ];
    for name in scenarios {
        for mut peer in sdk.play(name).await.into_values() {
            for frame in std::mem::take(&mut peer.heard) {
                let known = peer.known.clone();
                samples.push((frame, known));
            }
        }
    }
    let (refused, known) = samples
        .iter()
        .find(|(f, _)| f["type"] == "session.error")
        .unwrap();
    let (mut refused, known) = (refused.clone(), known.clone());
    refused["payload"]["code"] = "INTERNAL_ERROR".into();
    refused["payload"]["retryable"] = true.into();
    samples.push((refused, known));
    samples
}

async fn every_rule_can_fail(sdk: Sdk) {
    let expect = sdk.expect();
    let mut tried = HashSet::new();
    for (frame, known) in samples(sdk).await {
        assert_eq!(expect.complaints(&frame, &known), Vec::<String>::new());
        for broken in broken(&expect, &frame) {
            let complaints = expect.complaints(&broken.frame, &known);
            let noticed = complaints.iter().any(|text| text.contains(&broken.path));
            assert!(noticed, "{} {}: {}", broken.path, broken.rule, broken.frame);
            tried.insert((broken.path, broken.rule.to_string()));
        }
    }
    let rules = expect
        .frames
        .values()
        .chain(expect.when.iter().map(|when| &when.then));
    for (path, rule) in rules.flatten() {
        let rule = (path.clone(), rule.to_string());
        assert!(tried.contains(&rule), "{rule:?}: no frame to break it in");
    }
}

#[tokio::test]
async fn every_rule_of_the_typescript_client_can_fail() {
    every_rule_can_fail(Sdk::TypeScript).await;
}

#[tokio::test]
async fn every_rule_of_the_go_client_can_fail() {
    every_rule_can_fail(Sdk::Go).await;
}

#[tokio::test]
async fn what_is_known_to_hang_a_client_is_noticed() {
    let (both, ts) = (&[Sdk::TypeScript, Sdk::Go][..], &[Sdk::TypeScript][..]);
    let go = &[Sdk::Go][..];
    let cases = [
        (
            ts,
            "session.welcome",
            "payload.capabilities.agents[].versions",
            None,
        ),
        (
            ts,
            "session.welcome",
            "payload.capabilities.agents[].default",
            Some(json!(null)),
        ),
        (
            both,
            "session.welcome",
            "payload.heartbeat_interval_sec",
            Some(json!(1.5)),
        ),
        (ts, "session.error", "session_id", None),
        (go, "session.error", "payload.request_id", None),
        (ts, "job.accepted", "payload.lease", None),
        (
            ts,
            "job.accepted",
            "payload.parent_job_id",
            Some(json!(null)),
        ),
        (
            both,
            "job.accepted",
            "payload.budget",
            Some(json!({ "USD": "USD:5.00" })),
        ),
        (
            go,
            "job.accepted",
            "payload.accepted_at",
            Some(json!("now")),
        ),
        (ts, "session.jobs", "payload.next_cursor", None),
        (ts, "session.jobs", "payload.jobs[].last_event_seq", None),
        (
            ts,
            "session.jobs",
            "payload.jobs[].trace_id",
            Some(json!(null)),
        ),
        (both, "job.subscribed", "payload.replayed", Some(json!(1))),
        (ts, "job.cancelled", "event_seq", Some(json!(4))),
        (ts, "job.error", "payload.code", Some(json!("TEAPOT"))),
        (ts, "job.error", "payload.details", Some(json!(null))),
        (ts, "job.error", "payload.message", Some(json!(""))),
        (
            ts,
            "job.event",
            "trace_id",
            Some(json!("4BF92F3577B34DA6A3CE929D0E0E4736")),
        ),
    ];
    for sdk in [Sdk::TypeScript, Sdk::Go] {
        let (expect, samples) = (sdk.expect(), samples(sdk).await);
        let breaks = |kind: &str, path: &str, new: &Option<Value>| {
            let mut of_kind = samples.iter().filter(|(frame, _)| frame["type"] == kind);
            of_kind.any(|(frame, known)| {
                let mut frame = frame.clone();
                put(&mut frame, path, new.clone()) && !expect.complaints(&frame, known).is_empty()
            })
        };
        for (whose, kind, path, new) in &cases {
            assert_eq!(
                breaks(kind, path, new),
                whose.contains(&sdk),
                "{kind} {path}"
            );
        }
        // The inline result has a name for each.
        for (name, whose) in [("payload.result", ts), ("payload.output", go)] {
            assert_eq!(
                breaks("job.result", name, &None),
                whose.contains(&sdk),
                "{name}"
            );
        }
    }
}

#[test]
fn what_is_out_of_order_is_noticed() {
    let expect = Sdk::TypeScript.expect();
    let accepted = |request: &str, job: &str| {
        json!({ "arcp": "1.1", "id": "x", "type": "job.accepted", "session_id": "s", "job_id": job,
            "payload": { "request_id": request, "job_id": job, "lease": {}, "accepted_at": "now" } })
    };
    let event = |job: &str, event_seq: u64| {
        json!({ "arcp": "1.1", "id": "x", "type": "job.event", "session_id": "s", "job_id": job,
            "event_seq": event_seq, "payload": { "kind": "thought", "ts": "now", "body": {} } })
    };
    let refused = json!({ "arcp": "1.1", "id": "x", "type": "session.error", "session_id": "s",
        "payload": { "code": "INVALID_REQUEST", "message": "m", "retryable": false } });
    let play = |frames: &[Value]| {
        let mut peer = Peer::default();
        peer.submitted("one");
        peer.submitted("two");
        let found = frames.iter().flat_map(|frame| peer.receive(&expect, frame));
        found.collect::<Vec<_>>().join("; ")
    };
    let (one, two) = (accepted("one", "job_1"), accepted("two", "job_2"));
    assert_eq!(
        play(&[
            one.clone(),
            event("job_1", 1),
            two.clone(),
            event("job_2", 2)
        ]),
        ""
    );
    assert!(play(&[two, one.clone()]).contains("older submit"));
    assert!(play(&[event("job_1", 1), one.clone()]).contains("known job"));
    assert!(play(&[one.clone(), event("job_1", 1), event("job_1", 3)]).contains("a gap before 3"));
    assert!(play(&[one, refused]).contains("ends every handle"));
}
