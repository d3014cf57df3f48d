//! A replica that starts before the servers of its log can have it: it waits for them, or
//! says what is wrong. Real servers, real processes.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::nats::Nats;
use support::process::Starting;
use support::serve;

fn replica(urls: &[String], dir: &Path) -> Command {
    let mut command = serve(dir);
    command.args(["--cluster", &urls.join(",")]);
    command
}

/// What it says when it does not start.
fn refused(command: &mut Command) -> String {
    let output = command.stdout(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().find(|line| line.starts_with("arcpd: "));
    reason.expect("a reason").to_owned()
}

/// Servers are started one after the other: a replica that came between exited.
#[test]
fn a_replica_that_starts_while_the_servers_find_each_other_waits_for_them() {
    let mut cluster = Nats::cluster_that_is_down(3);
    let dir = tempfile::tempdir().unwrap();
    let urls = cluster.urls();
    let [first, others @ ..] = &mut cluster.nodes;
    first.restart();
    let mut starting = Starting::spawn(&mut replica(&urls, dir.path()));
    starting.until_logged("the NATS servers have no leader");
    others.iter_mut().for_each(Nats::restart);
    starting.ready();
}

/// The signal ended it, which looks like a crash.
#[test]
fn a_replica_that_is_told_to_stop_before_it_is_ready_ends_well() {
    let mut cluster = Nats::cluster_that_is_down(3);
    let dir = tempfile::tempdir().unwrap();
    let urls = cluster.urls();
    cluster.nodes[0].restart();
    let mut starting = Starting::spawn(&mut replica(&urls, dir.path()));
    starting.until_logged("the NATS servers have no leader");
    let ended = starting.stop();
    assert!(ended.success(), "{ended}");
}

/// The servers had a leader and were not enough yet: "no suitable peers for placement".
#[test]
fn a_replica_whose_stream_cannot_be_placed_yet_waits_for_the_server_that_is_missing() {
    let mut cluster = Nats::cluster_that_is_down(2);
    let dir = tempfile::tempdir().unwrap();
    let urls = cluster.urls();
    let [founders @ .., last] = &mut cluster.nodes;
    founders.iter_mut().for_each(Nats::restart);
    let mut starting = Starting::spawn(&mut replica(&urls, dir.path()));
    starting.until_logged("--cluster-replication 3 needs 3 NATS servers");
    last.restart();
    starting.ready();
}

/// It said to look at JetStream and at the user's rights, which were as they must be.
#[test]
fn a_lone_server_asked_for_three_copies_is_refused_by_the_setting_that_is_wrong() {
    let nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    let why = refused(&mut replica(&[nats.url()], dir.path()));
    assert!(why.contains("this one has no others"), "{why}");
    assert!(why.contains("say --cluster-replication 1"), "{why}");
    assert!(!why.contains("JetStream is on"), "{why}");
}
