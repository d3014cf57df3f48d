//! The stream under a cell's replicas is not what it was: it is gone, another one has its
//! name, or it has lost what it had acknowledged. No replica goes on from what it has.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arcpd::log::jetstream::{ClusterOptions, Joined, News};
use arcpd::log::{Block, Command, Durability, Error, HostedAgentRow, Log, OpenOptions};
use async_nats::jetstream::Context;
use support::nats::Nats;
use support::{Runtime, serve};
use tokio::sync::mpsc;

const STREAM: &str = "ARCP_LOG_test";
/// For what is answered after some seconds; the machine may have much to do.
const WITHIN: Duration = Duration::from_secs(60);

/// A replica that takes what is committed.
struct Replica {
    log: Log,
    joined: Joined,
    _committed: mpsc::Receiver<Vec<Arc<Block>>>,
}

async fn join(nats: &Nats, dir: &Path) -> Result<Replica, Error> {
    join_at(nats.url(), 1, dir).await
}

async fn join_at(servers: String, replication: usize, dir: &Path) -> Result<Replica, Error> {
    let (tx, committed) = mpsc::channel(64);
    let options = OpenOptions {
        dir: dir.into(),
        durability: Durability::Process,
    };
    let cluster = ClusterOptions {
        servers,
        name: "test".into(),
        replica: "r".into(),
        replication,
        access: Default::default(),
    };
    let (log, joined) = Log::join(options, cluster, tx).await?;
    Ok(Replica {
        log,
        joined,
        _committed: committed,
    })
}

impl Replica {
    /// An entry of the stream that is seen in every replica's file.
    async fn keep(&self, agent: &str) -> Result<(), Error> {
        let agent = HostedAgentRow {
            name: agent.into(),
            version: "1.0.0".into(),
            principal: "p".into(),
            seen_at_ms: 1,
            instance_id: String::new(),
        };
        let kept = self.log.execute(Command::KeepAgents(vec![agent])).await;
        kept.map(drop)
    }

    async fn agents(&self) -> Vec<String> {
        let agents = self.log.hosted_agents().await.unwrap();
        agents.into_iter().map(|agent| agent.name).collect()
    }

    async fn until_healthy(&self, wanted: bool) {
        let started = Instant::now();
        while self.log.healthy() != wanted {
            assert!(started.elapsed() < WITHIN, "it stays {}", !wanted);
            tokio::task::yield_now().await;
        }
    }

    /// Why it has to stop; it has to.
    async fn lost(&mut self) -> String {
        let lost = async {
            loop {
                if let News::Lost(why) = self.joined.news.recv().await.expect("news") {
                    return why;
                }
            }
        };
        let lost = tokio::time::timeout(WITHIN, lost).await;
        lost.expect("it does not go on")
    }

    async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || self.log.close());
        closed.await.unwrap();
    }
}

async fn context(nats: &Nats) -> Context {
    let client = async_nats::connect(nats.url()).await.expect("a server");
    async_nats::jetstream::new(client)
}

/// Why a data directory is not taken.
async fn refused(nats: &Nats, dir: &Path) -> String {
    match join(nats, dir).await {
        Ok(_) => panic!("it has joined"),
        Err(error) => error.to_string(),
    }
}

/// Each replica stopped, those that were started again too.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_sends_to_the_log_by_hand_is_passed_over() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let a = join(&nats, dirs[0].path()).await.unwrap();
    let context = context(&nats).await;
    let stream = context.get_stream(STREAM).await.unwrap();
    let subject = &stream.cached_info().config.subjects[0];
    for text in ["", "hello"] {
        let sent = context.publish(subject.clone(), text.into()).await.unwrap();
        sent.await.unwrap();
    }
    a.keep("one").await.unwrap();
    let sent = context.publish(subject.clone(), "again".into()).await;
    let last = sent.unwrap().await.unwrap().sequence;
    a.joined.followed.reached(last).await;
    a.close().await;
    // It is the last entry of its file.
    let a = join(&nats, dirs[0].path()).await.unwrap();
    let b = join(&nats, dirs[1].path()).await.unwrap();
    a.keep("two").await.unwrap();
    b.log.caught_up().await.unwrap();
    for replica in [&a, &b] {
        assert_eq!(replica.agents().await, ["one", "two"]);
    }
}

/// Puts the servers back to where they were when their disk was copied: the power went
/// before they had written more, or somebody has restored it.
fn go_back(nats: &mut Nats, to: &Path) {
    nats.kill9();
    nats.restore(to);
    nats.restart();
}

fn copied(nats: &mut Nats, to: &Path) {
    nats.kill9();
    nats.copy_store(to);
    nats.restart();
}

/// The disk of a replica was full: commits failed, and it was ready most of the time, as
/// the part that writes to the stream did well.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_file_takes_nothing_is_not_ready_until_it_does() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let a = join(&nats, dirs[0].path()).await.unwrap();
    let b = join(&nats, dirs[1].path()).await.unwrap();
    let file = rusqlite::Connection::open(dirs[1].path().join("arcpd.db")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    a.keep("first").await.unwrap();
    b.until_healthy(false).await;
    // For longer than the other parts take to look, and than one commit takes to fail.
    let failures = || b.log.stats().commit_failures.get();
    let (since, failed) = (Instant::now(), failures());
    while since.elapsed() < Duration::from_secs(2) || failures() < failed + 2 {
        assert!(!b.log.healthy());
        assert!(since.elapsed() < WITHIN, "{} failures", failures());
        tokio::task::yield_now().await;
    }
    assert!(a.log.healthy());
    file.execute_batch("ROLLBACK").unwrap();
    b.until_healthy(true).await;
    b.keep("second").await.unwrap();
    assert_eq!(b.agents().await, ["first", "second"]);
    a.close().await;
    b.close().await;
}

/// Whoever submitted nothing said that it was ready, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_stream_is_gone_is_not_ready_and_stops() {
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    let replica = Runtime::spawn(serve(dir.path()).args(cluster));
    assert_eq!(replica.admin_get("/readyz").0, 200);
    let context = context(&nats).await;
    context.delete_stream("ARCP_LOG_arcpd").await.unwrap();
    let started = Instant::now();
    loop {
        let (status, why) = replica.admin_get("/readyz");
        if status == 503 {
            assert_eq!(why, "the replicated log cannot be read\n");
            break;
        }
        assert!(started.elapsed() < WITHIN, "it stays ready");
    }
    replica.until_logged("it is not there any more").await;
    replica.until_logged("Backup and restore").await;
    assert!(!replica.exited().await.success());
}

/// The same where most of the servers were gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_submits_nothing_is_not_ready_without_most_of_its_servers() {
    not_ready_without_others(|leader| (leader + 1) % 3).await;
}

/// It answered for the stream by itself, without end, and the replica stayed ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_ready_while_the_server_that_led_the_stream_is_left_alone() {
    not_ready_without_others(|leader| leader).await;
}

/// `left` is who is not killed, by who leads the stream.
async fn not_ready_without_others(left: impl Fn(usize) -> usize) {
    let (mut nats, dir) = (Nats::cluster(), tempfile::tempdir().unwrap());
    let servers = nats.urls().join(",");
    let a = join_at(servers, 3, dir.path()).await.unwrap();
    a.keep("before").await.unwrap();
    let left = left(nats.leader_of(STREAM).await);
    let others = [(left + 1) % 3, (left + 2) % 3];
    for other in others {
        nats.nodes[other].kill9();
    }
    a.until_healthy(false).await;
    for other in others {
        nats.nodes[other].restart();
    }
    a.until_healthy(true).await;
    a.keep("after").await.unwrap();
    assert_eq!(a.agents().await, ["after", "before"]);
    a.close().await;
}

/// They went on where they were in the stream that had been, on top of what they had.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_another_replica_made_anew_is_not_followed() {
    let nats = Nats::single();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut a = join(&nats, dirs[0].path()).await.unwrap();
    let mut b = join(&nats, dirs[1].path()).await.unwrap();
    a.keep("before").await.unwrap();
    context(&nats).await.delete_stream(STREAM).await.unwrap();
    let c = join(&nats, dirs[2].path()).await.unwrap();
    for number in 0..10 {
        c.keep(&format!("anew{number}")).await.unwrap();
    }
    for replica in [&mut a, &mut b] {
        let why = replica.lost().await;
        assert!(why.contains("another one than before"), "{why}");
        assert!(why.contains("Backup and restore"), "{why}");
        assert!(replica.keep("late").await.is_err());
        assert_eq!(replica.agents().await, ["before"]);
    }
    a.close().await;
    b.close().await;
    let why = refused(&nats, dirs[0].path()).await;
    assert!(why.contains("another cluster's stream"), "{why}");
    assert_eq!(c.agents().await.len(), 10);
    c.close().await;
}

/// They resent what they had until the stream was as long again, and went on: from then on
/// nobody had what the others had.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_went_back_under_a_replica_is_not_followed() {
    let mut nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let disk = tempfile::tempdir().unwrap();
    let mut a = join(&nats, dirs[0].path()).await.unwrap();
    a.keep("kept").await.unwrap();
    copied(&mut nats, &disk.path().join("store"));
    a.until_healthy(true).await;
    for number in 0..5 {
        a.keep(&format!("lost{number}")).await.unwrap();
    }
    go_back(&mut nats, &disk.path().join("store"));
    let c = join(&nats, dirs[1].path()).await.unwrap();
    for number in 0..10 {
        c.keep(&format!("after{number}")).await.unwrap();
    }
    let why = a.lost().await;
    assert!(why.contains("has lost what it acknowledged"), "{why}");
    assert!(a.keep("late").await.is_err());
    let seen = a.agents().await;
    assert!(
        !seen.iter().any(|agent| agent.starts_with("after")),
        "{seen:?}"
    );
    a.close().await;
    c.close().await;
}

/// What it had sent was taken, under a number that it had applied.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_from_before_what_was_applied_stops_a_replica() {
    let mut nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    let disk = tempfile::tempdir().unwrap();
    let mut a = join(&nats, dir.path()).await.unwrap();
    a.keep("kept").await.unwrap();
    copied(&mut nats, &disk.path().join("store"));
    a.until_healthy(true).await;
    for number in 0..5 {
        a.keep(&format!("lost{number}")).await.unwrap();
    }
    // On its way while nobody takes it, so that it is sent again.
    nats.pause();
    let sent = a.joined.followed.published.get();
    let log = a.log.clone();
    let waits = tokio::spawn(async move { log.execute(Command::Barrier).await });
    while a.joined.followed.published.get() == sent {
        tokio::task::yield_now().await;
    }
    go_back(&mut nats, &disk.path().join("store"));
    let why = a.lost().await;
    assert!(why.contains("it took an entry as"), "{why}");
    assert!(waits.await.unwrap().is_err());
    a.close().await;
}

/// The refusal went away by itself once the others had written enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_ahead_of_a_restored_stream_stays_refused_when_that_has_grown() {
    let mut nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let disk = tempfile::tempdir().unwrap();
    let a = join(&nats, dirs[0].path()).await.unwrap();
    a.keep("kept").await.unwrap();
    copied(&mut nats, &disk.path().join("store"));
    a.until_healthy(true).await;
    for number in 0..5 {
        a.keep(&format!("lost{number}")).await.unwrap();
    }
    a.close().await;
    go_back(&mut nats, &disk.path().join("store"));
    let why = refused(&nats, dirs[0].path()).await;
    assert!(why.contains("it ends at"), "{why}");
    let c = join(&nats, dirs[1].path()).await.unwrap();
    for number in 0..10 {
        c.keep(&format!("after{number}")).await.unwrap();
    }
    let why = refused(&nats, dirs[0].path()).await;
    assert!(why.contains("is not the one that is applied here"), "{why}");
    assert!(why.contains("Backup and restore"), "{why}");
    c.close().await;
}

/// Nothing is missing of a stream that is shortened as far as a replica has read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_last_entry_was_trimmed_goes_on() {
    let mut nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    let a = join(&nats, dir.path()).await.unwrap();
    a.keep("first").await.unwrap();
    let stream = context(&nats).await.get_stream(STREAM).await.unwrap();
    stream.purge().await.unwrap();
    // It has to read by another consumer.
    nats.kill9();
    nats.restart();
    a.until_healthy(true).await;
    a.keep("second").await.unwrap();
    a.close().await;
    let stream = context(&nats).await.get_stream(STREAM).await.unwrap();
    stream.purge().await.unwrap();
    let a = join(&nats, dir.path()).await.unwrap();
    a.keep("third").await.unwrap();
    assert_eq!(a.agents().await, ["first", "second", "third"]);
    a.close().await;
}

/// A stream that was changed to keep five messages was followed without a word, and the
/// next replica that began anew could not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_loses_messages_by_itself_is_refused() {
    let nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    let a = join(&nats, dir.path()).await.unwrap();
    a.keep("first").await.unwrap();
    a.close().await;
    let jetstream = context(&nats).await;
    let stream = jetstream.get_stream(STREAM).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_messages = 5;
    jetstream.update_stream(&config).await.unwrap();
    let why = refused(&nats, dir.path()).await;
    assert!(why.contains("max_msgs is 5"), "{why}");
    assert!(why.contains("nats stream edit ARCP_LOG_test"), "{why}");
    config.max_messages = -1;
    jetstream.update_stream(&config).await.unwrap();
    let a = join(&nats, dir.path()).await.unwrap();
    a.keep("second").await.unwrap();
    a.close().await;
}
