//! An import that was killed: what it has left in the data directory is neither taken for a
//! store nor in the way of the next.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::buf::run;
use support::nats::Nats;
use support::ws::Ws;
use support::*;

const WITHIN: Duration = Duration::from_secs(30);

fn arcpd(what: &str, file: &Path, dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command.arg(what).arg(file).arg("--data-dir").arg(dir);
    command.args(more);
    command
}

/// A store with one job, exported.
async fn exported(dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let runtime = Runtime::start(&store);
    let mut client = Ws::connect(&runtime, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    drop(client);
    assert!(runtime.terminate().await.success());
    let file = dir.join("export");
    run(&mut arcpd("export", &file, &store, &[]));
    file
}

async fn until_there(path: &Path) {
    let since = Instant::now();
    while !path.exists() {
        assert!(since.elapsed() < WITHIN, "no {}", path.display());
        look_again().await;
    }
}

fn kill9(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("a dead child");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn jobs(runtime: &Runtime) -> usize {
    let mut client = Ws::connect(runtime, ALICE).await;
    client.say("session.list_jobs", json!({})).await;
    let listed = client.hear_type("session.jobs").await;
    listed["payload"]["jobs"].as_array().unwrap().len()
}

/// The runtime began with an empty store, and the import could not be made any more.
#[tokio::test]
async fn a_directory_whose_import_was_killed_is_not_served_as_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = exported(dir.path()).await;
    let (pipe, into) = (dir.path().join("pipe"), dir.path().join("into"));
    run(Command::new("mkfifo").arg(&pipe));
    // It waits for the rest of what it reads.
    let import = arcpd("import", &pipe, &into, &[]).spawn().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    writer.write_all(&whole[..whole.len() / 2]).unwrap();
    until_there(&into.join("arcpd.db.import")).await;
    let output = serve(&into).output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("in use by another arcpd"), "{why}");
    kill9(import);
    let output = serve(&into).output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        why.contains("arcpd.db.import: an import was cut off"),
        "{why}"
    );
    assert!(why.contains("run arcpd import again"), "{why}");
    run(&mut arcpd("import", &file, &into, &[]));
    assert_eq!(names(&into), ["arcpd.db", "lock"]);
    assert_eq!(jobs(&Runtime::start(&into)).await, 1);
}

/// What a user may do who is not let to write the log: an import joins, and waits.
const READS_ONLY: &str = "authorization { users: [{ user: u, password: p, permissions: { \
    publish: { deny: ['arcp.arcpd.>'] } } }] }\nno_auth_user: u\n";

/// "has a store already": what the import itself had made.
#[tokio::test]
async fn an_import_into_a_cell_that_was_killed_is_made_again_in_the_same_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = exported(dir.path()).await;
    let mut nats = Nats::single_with(READS_ONLY);
    let url = nats.url();
    let cell = ["--cluster", &url, "--cluster-replication", "1"];
    let into = dir.path().join("into");
    let mut import = arcpd("import", &file, &into, &cell);
    let import = import.stderr(Stdio::null()).spawn().unwrap();
    until_there(&into.join("arcpd.db")).await;
    kill9(import);
    assert!(names(&into).contains(&"arcpd.db.import".to_owned()));
    nats.kill9();
    nats.reconfigure("");
    nats.restart();
    run(&mut arcpd("import", &file, &into, &cell));
    let mut replica = serve(&into);
    assert_eq!(jobs(&Runtime::spawn(replica.args(cell))).await, 1);
}

/// A store that a replica serves from is its own from then on.
#[tokio::test]
async fn what_a_killed_import_has_left_beside_a_store_goes_when_that_is_served() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let url = nats.url();
    let cell = ["--cluster", &url, "--cluster-replication", "1"];
    assert!(
        Runtime::spawn(serve(dir.path()).args(cell))
            .terminate()
            .await
            .success()
    );
    std::fs::write(dir.path().join("arcpd.db.import"), "half a store").unwrap();
    let runtime = Runtime::spawn(serve(dir.path()).args(cell));
    runtime
        .until_logged("removed what an import has left")
        .await;
    assert!(!dir.path().join("arcpd.db.import").exists());
}
