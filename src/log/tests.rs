use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;

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
    };
    Arc::new(Once(Mutex::new(Some(pending))))
}

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
        op_no: stream as u32,
        at_position: 0,
        at_seq: 1,
        kind: 1,
        stream,
        from_seq: 0,
        to_seq: 0,
    };
    (row, op)
}

fn open(dir: &std::path::Path) -> (Log, mpsc::Receiver<Vec<Arc<Block>>>) {
    let (tx, rx) = mpsc::channel(64);
    let options = OpenOptions {
        dir: dir.into(),
        durability: Durability::Process,
    };
    (Log::open(options, tx).unwrap(), rx)
}

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

#[tokio::test]
async fn what_was_committed_is_read_again_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = open(dir.path());
    let (row, op) = job(7, None);
    assert_eq!(
        log.execute(Command::CreateJob {
            job: Box::new(row),
            op: Some(op),
            hosted: None,
            credentials: Vec::new(),
            trace: None,
        })
        .await
        .unwrap(),
        Outcome::Done
    );
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

    let (log, _committed) = open(dir.path());
    assert_eq!((log.committed(), log.last_stream().await.unwrap()), (3, 7));
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
    assert!(log.unfinished_jobs().await.unwrap().is_empty());
    close(log).await;
}

#[tokio::test]
async fn a_small_read_is_never_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = open(dir.path());
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

#[tokio::test]
async fn an_idempotency_key_makes_one_job_until_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = open(dir.path());
    let create = |stream| {
        let (job, op) = job(stream, Some("k"));
        Command::CreateJob {
            job: Box::new(job),
            op: Some(op),
            hosted: None,
            credentials: Vec::new(),
            trace: None,
        }
    };
    assert_eq!(log.execute(create(1)).await.unwrap(), Outcome::Done);
    let Outcome::Duplicate(earlier) = log.execute(create(2)).await.unwrap() else {
        panic!()
    };
    assert_eq!(earlier.id, "job_1");
    assert_eq!(log.execute(create(4001)).await.unwrap(), Outcome::Done);
    close(log).await;
}

#[tokio::test]
async fn a_store_in_use_and_a_foreign_file_are_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = open(dir.path());
    let options = || OpenOptions {
        dir: dir.path().into(),
        durability: Durability::Process,
    };
    assert!(matches!(
        Log::open(options(), mpsc::channel(1).0),
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
    let Err(error) = Log::open(options(), mpsc::channel(1).0) else {
        panic!()
    };
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

/// A leak is looked for by comparing descriptors before and after.
#[tokio::test]
async fn a_store_that_was_opened_takes_no_more_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = open(dir.path());
    let wal = dir.path().join("arcpd.db-wal");
    let held = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = held.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    // The writer's, the checkpoints', and one for each reader.
    assert_eq!(links.filter(|link| *link == wal).count(), 6);
    close(log).await;
}

/// wire.md §4.9: whatever is spent below a job is charged to it, to its end.
#[tokio::test]
async fn what_was_delegated_is_kept_until_the_job_above_all_of_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = open(dir.path());
    let end = || JobEnd {
        status: "success".into(),
        ended_at_ms: 9,
    };
    for stream in 1..=3 {
        let (mut row, op) = job(stream, None);
        let above = stream - 1;
        row.grant.parent_id = (above > 0).then(|| format!("job_{above}"));
        row.grant.delegate_id = row.grant.parent_id.clone();
        let create = Command::CreateJob {
            job: Box::new(row),
            op: Some(op),
            hosted: None,
            credentials: Vec::new(),
            trace: None,
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
#[tokio::test]
async fn of_a_jobs_credentials_all_become_live_or_none_and_what_has_changed_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = open(dir.path());
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
