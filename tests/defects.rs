//! The defects found in the runtime this protocol comes from, S-01 to S-36: each
//! test fails if we had it too. Those not here are shown elsewhere: S-01, S-02 and
//! S-30 by the kills in `durability.rs`, S-08, S-17 and S-34 in `session.rs`,
//! S-14, S-27 and S-33 in `divergences.rs`, S-22 and S-23 beside `wire` and `log`,
//! S-35 (what only ever grows) by the memory and descriptors of `soak.rs`.

mod support;

use std::time::Duration;

use arcpd::wire::proto::{self, envelope::Payload};
use serde_json::{Value, json};
use support::ws::{self, Ws, hello as ws_hello};
use support::*;

fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    (dir, runtime)
}

fn start_with(toml: &str) -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), toml);
    (dir, runtime)
}

async fn watch(peer: &mut Peer, job: &str) {
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    peer.send(job, Payload::JobSubscribe(subscribe)).await;
    let subscribed = peer.next().await;
    assert!(
        matches!(subscribed.payload, Some(Payload::JobSubscribed(_))),
        "{subscribed:?}"
    );
}

async fn resumed(runtime: &Runtime, peer: Peer, last: u64) -> Peer {
    let (id, token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    Peer::resume(&runtime.address, ALICE, &id, &token, last)
        .await
        .welcomed()
        .await
}

fn code_of(envelope: &proto::Envelope) -> &str {
    match &envelope.payload {
        Some(Payload::JobError(error)) => &error.code,
        _ => "",
    }
}

#[tokio::test]
async fn s_03_a_resumed_session_may_still_cancel_its_job() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("sleeper", json!({ "ms": 600_000 })).await;
    let mut alice = resumed(&runtime, alice, 0).await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    assert_eq!(
        code_of(alice.until_terminal().await.last().unwrap()),
        "CANCELLED"
    );
}

#[tokio::test]
async fn s_04_an_owner_that_leaves_starves_nobody() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice
        .submit("ticker", json!({ "count": 50, "interval_ms": 2 }))
        .await;
    let mut observer = Peer::connect(&runtime.address, ALICE).await;
    watch(&mut observer, &job).await;
    drop(alice);
    assert_eq!(
        seqs(&observer.until_terminal().await),
        (1..=51).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn s_05_06_a_long_stream_needs_no_acks_and_hits_no_lifetime_cap() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for round in 0..3 {
        alice
            .submit("firehose", json!({ "events": 20_000, "bytes": 64 }))
            .await;
        let seen = alice.until_terminal().await;
        let first = round * 20_001 + 1;
        assert_eq!(seqs(&seen), (first..first + 20_001).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn s_07_31_who_does_not_read_stops_neither_the_agent_nor_anyone_else() {
    let (_dir, runtime) = start();
    // Neither the owner nor one observer ever reads.
    let mut owner = Peer::connect(&runtime.address, ALICE).await;
    let input = json!({ "events": 100_000, "bytes": 256, "delay_ms": 200 });
    let job = owner.submit("firehose", input).await;
    let mut stopped = Peer::connect(&runtime.address, ALICE).await;
    watch(&mut stopped, &job).await;
    let mut observer = Peer::connect(&runtime.address, ALICE).await;
    watch(&mut observer, &job).await;
    assert_eq!(observer.until_terminal().await.len(), 100_001);
    // And both find everything when they do read.
    assert_eq!(
        seqs(&owner.until_terminal().await),
        (1..=100_001).collect::<Vec<_>>()
    );
    assert_eq!(
        seqs(&stopped.until_terminal().await),
        (1..=100_001).collect::<Vec<_>>()
    );
}

/// A peer that stopped reading had the channel of each job it watched keep blocks
/// for it: megabytes a job.
#[tokio::test]
async fn who_does_not_read_costs_no_memory_for_each_of_its_jobs() {
    let (_dir, runtime) = start();
    let resident_mib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", runtime.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("VmRSS in kB") / 1024
    };
    let mut stopped = Peer::connect(&runtime.address, ALICE).await;
    let mut other = Peer::connect(&runtime.address, ALICE).await;
    let before = resident_mib();
    let (jobs, events) = (40, 8_000);
    for _ in 0..jobs {
        // Rests now and then, so that all of them are at it together.
        let input = json!({ "events": events, "bytes": 300, "pause_every": 400, "pause_ms": 50 });
        let submit = proto::JobSubmit {
            agent: "firehose".into(),
            input_json: input.to_string(),
            ..Default::default()
        };
        stopped.send("", Payload::JobSubmit(submit)).await;
    }
    let (mut peak, mut seen) = (0, 0);
    while seen < 1 || other.running().await > 0 {
        seen += other.running().await;
        peak = peak.max(resident_mib());
    }
    println!(
        "{} MiB more at most, of 96 that were reported",
        peak - before
    );
    assert!(peak - before < 70, "{before} MiB, then {peak}");
    let mut received = Vec::new();
    for _ in 0..jobs {
        received.extend(stopped.until_terminal().await);
    }
    let all = (events + 1) * jobs;
    assert_eq!(seqs(&received), (1..=all).collect::<Vec<_>>());
}

#[tokio::test]
async fn s_09_a_clients_own_event_reaches_nobody_and_moves_no_number() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let job = ws.submit("echo", json!(1)).await["job_id"].clone();
    ws.until_terminal().await;
    let mut forged = ws.envelope("job.event", json!({ "kind": "log", "ts": "", "body": {} }));
    forged["job_id"] = job.clone();
    forged["event_seq"] = json!(999);
    ws.send(&forged.to_string()).await;
    assert_eq!(ws.hear().await["payload"]["code"], "INVALID_REQUEST");
    ws.say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    let seen = ws.until_terminal().await;
    assert_eq!((seen.len(), &seen[0]["event_seq"]), (1, &json!(2)));
}

#[tokio::test]
async fn s_10_a_foreign_session_id_is_refused() {
    let (_dir, runtime) = start();
    let other = Ws::connect(&runtime, ALICE).await;
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let mut submit = ws.envelope("job.submit", json!({ "agent": "echo" }));
    submit["session_id"] = other.session_id.clone().into();
    ws.send(&submit.to_string()).await;
    let refused = ws.hear().await;
    assert!(
        refused["payload"]["message"]
            .as_str()
            .unwrap()
            .contains("session_id")
    );
}

#[tokio::test]
async fn s_11_a_strangers_cancel_is_seen_by_no_observer_and_tells_nothing() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice
        .submit("ticker", json!({ "count": 20, "interval_ms": 5 }))
        .await;
    let mut observer = Peer::connect(&runtime.address, ALICE).await;
    watch(&mut observer, &job).await;
    let mut bob = Peer::connect(&runtime.address, BOB).await;
    bob.send(&job, Payload::JobCancel(Default::default())).await;
    let known = bob.error().await;
    bob.send("job_none", Payload::JobCancel(Default::default()))
        .await;
    let unknown = bob.error().await;
    assert_eq!(
        (&known.code, &known.message),
        (&unknown.code, &unknown.message)
    );
    observer
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    let seen = observer.until_terminal().await;
    assert_eq!((seen.len(), code_of(seen.last().unwrap())), (21, ""));
}

#[tokio::test]
async fn s_12_a_reused_key_is_no_event_of_the_live_job() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice
        .submit_keyed("ticker", json!({ "count": 20, "interval_ms": 5 }), "k")
        .await;
    let submit = proto::JobSubmit {
        agent: "echo".into(),
        idempotency_key: "k".into(),
        ..Default::default()
    };
    let mut other = Peer::connect(&runtime.address, ALICE).await;
    other.send("", Payload::JobSubmit(submit)).await;
    let refused = other.error().await;
    assert_eq!((&*refused.code, &*refused.job_id), ("DUPLICATE_KEY", ""));
    assert_eq!(
        seqs(&alice.until_terminal().await),
        (1..=21).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn s_13_a_lost_heartbeat_closes_the_connection_and_no_job() {
    let (_dir, runtime) = start_with("[limits]\nheartbeat_interval_sec = 1");
    let alice = Peer::open(&runtime.address, hello_with_heartbeat(ALICE)).await;
    let mut alice = alice.welcomed().await;
    alice.submit("sleeper", json!({ "ms": 4_000 })).await;
    // Pinged after a second of silence, given up after two without an answer.
    assert!(matches!(
        alice.next().await.payload,
        Some(Payload::SessionPing(_))
    ));
    let lost = alice.error().await;
    assert_eq!((&*lost.code, lost.retryable), ("HEARTBEAT_LOST", false));
    assert!(alice.try_next().await.is_none());
    let mut alice = resumed(&runtime, alice, 0).await;
    assert_eq!(code_of(alice.until_terminal().await.last().unwrap()), "");
}

#[tokio::test]
async fn s_15_a_resume_displaces_the_connection_that_still_lives() {
    let (_dir, runtime) = start();
    let mut old = Peer::connect(&runtime.address, ALICE).await;
    old.submit("ticker", json!({ "count": 100, "interval_ms": 2 }))
        .await;
    old.next().await;
    let (id, token) = (old.session_id.clone(), old.resume_token.clone());
    let mut new = Peer::resume(&runtime.address, ALICE, &id, &token, 1)
        .await
        .welcomed()
        .await;
    let mut last = None;
    while let Some(envelope) = old.try_next().await {
        last = envelope.payload;
    }
    assert!(matches!(last, Some(Payload::SessionBye(_))), "{last:?}");
    assert_eq!(
        seqs(&new.until_terminal().await),
        (2..=101).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn s_16_the_resume_window_begins_with_the_disconnect() {
    let (_dir, runtime) = start_with("[limits]\nresume_window_sec = 1");
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    // Connected for longer than the window.
    alice.submit("sleeper", json!({ "ms": 1_500 })).await;
    alice.until_terminal().await;
    let alice = resumed(&runtime, alice, 1).await;
    let (id, token) = (alice.session_id.clone(), alice.resume_token.clone());
    drop(alice);
    // And away for longer than it.
    let mut clock = Peer::connect(&runtime.address, ALICE).await;
    clock.submit("sleeper", json!({ "ms": 1_500 })).await;
    clock.until_terminal().await;
    let mut late = Peer::resume(&runtime.address, ALICE, &id, &token, 1).await;
    assert_eq!(late.error().await.code, "RESUME_WINDOW_EXPIRED");
}

#[tokio::test]
async fn s_18_19_a_closed_connection_leaves_nothing_behind() {
    let (_dir, runtime) = start();
    for _ in 0..50 {
        let mut peer = Peer::connect(&runtime.address, ALICE).await;
        let job = peer.submit("echo", json!(1)).await;
        peer.until_terminal().await;
        watch(&mut peer, &job).await;
    }
    let gauge = |name: &str| {
        let (_, text) = runtime.admin_get("/metrics");
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    while gauge("arcpd_sessions_attached") > 0 || gauge("arcpd_connections_open") > 0 {
        look_again().await;
    }
    assert_eq!(gauge("arcpd_jobs_running"), 0);
}

#[tokio::test]
async fn s_20_21_back_pressure_is_told_to_who_acks_and_an_ack_cannot_lie() {
    let (_dir, runtime) = start_with("[limits]\nack_lag_max = 100");
    let told = |seen: &[Value]| {
        seen.iter()
            .filter(|frame| frame["payload"]["body"]["phase"] == "back_pressure")
            .count()
    };
    let input = json!({ "events": 500, "bytes": 16, "pause_every": 50, "pause_ms": 2 });
    // One that never acks is never told.
    let mut silent = Ws::connect(&runtime, ALICE).await;
    silent.submit("firehose", input.clone()).await;
    assert_eq!(told(&silent.until_terminal().await), 0);
    // One that acks and falls behind is told once; an ack of the future is clamped.
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.say("session.ack", json!({ "last_processed_seq": 1_000_000 }))
        .await;
    // A notice is about a job that runs, and the other may be over before it is read.
    ws.submit("sleeper", json!({ "ms": 600_000 })).await;
    ws.submit("firehose", input).await;
    let seen = numbered(&mut ws, 502).await;
    assert_eq!(told(&seen), 1, "{} frames", seen.len());
    assert_eq!(
        ws::seqs(&seen),
        (1..=502).collect::<Vec<_>>(),
        "and it has a number"
    );
    assert_eq!(ws.ping().await, Vec::<Value>::new(), "told once");
    // It is replayed like any other, to nobody else.
    let resume = json!({ "session_id": ws.session_id, "resume_token": ws.resume_token, "last_event_seq": 0 });
    let mut again = Ws::open(&runtime, ws_hello("h", ALICE, json!({ "resume": resume }))).await;
    assert_eq!(numbered(&mut again, 502).await, seen);
}

/// The next so many frames that have a number.
async fn numbered(ws: &mut Ws, count: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let frame = ws.hear().await;
        if !frame["event_seq"].is_null() {
            seen.push(frame);
        }
    }
    seen
}

#[tokio::test]
async fn s_24_a_ping_is_answered_in_the_middle_of_a_history() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice
        .submit("firehose", json!({ "events": 50_000, "bytes": 256 }))
        .await;
    alice.until_terminal().await;
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    let before = ws.ping().await;
    assert!(
        before.len() < 50_000,
        "{} frames before the pong",
        before.len()
    );
}

/// After a process had stood still for two intervals every session was given up for
/// silent, with what it had said in its socket.
#[tokio::test]
async fn s_24_what_was_said_while_the_process_stood_still_is_heard() {
    let (_dir, runtime) = start_with("[limits]\nheartbeat_interval_sec = 1");
    let mut ws = Ws::connect(&runtime, ALICE).await;
    runtime.signal("-STOP");
    ws.say("session.ack", json!({ "last_processed_seq": 0 }))
        .await;
    // Longer than two intervals; nothing can tell when the runtime's clock has passed them.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    runtime.signal("-CONT");
    let frames = ws.ping().await;
    assert!(
        frames.iter().all(|frame| frame["type"] == "session.ping"),
        "{frames:?}"
    );
}

/// With as many requests waiting for a history as may, no more are read, and the
/// peer's pings with them: it was given up while it was reading.
#[tokio::test]
async fn s_24_a_peer_whose_requests_wait_is_alive_while_it_reads() {
    let (_dir, runtime) = start_with("[limits]\nheartbeat_interval_sec = 1");
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice
        .submit("firehose", json!({ "events": 60_000, "bytes": 500 }))
        .await;
    alice.until_terminal().await;
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let subscribe = json!({ "job_id": job, "history": true });
    ws.say("job.subscribe", subscribe).await;
    for _ in 0..100 {
        ws.say("job.unsubscribe", json!({ "job_id": job })).await;
    }
    let started = std::time::Instant::now();
    let mut slow = tokio::time::interval(Duration::from_millis(1));
    while started.elapsed() < Duration::from_secs(4) {
        slow.tick().await;
        let frame = ws.hear().await;
        assert_ne!(frame["type"], "session.error", "{frame}");
        assert_ne!(frame["type"], "job.result", "read too fast to show it");
    }
}

#[tokio::test]
async fn s_25_a_message_sent_twice_is_answered_twice_and_done_once() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let submit = ws.envelope(
        "job.submit",
        json!({ "agent": "sleeper", "input": { "ms": 600_000 } }),
    );
    let refused = ws.envelope("job.submit", json!({ "agent": "nobody" }));
    let mut answers = Vec::new();
    for message in [&submit, &submit, &refused, &refused] {
        ws.send(&message.to_string()).await;
        answers.push(ws.hear().await["payload"].clone());
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[2], answers[3]);
    ws.say("session.list_jobs", json!({})).await;
    let jobs = ws.hear_type("session.jobs").await;
    assert_eq!(jobs["payload"]["jobs"].as_array().unwrap().len(), 1);
    let job = answers[0]["job_id"].as_str().unwrap().to_owned();
    let mut subscribe = ws.envelope("job.subscribe", json!({ "history": true }));
    subscribe["job_id"] = job.into();
    for _ in 0..2 {
        ws.send(&subscribe.to_string()).await;
        assert_eq!(ws.hear().await["type"], "job.subscribed");
    }
}

#[tokio::test]
async fn s_26_a_peer_that_says_nothing_is_told_and_let_go() {
    let (_dir, runtime) = start_with("[limits]\nhello_timeout_sec = 1");
    let mut ws = Ws::dial(&runtime).await;
    let refused = ws.hear().await;
    assert!(
        refused["payload"]["message"]
            .as_str()
            .unwrap()
            .contains("within 1 seconds")
    );
    assert!(refused["session_id"].is_string());
    assert!(ws.try_hear().await.is_none());
}

#[tokio::test]
async fn s_28_ended_jobs_leave_the_store_and_what_would_need_them_is_refused() {
    let toml = "[retention]\nage_max_sec = 1\ncheck_interval_sec = 1";
    let (_dir, runtime) = start_with(toml);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice
        .submit("firehose", json!({ "events": 1_000, "bytes": 64 }))
        .await;
    alice.until_terminal().await;
    let running = alice
        .submit("ticker", json!({ "count": 100_000, "interval_ms": 1 }))
        .await;
    while !runtime.log().contains("trimmed ended jobs") {
        look_again().await;
    }
    let mut other = Peer::connect(&runtime.address, ALICE).await;
    other
        .send(&job, Payload::JobSubscribe(Default::default()))
        .await;
    assert_eq!(other.error().await.code, "JOB_NOT_FOUND");
    // The one that runs was not touched.
    watch(&mut other, &running).await;
    // A resume from before the trim has no stream to give; one from after it has.
    let (id, token) = (alice.session_id.clone(), alice.resume_token.clone());
    drop(alice);
    let mut early = Peer::resume(&runtime.address, ALICE, &id, &token, 10).await;
    assert_eq!(early.error().await.code, "RESUME_WINDOW_EXPIRED");
    let late = Peer::resume(&runtime.address, ALICE, &id, &token, 1_001).await;
    let mut late = late.welcomed().await;
    assert_eq!(late.next().await.event_seq, 1_002);
}

#[tokio::test]
async fn s_29_a_busy_connection_is_not_pinged() {
    let (_dir, runtime) = start_with("[limits]\nheartbeat_interval_sec = 1");
    let mut last = jiff::Timestamp::now();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("ticker", json!({ "count": 150, "interval_ms": 10 }))
        .await;
    let at = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    loop {
        let frame = ws.hear().await;
        match frame["type"].as_str().unwrap() {
            // Unless the machine kept the agent from its work for an interval.
            "session.ping" => {
                let silent = at(&frame["payload"]["sent_at"]).duration_since(last);
                assert!(silent.as_millis() >= 1_000, "pinged after {silent}");
            }
            "job.event" => last = at(&frame["payload"]["ts"]),
            "job.result" => break,
            _ => {}
        }
        // The client, too, is heard of, or it would be given up.
        if frame["event_seq"].as_u64().is_some_and(|seq| seq % 25 == 0) {
            let ack = json!({ "last_processed_seq": frame["event_seq"] });
            ws.say("session.ack", ack).await;
        }
    }
}

#[tokio::test]
async fn s_30_many_jobs_of_one_session_share_one_gap_free_stream() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..20 {
        let submit = proto::JobSubmit {
            agent: "firehose".into(),
            input_json: json!({ "events": 500, "bytes": 32 }).to_string(),
            ..Default::default()
        };
        alice.send("", Payload::JobSubmit(submit)).await;
    }
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.extend(alice.until_terminal().await);
    }
    assert_eq!(seqs(&seen), (1..=20 * 501).collect::<Vec<_>>());
    // Each job's own order is kept, whatever the others did.
    let mut next = std::collections::HashMap::new();
    for envelope in &seen {
        if let Some(Payload::JobEvent(event)) = &envelope.payload
            && let Some(proto::job_event::Body::Log(log)) = &event.body
        {
            let expected = next.entry(&envelope.job_id).or_insert(0);
            assert!(log.message.starts_with(&format!("{expected:08}")));
            *expected += 1;
        }
    }
}

#[tokio::test]
async fn s_32_concurrent_retries_of_one_key_make_one_job() {
    let (_dir, runtime) = start();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let address = runtime.address.clone();
        tasks.spawn(async move {
            let mut peer = Peer::connect(&address, ALICE).await;
            let job = peer.submit_keyed("echo", json!({ "a": 1 }), "one").await;
            let seen = peer.until_terminal().await;
            assert_eq!(seqs(&seen), [1], "a retry gets the terminal too");
            job
        });
    }
    let mut jobs = tasks.join_all().await;
    jobs.dedup();
    assert_eq!(jobs.len(), 1);
}

#[tokio::test]
async fn a_retry_after_the_end_gets_the_end_again_in_its_own_session_too() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let input = json!({ "count": 3, "interval_ms": 1 });
    let job = alice.submit_keyed("ticker", input.clone(), "k").await;
    assert_eq!(seqs(&alice.until_terminal().await), [1, 2, 3, 4]);
    let again = alice.submit_keyed("ticker", input, "k").await;
    assert_eq!(again, job);
    let seen = alice.until_terminal().await;
    assert_eq!(seqs(&seen), [5, 6, 7, 8], "numbered on, without a gap");
    // And while it runs the one stream serves both.
    let input = json!({ "count": 50, "interval_ms": 5 });
    let job = alice.submit_keyed("ticker", input.clone(), "live").await;
    assert_eq!(alice.submit_keyed("ticker", input, "live").await, job);
    let seen = alice.until_terminal().await;
    assert_eq!(seqs(&seen), (9..=59).collect::<Vec<_>>());
    assert!(alice.ping_collect().await.is_empty());
}

#[tokio::test]
async fn s_36_a_limit_of_many_years_does_not_overflow() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    for seconds in [30 * 86_400, 1 << 40, u64::MAX] {
        let submit = proto::JobSubmit {
            agent: "echo".into(),
            max_runtime_sec: seconds,
            ..Default::default()
        };
        alice.send("", Payload::JobSubmit(submit)).await;
        let seen = alice.until_terminal().await;
        assert!(
            matches!(seen[0].payload, Some(Payload::JobResult(_))),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn a_lost_welcome_does_not_lose_the_session() {
    let (_dir, runtime) = start();
    let alice = Peer::connect(&runtime.address, ALICE).await;
    let (id, token) = (alice.session_id.clone(), alice.resume_token.clone());
    drop(alice);
    // Two resumes whose welcomes nobody reads; the token in hand stays good.
    for _ in 0..2 {
        let lost = Peer::resume(&runtime.address, ALICE, &id, &token, 0).await;
        drop(lost.welcomed().await);
    }
    Peer::resume(&runtime.address, ALICE, &id, &token, 0)
        .await
        .welcomed()
        .await;
}

#[tokio::test]
async fn from_event_seq_counts_in_the_submitters_numbering() {
    let (_dir, runtime) = start();
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.submit("ticker", json!({ "count": 9, "interval_ms": 0 }))
        .await;
    ws.until_terminal().await;
    // The second job has 11 to 20 in this session, 1 to 10 of its own.
    let job = ws
        .submit("ticker", json!({ "count": 9, "interval_ms": 0 }))
        .await["job_id"]
        .clone();
    ws.until_terminal().await;
    ws.say("session.list_jobs", json!({})).await;
    let jobs = ws.hear_type("session.jobs").await;
    let last: Vec<_> = jobs["payload"]["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|j| j["last_event_seq"].clone())
        .collect();
    assert_eq!(last, [json!(10), json!(20)]);
    let mut observer = Ws::connect(&runtime, ALICE).await;
    for (from, received) in [(0, 10), (10, 10), (15, 5), (19, 1)] {
        let subscribe = json!({ "job_id": job, "history": true, "from_event_seq": from });
        observer.say("job.subscribe", subscribe).await;
        assert_eq!(
            observer.until_terminal().await.len(),
            received,
            "from {from}"
        );
    }
}
