//! One test for each place where the draft and its four SDKs read a message
//! differently: what this runtime sends must suit all of them, and it must take
//! what each of them sends. JSON over WebSocket, against a real process.

mod support;

use serde_json::{Value, json};
use support::ws::{Ws, hello, python_hello, seqs};
use support::{ALICE, BOB, Runtime};

fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    (dir, runtime)
}

/// A runtime with an agent that prints the given lines.
fn with_lines(lines: &[&str]) -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let toml = format!(
        "[[agent]]\nname = \"lines\"\ncommand = [\"cat\", {:?}]",
        path.to_str().unwrap()
    );
    let runtime = Runtime::start_with(dir.path(), &toml);
    (dir, runtime)
}

/// The paths of all null members of a frame.
fn nulls(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Null => found.push(path.into()),
        Value::Object(members) => {
            for (key, value) in members {
                nulls(&format!("{path}.{key}"), value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| nulls(path, item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn row_01_a_session_opens_with_hello_and_nothing_else() {
    let (_dir, runtime) = start();
    let mut ws = Ws::dial(&runtime).await;
    ws.say("session.open", json!({})).await;
    let refused = ws.hear().await;
    assert_eq!(refused["type"], "session.error");
    assert_eq!(refused["payload"]["code"], "INVALID_REQUEST");
    assert!(
        ws.try_hear().await.is_none(),
        "and the connection is closed"
    );
}

#[tokio::test]
async fn row_02_a_welcome_repeats_the_session_id_in_its_payload() {
    let (_dir, runtime) = start();
    let mut ws = Ws::dial(&runtime).await;
    ws.send(&hello("h", ALICE, json!({})).to_string()).await;
    let welcome = ws.hear().await;
    assert_eq!(welcome["payload"]["session_id"], welcome["session_id"]);
    let at = welcome["payload"]["accepted_at"].as_str().unwrap();
    assert!(at.ends_with('Z') && at.parse::<jiff::Timestamp>().is_ok());
    assert!(welcome["payload"]["resume_window_sec"].as_u64().unwrap() > 0);
    assert!(
        welcome["payload"]["heartbeat_interval_sec"]
            .as_u64()
            .unwrap()
            > 0
    );
}

#[tokio::test]
async fn row_03_agents_are_objects_with_versions_and_a_default() {
    let (_dir, runtime) = start();
    let mut ws = Ws::dial(&runtime).await;
    ws.send(&hello("h", ALICE, json!({})).to_string()).await;
    let welcome = ws.hear().await;
    let agents = welcome["payload"]["capabilities"]["agents"]
        .as_array()
        .unwrap();
    assert!(agents.len() >= 8);
    for agent in agents {
        assert!(
            agent["name"].is_string() && agent["default"].is_string(),
            "{agent}"
        );
        assert!(!agent["versions"].as_array().unwrap().is_empty(), "{agent}");
    }
    let features = welcome["payload"]["capabilities"]["features"]
        .as_array()
        .unwrap();
    assert!(
        !features.contains(&json!("provisioned_credentials")),
        "what is not there is not promised"
    );
}

#[tokio::test]
async fn row_04_a_refused_handshake_names_a_session() {
    let (_dir, runtime) = start();
    let mut ws = Ws::dial(&runtime).await;
    ws.send(&hello("my-hello", "wrong", json!({})).to_string())
        .await;
    let refused = ws.hear().await;
    assert!(refused["session_id"].as_str().unwrap().starts_with("sess_"));
    assert_eq!(refused["payload"]["request_id"], "my-hello");
    assert_eq!(refused["payload"]["code"], "UNAUTHENTICATED");
    assert!(ws.try_hear().await.is_none());
}

#[tokio::test]
async fn row_05_both_carriers_of_a_resume_are_taken() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("ticker", json!({ "count": 3, "interval_ms": 1 }))
        .await;
    assert_eq!(seqs(&ws.until_terminal().await), [1, 2, 3, 4]);
    let (session, token) = (ws.session_id.clone(), ws.resume_token.clone());
    drop(ws);
    let resume = json!({ "session_id": session, "resume_token": token, "last_event_seq": 2 });
    let mut ws = Ws::open(&runtime, hello("h", ALICE, json!({ "resume": resume }))).await;
    assert_eq!(seqs(&ws.until_terminal().await), [3, 4]);
    let token = ws.resume_token.clone();
    drop(ws);
    // The draft's message has neither a session id nor a token of its own.
    let url = format!("ws://{}/arcp", runtime.address);
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url)
            .unwrap();
    let bearer = format!("Bearer {ALICE}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let mut ws = Ws::on(socket);
    let message = json!({ "arcp": "1.1", "id": "r", "type": "session.resume",
        "payload": { "resume_token": token, "last_event_seq": 3 } });
    ws.send(&message.to_string()).await;
    let welcome = ws.hear().await;
    assert_eq!(welcome["type"], "session.welcome", "{welcome}");
    assert_eq!(welcome["session_id"], session);
    assert_eq!(seqs(&ws.until_terminal().await), [4]);
}

#[tokio::test]
async fn row_06_a_close_is_answered_and_a_bye_is_not() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.say("session.close", json!({ "reason": "done" })).await;
    assert_eq!(ws.hear().await["type"], "session.closed");
    assert!(ws.try_hear().await.is_none());
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.say("session.bye", json!({ "reason": "done" })).await;
    assert!(ws.try_hear().await.is_none());
}

#[tokio::test]
async fn row_07_every_id_is_a_ulid_of_its_own() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("ticker", json!({ "count": 5, "interval_ms": 0 }))
        .await;
    let mut ids: Vec<_> = ws
        .until_terminal()
        .await
        .iter()
        .map(|f| f["id"].clone())
        .collect();
    ids.push(ws.submit("echo", json!(1)).await["id"].clone());
    for id in &ids {
        assert!(id.as_str().unwrap().parse::<ulid::Ulid>().is_ok(), "{id}");
    }
    ids.sort_by_key(|id| id.to_string());
    ids.dedup();
    assert_eq!(ids.len(), 7);
}

#[tokio::test]
async fn row_08_nothing_is_null_but_what_may_be() {
    let (_dir, runtime) = start();
    let mut ws = Ws::dial(&runtime).await;
    ws.send(&hello("h", ALICE, json!({})).to_string()).await;
    let mut frames = vec![ws.hear().await];
    ws.session_id = frames[0]["session_id"].as_str().unwrap().into();
    ws.say(
        "job.submit",
        json!({ "agent": "word-count", "input": { "text": "a b" } }),
    )
    .await;
    let accepted = ws.hear().await;
    let job = accepted["job_id"].as_str().unwrap().to_owned();
    frames.push(accepted);
    frames.extend(ws.until_terminal().await);
    ws.say("session.list_jobs", json!({ "cursor": null })).await;
    ws.say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    ws.say("job.submit", json!({ "agent": "nobody" })).await;
    frames.extend(ws.ping().await);
    let mut found = Vec::new();
    for frame in &frames {
        nulls(frame["type"].as_str().unwrap(), frame, &mut found);
    }
    found.sort();
    found.dedup();
    let allowed = [
        "job.subscribed.payload.parent_job_id",
        "session.jobs.payload.jobs.parent_job_id",
        "session.jobs.payload.next_cursor",
    ];
    assert_eq!(found, allowed);
}

#[tokio::test]
async fn row_09_10_11_accepted_names_agent_lease_and_request_and_promises_no_budget() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let id = ws
        .say(
            "job.submit",
            json!({ "agent": "report", "input": { "bytes": 1, "chunk_bytes": 1 } }),
        )
        .await;
    let accepted = ws.hear_type("job.accepted").await;
    let payload = &accepted["payload"];
    assert_eq!(payload["agent"], "report@2.0.0");
    assert_eq!(payload["lease"], json!({}));
    assert_eq!(payload["request_id"], *id);
    assert_eq!(payload["job_id"], accepted["job_id"]);
    assert!(payload.get("budget").is_none() && payload.get("credentials").is_none());
    assert!(accepted.get("event_seq").is_none());
}

#[tokio::test]
async fn row_12_13_a_result_has_both_names_and_a_time() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("echo", json!({ "n": 9007199254740993u64 })).await;
    let end = ws.until_terminal().await.pop().unwrap();
    assert_eq!(end["payload"]["result"]["n"], 9007199254740993u64);
    assert_eq!(end["payload"]["output"], end["payload"]["result"]);
    assert!(end["payload"]["completed_at"].is_string());
    assert_eq!(end["payload"]["final_status"], "success");
    ws.submit("failer", json!({ "code": "TIMEOUT", "message": "m" }))
        .await;
    let end = ws.until_terminal().await.pop().unwrap();
    assert!(end["payload"]["completed_at"].is_string());
}

#[tokio::test]
async fn row_14_a_cancelled_job_ends_as_each_peer_can_read_it() {
    let (_dir, runtime) = start();
    for (hello, status) in [
        (hello("h", ALICE, json!({})), "cancelled"),
        (
            hello("msg_01ARZ3NDEKTSV4RRFFQ69G5FAV", ALICE, json!({})),
            "cancelled",
        ),
        (python_hello(ALICE), "error"),
    ] {
        let mut ws = Ws::open(&runtime, hello).await;
        let job = ws.submit("sleeper", json!({ "ms": 600_000 })).await["job_id"].clone();
        ws.say_about(
            job.as_str().unwrap(),
            "job.cancel",
            json!({ "reason": "r" }),
        )
        .await;
        let end = ws.until_terminal().await.pop().unwrap();
        assert_eq!(end["type"], "job.error");
        assert_eq!(end["payload"]["code"], "CANCELLED");
        assert_eq!(end["payload"]["final_status"], status);
    }
}

#[tokio::test]
async fn row_15_a_refused_submit_hurts_no_other_handle() {
    let (_dir, runtime) = start();
    // The draft and Go: a session.error that names the request.
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let id = ws.say("job.submit", json!({ "agent": "nobody" })).await;
    let refused = ws.hear().await;
    assert_eq!(
        (&refused["type"], &refused["payload"]["request_id"]),
        (&json!("session.error"), &json!(id))
    );
    // TypeScript: a job.error of a job nobody has, with the submit's trace.
    let mut ws = Ws::open(
        &runtime,
        hello("msg_01ARZ3NDEKTSV4RRFFQ69G5FAV", ALICE, json!({})),
    )
    .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut submit = ws.envelope("job.submit", json!({ "agent": "nobody" }));
    submit["trace_id"] = trace.into();
    ws.send(&submit.to_string()).await;
    let refused = ws.hear().await;
    assert_eq!(
        (&refused["type"], &refused["trace_id"]),
        (&json!("job.error"), &json!(trace))
    );
    assert!(refused.get("event_seq").is_none() && refused["job_id"].is_string());
    // Python: the same as the draft while alone, else accepted and refused.
    let mut ws = Ws::open(&runtime, python_hello(ALICE)).await;
    ws.say("job.submit", json!({ "agent": "nobody" })).await;
    assert_eq!(ws.hear().await["type"], "session.error");
    ws.submit("sleeper", json!({ "ms": 600_000 })).await;
    ws.say("job.submit", json!({ "agent": "nobody" })).await;
    let (accepted, refused) = (ws.hear().await, ws.hear().await);
    assert_eq!(
        (&accepted["type"], &refused["type"]),
        (&json!("job.accepted"), &json!("job.error"))
    );
    assert_eq!(accepted["job_id"], refused["job_id"]);
    // None of them left a job behind.
    ws.say("session.list_jobs", json!({})).await;
    let jobs = ws.hear_type("session.jobs").await;
    assert_eq!(jobs["payload"]["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn row_16_a_session_error_names_its_request_and_a_cancel_to_an_sdk_is_silent() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let id = ws.say_about("job_none", "job.cancel", json!({})).await;
    let error = ws.hear().await;
    assert_eq!(error["payload"]["request_id"], *id);
    assert_eq!(error["payload"]["job_id"], "job_none");
    let mut ws = Ws::open(&runtime, python_hello(ALICE)).await;
    ws.say_about("job_none", "job.cancel", json!({ "reason": "" }))
        .await;
    assert_eq!(ws.ping().await, Vec::<Value>::new());
}

#[tokio::test]
async fn row_17_a_listed_job_has_the_members_of_all_sdks() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("ticker", json!({ "count": 3, "interval_ms": 0 }))
        .await;
    ws.until_terminal().await;
    let id = ws
        .say(
            "session.list_jobs",
            json!({ "filter": { "agent": "ticker" } }),
        )
        .await;
    let jobs = ws.hear_type("session.jobs").await;
    assert_eq!(jobs["payload"]["request_id"], *id);
    assert!(
        jobs["payload"]
            .as_object()
            .unwrap()
            .contains_key("next_cursor")
    );
    let job = &jobs["payload"]["jobs"][0];
    assert_eq!(
        (&job["agent"], &job["status"]),
        (&json!("ticker@1.0.0"), &json!("success"))
    );
    assert_eq!(
        (&job["lease"], &job["last_event_seq"]),
        (&json!({}), &json!(4))
    );
    assert_eq!(job["created_at"], job["submitted_at"]);
    assert_eq!(job["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn row_18_19_subscribed_comes_first_and_names_its_request() {
    let (_dir, runtime) = start();
    let mut owner = Ws::connect(&runtime, ALICE).await;
    let job = owner
        .submit("ticker", json!({ "count": 5, "interval_ms": 0 }))
        .await["job_id"]
        .clone();
    owner.until_terminal().await;
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let id = ws
        .say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    let subscribed = ws.hear().await;
    assert_eq!(subscribed["type"], "job.subscribed");
    let payload = &subscribed["payload"];
    assert_eq!(
        (&payload["request_id"], &payload["replayed"]),
        (&json!(id), &json!(true))
    );
    assert_eq!(
        (&payload["current_status"], &payload["agent"]),
        (&json!("success"), &json!("ticker@1.0.0"))
    );
    assert_eq!(
        (&payload["lease"], &payload["subscribed_from"]),
        (&json!({}), &json!(0))
    );
    assert_eq!(seqs(&ws.until_terminal().await), [1, 2, 3, 4, 5, 6]);
    // Python loses what comes before its call returned: a ping first, its pong, then history.
    let mut ws = Ws::open(&runtime, python_hello(ALICE)).await;
    ws.say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    assert_eq!(ws.hear().await["type"], "job.subscribed");
    let ping = ws.hear().await;
    assert_eq!(ping["type"], "session.ping");
    let answer = json!({ "ping_nonce": ping["payload"]["nonce"], "received_at": "" });
    ws.say("session.pong", answer).await;
    assert_eq!(seqs(&ws.until_terminal().await), [1, 2, 3, 4, 5, 6]);
    // One that never answers gets its history too, a little later.
    ws.say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    assert_eq!(seqs(&ws.until_terminal().await), [7, 8, 9, 10, 11, 12]);
}

#[tokio::test]
async fn row_20_no_frame_reaches_a_million_bytes() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    // Grows six times when escaped, and goes out twice.
    let input = "\u{1}".repeat(60_000);
    ws.submit("echo", json!(input)).await;
    let mut data = String::new();
    for frame in ws.until_terminal().await {
        assert!(frame.to_string().len() < 1_000_000);
        if let Some(chunk) = frame["payload"]["body"]["data"].as_str() {
            data += chunk;
        }
        if let Some(result) = frame["payload"].get("result") {
            data = result.to_string();
        }
    }
    assert_eq!(serde_json::from_str::<String>(&data).unwrap(), input);
    ws.submit(
        "report@1.0.0",
        json!({ "bytes": 1_200_000, "chunk_bytes": 9_999_999 }),
    )
    .await;
    let seen = ws.until_terminal().await;
    assert!(seen.len() > 3 && seen.iter().all(|frame| frame.to_string().len() < 1_000_000));
}

#[tokio::test]
async fn row_21_a_trace_id_is_kept_or_made_and_always_32_hex() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let given = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (sent, kept) in [
        (json!(given), Some(given)),
        (
            json!(format!("00-{given}-00f067aa0ba902b7-01")),
            Some(given),
        ),
        (json!("not hex"), None),
        (json!("0".repeat(32)), None),
        (Value::Null, None),
    ] {
        let mut submit = ws.envelope("job.submit", json!({ "agent": "echo", "input": 1 }));
        submit["trace_id"] = sent;
        ws.send(&submit.to_string()).await;
        let accepted = ws.hear_type("job.accepted").await;
        let trace = accepted["trace_id"].as_str().unwrap();
        assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(kept.is_none_or(|kept| kept == trace));
        let end = ws.until_terminal().await.pop().unwrap();
        assert_eq!(end["trace_id"], trace);
        assert_eq!(accepted["payload"]["trace_id"], trace);
    }
}

#[tokio::test]
async fn row_22_23_34_errors_have_one_of_fifteen_codes_and_say_whether_to_retry() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    for code in arcpd::protocol::ErrorCode::ALL {
        ws.submit("failer", json!({ "code": code.as_str(), "message": "m" }))
            .await;
        let end = ws.until_terminal().await.pop().unwrap();
        let payload = &end["payload"];
        assert_eq!(payload["code"], code.as_str());
        let retryable = matches!(code.as_str(), "INTERNAL_ERROR" | "TIMEOUT");
        assert_eq!(payload["retryable"], retryable, "{payload}");
        assert!(payload.get("details").is_none());
    }
    // An agent's own code is none of them, and an empty message says nothing.
    for input in [
        json!({ "code": "TEAPOT", "message": "m" }),
        json!({ "code": "TIMEOUT", "message": "" }),
    ] {
        ws.submit("failer", input).await;
        let end = ws.until_terminal().await.pop().unwrap();
        assert!(
            !end["payload"]["message"].as_str().unwrap().is_empty(),
            "{end}"
        );
    }
}

#[tokio::test]
async fn row_22_an_agent_cannot_say_of_an_error_what_no_client_would_read() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    for (code, said, sent) in [
        ("INTERNAL_ERROR", false, true),
        ("LEASE_EXPIRED", true, false),
        ("BUDGET_EXHAUSTED", true, false),
        ("PERMISSION_DENIED", true, true),
        ("TIMEOUT", false, false),
    ] {
        let input = json!({ "code": code, "message": "m", "retryable": said });
        ws.submit("failer", input).await;
        let end = ws.until_terminal().await.pop().unwrap();
        assert_eq!(end["payload"]["retryable"], sent, "{end}");
    }
}

#[tokio::test]
async fn row_24_36_a_cancel_is_found_in_envelope_or_payload_and_its_answer_has_no_number() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    for in_envelope in [true, false] {
        let job = ws.submit("sleeper", json!({ "ms": 600_000 })).await["job_id"].clone();
        let mut cancel = ws.envelope("job.cancel", json!({ "reason": "enough" }));
        match in_envelope {
            true => cancel["job_id"] = job.clone(),
            false => cancel["payload"]["job_id"] = job.clone(),
        }
        ws.send(&cancel.to_string()).await;
        let cancelled = ws.hear_type("job.cancelled").await;
        assert!(cancelled.get("event_seq").is_none());
        assert_eq!(
            (&cancelled["job_id"], &cancelled["payload"]["job_id"]),
            (&job, &job)
        );
        assert_eq!(cancelled["payload"]["reason"], "enough");
        assert_eq!(
            ws.until_terminal().await.pop().unwrap()["payload"]["code"],
            "CANCELLED"
        );
    }
}

#[tokio::test]
async fn row_25_26_28_bodies_have_the_members_of_all_sdks() {
    let (_dir, runtime) = with_lines(&[
        r#"{"kind":"metric","body":{"name":"cost.x","value":2,"unit":"USD","dimensions":{"a":"b"}}}"#,
        r#"{"kind":"log","body":{"level":"WARN","message":"m","attributes":{"k":1}}}"#,
        r#"{"kind":"status","body":{"phase":"warm","details":{"id":"x","value":"v"}}}"#,
        r#"{"kind":"progress","body":{"current":1,"total":3}}"#,
        r#"{"kind":"tool_result","body":{"call_id":"c","error":{"code":"X","message":"m"}}}"#,
    ]);
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("lines", json!(null)).await;
    let seen = ws.until_terminal().await;
    let body = |index: usize| &seen[index]["payload"]["body"];
    assert_eq!(body(0)["dims"], json!({ "a": "b" }));
    assert_eq!(body(0)["dimensions"], json!({ "a": "b" }));
    assert!(body(0)["value"].is_u64());
    assert_eq!(
        (&body(1)["level"], &body(1)["attributes"]["k"]),
        (&json!("warn"), &json!(1))
    );
    assert_eq!(
        (&body(2)["id"], &body(2)["details"]["value"]),
        // That a credential was rotated is the runtime's to say: `credentials_rotated.rs`.
        (&json!(null), &json!("v"))
    );
    assert!(body(3)["current"].is_u64() && body(3)["total"].is_u64());
    assert!(body(4).get("result").is_none() && body(4)["error"]["code"] == "X");
}

#[tokio::test]
async fn row_27_33_a_child_job_is_never_accepted_to_somebody_who_did_not_ask() {
    // Its lease lets it delegate nothing: that is a result in its stream, and nobody
    // receives an acceptance that they did not ask for.
    let (_dir, runtime) =
        with_lines(&[r#"{"kind":"delegate","body":{"delegate_id":"d","agent":"echo","input":1}}"#]);
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("lines", json!(null)).await;
    let seen = ws.until_terminal().await;
    let body = &seen[0]["payload"]["body"];
    assert_eq!(
        (&body["call_id"], &body["error"]["code"]),
        (&json!("d"), &json!("PERMISSION_DENIED"))
    );
    assert_eq!(ws.ping().await, Vec::<Value>::new());
}

#[tokio::test]
async fn row_29_a_lease_that_cannot_be_kept_is_refused_by_its_field() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    for extra in [
        json!({ "lease_request": { "cost.budget": ["USD:NaN"] } }),
        json!({ "lease_request": { "fs.read": ["/w/../etc"] } }),
        json!({ "lease_request": { "shell.exec": ["*"] } }),
        json!({ "lease_constraints": { "expires_at": "2020-01-01T00:00:00Z" } }),
    ] {
        let mut payload = json!({ "agent": "echo", "input": 1 });
        payload
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        ws.say("job.submit", payload).await;
        let refused = ws.hear().await;
        assert_eq!(refused["payload"]["code"], "INVALID_REQUEST", "{refused}");
        assert!(
            refused["payload"]["message"]
                .as_str()
                .unwrap()
                .contains("lease_")
        );
    }
}

#[tokio::test]
async fn row_30_all_chunks_of_a_result_have_one_encoding() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    for (agent, encoding) in [("report@1.0.0", "utf8"), ("report@2.0.0", "base64")] {
        for bytes in [0, 1000, 1001] {
            ws.submit(agent, json!({ "bytes": bytes, "chunk_bytes": 100 }))
                .await;
            let mut seen = ws.until_terminal().await;
            let end = seen.pop().unwrap();
            assert_eq!(end["payload"]["result_size"], bytes);
            assert!(end["payload"].get("result").is_none());
            let last = seen.len() - 1;
            for (index, frame) in seen.iter().enumerate() {
                let body = &frame["payload"]["body"];
                assert_eq!(
                    (&body["encoding"], &body["chunk_seq"]),
                    (&json!(encoding), &json!(index))
                );
                assert_eq!(body["more"], index != last);
                assert_eq!(body["result_id"], end["payload"]["result_id"]);
            }
        }
    }
}

#[tokio::test]
async fn row_31_an_unknown_type_is_refused_unless_a_vendor_calls_it_optional() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    for (kind, optional, refused) in [
        ("session.nonsense", true, true),
        ("job.nonsense", false, true),
        ("x-vendor.acme.hint", false, true),
        ("x-vendor.acme.hint", true, false),
        ("x-vendor.acme", true, true),
        ("x-vendor.Acme.hint", true, true),
        ("tool.invoke", false, true),
    ] {
        let mut envelope = ws.envelope(kind, json!({}));
        envelope["extensions"] = json!({ "optional": optional });
        ws.send(&envelope.to_string()).await;
        let before = ws.ping().await;
        assert_eq!(before.len(), usize::from(refused), "{kind}: {before:?}");
        if refused {
            assert_eq!(before[0]["payload"]["code"], "INVALID_REQUEST");
            assert_eq!(before[0]["payload"]["details"]["type"], kind);
        }
    }
}

#[tokio::test]
async fn row_32_every_impossible_resume_has_one_answer() {
    let (_dir, runtime) = start();
    let ws = Ws::connect(&runtime, ALICE).await;
    let (session, token) = (ws.session_id.clone(), ws.resume_token.clone());
    drop(ws);
    for (principal, session, token, last) in [
        (ALICE, "sess_01ARZ3NDEKTSV4RRFFQ69G5FAV", &*token, 0),
        (ALICE, &*session, "rt_wrong", 0),
        (BOB, &*session, &*token, 0),
        (ALICE, &*session, &*token, 1),
        (ALICE, &*session, &*token, u64::MAX),
    ] {
        let resume =
            json!({ "session_id": session, "resume_token": token, "last_event_seq": last });
        let mut ws = Ws::dial(&runtime).await;
        ws.send(&hello("h", principal, json!({ "resume": resume })).to_string())
            .await;
        let refused = ws.hear().await;
        assert_eq!(
            refused["payload"]["code"], "RESUME_WINDOW_EXPIRED",
            "{refused}"
        );
        assert_eq!(refused["session_id"], session);
    }
    // None of it cost the session anything.
    let resume = json!({ "session_id": session, "resume_token": token, "last_event_seq": 0 });
    Ws::open(&runtime, hello("h", ALICE, json!({ "resume": resume }))).await;
}

#[tokio::test]
async fn row_35_the_first_event_is_the_agents_own() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("ticker", json!({ "count": 1, "interval_ms": 0 }))
        .await;
    let seen = ws.until_terminal().await;
    assert_eq!(seen[0]["payload"]["kind"], "progress");
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_feature_that_was_not_negotiated_is_not_used_and_leaves_no_gap() {
    let (_dir, runtime) = start();
    let bare = hello("h", ALICE, json!({ "capabilities": { "features": [] } }));
    let mut ws = Ws::open(&runtime, bare).await;
    ws.submit("ticker", json!({ "count": 2, "interval_ms": 0 }))
        .await;
    let seen = ws.until_terminal().await;
    assert_eq!(seqs(&seen), [1, 2, 3]);
    assert_eq!(seen[0]["payload"]["kind"], "x-vendor.arcpd.withheld");
    assert_eq!(seen[0]["payload"]["body"], json!({ "feature": "progress" }));
    for kind in ["session.list_jobs", "job.subscribe"] {
        ws.say(kind, json!({ "job_id": "job_x" })).await;
        let refused = ws.hear().await;
        assert!(
            refused["payload"]["message"]
                .as_str()
                .unwrap()
                .contains("not negotiated")
        );
    }
    ws.say("session.ack", json!({ "last_processed_seq": 1 }))
        .await;
    assert_eq!(ws.ping().await, Vec::<Value>::new(), "an ack is ignored");
}

/// §4.6: a retry was refused for what had changed since: no room for a new job
/// (INTERNAL_ERROR), another default version (DUPLICATE_KEY), the agent gone
/// (AGENT_NOT_AVAILABLE).
#[tokio::test]
async fn a_retry_is_answered_with_its_job_whatever_has_changed_since() {
    let dir = tempfile::tempdir().unwrap();
    let limit = "[limits]\nrunning_jobs_per_principal_max = 1\n";
    let agent = |version: &str| {
        format!("[[agent]]\nname = \"a\"\nversion = \"{version}\"\ncommand = [\"true\"]\n")
    };
    let submit = json!({ "agent": "a", "input": 1, "idempotency_key": "k" });
    let mut jobs = Vec::new();
    for (agents, fill) in [
        (agent("1.0.0"), true),
        (agent("1.0.0") + &agent("2.0.0"), false),
        (String::new(), false),
    ] {
        let runtime = Runtime::start_with(dir.path(), &format!("{limit}{agents}"));
        let mut ws = Ws::connect(&runtime, ALICE).await;
        if fill {
            ws.say("job.submit", submit.clone()).await;
            jobs.push(ws.hear_type("job.accepted").await["job_id"].clone());
            ws.until_terminal().await;
            ws.submit("sleeper", json!({ "ms": 60_000 })).await;
        }
        let mut retry = Ws::connect(&runtime, ALICE).await;
        retry.say("job.submit", submit.clone()).await;
        let answer = retry.hear().await;
        assert_eq!(answer["type"], "job.accepted", "{answer}");
        jobs.push(answer["job_id"].clone());
        runtime.kill();
    }
    jobs.dedup();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
}
