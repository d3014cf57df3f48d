//! `arcpd serve`: its configuration, its ports, its end.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::*;

/// Runs a command that must not get as far as serving.
fn refused(command: &mut Command) -> String {
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        said += &line.unwrap();
        assert!(!said.contains(r#""ready""#), "it serves: {said}");
    }
    assert!(!child.wait().unwrap().success());
    said
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let text = "drain_deadline_sec = 7\n[limits]\nack_lag_max = 7\nheartbeat_interval_sec = 7";
    std::fs::write(&file, text).unwrap();
    let mut command = serve(dir.path());
    command
        .arg("--config")
        .arg(&file)
        .args(["--drain-deadline-sec", "9"])
        .env("ARCPD_DRAIN_DEADLINE_SEC", "8")
        .env("ARCPD_LIMITS__ACK_LAG_MAX", "8");
    let runtime = Runtime::spawn(&mut command);
    let log = runtime.log();
    for part in [
        r#"\"drain_deadline_sec\":9"#,
        r#"\"ack_lag_max\":8"#,
        r#"\"heartbeat_interval_sec\":7"#,
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

/// Where a collector is may be told with a password, and the first line told it on.
#[test]
fn the_line_of_the_start_had_the_password_of_the_collector() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[telemetry]\notlp_endpoint = \"http://arcpd:hunter2@127.0.0.1:1/otlp\"\n";
    let runtime = Runtime::start_with(dir.path(), toml);
    let log = runtime.log();
    assert!(log.contains("http://***@127.0.0.1:1/otlp"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_key_nobody_knows_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    for (text, key) in [
        ("lisen = \"127.0.0.1:1\"", "lisen"),
        ("[limits]\nheart = 1", "heart"),
        (
            "[[agent]]\nname = \"a\"\ncommand = [\"x\"]\nversoin = \"1\"",
            "versoin",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = refused(serve(dir.path()).arg("--config").arg(&file));
        assert!(said.contains(key), "{said}");
    }
    let said = refused(serve(dir.path()).env("ARCPD_DURABILTY", "power"));
    assert!(said.to_lowercase().contains("durabilty"), "{said}");
    std::fs::write(&file, "[limits]\nheartbeat_interval_sec = 0").unwrap();
    let said = refused(serve(dir.path()).arg("--config").arg(&file));
    assert!(
        said.contains("heartbeat_interval_sec: is 0, must be 1"),
        "{said}"
    );
}

/// The first of the two was silently not there.
#[test]
fn an_agent_that_is_named_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let agent = "[[agent]]\nname = \"a\"\ncommand = [\"x\"]\n";
    std::fs::write(&file, agent.repeat(2)).unwrap();
    let said = refused(serve(dir.path()).arg("--config").arg(&file));
    assert!(said.contains("agent a@1.0.0: is there twice"), "{said}");
}

/// Tokens had to be hidden from other users, and what they protect could be read
/// by them.
#[test]
fn a_new_store_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let _runtime = Runtime::start(&store);
    for path in [
        store.clone(),
        store.join("arcpd.db"),
        store.join("arcpd.db-wal"),
    ] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn what_kubernetes_puts_into_a_pod_is_no_setting() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(dir.path());
    command
        .env("ARCPD_SERVICE_HOST", "10.0.0.1")
        .env("ARCPD_PORT", "tcp://10.0.0.1:7777")
        .env("ARCPD_PORT_7777_TCP_ADDR", "10.0.0.1");
    Runtime::spawn(&mut command);
}

#[test]
fn no_token_means_no_runtime_unless_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let said = refused(serve(dir.path()).env_remove("ARCPD_TOKENS"));
    assert!(said.contains("--tokens-file"), "{said}");
    let mut open = serve_at(dir.path(), "0.0.0.0:0");
    open.env_remove("ARCPD_TOKENS").arg("--dev");
    assert!(refused(&mut open).contains("loopback"));
}

#[test]
fn plain_tokens_that_others_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let with = |path: &Path| {
        let mut command = serve(dir.path());
        command
            .env_remove("ARCPD_TOKENS")
            .arg("--tokens-file")
            .arg(path);
        command
    };
    write(&file, &format!("alice = {ALICE}\n"), 0o644);
    let said = refused(&mut with(&file));
    assert!(
        said.contains("chmod 600") && !said.contains(ALICE),
        "{said}"
    );
    write(&file, &format!("# staff\nalice = {ALICE}\n"), 0o600);
    Runtime::spawn(&mut with(&file));
    let hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    write(&file, &format!("alice = {hash}\n"), 0o644);
    Runtime::spawn(&mut with(&file));
}

#[tokio::test]
async fn new_tokens_are_read_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    write(&file, &format!("alice = {ALICE}\n"), 0o600);
    let mut command = serve(dir.path());
    command
        .env_remove("ARCPD_TOKENS")
        .arg("--tokens-file")
        .arg(&file);
    let runtime = Runtime::spawn(&mut command);
    let mut bob = Peer::open(&runtime.address, hello(BOB)).await;
    assert_eq!(bob.error().await.code, "UNAUTHENTICATED");
    write(&file, &format!("bob = {BOB}\n"), 0o600);
    while !runtime.log().contains("the tokens file was read again") {
        look_again().await;
    }
    Peer::connect(&runtime.address, BOB).await;
    let mut alice = Peer::open(&runtime.address, hello(ALICE)).await;
    assert_eq!(alice.error().await.code, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_drain_tells_sessions_and_turns_readiness_first() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    assert_eq!(runtime.admin_get("/readyz").0, 200);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("sleeper", json!({ "ms": 600_000 })).await;
    let (session_id, token) = (alice.session_id.clone(), alice.resume_token.clone());
    let status = runtime.terminate().await;
    assert!(status.success());
    let bye = alice.next().await;
    assert!(format!("{bye:?}").contains("shutting down"), "{bye:?}");
    // What it was told holds: the session goes on in the next process.
    let runtime = Runtime::start(dir.path());
    let resumed = Peer::resume(&runtime.address, ALICE, &session_id, &token, 0).await;
    let mut resumed = resumed.welcomed().await;
    assert_eq!(seqs(&resumed.until_terminal().await), [1]);
}

#[tokio::test]
async fn a_peer_that_never_answers_does_not_hold_the_exit_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(dir.path());
    command.args(["--drain-deadline-sec", "2"]);
    let runtime = Runtime::spawn(&mut command);
    // Connected, and never a byte more.
    let _silent = std::net::TcpStream::connect(&runtime.address).unwrap();
    let mut frozen = Peer::connect(&runtime.address, ALICE).await;
    frozen.submit("sleeper", json!({ "ms": 600_000 })).await;
    runtime.signal("-TERM");
    while runtime.admin_get("/readyz").0 == 200 {}
    assert_eq!(runtime.admin_get("/livez").0, 200);
    let started = std::time::Instant::now();
    // The client's task does not run while this thread waits.
    let mut runtime = runtime;
    assert!(runtime.wait().success());
    assert!(started.elapsed().as_secs() < 10);
}

/// As Kubernetes probes it, on a port without TLS whatever clients speak.
#[tokio::test]
async fn the_admin_port_answers_probes_over_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let healthy = |service: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_arcpd"));
        command.args([
            "healthcheck",
            "--server",
            &format!("http://{}", runtime.admin),
        ]);
        let output = command.args(["--service", service]).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for service in ["liveness", "readiness", ""] {
        assert!(healthy(service).0, "{service}");
    }
    assert!(healthy("other").1.contains("there is no service"));
    // Holds the drain up: this thread does not read what it is told.
    let mut frozen = Peer::connect(&runtime.address, ALICE).await;
    frozen.submit("sleeper", json!({ "ms": 600_000 })).await;
    runtime.signal("-TERM");
    while runtime.admin_get("/readyz").0 == 200 {}
    assert!(healthy("liveness").0);
    for service in ["readiness", ""] {
        assert!(healthy(service).1.contains("NOT_SERVING"), "{service}");
    }
    drop(frozen);
    assert!(runtime.exited().await.success());
}

#[test]
fn metrics_are_openmetrics_text() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let (status, text) = runtime.admin_get("/metrics");
    assert_eq!(status, 200);
    for line in [
        "arcpd_build_info{version=",
        "arcpd_store_healthy 1",
        "arcpd_store_used_bytes ",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(text.trim_end().ends_with("# EOF"));
    assert_eq!(runtime.admin_get("/other").0, 404);
}

#[test]
fn a_store_in_use_names_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let _runtime = Runtime::start(dir.path());
    let said = refused(&mut serve(dir.path()));
    assert!(said.contains("in use by another arcpd"), "{said}");
}

/// What a browser asks before a page may call `JobService`.
fn preflight(runtime: &Runtime, origin: &str) -> String {
    let mut socket = std::net::TcpStream::connect(&runtime.address).unwrap();
    let request = format!(
        "OPTIONS /arcp.v1.JobService/SubmitJob HTTP/1.1\r\nhost: {}\r\norigin: {origin}\r\n\
         access-control-request-method: POST\r\nconnection: close\r\n\r\n",
        runtime.address
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn pages_of_origins_named_anywhere_are_let_and_no_others() {
    let (one, two) = ("https://one.example", "https://two.example:8443");
    let allowed = |runtime: &Runtime, origin: &str| {
        let header = format!("access-control-allow-origin: {origin}\r\n");
        preflight(runtime, origin).contains(&header)
    };
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("[cors]\nallow_origins = [\"{one}\", \"{two}\"]");
    let runtime = Runtime::start_with(dir.path(), &toml);
    assert!(allowed(&runtime, one) && allowed(&runtime, two));
    assert!(!allowed(&runtime, "https://one.example:8443"));
    runtime.kill();

    let mut command = serve(dir.path());
    command.env("ARCPD_CORS__ALLOW_ORIGINS", format!("{one}, {two}"));
    let runtime = Runtime::spawn(&mut command);
    assert!(allowed(&runtime, one) && allowed(&runtime, two));
    runtime.kill();

    command.args(["--cors-allow-origin", one]);
    let runtime = Runtime::spawn(&mut command);
    assert!(allowed(&runtime, one) && !allowed(&runtime, two));
    runtime.kill();

    // Off unless asked for: not even the word.
    let runtime = Runtime::start(dir.path());
    let answer = preflight(&runtime, one);
    assert!(!answer.contains("access-control"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[test]
fn an_origin_that_can_never_match_is_refused_and_any_is_for_development() {
    let dir = tempfile::tempdir().unwrap();
    for wrong in ["https://a.example/", "a.example", "*"] {
        let mut command = serve(dir.path());
        let said = refused(command.args(["--cors-allow-origin", wrong]));
        assert!(said.contains("cors.allow_origins"), "{said}");
    }
    let mut command = serve(dir.path());
    command
        .args(["--dev", "--cors-allow-origin", "*"])
        .env_remove("ARCPD_TOKENS");
    let runtime = Runtime::spawn(&mut command);
    let answer = preflight(&runtime, "https://one.example");
    assert!(
        answer.contains("access-control-allow-origin: *"),
        "{answer}"
    );
}
