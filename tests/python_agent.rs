//! The Python helper for agents, its own tests and its examples, and hosts made
//! with it that are killed, stopped, cancelled and left without a runtime.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::job_event::Body;
use arcpd::wire::proto::{self, Envelope};
use support::both::{Client, Wire, metrics, of, result_of as result_of_job};
use support::host::WORKERS;
use support::python::{Program, python, root, run};
use support::*;

/// The runtime's default.
const CANCEL_GRACE: Duration = Duration::from_secs(30);

/// Without the demonstration agents, one of which has a name of the examples.
fn start(data_dir: &Path, listen: &str, lost_after_sec: u32) -> Runtime {
    let config = data_dir.join("arcpd.toml");
    let text = format!(
        "[[hosting]]\nprincipal = \"workers\"\nagents = [\"*\"]\n\
         [hosts]\nheartbeat_interval_sec = 1\nlost_after_sec = {lost_after_sec}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command
        .args(["serve", "--admin-listen", "127.0.0.1:0"])
        .args(["--listen", listen, "--drain-deadline-sec", "2"])
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--config")
        .arg(config)
        .env("ARCPD_TOKENS", format!("alice={ALICE},workers={WORKERS}"));
    Runtime::spawn(&mut command)
}

fn log_of(envelope: &Envelope) -> Option<&str> {
    match &envelope.payload {
        Some(Payload::JobEvent(event)) => match &event.body {
            Some(Body::Log(log)) => Some(&log.message),
            _ => None,
        },
        _ => None,
    }
}

/// Numbered envelopes up to the log event with the text.
async fn until_log(peer: &mut Peer, text: &str) -> Vec<Envelope> {
    let mut seen: Vec<Envelope> = Vec::new();
    while seen.last().and_then(log_of) != Some(text) {
        let envelope = peer.next().await;
        assert!(
            !matches!(
                envelope.payload,
                Some(Payload::JobResult(_) | Payload::JobError(_))
            ),
            "before {text:?}: {envelope:?}"
        );
        if envelope.event_seq > 0 {
            seen.push(envelope);
        }
    }
    seen
}

fn logs(envelopes: &[Envelope]) -> Vec<&str> {
    envelopes.iter().filter_map(log_of).collect()
}

/// `NAME ATTEMPT STEP` for each step.
fn steps(name: &str, attempt: u32, steps: std::ops::Range<u32>) -> Vec<String> {
    steps.map(|n| format!("{name} {attempt} {n}")).collect()
}

fn check_numbers(seen: &[Envelope]) {
    assert_eq!(seqs(seen), (1..=seen.len() as u64).collect::<Vec<_>>());
}

fn result_of(seen: &[Envelope]) -> &str {
    match &seen.last().unwrap().payload {
        Some(Payload::JobResult(result)) => &result.result_json,
        other => panic!("expected a result, got {other:?}"),
    }
}

fn error_of(seen: &[Envelope]) -> &proto::JobError {
    match &seen.last().unwrap().payload {
        Some(Payload::JobError(error)) => error,
        other => panic!("expected an error, got {other:?}"),
    }
}

fn input(upto: u32) -> serde_json::Value {
    serde_json::json!({"upto": upto, "step_ms": 10})
}

#[test]
fn the_helper_passes_its_own_tests() {
    let out = run(Command::new(&python().0)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(root("python/tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ARCPD_BIN", env!("CARGO_BIN_EXE_arcpd")));
    assert!(out.contains(" passed") && !out.contains("skipped"), "{out}");
}

#[test]
fn the_helper_is_typed() {
    run(Command::new(&python().0)
        .args(["-m", "mypy", "--strict", "-p", "arcpd_agent"])
        .arg("--config-file")
        .arg(root("python/pyproject.toml"))
        // A wheel's files are all of one time, so a cache would not see them change.
        .args(["--cache-dir", "/dev/null"])
        // Not the source, which has no stubs.
        .current_dir(std::env::temp_dir()));
}

#[tokio::test]
async fn a_killed_host_fails_its_job_for_good_under_fail() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 1);
    let host = Program::host(&runtime, "a", "fail");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("steps", input(100_000)).await;
    let mut seen = until_log(&mut peer, "a 1 10").await;
    host.signal("-KILL");
    let _other = Program::host(&runtime, "b", "fail");
    seen.extend(peer.until_terminal().await);
    check_numbers(&seen);
    let error = error_of(&seen);
    assert_eq!((&*error.code, error.retryable), ("INTERNAL_ERROR", true));
    assert!(error.message.contains("agent host lost"), "{error:?}");
    assert!(logs(&seen).iter().all(|line| line.starts_with("a 1 ")));
}

#[tokio::test]
async fn a_killed_hosts_job_runs_again_elsewhere_under_retry() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 1);
    let host = Program::host(&runtime, "a", "retry");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("steps", input(50)).await;
    let mut seen = until_log(&mut peer, "a 1 10").await;
    host.signal("-KILL");
    let _other = Program::host(&runtime, "b", "retry");
    seen.extend(peer.until_terminal().await);
    check_numbers(&seen);
    let logs = logs(&seen);
    let first = logs.iter().take_while(|line| line.starts_with('a')).count();
    assert_eq!(logs[..first], steps("a", 1, 0..first as u32));
    assert_eq!(logs[first..], steps("b", 2, 0..50));
    assert_eq!(result_of(&seen), r#"{"by":"b"}"#);
}

#[tokio::test]
async fn a_killed_hosts_job_goes_on_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 1);
    let host = Program::host(&runtime, "a", "checkpoint");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("steps", input(60)).await;
    let mut seen = until_log(&mut peer, "a 1 10").await;
    host.signal("-KILL");
    let _other = Program::host(&runtime, "b", "checkpoint");
    seen.extend(peer.until_terminal().await);
    check_numbers(&seen);
    let logs = logs(&seen);
    let first = logs.iter().take_while(|line| line.starts_with('a')).count() as u32;
    // Killed between a step and its checkpoint, that step is done once more.
    let second = steps("b", 2, first..60);
    let again = steps("b", 2, first - 1..60);
    let rest = &logs[first as usize..];
    assert!(
        rest == second || rest == again,
        "{first} steps, then {rest:?}"
    );
    assert_eq!(result_of(&seen), r#"{"by":"b"}"#);
}

#[tokio::test]
async fn a_host_that_wakes_after_it_was_lost_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 1);
    let zombie = Program::host(&runtime, "a", "retry");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("steps", input(300)).await;
    let mut seen = until_log(&mut peer, "a 1 10").await;
    zombie.signal("-STOP");
    let _other = Program::host(&runtime, "b", "retry");
    let until_other = until_log(&mut peer, "b 2 0").await;
    seen.extend(until_other);
    zombie.signal("-CONT");
    zombie.until("stopped: Fenced");
    seen.extend(peer.until_terminal().await);
    check_numbers(&seen);
    let logs = logs(&seen);
    let first = logs.iter().position(|line| line.starts_with('b')).unwrap();
    assert_eq!(logs[first..], steps("b", 2, 0..300));
    assert_eq!(result_of(&seen), r#"{"by":"b"}"#);
}

/// The job goes on through the end of the runtime; the client resumes.
async fn survives(end: impl AsyncFnOnce(Runtime)) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 10);
    let address = runtime.address.clone();
    let _host = Program::host(&runtime, "a", "fail");
    let mut peer = Peer::connect(&address, ALICE).await;
    peer.submit("steps", input(200)).await;
    let mut seen = until_log(&mut peer, "a 1 20").await;
    end(runtime).await;
    let _again = start(dir.path(), &address, 10);
    let (session, token) = (peer.session_id.clone(), peer.resume_token.clone());
    let last = seen.last().unwrap().event_seq;
    let resumed = Peer::resume(&address, ALICE, &session, &token, last).await;
    let mut peer = resumed.welcomed().await;
    seen.extend(peer.until_terminal().await);
    check_numbers(&seen);
    assert_eq!(logs(&seen), steps("a", 1, 0..200));
    assert_eq!(result_of(&seen), r#"{"by":"a"}"#);
}

#[tokio::test]
async fn a_job_outlives_the_kill_of_the_runtime() {
    survives(async |runtime: Runtime| runtime.kill()).await;
}

#[tokio::test]
async fn a_job_outlives_the_drain_of_the_runtime() {
    survives(async |runtime: Runtime| {
        let started = Instant::now();
        assert!(runtime.terminate().await.success());
        println!("drained in {:?}", started.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_cancel_reaches_an_agent_that_keeps_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 10);
    let _host = Program::host(&runtime, "a", "fail");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job = peer.submit("busy", serde_json::Value::Null).await;
    let is_progress = |envelope: &Envelope| matches!(envelope.payload, Some(Payload::JobEvent(_)));
    while !is_progress(&peer.next().await) {}
    let started = Instant::now();
    let cancel = proto::JobCancel::default();
    peer.send(&job, Payload::JobCancel(cancel)).await;
    let seen = peer.until_terminal().await;
    let took = started.elapsed();
    println!("cancelled in {took:?}");
    assert_eq!(error_of(&seen).final_status, "cancelled");
    // By the agent: the runtime would end it with its grace.
    assert!(took < CANCEL_GRACE, "{took:?}");
}

#[tokio::test]
async fn the_examples_outlive_the_kill_of_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 10);
    let address = runtime.address.clone();
    let example = |name: &str| root("examples/python").join(name).display().to_string();
    let agent = Program::start(&address, WORKERS, &[&example("agent.py")]);
    agent.until("registered with arcpd");
    let text = dir.path().join("text");
    std::fs::write(&text, "to be or\nnot to be\na\nb\nc\nd\ne\nf").unwrap();
    let client = [
        &*example("client.py"),
        "word-count",
        text.to_str().unwrap(),
        "100",
    ];
    let mut client = Program::start(&address, ALICE, &client);
    client.until("progress 2/8");
    runtime.kill();
    client.until("dialling again");
    let _again = start(dir.path(), &address, 10);
    client.until("progress 8/8");
    let mut out = String::new();
    let mut stdout = client.child.stdout.take().unwrap();
    std::io::Read::read_to_string(&mut stdout, &mut out).unwrap();
    assert!(client.child.wait().unwrap().success());
    let result: serde_json::Value = serde_json::from_str(&out).expect("one JSON result");
    assert_eq!(result["words"], 12, "{out}");
    assert_eq!(result["lines"], 8, "{out}");
}

#[tokio::test]
async fn stubs_alone_make_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 10);
    let path = root("examples/python/agent_raw.py").display().to_string();
    let mut agent = Program::start(&runtime.address, WORKERS, &[&path]);
    let mut line = String::new();
    let mut stdout = BufReader::new(agent.child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "registered\n");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("echo", serde_json::json!([1, "two"])).await;
    let seen = peer.until_terminal().await;
    assert_eq!(logs(&seen), ["echoing"]);
    assert_eq!(result_of(&seen), r#"[1,"two"]"#);
}

#[tokio::test]
async fn the_research_example_keeps_to_its_lease_and_delegates() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path(), "127.0.0.1:0", 10);
    let path = root("examples/python/research.py").display().to_string();
    let agent = Program::start(&runtime.address, WORKERS, &[&path]);
    agent.until("registered with arcpd");
    let mut alice = Client::connect(Wire::Grpc, &runtime, ALICE).await;
    let pages = serde_json::json!({ "pages": {
        "https://example.com/1": "to be or not",
        "https://example.com/2/secret": "to be",
        "https://example.com/3": "that is",
        "https://example.com/4": "the question",
    } });
    let lease = serde_json::json!({ "net.fetch": ["https://example.com/*"],
        "agent.delegate": ["count-words"], "cost.budget": ["USD:0.02"] });
    let job = alice.submit("research", pages, lease).await;
    let mut seen = Vec::new();
    alice.until_ends(2, &mut seen).await;
    let result = result_of_job(&seen, &job);
    // The second page that is read takes the last cent, and its words are not counted.
    assert_eq!(result["words"], 4, "{result}");
    let codes: Vec<_> = result["refused"].as_array().unwrap().iter().collect();
    let codes: Vec<_> = codes
        .iter()
        .map(|page| page["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        ["PERMISSION_DENIED", "BUDGET_EXHAUSTED", "BUDGET_EXHAUSTED"]
    );
    assert_eq!(metrics(&seen, &job, "cost.page"), ["USD:0.01", "USD:0.01"]);
    assert_eq!(
        metrics(&seen, &job, "cost.budget.remaining"),
        ["USD:0.01", "USD:0"]
    );
    let own = of(&seen, &job);
    let count = |kind: &str| own.iter().filter(|heard| heard.kind == kind).count();
    // A refused call has one result, and a refused child has one of its own.
    assert_eq!(count("tool_call"), 4);
    assert_eq!(count("tool_result"), 5);
    assert_eq!(count("delegate"), 1);
}
