//! Programs as agents: what they say, how they end, what becomes of their children.

mod support;

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::job_event::Body;
use arcpd::wire::proto::{self, Envelope};
use serde_json::json;
use support::*;

/// A runtime with one agent, `script@1.0.0`, that runs a shell script.
fn with_script(dir: &std::path::Path, script: &str) -> Runtime {
    let path = dir.join("agent.sh");
    std::fs::write(&path, script).unwrap();
    let toml = format!(
        "[limits]\ncancel_grace_sec = 1\n[[agent]]\nname = \"script\"\ncommand = [\"sh\", {:?}]\nenv = {{ EXTRA = \"from-configuration\" }}",
        path.to_str().unwrap()
    );
    Runtime::start_with(dir, &toml)
}

fn logs(seen: &[Envelope]) -> Vec<String> {
    let log = |envelope: &Envelope| match &envelope.payload {
        Some(Payload::JobEvent(proto::JobEvent {
            body: Some(Body::Log(log)),
            ..
        })) => Some(format!("{}:{}", log.level, log.message)),
        _ => None,
    };
    seen.iter().filter_map(log).collect()
}

async fn run(runtime: &Runtime, input: serde_json::Value) -> Vec<Envelope> {
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("script", input).await;
    alice.until_terminal().await
}

#[tokio::test]
async fn lines_become_events_and_the_last_result_counts() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
read input
echo "plain $input"
echo '{"kind":"progress","body":{"current":1,"total":2}}'
echo '{"kind":"x-vendor.acme.note","body":{"n":9007199254740993}}'
echo oops >&2
echo '{"result":1}'
echo "{\"result\":{\"extra\":\"$EXTRA\",\"trace\":\"$ARCP_TRACE_ID\",\"tokens\":\"$ARCPD_TOKENS\"}}"
"#;
    let runtime = with_script(dir.path(), script);
    let seen = run(&runtime, json!({ "a": 1 })).await;
    let said = logs(&seen);
    assert!(
        said.contains(&r#"info:plain {"a":1}"#.to_owned()),
        "{said:?}"
    );
    assert!(said.contains(&"warn:oops".to_owned()), "{said:?}");
    let vendor = |envelope: &Envelope| match &envelope.payload {
        Some(Payload::JobEvent(proto::JobEvent {
            body: Some(Body::Other(other)),
            ..
        })) => Some((other.kind.clone(), other.body_json.clone())),
        _ => None,
    };
    let note = (
        "x-vendor.acme.note".into(),
        r#"{"n":9007199254740993}"#.into(),
    );
    assert_eq!(seen.iter().find_map(vendor), Some(note));
    let Some(Payload::JobResult(result)) = &seen.last().unwrap().payload else {
        panic!("{seen:?}")
    };
    let result: serde_json::Value = serde_json::from_str(&result.result_json).unwrap();
    assert_eq!(result["extra"], "from-configuration");
    assert_eq!(result["trace"], seen[0].trace_id);
    assert_eq!(
        result["tokens"], "",
        "the runtime's secrets are not passed on"
    );
}

#[tokio::test]
async fn a_broken_or_endless_line_is_reported_and_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
echo '{"kind":"progress","body":{"current":3,"total":2}}'
echo '{"kind":'
head -c 3000000 /dev/zero | tr '\0' 'a'; echo
printf 'not \377 text\n'
echo after
"#;
    let runtime = with_script(dir.path(), script);
    let seen = run(&runtime, json!(null)).await;
    let said = logs(&seen);
    for part in [
        "current",
        "not used",
        "more than 1000000 bytes",
        "cannot be read",
        "info:after",
    ] {
        assert!(
            said.iter().any(|line| line.contains(part)),
            "{part}: {said:?}"
        );
    }
    assert!(matches!(
        seen.last().unwrap().payload,
        Some(Payload::JobResult(_))
    ));
}

#[tokio::test]
async fn an_exit_status_fails_the_job_with_the_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = with_script(
        dir.path(),
        "read x; [ \"$x\" = 1 ] && { echo '{\"error\":{\"code\":\"PERMISSION_DENIED\",\"message\":\"no\"}}'; exit 1; }; echo last words >&2; exit 3",
    );
    for (input, code, message) in [
        (
            json!(2),
            "INTERNAL_ERROR",
            "agent: exit status: 3: last words",
        ),
        (json!(1), "PERMISSION_DENIED", "no"),
    ] {
        let seen = run(&runtime, input).await;
        let Some(Payload::JobError(error)) = &seen.last().unwrap().payload else {
            panic!("{seen:?}")
        };
        assert_eq!((&*error.code, &*error.message), (code, message));
    }
}

/// Waits until a process is gone.
async fn gone(pid: &str) {
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.contains(") Z ") {
            return;
        }
        look_again().await;
    }
}

#[tokio::test]
async fn a_cancel_ends_the_program_and_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    // Neither listens to SIGTERM: the grace and SIGKILL have to do it.
    let script =
        "trap '' TERM; (trap '' TERM; while :; do sleep 1000; done) & echo \"child $!\"; wait";
    let runtime = with_script(dir.path(), script);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("script", json!(null)).await;
    let first = alice.next().await;
    let child = logs(std::slice::from_ref(&first))[0]
        .trim_start_matches("info:child ")
        .to_owned();
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    let seen = alice.until_terminal().await;
    let Some(Payload::JobError(error)) = &seen.last().unwrap().payload else {
        panic!("{seen:?}")
    };
    assert_eq!(error.final_status, "cancelled");
    gone(&child).await;
}

#[tokio::test]
async fn a_program_that_listens_to_sigterm_ends_at_once_on_cancel() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let runtime = with_script(dir.path(), script);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let job = alice.submit("script", json!(null)).await;
    alice.next().await;
    alice
        .send(&job, Payload::JobCancel(Default::default()))
        .await;
    let seen = alice.until_terminal().await;
    assert!(logs(&seen).contains(&"info:bye".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn a_job_out_of_time_takes_its_program_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = with_script(dir.path(), "echo \"child $$\"; sleep 1000");
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let submit = proto::JobSubmit {
        agent: "script".into(),
        max_runtime_sec: 1,
        ..Default::default()
    };
    alice.send("", Payload::JobSubmit(submit)).await;
    let seen = alice.until_terminal().await;
    let Some(Payload::JobError(error)) = &seen.last().unwrap().payload else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (&*error.code, &*error.final_status),
        ("TIMEOUT", "timed_out")
    );
    gone(logs(&seen)[0].trim_start_matches("info:child ")).await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_fails_its_job_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[[agent]]\nname = \"none\"\ncommand = [\"/does/not/exist\"]";
    let runtime = Runtime::start_with(dir.path(), toml);
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    alice.submit("none", json!(null)).await;
    let seen = alice.until_terminal().await;
    assert!(format!("{seen:?}").contains("cannot be started"));
    alice.submit("echo", json!(1)).await;
    assert_eq!(seqs(&alice.until_terminal().await), [2]);
}
