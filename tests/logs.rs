//! The log: what is in it, how it is changed, and that no secret is.

mod support;

use arcpd::wire::proto::admin_service_client::AdminServiceClient;
use arcpd::wire::proto::{self, envelope::Payload};
use serde_json::{Value, json};
use support::collector::Collector;
use support::host::*;
use support::scrape::value;
use support::ws::Ws;
use support::*;

#[tokio::test]
async fn what_is_logged_is_changed_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    assert_eq!(runtime.admin_get("/log"), (200, "info\n".into()));
    let noise = "\"target\":\"h2::";
    assert_eq!(runtime.admin_post("/log", "info,h2=trace").0, 200);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    runtime.until_logged(noise).await;
    let (status, why) = runtime.admin_post("/log", "arcpd=loud");
    assert_eq!(status, 400, "{why}");
    // Each change is a line, and what stands between two of them was logged as the first
    // one says. Lines that were begun before a change may come after its own: the
    // connection has ended those once it has carried a job since.
    let quiet = |n: u32| format!("info,quiet{n}=info");
    for n in 1..=2 {
        assert_eq!(runtime.admin_post("/log", &quiet(n)).0, 200);
        peer.submit("echo", json!(n)).await;
        peer.until_terminal().await;
    }
    assert_eq!(runtime.admin_post("/log", &quiet(3)).0, 200);
    runtime.until_logged(&quiet(3)).await;
    let log = runtime.log();
    let between = log.find(&quiet(2)).unwrap()..log.find(&quiet(3)).unwrap();
    assert!(!log[between.clone()].contains(noise), "{}", &log[between]);
}

/// A level with a slip in it was the name of a target that nothing has: the log went
/// silent, the audit with it, and the line that said so was not written.
#[tokio::test]
async fn a_filter_that_was_mistyped_silenced_the_log_and_the_audit() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    for bad in ["warning", "verbose", ""] {
        let (status, why) = runtime.admin_post("/log", bad);
        assert_eq!(status, 400, "{bad}");
        assert!(why.contains("is no level"), "{why}");
    }
    assert_eq!(runtime.admin_get("/log"), (200, "info\n".into()));
    assert_eq!(runtime.admin_post("/log", "off").0, 200);
    runtime.until_logged("\"filter\":\"off\"").await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe::default();
    peer.send("job_nobodys", Payload::JobSubscribe(subscribe))
        .await;
    runtime.until_logged("\"operation\":\"subscribe\"").await;
    // By its name it may be silenced, and that is a line.
    let silent = "off,arcpd::audit=off";
    assert_eq!(runtime.admin_post("/log", silent).0, 200);
    runtime.until_logged(silent).await;
}

#[tokio::test]
async fn a_page_could_silence_the_log_of_the_machine_its_browser_was_on() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let origin = "origin: https://example.org\r\n";
    for path in ["/log", "/credentials/any/retry"] {
        assert_eq!(runtime.admin_post_with(path, origin, "off").0, 403);
    }
    assert_eq!(runtime.admin_get("/log"), (200, "info\n".into()));
}

#[test]
fn a_filter_that_is_none_stops_the_start_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["arcpd=verbose,[[[", "warning"] {
        let out = serve(dir.path()).env("RUST_LOG", bad).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            !out.status.success() && said.contains("RUST_LOG: "),
            "{bad}: {said}"
        );
    }
}

#[tokio::test]
async fn a_line_about_a_job_names_its_trace() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), HOSTING_BRIEFLY);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job_id = peer.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;
    drop(host);
    let seen = peer.until_terminal().await;
    let trace_id = seen[0].trace_id.clone();
    runtime.signal("-TERM");
    drop(peer);
    let said = "the host of a job is lost";
    runtime.until_logged(said).await;
    let log = runtime.log();
    let line = log.lines().find(|line| line.contains(said)).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["fields"]["job_id"], job_id);
    assert_eq!(line["fields"]["trace_id"], trace_id);
    // One line for each thing to act on: none for an event or a session.
    assert!(log.lines().count() < 12, "{log}");
}

#[tokio::test]
async fn a_line_about_a_job_names_its_session_its_trace_and_itself() {
    let dir = tempfile::tempdir().unwrap();
    let agent = "[[agent]]\nname = \"gone\"\ncommand = [\"/nowhere/at-all\"]\n";
    let runtime = Runtime::start_with(dir.path(), agent);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job_id = peer.submit("gone", json!(1)).await;
    let end = peer.until_terminal().await.pop().unwrap();
    // The line was written before the job ended, and read from a pipe.
    let line = loop {
        let log = runtime.log();
        if let Some(line) = log.lines().find(|line| line.contains("cannot be started")) {
            break serde_json::from_str::<Value>(line).unwrap();
        }
        tokio::task::yield_now().await;
    };
    let fields = &line["fields"];
    assert_eq!(fields["job_id"], job_id);
    assert_eq!(fields["session_id"], peer.session_id);
    assert_eq!(fields["trace_id"], end.trace_id);
}

/// The lines of the audit about an operation, as their fields.
fn audit(runtime: &Runtime, operation: &str) -> Vec<Value> {
    let log = runtime.log();
    let lines = log.lines().filter(|line| line.contains("arcpd::audit"));
    let fields = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take());
    fields
        .filter(|line| line["operation"] == operation)
        .collect()
}

/// Four sessions could have 15 MB of audit written in 40 s.
#[tokio::test]
async fn a_refused_client_had_a_line_of_the_log_for_each_of_its_messages() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let own = peer.submit("echo", json!(1)).await;
    peer.until_terminal().await;
    for job in [&own, "job_nobodys"] {
        for _ in 0..300 {
            let subscribe = proto::JobSubscribe::default();
            peer.send(job, Payload::JobSubscribe(subscribe)).await;
        }
        peer.ping_collect().await;
    }
    // What had no line of its own is summed up, at the latest when the runtime ends.
    runtime.signal("-TERM");
    drop(peer);
    let started = std::time::Instant::now();
    let refused = loop {
        let lines = audit(&runtime, "subscribe");
        let suppressed = lines.iter().filter_map(|line| line["suppressed"].as_u64());
        let with_one = lines.iter().filter(|line| line["job_id"] == "job_nobodys");
        if with_one.count() as u64 + suppressed.sum::<u64>() >= 300 {
            break lines;
        }
        assert!(started.elapsed().as_secs() < 30, "{lines:?}");
        tokio::task::yield_now().await;
    };
    assert!(refused.len() < 100, "{}", refused.len());
    assert!(
        refused.iter().all(|line| line["job_id"] != own),
        "{refused:?}"
    );
}

/// Sessions alone were counted, and nothing was logged.
#[tokio::test]
async fn tokens_refused_by_other_services_than_sessions_were_counted_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    const WRONG: &str = "wrong-token-secret";
    let mut session = Peer::open(&runtime.address, hello(WRONG)).await;
    session.error().await;
    let mut jobs = support::jobs::connect(&runtime, WRONG).await;
    jobs.submit_job(support::jobs::of("echo", json!(1)))
        .await
        .unwrap_err();
    let channel = support::jobs::channel(&runtime).await;
    let bearer = support::jobs::Bearer(WRONG);
    let mut admin = AdminServiceClient::with_interceptor(channel, bearer);
    let overview = proto::GetOverviewRequest::default();
    admin.get_overview(overview).await.unwrap_err();
    let mut host = HostPeer::dial(&runtime.address, WRONG).await.unwrap();
    host.hear().await.unwrap_err();
    for service in ["session", "job", "admin", "agent_host"] {
        let of = format!("arcpd_authentications_refused_total{{service=\"{service}\"}}");
        assert_eq!(value(&runtime.admin_get("/metrics").1, &of), 1.0, "{of}");
        runtime
            .until_logged(&format!("\"service\":\"{service}\""))
            .await;
    }
    let lines = audit(&runtime, "authenticate");
    assert!(
        lines.iter().all(|line| line["decision"] == "refused"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 4);
}

#[tokio::test]
async fn an_agent_that_was_killed_left_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let agent = "[[agent]]\nname = \"dies\"\ncommand = [\"sh\", \"-c\", \"kill -SEGV $$\"]\n";
    let runtime = Runtime::start_with(dir.path(), agent);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job_id = peer.submit("dies", json!(1)).await;
    peer.until_terminal().await;
    runtime
        .until_logged("an agent was killed by a signal")
        .await;
    let log = runtime.log();
    let line = log
        .lines()
        .find(|line| line.contains("killed by a signal"))
        .unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["fields"]["signal"], &line["fields"]["job_id"]),
        (&json!(11), &json!(job_id))
    );
}

/// Where a text is that must not be there.
fn leak(said: &[String], secret: &str) -> Option<usize> {
    assert!(secret.len() > 8);
    said.iter().position(|text| text.contains(secret))
}

/// A scanner that finds nothing may be one that cannot.
#[tokio::test]
async fn the_scanner_finds_what_is_planted() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    assert_eq!(leak(&[runtime.log()], "planted_secret"), None);
    // What is logged of this is the text as it is.
    let planted = "info,planted_secret=debug";
    assert_eq!(runtime.admin_post("/log", planted).0, 200);
    while !runtime.log().contains("what is logged has changed") {
        tokio::task::yield_now().await;
    }
    assert_eq!(leak(&[runtime.log()], "planted_secret"), Some(0));
}

/// Whatever the filter lets through, at the finest that is ours.
#[tokio::test]
async fn no_token_input_or_result_is_in_log_traces_or_metrics() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("arcpd.toml");
    std::fs::write(&path, HOSTING).unwrap();
    let mut command = serve(dir.path());
    command
        .arg("--config")
        .arg(path)
        .envs(collector.env("http/protobuf"))
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=collector-secret")
        .env("RUST_LOG", "debug,arcpd=trace");
    let runtime = Runtime::spawn(&mut command);
    let mut host = HostPeer::serving(&runtime.address, "h1", "a", 1).await;
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    peer.submit("a", json!({ "input": "input-secret" })).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(
        &of,
        vec![log(1, "event-secret"), result(2, "\"result-secret\"")],
    )
    .await;
    let last = peer.until_terminal().await.last().unwrap().event_seq;
    let (session, first_token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    let resumed = Peer::resume(&runtime.address, ALICE, &session, &first_token, last).await;
    let peer = resumed.welcomed().await;
    let refused = Peer::open(&runtime.address, hello("wrong-token-secret")).await;
    let mut refused = refused;
    refused.error().await;
    let mut ws = Ws::connect(&runtime, BOB).await;
    let submit = ws.envelope(
        "job.submit",
        json!({ "agent": "failer", "input":
        { "code": "TIMEOUT", "message": "message-secret" } }),
    );
    ws.send(&submit.to_string()).await;
    ws.until_terminal().await;
    let (_, metrics) = runtime.admin_get("/metrics");
    let secrets = [
        ALICE,
        BOB,
        WORKERS,
        "wrong-token-secret",
        &first_token,
        &peer.resume_token,
        &of.lease_token,
        "input-secret",
        "event-secret",
        "result-secret",
        "message-secret",
        "collector-secret",
    ]
    .map(str::to_owned);
    collector
        .until(|seen| {
            seen.spans()
                .into_iter()
                .find(|span| span.name == "invoke_agent failer")
        })
        .await;
    let said = [runtime.log(), collector.raw(), metrics];
    assert!(said.iter().all(|text| text.len() > 1_000));
    for secret in secrets {
        assert_eq!(
            leak(&said, &secret),
            None,
            "{secret} is in one of log, traces, metrics"
        );
    }
}

/// At `trace` the WebSocket library wrote each frame down, with the tokens in it.
#[tokio::test]
async fn a_trace_of_all_that_runs_had_the_tokens_of_websockets_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(dir.path());
    // A filter that names the library, and closer than any limit by name could.
    let filter = "trace,tungstenite=trace,tungstenite::protocol=trace";
    command.env("RUST_LOG", filter);
    let runtime = Runtime::spawn(&mut command);
    let mut ws = Ws::connect(&runtime, BOB).await;
    let first_token = ws.resume_token.clone();
    // Changed while it runs, it holds as well.
    assert_eq!(runtime.admin_post("/log", filter).0, 200);
    let submit = ws.envelope(
        "job.submit",
        json!({ "agent": "echo", "input": "input-secret" }),
    );
    ws.send(&submit.to_string()).await;
    ws.until_terminal().await;
    let again = Ws::connect(&runtime, ALICE).await;
    Peer::connect(&runtime.address, ALICE).await;
    let quiet = "info,end=info";
    assert_eq!(runtime.admin_post("/log", quiet).0, 200);
    runtime.until_logged(quiet).await;
    let log = runtime.log();
    assert!(log.contains("\"target\":\"h2::"));
    for secret in [
        ALICE,
        BOB,
        &first_token,
        &again.resume_token,
        "input-secret",
    ] {
        assert!(secret.len() > 8);
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
