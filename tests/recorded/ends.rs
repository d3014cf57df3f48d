//! How each scenario must have ended for its clients.

use serde_json::{Value, json};

use super::Sdk;

/// What each client must have heard, in this order, whatever else came between.
pub fn ends(sdk: Sdk, name: &str) -> Vec<(&'static str, Vec<Value>)> {
    let ticked = |count| ticks(1..=count).chain([result(json!({ "ticks": count }))]);
    let refused = |code| sdk.refused(code);
    let a = match name {
        "connect" => vec![json!({ "type": "session.welcome" })],
        "bad_token" => {
            vec![json!({ "type": "session.error", "payload": { "code": "UNAUTHENTICATED" } })]
        }
        "submit" => vec![
            result(json!({ "n": [1, "zwei", null] })),
            result(json!(null)),
        ],
        "ticker" => ticked(5).collect(),
        "word_count" => vec![
            event("progress"),
            event("tool_call"),
            event("tool_result"),
            json!({ "payload": { "result": { "words": 6 } } }),
        ],
        "chunks_text" | "chunks_base64" => vec![event("result_chunk"), chunked(1_000)],
        "chunks_big" => vec![chunked(5_000_000), chunked(5_000_000)],
        "failing" => vec![
            error("error", "PERMISSION_DENIED"),
            error("error", "INTERNAL_ERROR"),
            error("error", "INVALID_REQUEST"),
            error("error", "BUDGET_EXHAUSTED"),
            error("error", "LEASE_EXPIRED"),
            json!({ "payload": { "code": "INTERNAL_ERROR", "retryable": true } }),
            json!({ "payload": { "code": "BUDGET_EXHAUSTED", "retryable": false } }),
            error("error", "INVALID_REQUEST"),
        ],
        "unknown_agent" => vec![
            refused("AGENT_NOT_AVAILABLE"),
            refused("INVALID_REQUEST"),
            result(json!({ "ticks": 6 })),
            result(json!(1)),
        ],
        "unknown_version" => vec![
            refused("AGENT_VERSION_NOT_AVAILABLE"),
            result(json!({ "ticks": 6 })),
        ],
        "cancel" => vec![
            json!({ "type": "job.cancelled", "payload": { "reason": "enough" } }),
            error("cancelled", "CANCELLED"),
        ],
        "timeout" => vec![error("timed_out", "TIMEOUT")],
        "list" => vec![
            json!({ "payload": { "next_cursor": null } }),
            json!({ "payload": { "jobs": [], "next_cursor": null } }),
            error("cancelled", "CANCELLED"),
        ],
        "subscribe" => {
            let again =
                json!({ "type": "job.subscribed", "payload": { "current_status": "success" } });
            let first =
                json!({ "type": "job.subscribed", "payload": { "current_status": "running" } });
            let observer = [first].into_iter().chain(ticked(8)).chain([again]);
            let observer = observer
                .chain(ticks(3..=8))
                .chain([result(json!({ "ticks": 8 }))]);
            return vec![("a", ticked(8).collect()), ("b", observer.collect())];
        }
        "unsubscribe" => {
            let list = json!({ "type": "session.jobs" });
            return vec![
                ("a", ticked(10).collect()),
                ("b", vec![event("progress"), list.clone(), list]),
            ];
        }
        "subscribe_unknown" => vec![
            json!({ "type": "session.error", "payload": { "code": "JOB_NOT_FOUND" } }),
            json!({ "type": "job.result" }),
        ],
        "resume" => {
            let welcome = json!({ "type": "session.welcome" });
            let all = [welcome.clone(), event("progress"), welcome].into_iter();
            all.chain([result(json!({ "ticks": 10 }))]).collect()
        }
        "resume_cancel" if sdk == Sdk::TypeScript => vec![error("cancelled", "CANCELLED")],
        // This client has no handle after a resume, so nothing to cancel with.
        "resume_cancel" => vec![json!({ "payload": { "current_status": "running" } })],
        "resume_refused" => {
            vec![json!({ "type": "session.error", "payload": { "code": "RESUME_WINDOW_EXPIRED" } })]
        }
        "ping_ack" => ticked(7)
            .chain([json!({ "type": "session.ping" }), result(json!("alive"))])
            .collect(),
        "idempotency" => {
            let kept = || result(json!({ "a": 1, "b": 2 }));
            if sdk == Sdk::Go {
                let own = vec![kept(), refused("DUPLICATE_KEY"), result(json!(4))];
                return vec![("a", own), ("b", vec![kept()])];
            }
            vec![kept(), kept(), refused("DUPLICATE_KEY"), result(json!(3))]
        }
        "idempotency_live" => vec![refused("DUPLICATE_KEY"), result(json!({ "ticks": 6 }))],
        "close" => vec![result(json!(1))],
        _ => panic!("{name}: no such scenario"),
    };
    vec![("a", a)]
}

fn result(value: Value) -> Value {
    json!({ "type": "job.result", "payload": { "final_status": "success", "result": value, "output": value } })
}

fn chunked(bytes: usize) -> Value {
    json!({ "type": "job.result", "payload": { "result_size": bytes, "summary": format!("{bytes} bytes") } })
}

fn error(status: &str, code: &str) -> Value {
    json!({ "type": "job.error", "payload": { "final_status": status, "code": code } })
}

fn ticks(numbers: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Value> {
    numbers.map(|n| json!({ "payload": { "kind": "progress", "body": { "current": n } } }))
}

fn event(kind: &str) -> Value {
    json!({ "type": "job.event", "payload": { "kind": kind } })
}
