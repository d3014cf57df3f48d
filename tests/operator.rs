//! What an operator sees, and that nobody else does, with the real binary.

mod support;

use std::process::{Command, Output, Stdio};

use arcpd::wire::proto::{self, admin_service_client::AdminServiceClient};
use serde_json::json;
use support::host::*;
use support::jobs::{Bearer, channel};
use support::*;

const OPERATORS: &str = "operators = [\"bob\"]\n";

fn arcpd(runtime: &Runtime, token: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arcpd"))
        .args(arguments)
        .env("ARCPD_SERVER", format!("http://{}", runtime.address))
        .env("ARCPD_TOKEN", token)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The line about something, as words.
fn words(text: &str, of: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.contains(of));
    let line = line.unwrap_or_else(|| panic!("{of} in {text}"));
    line.split_whitespace().map(String::from).collect()
}

const COMMANDS: [&[&str]; 5] = [
    &["sessions"],
    &["subscriptions", "sess_none"],
    &["hosts"],
    &["jobs", "--live"],
    &["top", "--once"],
];

/// The default, and what stays so for all others once there is one.
#[tokio::test]
async fn nobody_is_an_operator_until_it_is_said() {
    for configuration in ["", OPERATORS] {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::start_with(dir.path(), configuration);
        for command in COMMANDS {
            for (token, code) in [(ALICE, "PERMISSION_DENIED"), ("nobody", "UNAUTHENTICATED")] {
                let refused = arcpd(&runtime, token, command);
                assert_eq!(refused.status.code(), Some(5), "{refused:?}");
                let text = String::from_utf8_lossy(&refused.stderr);
                assert!(text.contains(code), "{command:?}: {text}");
                assert!(refused.stdout.is_empty(), "{refused:?}");
            }
        }
        runtime.until_logged("\"operation\":\"inspect\"").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_sessions_jobs_hosts_and_what_they_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), &format!("{OPERATORS}{HOSTING}"));
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let first = alice.submit("a", json!("input-of-alice")).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "event-of-alice")]).await;
    host.acked(1).await;
    alice.next().await;
    let ack = proto::SessionAck {
        last_processed_seq: 1,
    };
    alice
        .send("", proto::envelope::Payload::SessionAck(ack))
        .await;
    alice.ping().await;
    let second = alice.submit("a", json!(2)).await;

    let sessions = said(&arcpd(&runtime, BOB, &["sessions"]));
    let row = words(&sessions, &alice.session_id);
    assert_eq!(row[1..7], ["alice", "grpc", "live", "2", "1", "0"]);
    let watched = said(&arcpd(&runtime, BOB, &["subscriptions", &alice.session_id]));
    assert_eq!(words(&watched, &first)[1..], ["a@1.0.0", "1", "0"]);
    assert_eq!(words(&watched, &second)[1..], ["a@1.0.0", "0", "0"]);
    let jobs = said(&arcpd(&runtime, BOB, &["jobs", "--live"]));
    let running = ["a@1.0.0", "alice", "running", "1", "1", "h1"];
    assert_eq!(words(&jobs, &first)[1..], running);
    let pending = ["a@1.0.0", "alice", "pending", "0", "1"];
    assert_eq!(words(&jobs, &second)[1..], pending);
    let hosts = said(&arcpd(&runtime, BOB, &["hosts"]));
    let taken = ["h1", "workers", "accepting", "1/1", "a@1.0.0"];
    assert_eq!(words(&hosts, "h1"), taken);

    let top = said(&arcpd(&runtime, BOB, &["top", "--once"]));
    assert_eq!(words(&top, "arcpd ")[2], "ready");
    let jobs_each = ["2", "of", "10000", "(alice)"];
    assert_eq!(
        words(&top, "running_jobs_per_principal_max")[2..],
        jobs_each
    );
    assert_eq!(words(&top, "host_places")[2..], ["1", "of", "1"]);
    for id in [&alice.session_id, &first, &second] {
        assert!(top.contains(id), "{id} in {top}");
    }
    // Names, states and numbers: nothing that was said, no secret.
    for text in [sessions, watched, jobs, hosts, top] {
        for secret in [ALICE, &of.lease_token, "input-of-alice", "event-of-alice"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_each_session_and_job_once() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), OPERATORS);
    let mut peers = Vec::new();
    for _ in 0..5 {
        let mut peer = Peer::connect(&runtime.address, ALICE).await;
        peer.submit("sleeper", json!({ "ms": 600_000 })).await;
        peers.push(peer);
    }
    let mut expected: Vec<_> = peers.iter().map(|peer| peer.session_id.clone()).collect();
    expected.sort();
    let mut calls = AdminServiceClient::with_interceptor(channel(&runtime).await, Bearer(BOB));
    let (mut seen, mut jobs, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    let mut list = proto::ListSessionsRequest {
        page_size: 2,
        ..Default::default()
    };
    loop {
        let page = calls
            .list_sessions(list.clone())
            .await
            .unwrap()
            .into_inner();
        sizes.push(page.sessions.len());
        seen.extend(page.sessions.into_iter().map(|session| session.session_id));
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
    }
    assert_eq!((seen, sizes), (expected, vec![2, 2, 1]));
    let mut list = proto::ListLiveJobsRequest {
        page_size: 4,
        ..Default::default()
    };
    while jobs.is_empty() || !list.page_token.is_empty() {
        let page = calls
            .list_live_jobs(list.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(page.jobs.len() <= 4);
        jobs.extend(page.jobs.into_iter().map(|job| job.job_id));
        list.page_token = page.next_page_token;
    }
    assert!(jobs.is_sorted() && jobs.len() == 5, "{jobs:?}");
    let bad = proto::ListHostsRequest {
        page_token: "x".into(),
        ..Default::default()
    };
    let refused = calls.list_hosts(bad).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let gone = proto::ListSubscriptionsRequest {
        session_id: "sess_none".into(),
        ..Default::default()
    };
    let refused = calls.list_subscriptions(gone).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
}

/// A terminal gets its screen back, and a frame that is wider than it is cut.
#[tokio::test]
async fn top_refreshes_on_a_terminal_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), OPERATORS);
    let top = format!(
        "stty rows 10 cols 40; exec {} top --interval-sec 0.05",
        env!("CARGO_BIN_EXE_arcpd")
    );
    let mut shown = tokio::process::Command::new("script")
        .args(["-qfec", &top, "/dev/null"])
        .env("ARCPD_SERVER", format!("http://{}", runtime.address))
        .env("ARCPD_TOKEN", BOB)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = shown.stdout.take().unwrap();
    let mut text = Vec::new();
    let frames = |text: &[u8]| String::from_utf8_lossy(text).matches("\x1b[H").count();
    while frames(&text) < 3 {
        let more = tokio::io::AsyncReadExt::read_buf(&mut stdout, &mut text);
        let more = tokio::time::timeout(std::time::Duration::from_secs(30), more).await;
        assert!(more.expect("three frames in time").unwrap() > 0);
    }
    // As a person does.
    let mut keys = shown.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut keys, b"\x03")
        .await
        .unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut stdout, &mut text)
        .await
        .unwrap();
    assert!(shown.wait().await.unwrap().success());
    let text = String::from_utf8_lossy(&text);
    assert!(text.trim_end().ends_with("\x1b[?1049l"), "{text:?}");
    let frame = text.split("\x1b[H").nth(2).unwrap();
    let lines: Vec<_> = frame.split("\r\n").collect();
    assert!(lines.len() <= 10, "{frame:?}");
    let width = |line: &&str| line.trim_end_matches("\x1b[K").chars().count();
    assert!(
        lines[..lines.len() - 1]
            .iter()
            .map(width)
            .all(|width| width <= 40)
    );
}

/// Only `top` kept them from the terminal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosts_name_steered_the_terminal_of_who_listed_it() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), &format!("{OPERATORS}{HOSTING}"));
    let name = "h\u{1b}]0;title\u{7}\n\u{9b}2J\u{202e}\u{2066}1";
    let mut host = HostPeer::serving(&runtime.address, name, "a", 1).await;
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "x")]).await;
    host.acked(1).await;
    for (command, row) in [(&["hosts"][..], "workers"), (&["jobs", "--live"], &job)] {
        let text = said(&arcpd(&runtime, BOB, command));
        let words = words(&text, row);
        assert!(words.contains(&"h?]0;title???2J??1".into()), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }
}

/// It was a panic with a line of our source in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_had_seen_enough_was_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), OPERATORS);
    for command in [&["sessions"][..], &["jobs"], &["agents", "--json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_arcpd"))
            .args(command)
            .env("ARCPD_SERVER", format!("http://{}", runtime.address))
            .env("ARCPD_TOKEN", BOB)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success() && text.is_empty(),
            "{command:?}: {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_not_all_did_not_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), OPERATORS);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let _bob = Peer::connect(&runtime.address, BOB).await;
    for _ in 0..2 {
        alice.submit("echo", json!(1)).await;
        alice.until_terminal().await;
    }
    for (token, command) in [(BOB, "sessions"), (ALICE, "jobs")] {
        for (limit, rows, more) in [("1", 1, true), ("2", 2, false), ("0", 2, false)] {
            let output = arcpd(&runtime, token, &[command, "--limit", limit]);
            assert_eq!(said(&output).lines().count(), 1 + rows, "{command} {limit}");
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(text.contains("there are more"), more, "{command}: {text}");
        }
    }
}

/// Has a command on a terminal of its own, presses a key or signals once a frame is
/// drawn, and says what was drawn last, whether keys are shown again, and the status.
const ON_A_TERMINAL: &str = r#"
import os, pty, signal, sys, termios
signal.alarm(60)
how, command = sys.argv[1], sys.argv[2:]
shell, terminal = pty.openpty()
pid = os.fork()
if pid == 0:
    os.setsid()
    for fd in (0, 1, 2):
        os.dup2(terminal, fd)
    os.execv(command[0], command)
drawn = b""
while b"SESSION" not in drawn:
    drawn += os.read(shell, 4096)
if how == "q":
    os.write(shell, b"q")
else:
    os.kill(pid, getattr(signal, how))
while b"\x1b[?1049l" not in drawn:
    drawn += os.read(shell, 4096)
_, status = os.waitpid(pid, 0)
keys = termios.tcgetattr(terminal)[3]
shown = keys & termios.ICANON and keys & termios.ECHO
print(b"\x1b[?25h" in drawn, bool(shown), os.waitstatus_to_exitcode(status))
"#;

/// A signal left the other screen and no cursor to the shell, and `q` did nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_gives_the_terminal_back_however_it_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), OPERATORS);
    for how in ["q", "SIGTERM", "SIGINT", "SIGHUP"] {
        let output = Command::new("python3")
            .args(["-c", ON_A_TERMINAL, how, env!("CARGO_BIN_EXE_arcpd"), "top"])
            .env("ARCPD_SERVER", format!("http://{}", runtime.address))
            .env("ARCPD_TOKEN", BOB)
            .output()
            .unwrap();
        assert_eq!(said(&output), "True True 0\n", "{how}: {output:?}");
    }
}
