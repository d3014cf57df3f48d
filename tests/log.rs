//! The contract of the log, on both of its engines: one file, and a JetStream stream.

mod support;

use std::path::Path;
use std::sync::Arc;

use arcpd::log::jetstream::{ClusterOptions, Joined};
use arcpd::log::*;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use support::nats::Nats;

struct Once(Mutex<Option<PendingBlock>>);

impl BlockSource for Once {
    fn take(&self) -> Option<PendingBlock> {
        self.0.lock().take()
    }
}

/// One block of one-byte records.
fn block(stream: StreamId, first_seq: u64, records: &[u8], end: Option<JobEnd>) -> Arc<Once> {
    let mut data = BytesMut::new();
    for record in records {
        data.put_slice(&[1, *record]);
    }
    let (count, data) = (records.len() as u32, data.freeze());
    let pending = PendingBlock {
        stream,
        first_seq,
        count,
        data,
        terminal: end,
        mark: None,
        spent_json: None,
        traced: false,
        epoch: 0,
    };
    Arc::new(Once(Mutex::new(Some(pending))))
}

/// With the operation that shows it in its session's view: the first there.
fn job(stream: StreamId, key: Option<&str>) -> (JobRow, ViewOpRow) {
    let row = JobRow {
        id: format!("job_{stream}"),
        stream,
        session_id: "sess_1".into(),
        principal: "alice".into(),
        agent: "echo@1.0.0".into(),
        input_json: "null".into(),
        trace_id: "t".into(),
        created_at_ms: 1000 + stream,
        status: "running".into(),
        ended_at_ms: None,
        last_seq: 0,
        end_position: None,
        idempotency_key: key.map(Into::into),
        fingerprint: vec![1],
        idempotency_expires_at_ms: key.map(|_| 5000),
        grant: GrantRow::default(),
    };
    let op = ViewOpRow {
        session_id: "sess_1".into(),
        op_no: 0,
        at_position: 0,
        at_seq: 1,
        kind: 1,
        stream,
        from_seq: 0,
        to_seq: 0,
    };
    (row, op)
}

/// The session all jobs here are of.
async fn session(log: &Log) {
    let row = SessionRow {
        id: "sess_1".into(),
        stream: 99,
        principal: "alice".into(),
        token_hash: vec![1],
        earlier_token_hash: None,
        created_at_ms: 0,
        parked_at_ms: None,
        features: "[]".into(),
    };
    log.execute(Command::CreateSession(row)).await.unwrap();
}

/// Jobs that run.
async fn jobs(log: &Log, streams: &[StreamId]) {
    session(log).await;
    for (op_no, stream) in (0..).zip(streams) {
        let (row, op) = job(*stream, None);
        let op = ViewOpRow { op_no, ..op };
        let created = log.execute(create(row, op)).await.unwrap();
        assert_eq!(created, Outcome::Done);
    }
}

fn create(row: JobRow, op: ViewOpRow) -> Command {
    Command::CreateJob {
        job: Box::new(row),
        op: Some(op),
        hosted: None,
        credentials: Vec::new(),
        trace: None,
        owner: None,
    }
}

type Committed = mpsc::Receiver<Vec<Arc<Block>>>;

/// Where a log is committed.
enum Engine {
    File,
    Stream(Nats),
}

impl Engine {
    async fn open(&self, dir: &Path) -> (Log, Committed) {
        match self {
            Self::File => {
                let (tx, rx) = mpsc::channel(64);
                (Log::open(options(dir), tx).unwrap(), rx)
            }
            Self::Stream(nats) => {
                let (log, _, rx) = join(nats, dir).await.unwrap();
                (log, rx)
            }
        }
    }
}

fn options(dir: &Path) -> OpenOptions {
    OpenOptions {
        dir: dir.into(),
        durability: Durability::Process,
    }
}

async fn join(nats: &Nats, dir: &Path) -> Result<(Log, Joined, Committed), Error> {
    let (tx, rx) = mpsc::channel(64);
    let cluster = ClusterOptions {
        servers: nats.url(),
        name: "test".into(),
        replica: "r".into(),
        replication: 1,
        access: Default::default(),
    };
    let (log, joined) = Log::join(options(dir), cluster, tx).await?;
    Ok((log, joined, rx))
}

/// Each case runs on both engines.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod file {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Engine::File).await;
            })*
        }
        mod stream {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Engine::Stream(super::Nats::single())).await;
            })*
        }
    };
}

on_both![
    what_was_committed_is_read_again_after_a_reopen,
    a_small_read_is_never_out_of_order,
    an_idempotency_key_makes_one_job_until_it_expires,
    what_was_delegated_is_kept_until_the_job_above_all_of_it_is_gone,
    of_a_jobs_credentials_all_become_live_or_none_and_what_has_changed_is_left,
];

async fn close(log: Log) {
    tokio::task::spawn_blocking(move || log.close())
        .await
        .unwrap();
}

fn bytes(blocks: &[Arc<Block>]) -> Vec<(i64, u64, Bytes)> {
    blocks
        .iter()
        .flat_map(|block| {
            block
                .records()
                .map(|(seq, bytes)| (block.stream, seq, Bytes::copy_from_slice(bytes)))
        })
        .collect()
}

async fn what_was_committed_is_read_again_after_a_reopen(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = engine.open(dir.path()).await;
    jobs(&log, &[7, 8]).await;
    log.ready(block(7, 1, b"ab", None));
    let first = committed.recv().await.unwrap();
    assert_eq!((first[0].position, log.committed()), (1, 1));
    log.ready(block(8, 1, b"x", None));
    committed.recv().await.unwrap();
    let end = JobEnd {
        status: "success".into(),
        ended_at_ms: 9,
    };
    log.ready(block(7, 3, b"c", Some(end)));
    committed.recv().await.unwrap();
    close(log).await;

    let (log, _committed) = engine.open(dir.path()).await;
    assert_eq!((log.committed(), log.last_stream().await.unwrap()), (3, 99));
    let read = log.read_stream(7, 1, 3, 1 << 20).await.unwrap();
    assert_eq!(bytes(&read)[1], (7, 2, Bytes::from_static(b"b")));
    let merged = log
        .read_merged(&[(7, 0), (8, 0)].into(), 0, 3, 1 << 20)
        .await
        .unwrap();
    assert_eq!(
        merged.iter().map(|b| b.position).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(log.seq_at(7, 2).await.unwrap(), 2);
    let job = log.job("job_7").await.unwrap().unwrap();
    assert_eq!(
        (&*job.status, job.last_seq, job.end_position),
        ("success", 3, Some(3))
    );
    assert_eq!(log.unfinished_jobs().await.unwrap().len(), 1);
    close(log).await;
}

async fn a_small_read_is_never_out_of_order(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = engine.open(dir.path()).await;
    jobs(&log, &[1, 2]).await;
    for seq in 1..=6 {
        log.ready(block(
            1 + (seq % 2) as i64,
            u64::div_ceil(seq, 2),
            b"r",
            None,
        ));
        committed.recv().await.unwrap();
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let blocks = log
            .read_merged(&[(1, 0), (2, 0)].into(), after, 6, 1)
            .await
            .unwrap();
        let Some(last) = blocks.last() else { break };
        after = last.position;
        seen.extend(blocks.iter().map(|block| block.position));
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    close(log).await;
}

async fn an_idempotency_key_makes_one_job_until_it_expires(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = engine.open(dir.path()).await;
    session(&log).await;
    let create = |stream, op_no| {
        let (job, op) = job(stream, Some("k"));
        Command::CreateJob {
            job: Box::new(job),
            op: Some(ViewOpRow { op_no, ..op }),
            hosted: None,
            credentials: Vec::new(),
            trace: None,
            owner: None,
        }
    };
    assert_eq!(log.execute(create(1, 0)).await.unwrap(), Outcome::Done);
    let Outcome::Duplicate(earlier) = log.execute(create(2, 1)).await.unwrap() else {
        panic!()
    };
    assert_eq!(earlier.id, "job_1");
    assert_eq!(log.execute(create(4001, 1)).await.unwrap(), Outcome::Done);
    close(log).await;
}

#[tokio::test]
async fn a_store_in_use_and_a_foreign_file_are_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = Engine::File.open(dir.path()).await;
    assert!(matches!(
        Log::open(options(dir.path()), mpsc::channel(1).0),
        Err(Error::InUse { .. })
    ));
    close(log.clone()).await;
    drop(log);
    std::fs::remove_file(dir.path().join("arcpd.db-wal")).ok();
    std::fs::write(
        dir.path().join("arcpd.db"),
        "not a database, but long enough to look at".repeat(100),
    )
    .unwrap();
    let Err(error) = Log::open(options(dir.path()), mpsc::channel(1).0) else {
        panic!()
    };
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

/// A leak is looked for by comparing descriptors before and after.
#[tokio::test]
async fn a_store_that_was_opened_takes_no_more_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = Engine::File.open(dir.path()).await;
    let wal = dir.path().join("arcpd.db-wal");
    let held = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = held.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    // The writer's, the checkpoints', and one for each reader.
    assert_eq!(links.filter(|link| *link == wal).count(), 6);
    close(log).await;
}

/// wire.md §4.9: whatever is spent below a job is charged to it, to its end.
async fn what_was_delegated_is_kept_until_the_job_above_all_of_it_is_gone(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = engine.open(dir.path()).await;
    session(&log).await;
    let end = || JobEnd {
        status: "success".into(),
        ended_at_ms: 9,
    };
    for stream in 1..=3 {
        let (mut row, mut op) = job(stream, None);
        op.op_no = stream as u32 - 1;
        let above = stream - 1;
        row.grant.parent_id = (above > 0).then(|| format!("job_{above}"));
        row.grant.delegate_id = row.grant.parent_id.clone();
        let create = Command::CreateJob {
            job: Box::new(row),
            op: Some(op),
            hosted: None,
            credentials: Vec::new(),
            trace: None,
            owner: None,
        };
        assert_eq!(log.execute(create).await.unwrap(), Outcome::Done);
    }
    let forget = || Command::Forget {
        parked_before_ms: 0,
        ended_before_ms: 10,
    };
    for stream in [2, 3] {
        log.ready(block(stream, 1, b"r", Some(end())));
        committed.recv().await.unwrap();
    }
    log.trim(vec![2, 3]).await.unwrap();
    log.execute(forget()).await.unwrap();
    log.execute(forget()).await.unwrap();
    assert_eq!(log.descendants("job_1").await.unwrap().len(), 2);
    log.ready(block(1, 1, b"r", Some(end())));
    committed.recv().await.unwrap();
    log.trim(vec![1]).await.unwrap();
    for _ in 0..3 {
        log.execute(forget()).await.unwrap();
    }
    for id in ["job_1", "job_2", "job_3"] {
        assert!(log.job(id).await.unwrap().is_none(), "{id}");
    }
    close(log).await;
}

/// A process that was stopped for a while revoked the credential of a job that it
/// accepted, and made half of a job's credentials live without the job.
async fn of_a_jobs_credentials_all_become_live_or_none_and_what_has_changed_is_left(
    engine: Engine,
) {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = engine.open(dir.path()).await;
    session(&log).await;
    let intent = |handle: &str| CredentialRow {
        handle: handle.into(),
        id: handle.into(),
        generation: 1,
        stream: 7,
        job_id: "job_7".into(),
        provisioner: "p".into(),
        state: CredentialState::Issuing,
        issued_at_ms: 0,
        settles_at_ms: 10,
        expires_at_ms: None,
        next_at_ms: Some(10),
        attempts: 0,
        error: String::new(),
        asked_json: String::new(),
        issued_json: String::new(),
        sealed: None,
    };
    let issued = |handle: &str| IssuedRow {
        handle: handle.into(),
        expires_at_ms: None,
        next_at_ms: None,
        issued_json: String::new(),
        sealed: None,
    };
    let revoke = |handle: &str| Command::SetCredential {
        handle: handle.into(),
        seen: Some(CredentialState::Issuing),
        state: CredentialState::Revoking,
        attempts: 0,
        next_at_ms: Some(10),
        error: String::new(),
    };
    for handle in ["key", "purse"] {
        let stored = log.execute(Command::IntendCredential(intent(handle))).await;
        assert_eq!(stored.unwrap(), Outcome::Done);
    }
    assert_eq!(log.execute(revoke("purse")).await.unwrap(), Outcome::Done);
    let create = |handles: &[&str]| {
        let (row, op) = job(7, None);
        Command::CreateJob {
            job: Box::new(row),
            op: Some(op),
            hosted: None,
            credentials: handles.iter().map(|handle| issued(handle)).collect(),
            trace: None,
            owner: None,
        }
    };
    let made = log.execute(create(&["key", "purse"])).await;
    assert_eq!(made.unwrap(), Outcome::Stale);
    let states = log.credentials(Some(7)).await.unwrap();
    let states: Vec<_> = states.iter().map(|row| row.state).collect();
    assert_eq!(
        states,
        [CredentialState::Issuing, CredentialState::Revoking]
    );
    assert_eq!(log.execute(create(&["key"])).await.unwrap(), Outcome::Done);
    assert_eq!(log.execute(revoke("key")).await.unwrap(), Outcome::Stale);
    close(log).await;
}

/// Two replicas of one cell.
async fn two(nats: &Nats) -> [(Log, Joined, Committed, tempfile::TempDir); 2] {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, joined, committed) = join(nats, a.path()).await.unwrap();
    let first = (log, joined, committed, a);
    let (log, joined, committed) = join(nats, b.path()).await.unwrap();
    [first, (log, joined, committed, b)]
}

#[tokio::test]
async fn what_one_replica_writes_another_reads_at_the_same_place() {
    let nats = Nats::single();
    let [(a, _, mut at_a, _dir), (b, _, mut at_b, _other)] = two(&nats).await;
    jobs(&a, &[1]).await;
    for (log, stream) in [(&a, 1), (&b, 2)] {
        if stream == 2 {
            let (mut row, _) = job(2, None);
            row.session_id = String::new();
            let create = Command::CreateJob {
                job: Box::new(row),
                op: None,
                hosted: None,
                credentials: Vec::new(),
                trace: None,
                owner: None,
            };
            assert_eq!(log.execute(create).await.unwrap(), Outcome::Done);
        }
        log.ready(block(stream, 1, b"r", None));
        let (here, there) = (at_a.recv().await.unwrap(), at_b.recv().await.unwrap());
        assert_eq!(here[0].position, there[0].position);
        assert_eq!(bytes(&here), bytes(&there));
    }
    // What another has is left alone: its owner numbers it.
    b.ready(block(1, 2, b"x", None));
    a.ready(block(1, 2, b"y", None));
    assert_eq!(bytes(&at_b.recv().await.unwrap())[0].2, b"y"[..]);
    close(a).await;
    close(b).await;
}

#[tokio::test]
async fn concurrent_retries_at_two_replicas_make_one_job() {
    let nats = Nats::single();
    let [(a, ..), (b, ..)] = two(&nats).await;
    let create = |stream| {
        let (mut row, _) = job(stream, Some("k"));
        row.session_id = String::new();
        Command::CreateJob {
            job: Box::new(row),
            op: None,
            hosted: None,
            credentials: Vec::new(),
            trace: None,
            owner: None,
        }
    };
    let (here, there) = tokio::join!(a.execute(create(1)), b.execute(create(2)));
    let made = [here.unwrap(), there.unwrap()];
    assert_eq!(
        made.iter().filter(|made| **made == Outcome::Done).count(),
        1
    );
    let duplicate = |made: &&Outcome| matches!(made, Outcome::Duplicate(_));
    assert_eq!(made.iter().filter(duplicate).count(), 1);
    close(a).await;
    close(b).await;
}

#[tokio::test]
async fn a_replica_that_was_declared_gone_writes_nothing_any_more() {
    let nats = Nats::single();
    let [(a, mut of_a, ..), (b, of_b, mut at_b, _dir)] = two(&nats).await;
    jobs(&a, &[1]).await;
    let (replica, at_ms) = (of_a.number, 5);
    let inherit = || b.execute(Command::Inherit { replica, at_ms });
    assert_eq!(inherit().await.unwrap(), Outcome::Done);
    assert_eq!(inherit().await.unwrap(), Outcome::Stale, "once");
    // It does not know yet, and says more.
    a.ready(block(1, 1, b"a", None));
    loop {
        if of_a.news.recv().await.unwrap() == jetstream::News::Fenced {
            break;
        }
    }
    assert!(a.execute(Command::Barrier).await.is_err());
    let inherited = block(1, 1, b"b", None);
    let epoch = b.epoch(1).await.unwrap().expect("it is b's");
    inherited.0.lock().as_mut().unwrap().epoch = epoch;
    b.ready(inherited);
    assert_eq!(bytes(&at_b.recv().await.unwrap())[0].2, b"b"[..]);
    assert_eq!(b.owner(1).await.unwrap(), Some(of_b.number));
    let parked = b.session("sess_1").await.unwrap().unwrap().parked_at_ms;
    assert_eq!(parked, Some(5), "its connection died with the replica");
    close(a).await;
    close(b).await;
}

#[tokio::test]
async fn a_file_that_is_gone_is_made_again_and_a_stream_that_was_cut_is_refused() {
    let nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    let (log, _, mut committed) = join(&nats, dir.path()).await.unwrap();
    jobs(&log, &[1]).await;
    log.ready(block(1, 1, b"ab", None));
    committed.recv().await.unwrap();
    let there = log.read_stream(1, 0, 9, 1 << 20).await.unwrap();
    close(log).await;
    let new = tempfile::tempdir().unwrap();
    let (log, joined, _committed) = join(&nats, new.path()).await.unwrap();
    let here = log.read_stream(1, 0, 9, 1 << 20).await.unwrap();
    assert_eq!(bytes(&here), bytes(&there));
    close(log).await;
    let jetstream = async_nats::jetstream::new(joined.client);
    let stream = jetstream.get_stream("ARCP_LOG_test").await.unwrap();
    stream.purge().sequence(3).await.unwrap();
    let empty = tempfile::tempdir().unwrap();
    let Err(refused) = join(&nats, empty.path()).await else {
        panic!("it has not all there is");
    };
    assert!(refused.to_string().contains("data directory"), "{refused}");
    // Of a replica nothing is missing.
    let (log, ..) = join(&nats, new.path()).await.unwrap();
    close(log).await;
    // And what follows a stream is not opened without it.
    let Err(alone) = Log::open(options(new.path()), mpsc::channel(1).0) else {
        panic!("it was opened");
    };
    assert!(alone.to_string().contains("--cluster"), "{alone}");
}
