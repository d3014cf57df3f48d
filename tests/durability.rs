//! What is promised of a killed process and of a cut power, shown by doing it.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use arcpd::wire::proto::{self, Envelope, envelope::Payload};
use rand::{Rng, SeedableRng};
use serde_json::json;
use support::cpu::cpu_time;
use support::*;

fn firehose(events: u64) -> serde_json::Value {
    json!({ "events": events, "bytes": 128, "pause_every": 500, "pause_ms": 5 })
}

/// A client that keeps all it has seen.
struct Client {
    peer: Peer,
    seen: Vec<Envelope>,
}

impl Client {
    async fn connect(runtime: &Runtime) -> Self {
        let peer = Peer::connect(&runtime.address, ALICE).await;
        let seen = Vec::new();
        Self { peer, seen }
    }

    async fn watch(&mut self, job: &str) {
        let subscribe = proto::JobSubscribe {
            history: true,
            ..Default::default()
        };
        self.peer.send(job, Payload::JobSubscribe(subscribe)).await;
        self.peer.next().await;
    }

    async fn until(&mut self, count: usize) {
        while self.seen.len() < count {
            let envelope = self.peer.next().await;
            if envelope.event_seq > 0 {
                self.seen.push(envelope);
            }
        }
    }

    /// What had already arrived when the runtime went.
    async fn drain(&mut self) {
        while let Some(envelope) = self.peer.try_next().await {
            if envelope.event_seq > 0 {
                self.seen.push(envelope);
            }
        }
    }

    async fn resume(mut self, runtime: &Runtime) -> Vec<Envelope> {
        let last = self.seen.last().map_or(0, |envelope| envelope.event_seq);
        let (id, token) = (&self.peer.session_id, &self.peer.resume_token);
        let resumed = Peer::resume(&runtime.address, ALICE, id, token, last).await;
        let mut resumed = resumed.welcomed().await;
        self.seen.extend(resumed.until_terminal().await);
        self.seen
    }
}

/// The bodies, without what differs between sessions.
fn bodies(seen: &[Envelope]) -> Vec<&Option<Payload>> {
    seen.iter().map(|envelope| &envelope.payload).collect()
}

#[tokio::test]
async fn killed_at_any_moment_nobody_loses_or_doubles_what_they_saw() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let runtime = Runtime::start(dir.path());
        let mut submitter = Client::connect(&runtime).await;
        let key = format!("key-{round}");
        let job = submitter
            .peer
            .submit_keyed("firehose", firehose(100_000), &key)
            .await;
        let mut observer = Client::connect(&runtime).await;
        observer.watch(&job).await;
        submitter.until(random.random_range(1..6_000)).await;
        runtime.kill();
        submitter.drain().await;
        observer.drain().await;
        let runtime = Runtime::start(dir.path());
        let submitted = submitter.resume(&runtime).await;
        let observed = observer.resume(&runtime).await;
        let n = submitted.len() as u64;
        assert_eq!(seqs(&submitted), (1..=n).collect::<Vec<_>>());
        assert_eq!(seqs(&observed), (1..=n).collect::<Vec<_>>());
        assert_eq!(bodies(&submitted), bodies(&observed));
        let Some(Payload::JobError(error)) = &submitted.last().unwrap().payload else {
            panic!("no job stays running: {:?}", submitted.last());
        };
        assert!(error.code == "INTERNAL_ERROR" && error.retryable);
        let mut again = Client::connect(&runtime).await;
        let same = again
            .peer
            .submit_keyed("firehose", firehose(100_000), &key)
            .await;
        assert_eq!(same, job, "the key holds");
    }
}

/// The layer that is put under a runtime's files; built once.
fn layer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let layer = Path::new(env!("CARGO_TARGET_TMPDIR")).join("durable.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/durable.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(&layer)
            .arg(source)
            .arg("-ldl")
            .status()
            .expect("a C compiler, which building SQLite needs too");
        assert!(built.success());
        layer
    })
}

/// A runtime whose files have copies as a power cut would leave them.
fn with_power_cut(data: &Path, copies: &Path, durability: &str) -> Runtime {
    Runtime::spawn(&mut on_layer(data, copies, durability))
}

fn on_layer(data: &Path, copies: &Path, durability: &str) -> Command {
    let mut command = serve(data);
    command
        .args(["--durability", durability])
        .env("LD_PRELOAD", layer())
        .env("DURABLE_FROM", data)
        .env("DURABLE_TO", copies)
        .env("DURABLE_FULL", copies.join("full"));
    command
}

#[tokio::test]
async fn with_power_durability_a_power_cut_takes_nothing_that_was_seen() {
    for round in 1..=4 {
        let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let runtime = with_power_cut(data.path(), copies.path(), "power");
        let mut client = Client::connect(&runtime).await;
        let job = client
            .peer
            .submit_keyed("firehose", firehose(100_000), "k")
            .await;
        client.until(700 * round).await;
        runtime.kill();
        client.drain().await;
        let runtime = Runtime::start(copies.path());
        let seen = client.resume(&runtime).await;
        assert_eq!(seqs(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
        let mut again = Client::connect(&runtime).await;
        assert_eq!(
            again
                .peer
                .submit_keyed("firehose", firehose(100_000), "k")
                .await,
            job
        );
    }
}

/// The control: without it the same cut does take something, so the test above
/// tests something.
#[tokio::test]
async fn with_process_durability_the_same_power_cut_is_felt() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtime = with_power_cut(data.path(), copies.path(), "process");
    let mut client = Client::connect(&runtime).await;
    client.peer.submit("firehose", firehose(100_000)).await;
    client.until(2_000).await;
    runtime.kill();
    let runtime = Runtime::start(copies.path());
    let (id, token) = (&client.peer.session_id, &client.peer.resume_token);
    let mut resumed = Peer::resume(&runtime.address, ALICE, id, token, 2_000).await;
    assert_eq!(resumed.error().await.code, "RESUME_WINDOW_EXPIRED");
}

#[tokio::test]
async fn a_store_of_a_million_records_opens_at_once_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut peer = Peer::connect(&runtime.address, ALICE).await;
        tasks.spawn(async move {
            peer.submit("firehose", json!({ "events": 250_000, "bytes": 64 }))
                .await;
            peer.until_terminal().await.len()
        });
    }
    assert_eq!(tasks.join_all().await, [250_001; 4]);
    runtime.kill();
    let runtime = Runtime::start(dir.path());
    let took = cpu_time(&runtime.pid().to_string());
    println!("1,000,004 records opened in {took:?}");
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[test]
fn a_torn_or_foreign_store_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    Runtime::start(dir.path()).kill();
    let store = dir.path().join("arcpd.db");
    let refused = |what: &str| {
        let output = serve(dir.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("restore a backup"),
            "{what}: {said}"
        );
    };
    for name in ["arcpd.db-wal", "arcpd.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    std::fs::write(&store, b"text of some other program ".repeat(400)).unwrap();
    refused("foreign");
    std::fs::write(&store, b"SQLite format 3\0torn").unwrap();
    refused("torn");
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost_and_the_rest_waits() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtime = with_power_cut(data.path(), copies.path(), "process");
    let mut client = Client::connect(&runtime).await;
    let input = json!({ "count": 400, "interval_ms": 2 });
    client.peer.submit("ticker", input).await;
    let mut other = Client::connect(&runtime).await;
    client.until(20).await;
    let full = copies.path().join("full");
    std::fs::write(&full, "").unwrap();
    while runtime.admin_get("/readyz").0 == 200 {
        tokio::task::yield_now().await;
    }
    let submit = proto::JobSubmit {
        agent: "echo".into(),
        ..Default::default()
    };
    other.peer.send("", Payload::JobSubmit(submit)).await;
    let refused = other.peer.error().await;
    assert!(
        refused.code == "INTERNAL_ERROR" && refused.retryable,
        "{refused:?}"
    );
    std::fs::remove_file(&full).unwrap();
    while runtime.admin_get("/readyz").0 != 200 {
        tokio::task::yield_now().await;
    }
    other.peer.submit("echo", json!(1)).await;
    client.seen.extend(client.peer.until_terminal().await);
    assert_eq!(seqs(&client.seen), (1..=401).collect::<Vec<_>>());
}

/// It was said to be some other program's file, for which a backup was to be restored.
#[test]
fn a_full_disk_at_the_first_start_is_named() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(copies.path().join("full"), "").unwrap();
    let started = on_layer(data.path(), copies.path(), "process").output();
    let output = started.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("make room"),
        "{said}"
    );
    assert!(!said.contains("restore a backup"), "{said}");
}

/// It was killed by the signal that says so.
#[tokio::test]
async fn a_file_that_may_not_grow_is_a_commit_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let served = serve(dir.path());
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 8192; exec \"$0\" \"$@\""])
        .arg(served.get_program())
        .args(served.get_args());
    for (name, value) in served.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let runtime = Runtime::spawn(&mut limited);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let input = json!({ "events": 40_000, "bytes": 1_000 });
    peer.submit("firehose", input).await;
    runtime.until_logged("a commit failed").await;
    assert_eq!(runtime.admin_get("/readyz").0, 503);
    assert_eq!(runtime.admin_get("/livez").0, 200);
}

/// It stayed ready for as long as a disk did not answer, and clients came.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_stands_still_makes_it_not_ready_before_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let still = rusqlite::Connection::open(dir.path().join("arcpd.db")).unwrap();
    still.execute_batch("BEGIN IMMEDIATE").unwrap();
    let submit = proto::JobSubmit {
        agent: "echo".into(),
        ..Default::default()
    };
    peer.send("", Payload::JobSubmit(submit)).await;
    while runtime.admin_get("/readyz").0 == 200 {
        look_again().await;
    }
    assert!(!runtime.log().contains("a commit failed"));
    still.execute_batch("ROLLBACK").unwrap();
    peer.until_terminal().await;
    assert_eq!(runtime.admin_get("/readyz").0, 200);
}

/// It was answered, and a crash before there was room again would have lost it.
#[tokio::test]
async fn a_cancel_that_the_store_does_not_take_is_refused_and_can_be_said_again() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runtime = with_power_cut(data.path(), copies.path(), "process");
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let job = peer.submit("sleeper", json!({ "ms": 600_000 })).await;
    let full = copies.path().join("full");
    std::fs::write(&full, "").unwrap();
    peer.send(&job, Payload::JobCancel(Default::default()))
        .await;
    let refused = peer.error().await;
    assert!(
        refused.code == "INTERNAL_ERROR" && refused.retryable,
        "{refused:?}"
    );
    assert!(refused.message.contains("store"), "{refused:?}");
    assert_eq!(runtime.admin_get("/readyz").0, 503);
    std::fs::remove_file(&full).unwrap();
    while runtime.admin_get("/readyz").0 != 200 {
        look_again().await;
    }
    peer.send(&job, Payload::JobCancel(Default::default()))
        .await;
    let mut answered = false;
    let end = loop {
        match peer.next().await.payload {
            Some(Payload::JobCancelled(_)) => answered = true,
            Some(Payload::JobError(end)) => break end,
            _ => {}
        }
    };
    assert_eq!(end.code, "CANCELLED");
    assert!(answered || matches!(peer.next().await.payload, Some(Payload::JobCancelled(_))));
}
