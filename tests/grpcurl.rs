//! The lines of `grpcurl` in the schema's comments, as they stand there.
//!
//! `go install` puts the pinned tool below the target folder.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use support::helm::{objects, rendered};
use support::*;

const SCHEMA: &str = include_str!("../proto/arcp/v1/job_service.proto");
const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3";

/// The folder of the tool.
fn installed() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let (_, version) = GRPCURL.split_once('@').unwrap();
        let bin = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("grpcurl-{version}"));
        if !bin.join("grpcurl").exists() {
            let output = Command::new("go")
                .args(["install", GRPCURL])
                .env("GOBIN", &bin)
                .output()
                .expect("go, from https://go.dev/dl or the package golang-go, is on the PATH");
            assert!(output.status.success(), "{output:?}");
        }
        bin
    })
}

/// The commands in the comments, each with the method it calls.
fn documented() -> Vec<(String, String)> {
    let (mut commands, mut open) = (Vec::new(), None::<String>);
    for line in SCHEMA.lines() {
        let Some(text) = line.trim().strip_prefix("//") else {
            continue;
        };
        let text = text.trim();
        let command = match open.take() {
            Some(begun) => format!("{begun} {text}"),
            None if text.starts_with("grpcurl ") => text.to_owned(),
            None => continue,
        };
        match command.strip_suffix('\\') {
            Some(begun) => open = Some(begun.to_owned()),
            None => {
                let (_, method) = command.rsplit_once('/').expect("a method");
                let method = method.to_owned();
                commands.push((command, method));
            }
        }
    }
    commands
}

fn run(command: &str, runtime: &Runtime, token: &str, job: &str) -> Output {
    let command = command
        .replace("TOKEN", token)
        .replace("HOST:7777", &runtime.address)
        .replace("job_…", job);
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", &command])
        .env("PATH", format!("{}:{path}", installed().display()))
        .output();
    output.unwrap()
}

fn json(command: &str, output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{command}\n{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{command}: {e}\n{output:?}"))
}

#[test]
fn every_documented_line_does_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let documented = documented();
    let methods: Vec<_> = documented.iter().map(|(_, method)| &**method).collect();
    let all = ["SubmitJob", "GetJob", "ListJobs", "CancelJob", "WatchJob"];
    assert_eq!(methods, all);
    let run = |method: &str, job: &str| {
        let (command, _) = documented.iter().find(|(_, m)| m == method).unwrap();
        json(command, &run(command, &runtime, ALICE, job))
    };
    let job = run("SubmitJob", "")["job"]["jobId"]
        .as_str()
        .unwrap()
        .to_owned();
    let watched = run("WatchJob", &job);
    assert_eq!(watched["records"][0]["jobResult"]["resultJson"], "1");
    let got = run("GetJob", &job);
    assert_eq!(got["job"]["result"]["resultJson"], "1");
    assert_eq!(run("CancelJob", &job)["job"]["status"], "success");
    // Nothing runs.
    assert_eq!(run("ListJobs", ""), serde_json::json!({}));
}

#[test]
fn a_refusal_is_printed_with_its_details_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let (submit, _) = &documented()[0];
    let output = run(&submit.replace("echo", "Echo"), &runtime, ALICE, "");
    let said = String::from_utf8_lossy(&output.stderr);
    for part in [
        "InvalidArgument",
        r#""reason": "INVALID_REQUEST""#,
        r#""field": "agent""#,
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!output.status.success());
    let output = run(submit, &runtime, "a-token-nobody-has", "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Unauthenticated"), "{said}");
}

/// What `helm install` prints is copied as it stands.
#[test]
fn the_line_in_the_notes_of_the_chart_works() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    // Only an install prints them, and only where there is a cluster.
    let object =
        r#"extraObjects=["kind: Notes\nis: |{{ include \"arcpd.notes\" . | nindent 2 }}"]"#;
    let objects = objects(&rendered(&["--set-json", object]));
    let notes = objects.iter().find(|object| object["kind"] == "Notes");
    let notes = notes.and_then(|notes| notes["is"].as_str()).unwrap();
    let mut lines = notes.lines().map(str::trim);
    let line = lines.rfind(|line| line.starts_with("grpcurl "));
    let line = line.unwrap_or_else(|| panic!("{notes}"));
    let line = line.replace("127.0.0.1:7777", &runtime.address);
    let answered = run(&line.replace("$ARCPD_TOKEN", ALICE), &runtime, ALICE, "");
    assert_eq!(json(&line, &answered), serde_json::json!({}));
}

#[test]
fn reflection_lists_the_services() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let output = run("grpcurl -plaintext HOST:7777 list", &runtime, ALICE, "");
    let services = String::from_utf8_lossy(&output.stdout);
    for service in [
        "arcp.v1.JobService",
        "arcp.v1.RuntimeService",
        "grpc.health.v1.Health",
    ] {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
}
