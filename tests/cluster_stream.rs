//! A replica that cannot follow its stream says so.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arcpd::log::jetstream::ClusterOptions;
use arcpd::log::{Block, Command, Durability, Error, HostedAgentRow, Log, OpenOptions};
use support::nats::Nats;
use tokio::sync::mpsc;

/// For what is answered after some seconds; the machine may have much to do.
const WITHIN: Duration = Duration::from_secs(60);

/// A replica that takes what is committed.
struct Replica {
    log: Log,
    _committed: mpsc::Receiver<Vec<Arc<Block>>>,
}

async fn join(nats: &Nats, dir: &Path) -> Result<Replica, Error> {
    let (tx, committed) = mpsc::channel(64);
    let options = OpenOptions {
        dir: dir.into(),
        durability: Durability::Process,
    };
    let cluster = ClusterOptions {
        servers: nats.url(),
        name: "test".into(),
        replica: "r".into(),
        replication: 1,
        access: Default::default(),
    };
    let (log, _) = Log::join(options, cluster, tx).await?;
    Ok(Replica {
        log,
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

    async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || self.log.close());
        closed.await.unwrap();
    }
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
