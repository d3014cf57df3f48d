//! The command line against a real runtime.

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use support::*;

/// Runs a client command as alice.
fn arcpd(runtime: &Runtime, arguments: &[&str], stdin: &str) -> Output {
    let mut child = command(&runtime.address, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    child.wait_with_output().unwrap()
}

fn command(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command
        .args(arguments)
        .env("ARCPD_SERVER", format!("http://{address}"))
        .env("ARCPD_TOKEN", ALICE);
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn submit_prints_the_result_alone_and_tells_the_ends_apart() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let done = arcpd(&runtime, &["submit", "echo"], r#"{"a": 1}"#);
    assert_eq!(
        (done.status.code(), stdout(&done)),
        (Some(0), "{\"a\": 1}\n")
    );
    let input = r#"{"code":"PERMISSION_DENIED","message":"not this one"}"#;
    let failed = arcpd(&runtime, &["submit", "failer", "--input", input], "");
    assert_eq!((failed.status.code(), stdout(&failed)), (Some(1), ""));
    assert!(stderr(&failed).contains("PERMISSION_DENIED: not this one"));
    let late = [
        "submit",
        "sleeper",
        "--input",
        r#"{"ms":60000}"#,
        "--max-runtime-sec",
        "1",
    ];
    assert_eq!(arcpd(&runtime, &late, "").status.code(), Some(4));
    let unknown = arcpd(&runtime, &["submit", "nobody"], "");
    assert_eq!(unknown.status.code(), Some(5));
    assert!(stderr(&unknown).contains("AGENT_NOT_AVAILABLE"));
    let broken = arcpd(&runtime, &["submit", "echo", "--input", "{"], "");
    assert_eq!(broken.status.code(), Some(2));
    assert!(stderr(&broken).contains("--input: not valid JSON"));
    let missing = arcpd(&runtime, &["submit", "echo", "--input", "@/nowhere"], "");
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("--input @/nowhere: "));
}

/// As a step of a pipeline that is traced, or an agent's program, has it.
#[test]
fn a_submit_joins_the_trace_of_its_environment_unless_it_is_told_another() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let submit = |arguments: &[&str]| {
        let arguments = [&["submit", "echo", "--input", "1"], arguments].concat();
        let mut command = command(&runtime.address, &arguments);
        command.env("TRACEPARENT", format!("00-{trace}-00f067aa0ba902b7-01"));
        stderr(&command.output().unwrap()).to_owned()
    };
    let joined = submit(&[]);
    assert!(joined.contains(&format!("trace {trace}\n")), "{joined}");
    let other = "a".repeat(32);
    let told = submit(&["--trace-id", &other]);
    assert!(told.contains(&format!("trace {other}\n")), "{told}");
}

#[test]
fn a_chunked_result_is_the_bytes_the_agent_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    for (agent, chunk) in [("report@1.0.0", 1000), ("report", 524_288)] {
        let input = format!(r#"{{"bytes":1500001,"chunk_bytes":{chunk}}}"#);
        let done = arcpd(&runtime, &["submit", agent], &input);
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        assert_eq!(done.stdout.len(), 1_500_001);
        assert!(done.stdout.starts_with(b"0123456789abc"));
    }
}

#[test]
fn a_detached_job_is_listed_watched_and_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let sleeper = [
        "submit",
        "sleeper",
        "--detach",
        "--input",
        r#"{"ms":600000}"#,
    ];
    let detached = arcpd(&runtime, &sleeper, "");
    let job = stdout(&detached).trim().to_owned();
    assert!(job.starts_with("job_"), "{}", stderr(&detached));
    let running = arcpd(&runtime, &["jobs", "--status", "running", "--json"], "");
    let rows: serde_json::Value = serde_json::from_slice(&running.stdout).unwrap();
    assert_eq!(rows[0]["job_id"], *job);
    let watch = command(&runtime.address, &["watch", &job])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(
        arcpd(&runtime, &["cancel", &job], "").status.code(),
        Some(0)
    );
    let watched = watch.wait_with_output().unwrap();
    assert_eq!(watched.status.code(), Some(3), "{}", stderr(&watched));
    let table = arcpd(&runtime, &["jobs"], "");
    assert!(stdout(&table).contains("cancelled"), "{}", stdout(&table));
    let none = arcpd(&runtime, &["watch", "job_none"], "");
    assert_eq!(none.status.code(), Some(5));
    assert!(stderr(&none).contains("JOB_NOT_FOUND"));
}

#[test]
fn an_interrupt_cancels_the_job_that_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let input = r#"{"count":1000000,"interval_ms":5}"#;
    let mut child = command(&runtime.address, &["submit", "ticker", "--input", input])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    // Its first line says that the job is accepted.
    assert!(lines.next().unwrap().unwrap().starts_with("job_"));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn the_followed_stream_survives_a_killed_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let input = r#"{"count":1000000,"interval_ms":5}"#;
    let child = command(&runtime.address, &["submit", "ticker", "--input", input])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let address = runtime.address.clone();
    loop {
        let jobs = arcpd(&runtime, &["jobs", "--status", "running"], "");
        if stdout(&jobs).contains("job_") {
            break;
        }
    }
    runtime.kill();
    let _again = Runtime::start_at(dir.path(), &address);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("INTERNAL_ERROR: the runtime was restarted"));
}

#[test]
fn agents_health_and_completions_answer() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let agents = arcpd(&runtime, &["agents"], "");
    assert!(stdout(&agents).contains("report                   2.0.0        1.0.0, 2.0.0"));
    assert_eq!(arcpd(&runtime, &["healthcheck"], "").status.code(), Some(0));
    let completions = arcpd(&runtime, &["completions", "bash"], "");
    assert!(stdout(&completions).contains("healthcheck"));
    runtime.kill();
    let mut nobody = command("127.0.0.1:1", &["healthcheck"]);
    assert_eq!(nobody.output().unwrap().status.code(), Some(5));
}

#[test]
fn stdio_carries_a_session_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let hello = serde_json::json!({ "arcp": "1.1", "id": "h", "type": "session.hello", "payload": {
        "client": { "name": "t", "version": "1" }, "auth": { "scheme": "bearer", "token": ALICE } } });
    let mut child = command(&runtime.address, &["stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    writeln!(stdin, "{hello}").unwrap();
    let welcome: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(welcome["type"], "session.welcome");
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// The cut came behind the last event, so it never came.
#[test]
fn the_demo_proves_it_with_a_text_of_few_lines_and_of_none() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "two\nlines"] {
        let file = dir.path().join("text");
        std::fs::write(&file, text).unwrap();
        let mut demo = Command::new(env!("CARGO_BIN_EXE_arcpd"));
        let shown = demo.arg("demo").arg(file).output().unwrap();
        assert!(shown.status.success(), "{}", stderr(&shown));
        assert!(stdout(&shown).contains("resumed    1 time(s); events lost 0, doubled 0"));
    }
}

#[test]
fn the_demo_proves_what_it_says() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    let shown = demo.arg("demo").output().unwrap();
    assert!(shown.status.success(), "{}", stderr(&shown));
    let text = stdout(&shown);
    assert!(
        text.contains("resumed    1 time(s); events lost 0, doubled 0"),
        "{text}"
    );
    assert!(text.contains("sees history: the same"), "{text}");
    assert!(text.contains("\"words\":"), "{text}");
}
