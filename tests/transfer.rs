//! All that a runtime has, as one file: from one process into a cell and back, with real
//! processes, real servers, and a client and a host that only find another address.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arcpd::wire::proto;
use serde_json::{Value, json};
use support::credentials::{asking, submit, submitted};
use support::gateway::*;
use support::host::*;
use support::nats::Nats;
use support::ws::{Ws, hello, seqs};
use support::*;

fn arcpd(what: &str, file: &Path, dir: &Path, nats: Option<&Nats>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command.arg(what).arg(file).arg("--data-dir").arg(dir);
    command.args(nats.map(in_cell).unwrap_or_default());
    command.output().unwrap()
}

fn in_cell(nats: &Nats) -> Vec<String> {
    ["--cluster", &nats.url(), "--cluster-replication", "1"]
        .map(String::from)
        .into()
}

/// What it says; it has to have done it.
fn done(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Why it was not done.
fn refused(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// On its own, or in the cell of a server.
fn start(dir: &Path, nats: Option<&Nats>) -> Runtime {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, HOSTING).unwrap();
    let mut command = serve(dir);
    command.arg("--config").arg(path);
    Runtime::spawn(command.args(nats.map(in_cell).unwrap_or_default()))
}

async fn resume(runtime: &Runtime, from: &Ws, after: u64) -> Ws {
    let resume = json!({
        "session_id": from.session_id, "resume_token": from.resume_token, "last_event_seq": after,
    });
    Ws::open(runtime, hello("r", ALICE, json!({ "resume": resume }))).await
}

/// Numbered frames up to and including a number.
async fn until(client: &mut Ws, last: u64) -> Vec<Value> {
    let mut seen = Vec::new();
    while seen.len() < last as usize {
        let frame = client.hear().await;
        if frame["event_seq"].is_u64() {
            seen.push(frame);
        }
    }
    assert_eq!(seqs(&seen), (1..=last).collect::<Vec<_>>());
    seen
}

/// What a client knows an event by.
fn identities(frames: &[Value]) -> Vec<(Value, Value, Value)> {
    let identity = |frame: &Value| {
        let of = |key: &str| frame[key].clone();
        (of("id"), of("event_seq"), of("job_id"))
    };
    frames.iter().map(identity).collect()
}

/// Takes a host's jobs with it to another runtime.
async fn go_on(runtime: &Runtime, instance: &str, jobs: &[&proto::AssignmentRef]) -> HostPeer {
    let mut again = register(instance, vec![agent("a")], 4);
    again.resume = jobs.iter().map(|of| held(of)).collect();
    let (host, registered) = HostPeer::connect(&runtime.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), jobs.len(), "{registered:?}");
    host
}

#[tokio::test]
async fn a_runtime_moves_into_a_cell_and_back_and_no_client_misses_anything() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let at = |name: &str| dir.path().join(name);
    let alone = start(&at("alone"), None);
    let mut client = Ws::connect(&alone, ALICE).await;
    let keyed = json!({ "agent": "echo", "input": 1, "idempotency_key": "k" });
    client.say("job.submit", keyed.clone()).await;
    let first = client.hear_type("job.accepted").await["job_id"].clone();
    client.until_terminal().await;
    let mut host = HostPeer::serving(&alone.address, "h", "a", 4).await;
    client.submit("a", json!(1)).await;
    let (_, one) = host.assigned().await;
    client.submit("a", json!(2)).await;
    let (_, two) = host.assigned().await;
    for of in [&one, &two] {
        host.accept(of).await;
        host.report(of, vec![log(1, "alone")]).await;
        host.acked(1).await;
    }
    let mut all = resume(&alone, &client, 0).await;
    let before = until(&mut all, 3).await;
    drop((client, host));
    assert!(alone.terminate().await.success());

    // Into the cell: the client and the host go to one replica each.
    let file = at("alone.export");
    done(arcpd("export", &file, &at("alone"), None));
    let said = done(arcpd("import", &file, &at("a"), Some(&nats)));
    assert!(said.contains("3 jobs, 1 sessions"), "{said}");
    let (a, b) = (start(&at("a"), Some(&nats)), start(&at("b"), Some(&nats)));
    let mut all = resume(&b, &all, 0).await;
    assert_eq!(identities(&until(&mut all, 3).await), identities(&before));
    let mut host = go_on(&a, "h", &[&one, &two]).await;
    host.report(&one, vec![log(2, "in the cell"), result(3, "1")])
        .await;
    let ended = all.until_terminal().await;
    assert_eq!(seqs(&ended), [4, 5]);
    all.say("job.submit", keyed.clone()).await;
    assert_eq!(all.hear_type("job.accepted").await["job_id"], first);
    // What is asked for again is told again, in this session too.
    assert_eq!(seqs(&all.until_terminal().await), [6]);
    let mut all = resume(&b, &all, 0).await;
    let before = until(&mut all, 6).await;
    drop(host);
    assert!(a.terminate().await.success());
    assert!(b.terminate().await.success());

    // And back, by way of a directory that has never seen the cell.
    let file = at("cell.export");
    let said = done(arcpd("export", &file, &at("reader"), Some(&nats)));
    assert!(!said.contains("replicas are in the cell"), "{said}");
    done(arcpd("import", &file, &at("back"), None));
    let back = start(&at("back"), None);
    let mut all = resume(&back, &all, 0).await;
    assert_eq!(identities(&until(&mut all, 6).await), identities(&before));
    let mut host = go_on(&back, "h", &[&two]).await;
    host.report(&two, vec![log(2, "back"), result(3, "2")])
        .await;
    let ended = all.until_terminal().await;
    assert_eq!(seqs(&ended), [7, 8], "{ended:?}");
    all.say("job.submit", keyed).await;
    assert_eq!(all.hear_type("job.accepted").await["job_id"], first);
    assert_eq!(seqs(&all.until_terminal().await), [9]);
    let fresh = all.submit("echo", json!(3)).await;
    assert_eq!(all.until_terminal().await[0]["job_id"], fresh["job_id"]);
}

/// A store with a job and a session, exported.
async fn exported(dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let runtime = start(&store, None);
    let mut client = Ws::connect(&runtime, ALICE).await;
    client.submit("echo", json!("x".repeat(100))).await;
    client.until_terminal().await;
    let file = dir.join("export");
    let why = refused(arcpd("export", &file, &store, None));
    assert!(why.contains("in use by another arcpd"), "{why}");
    drop(client);
    assert!(runtime.terminate().await.success());
    done(arcpd("export", &file, &store, None));
    file
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_changed_or_newer_brings_nothing_in() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = exported(dir.path()).await;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let whole = std::fs::read(&file).unwrap();
    let head = whole.iter().position(|byte| *byte == b'\n').unwrap();
    let (bad, into) = (dir.path().join("bad"), dir.path().join("into"));
    let brought = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).unwrap();
        let why = refused(arcpd("import", &bad, &into, None));
        let left: Vec<_> = std::fs::read_dir(&into).unwrap().collect();
        assert_eq!(left.len(), 1, "the lock alone: {left:?}");
        why
    };
    for len in [
        head + 1,
        head + 3,
        whole.len() / 2,
        whole.len() - 40,
        whole.len() - 1,
    ] {
        let why = brought(&whole[..len]);
        assert!(why.contains("cut off"), "{len}: {why}");
    }
    for at in [head + 100, whole.len() - 33, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let why = brought(&changed);
        assert!(why.contains("damaged"), "{at}: {why}");
    }
    let why = brought(&[whole.clone(), vec![0]].concat());
    assert!(why.contains("more behind its end"), "{why}");
    let head = String::from_utf8_lossy(&whole[..head]);
    for (from, to) in [
        ("\"arcpd_export\":1", "\"arcpd_export\":9"),
        ("\"store\":1", "\"store\":9"),
    ] {
        let newer = head.replace(from, to);
        assert_ne!(newer, head);
        let why = brought(&[newer.as_bytes(), &whole[head.len()..]].concat());
        assert!(why.contains("newer arcpd"), "{why}");
    }
    let why = brought(b"SQLite format 3\0");
    assert!(why.contains("no export of arcpd"), "{why}");

    done(arcpd("import", &file, &into, None));
    let why = refused(arcpd("import", &file, &into, None));
    assert!(why.contains("has a store already"), "{why}");
    let why = refused(arcpd("export", &file, &into, None));
    assert!(why.contains("is there already"), "{why}");
    let nothing = dir.path().join("nothing");
    let why = refused(arcpd("export", &dir.path().join("e"), &nothing, None));
    assert!(why.contains("no store to export"), "{why}");
}

#[tokio::test]
async fn a_cell_that_is_used_takes_no_import() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let file = exported(dir.path()).await;
    let at = |name: &str| dir.path().join(name);
    let replica = start(&at("a"), Some(&nats));
    let why = refused(arcpd("import", &file, &at("b"), Some(&nats)));
    assert!(why.contains("is in the cell"), "{why}");
    let mut client = Ws::connect(&replica, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    drop(client);
    assert!(replica.terminate().await.success());
    let why = refused(arcpd("import", &file, &at("b"), Some(&nats)));
    assert!(why.contains("has jobs or sessions"), "{why}");
    // It was not touched, and the directory neither: a replica starts in it.
    let replica = start(&at("b"), Some(&nats));
    let mut client = Ws::connect(&replica, ALICE).await;
    client.say("session.list_jobs", json!({})).await;
    let listed = client.hear_type("session.jobs").await;
    assert_eq!(listed["payload"]["jobs"].as_array().unwrap().len(), 1);
}

/// The servers are gone with all they had: a replica's file is a backup.
#[tokio::test]
async fn a_cell_whose_servers_lost_everything_is_made_again_from_a_replicas_file() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let at = |name: &str| dir.path().join(name);
    let replica = start(&at("a"), Some(&nats));
    let mut client = Ws::connect(&replica, ALICE).await;
    client.submit("echo", json!(1)).await;
    let seen = client.until_terminal().await;
    replica.kill();
    drop(nats);
    let file = at("export");
    let said = done(arcpd("export", &file, &at("a"), None));
    assert!(said.contains("of the cell's stream"), "{said}");
    let nats = Nats::single();
    done(arcpd("import", &file, &at("b"), Some(&nats)));
    let b = start(&at("b"), Some(&nats));
    let mut client = resume(&b, &client, 0).await;
    assert_eq!(
        identities(&client.until_terminal().await),
        identities(&seen)
    );
    client.submit("echo", json!(2)).await;
    let more = client.until_terminal().await;
    // Whoever joins later reads the import out of the stream.
    let c = start(&at("c"), Some(&nats));
    let mut client = resume(&c, &client, 0).await;
    assert_eq!(
        identities(&client.until_terminal().await),
        identities(&seen)
    );
    assert_eq!(
        identities(&client.until_terminal().await),
        identities(&more)
    );
    client.submit("echo", json!(3)).await;
    client.until_terminal().await;
}

/// The gateway is down when a job ends, and the runtime moves before it is back; another
/// job has its key in both.
#[tokio::test]
async fn credentials_move_and_what_was_to_be_revoked_is_revoked_by_a_replica() {
    let (dir, nats, gateway) = (
        tempfile::tempdir().unwrap(),
        Nats::single(),
        Gateway::start().await,
    );
    let at = |name: &str| dir.path().join(name);
    let serving = |name: &str, nats: Option<&Nats>| {
        let dir = at(name);
        std::fs::create_dir_all(&dir).unwrap();
        let seal = secret_file(&dir, "seal.key", &"0f".repeat(32));
        let gateway = gateway.toml(&dir);
        let toml = format!("{gateway}encryption_key_file = {seal:?}\n{HOSTING}");
        std::fs::write(dir.join("arcpd.toml"), toml).unwrap();
        let mut command = serve(&dir);
        command.arg("--config").arg(dir.join("arcpd.toml"));
        Runtime::spawn(command.args(nats.map(in_cell).unwrap_or_default()))
    };
    let alone = serving("alone", None);
    let mut alice = asking(&alone.address, ALICE).await;
    let mut host = HostPeer::serving(&alone.address, "h", "a", 2).await;
    let mut work = Vec::new();
    for input in [1, 2] {
        submitted(&mut alice, submit("a", json!(input))).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "begun")]).await;
        host.acked(1).await;
        work.push(of);
    }
    gateway.set(Mood::Down);
    host.report(&work[0], vec![result(2, "1")]).await;
    alice.until_terminal().await;
    drop((alice, host));
    assert!(alone.terminate().await.success());

    let file = at("export");
    done(arcpd("export", &file, &at("alone"), None));
    done(arcpd("import", &file, &at("a"), Some(&nats)));
    let a = serving("a", Some(&nats));
    gateway.set(Mood::Well);
    let mut host = go_on(&a, "h", &[&work[1]]).await;
    host.report(&work[1], vec![result(2, "2")]).await;
    gateway.until_all_deleted().await;
    assert_eq!(gateway.keys().len(), 2);
}

/// A backup with a wrong name, or after the stream was lost, made a new one: the backup was
/// empty and said that it was done, and the replicas' own files were then another stream's.
#[tokio::test]
async fn an_export_of_a_cell_that_is_not_there_is_refused_and_makes_none() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let at = |name: &str| dir.path().join(name);
    let replica = start(&at("a"), Some(&nats));
    let mut client = Ws::connect(&replica, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    drop(client);
    let kept = at("kept");
    done(arcpd("export", &at("e1"), &kept, Some(&nats)));
    assert!(replica.terminate().await.success());
    let mut misspelt = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    misspelt.arg("export").arg(at("e2")).arg("--data-dir");
    misspelt.arg(at("scratch")).args(in_cell(&nats));
    let why = refused(misspelt.args(["--cluster-name", "arcdp"]).output().unwrap());
    assert!(why.contains("ARCP_LOG_arcdp: there is none"), "{why}");
    assert!(why.contains("cluster.name"), "{why}");

    let context = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    context.delete_stream("ARCP_LOG_arcpd").await.unwrap();
    for scratch in ["scratch", "kept"] {
        let why = refused(arcpd("export", &at("e3"), &at(scratch), Some(&nats)));
        assert!(why.contains("ARCP_LOG_arcpd: there is none"), "{why}");
    }
    // Nor does a replica that has followed it.
    let mut replica = serve(&at("a"));
    let why = refused(replica.args(in_cell(&nats)).output().unwrap());
    assert!(why.contains("ARCP_LOG_arcpd: it is not there"), "{why}");
    let names: Vec<_> = futures_util::TryStreamExt::try_collect(context.stream_names())
        .await
        .unwrap();
    assert_eq!(names, Vec::<String>::new());
    assert!(!at("e2").exists() && !at("e3").exists());
    // What it has is a backup.
    done(arcpd("export", &at("e4"), &kept, None));
}

/// It waited for ever for somebody to take what the cell committed meanwhile.
#[tokio::test]
async fn an_export_of_a_cell_at_work_ends() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let at = |name: &str| dir.path().join(name);
    let replica = start(&at("a"), Some(&nats));
    let mut client = Ws::connect(&replica, ALICE).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command.arg("export").arg(at("file")).arg("--data-dir");
    command.arg(at("reader")).args(in_cell(&nats));
    let mut command = tokio::process::Command::from(command);
    let exported = command.kill_on_drop(true).output();
    let working = async {
        loop {
            client.submit("echo", json!(1)).await;
            client.until_terminal().await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    let exported = tokio::select! {
        exported = tokio::time::timeout(limit, exported) => exported.expect("in time").unwrap(),
        () = working => unreachable!(),
    };
    done(exported);
    done(arcpd("import", &at("file"), &at("alone"), None));
}

/// A volume for backups was full one night.
#[tokio::test]
async fn an_export_removes_older_ones_but_for_those_that_are_to_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let runtime = start(&at("a"), None);
    assert!(runtime.terminate().await.success());
    let export = |name: &str, keep: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
        command.arg("export").arg(at(name)).arg("--data-dir");
        command
            .arg(at("a"))
            .args(["--keep", keep])
            .output()
            .unwrap()
    };
    // What is no export, what is called otherwise, and what others may be writing.
    std::fs::write(at("notes.arcpd"), "of mine\n").unwrap();
    done(arcpd("export", &at("other.file"), &at("a"), None));
    std::fs::write(at("now.arcpd.partial"), "").unwrap();
    let killed = std::fs::File::create(at("killed.arcpd.partial")).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    killed.set_modified(long_ago).unwrap();

    // By when they were written, not by their names.
    for name in ["c.arcpd", "b.arcpd", "a.arcpd"] {
        let said = done(export(name, "2"));
        assert_eq!(said.contains("removed"), name != "b.arcpd", "{said}");
    }
    for (name, there) in [
        ("c.arcpd", false),
        ("b.arcpd", true),
        ("a.arcpd", true),
        ("notes.arcpd", true),
        ("other.file", true),
        ("now.arcpd.partial", true),
        ("killed.arcpd.partial", false),
    ] {
        assert_eq!(at(name).exists(), there, "{name}");
    }
    // Nothing is removed for an export that was not made.
    refused(export("a.arcpd", "1"));
    assert!(at("b.arcpd").exists());
    let why = refused(export("d.arcpd", "0"));
    assert!(why.contains("--keep <NUMBER>"), "{why}");
    done(export("d.arcpd", "1"));
    assert!(at("d.arcpd").exists() && !at("a.arcpd").exists() && !at("b.arcpd").exists());
}

/// Backups of two cells in one folder: those of one removed the other's.
#[tokio::test]
async fn an_export_removes_none_that_is_of_another_cell_or_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (store, in_cell) in [("one", true), ("two", true), ("alone", false)] {
        let nats = in_cell.then(Nats::single);
        let runtime = start(&at(store), nats.as_ref());
        assert!(runtime.terminate().await.success());
    }
    let export = |name: &str, of: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
        command.arg("export").arg(at(name)).arg("--data-dir");
        command.arg(at(of)).args(["--offline", "--keep", "1"]);
        done(command.output().unwrap())
    };
    for of in ["one", "two", "alone"] {
        let said = export(&format!("{of}-1.arcpd"), of);
        assert!(!said.contains("removed"), "{said}");
    }
    for of in ["one", "two", "alone"] {
        let said = export(&format!("{of}-2.arcpd"), of);
        assert_eq!(said.matches("removed").count(), 1, "{said}");
        assert!(!at(&format!("{of}-1.arcpd")).exists(), "{said}");
    }
}

/// A store was left behind, and the next import into the directory was refused for it.
#[tokio::test]
async fn an_import_that_cannot_join_the_cell_leaves_the_directory_as_it_was() {
    let (dir, nats) = (tempfile::tempdir().unwrap(), Nats::single());
    let file = exported(dir.path()).await;
    let at = |name: &str| dir.path().join(name);
    let replica = start(&at("a"), Some(&nats));
    assert!(replica.terminate().await.success());
    let context = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let stream = context.get_stream("ARCP_LOG_arcpd").await.unwrap();
    stream.purge().await.unwrap();
    let into = at("into");
    let why = refused(arcpd("import", &file, &into, Some(&nats)));
    assert!(why.contains("it begins at"), "{why}");
    let left: Vec<_> = std::fs::read_dir(&into).unwrap().collect();
    assert_eq!(left.len(), 1, "the lock alone: {left:?}");
    context.delete_stream("ARCP_LOG_arcpd").await.unwrap();
    done(arcpd("import", &file, &into, Some(&nats)));
}
