//! Retention by size, while jobs run and sessions read: what leaves the store,
//! and what does not.

mod support;

use arcpd::wire::proto::{self, Envelope, envelope::Payload};
use serde_json::{Value, json};
use support::*;

const USED: &str = "arcpd_store_used_bytes";
const BYTES_MAX: u64 = 1_000_000;

fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("[retention]\nbytes_max = {BYTES_MAX}\ncheck_interval_sec = 1");
    let runtime = Runtime::start_with(dir.path(), &toml);
    (dir, runtime)
}

/// About a quarter of a megabyte in a tenth of a second.
fn paced() -> Value {
    json!({ "events": 1_000, "bytes": 200, "pause_every": 100, "pause_ms": 10 })
}

async fn gone(runtime: &Runtime, job: &str) -> bool {
    let mut asker = Peer::connect(&runtime.address, ALICE).await;
    asker
        .send(job, Payload::JobSubscribe(Default::default()))
        .await;
    match asker.next().await.payload {
        Some(Payload::JobSubscribed(_)) => false,
        Some(Payload::SessionError(error)) => {
            assert_eq!(error.code, "JOB_NOT_FOUND");
            true
        }
        other => panic!("{other:?}"),
    }
}

/// Ended jobs go at once.
const SOON: &str = "[retention]\nage_max_sec = 1\ncheck_interval_sec = 1";

fn ticker(count: u64) -> Value {
    json!({ "count": count, "interval_ms": 20 })
}

/// What is numbered, up to one.
async fn until(peer: &mut Peer, seen: &mut Vec<Envelope>, is_last: impl Fn(&Envelope) -> bool) {
    loop {
        let next = peer.next().await;
        if next.event_seq > 0 {
            seen.push(next);
            if is_last(&seen[seen.len() - 1]) {
                return;
            }
        }
    }
}

async fn until_seq(peer: &mut Peer, seen: &mut Vec<Envelope>, seq: usize) {
    until(peer, seen, |envelope| envelope.event_seq >= seq as u64).await;
}

async fn until_end_of(job: &str, peer: &mut Peer, seen: &mut Vec<Envelope>) {
    let ends = |envelope: &Envelope| {
        let payload = envelope.payload.as_ref();
        envelope.job_id == job && matches!(payload, Some(Payload::JobResult(_)))
    };
    until(peer, seen, ends).await;
}

async fn until_gone(job: &str, runtime: &Runtime, peer: &mut Peer, seen: &mut Vec<Envelope>) {
    while !gone(runtime, job).await {
        let enough = seen.len() + 5;
        until_seq(peer, seen, enough).await;
    }
}

/// Until the session has noted an end, and its client has what was before.
async fn until_marked(dir: &std::path::Path, peer: &mut Peer, seen: &mut Vec<Envelope>) {
    let store = rusqlite::Connection::open(dir.join("arcpd.db")).unwrap();
    let marked = "SELECT EXISTS (SELECT 1 FROM view_op_recent WHERE kind = 2 AND at_seq <= ?1)";
    let is_marked = |seen: &Vec<Envelope>| -> bool {
        let next = seen.len() as i64 + 1;
        store.query_row(marked, [next], |row| row.get(0)).unwrap()
    };
    while !is_marked(seen) {
        let next = seen.len() + 1;
        until_seq(peer, seen, next).await;
    }
}

/// Runs jobs to their end until one is gone; the store must not need more.
async fn push_out(runtime: &Runtime, job: &str) {
    let mut bob = Peer::connect(&runtime.address, ALICE).await;
    for _ in 0..200 {
        if gone(runtime, job).await {
            return;
        }
        bob.submit("firehose", paced()).await;
        bob.until_terminal().await;
    }
    panic!("{job} is still there");
}

#[tokio::test]
async fn the_store_stays_bounded_while_jobs_run() {
    let (_dir, runtime) = start();
    // Has read everything and gone; and one that runs all the time.
    let mut early = Peer::connect(&runtime.address, ALICE).await;
    early.submit("firehose", paced()).await;
    assert_eq!(early.until_terminal().await.len(), 1_001);
    let (id, token) = (early.session_id.clone(), early.resume_token.clone());
    drop(early);
    let mut running = Peer::connect(&runtime.address, ALICE).await;
    running
        .submit("ticker", json!({ "count": 500, "interval_ms": 10 }))
        .await;
    // Twelve times the bound is written, at a pace that the checks can follow.
    let mut writer = Peer::connect(&runtime.address, ALICE).await;
    let mut used_max = 0;
    for _ in 0..50 {
        writer.submit("firehose", paced()).await;
        assert_eq!(writer.until_terminal().await.len(), 1_001);
        used_max = used_max.max(runtime.metric(USED));
    }
    assert!(used_max < 6 * BYTES_MAX, "{used_max} bytes");
    runtime.until_metric(USED, |used| used <= BYTES_MAX).await;
    // Nothing of what runs was taken.
    assert_eq!(
        seqs(&running.until_terminal().await),
        (1..=501).collect::<Vec<_>>()
    );
    // What the early one would need is not there any more.
    let mut resumed = Peer::resume(&runtime.address, ALICE, &id, &token, 10).await;
    assert_eq!(resumed.error().await.code, "RESUME_WINDOW_EXPIRED");
}

/// Ended jobs that a session was still to read filled the look at the oldest
/// ones, and nothing else left the store.
#[tokio::test]
async fn a_session_that_does_not_read_keeps_its_jobs_and_no_others() {
    let (_dir, runtime) = start();
    let mut stopped = Peer::connect(&runtime.address, ALICE).await;
    let input = json!({ "events": 1_000, "bytes": 200, "delay_ms": 300 });
    for _ in 0..80 {
        stopped.submit("firehose", input.clone()).await;
    }
    runtime
        .until_metric("arcpd_jobs_running", |jobs| jobs == 0)
        .await;
    let mut other = Peer::connect(&runtime.address, ALICE).await;
    let job = other.submit("firehose", paced()).await;
    other.until_terminal().await;
    push_out(&runtime, &job).await;
    let mut seen = Vec::new();
    for _ in 0..80 {
        seen.extend(seqs(&stopped.until_terminal().await));
    }
    assert_eq!(seen, (1..=80 * 1_001).collect::<Vec<_>>());
}

/// The history of an ended job was taken away from under its reader.
#[tokio::test]
async fn a_history_that_is_being_read_stays_to_its_end() {
    let (_dir, runtime) = start();
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let input = json!({ "events": 10_000, "bytes": 400 });
    let long = alice.submit("firehose", input).await;
    alice.until_terminal().await;
    let short = alice.submit("echo", json!(1)).await;
    alice.until_terminal().await;
    let mut reader = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    reader.send(&long, Payload::JobSubscribe(subscribe)).await;
    assert_eq!(reader.next().await.event_seq, 0);
    // Younger, and gone.
    push_out(&runtime, &short).await;
    assert_eq!(
        seqs(&reader.until_terminal().await),
        (1..=10_001).collect::<Vec<_>>()
    );
}

/// A job that had ended, and that the client had all of, made its session end a week later,
/// though another one ran on; and a day after that, what it had been was taken for the other's.
#[tokio::test]
async fn who_has_all_of_what_is_gone_goes_on_with_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), SOON);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let long = peer.submit("ticker", ticker(100_000)).await;
    let short = peer.submit("echo", json!(1)).await;
    let mut seen = peer.until_terminal().await;
    while !gone(&runtime, &short).await {
        seen.push(peer.next().await);
    }
    let ticket = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    let resume = async |runtime: &Runtime, (id, token): &(String, String), after| {
        let resumed = Peer::resume(&runtime.address, ALICE, id, token, after).await;
        resumed.welcomed().await
    };
    let mut peer = resume(&runtime, &ticket, seen.len() as u64).await;
    let ticket = (peer.session_id.clone(), peer.resume_token.clone());
    until_marked(dir.path(), &mut peer, &mut seen).await;
    runtime.kill();
    // As a day later.
    let store = rusqlite::Connection::open(dir.path().join("arcpd.db")).unwrap();
    let forgotten = store.execute("DELETE FROM job WHERE id = ?1", [&short]);
    assert_eq!(forgotten.unwrap(), 1);
    drop(store);
    let runtime = Runtime::start(dir.path());
    let mut peer = resume(&runtime, &ticket, seen.len() as u64).await;
    seen.extend(peer.until_terminal().await);
    assert_eq!(seqs(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
    let of_long = seen.iter().filter(|envelope| envelope.job_id == long);
    let of_long: Vec<_> = of_long.map(|envelope| &envelope.payload).collect();
    let mut watcher = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    watcher.send(&long, Payload::JobSubscribe(subscribe)).await;
    watcher.next().await;
    let whole = watcher.until_terminal().await;
    let whole: Vec<_> = whole.iter().map(|envelope| &envelope.payload).collect();
    assert_eq!(of_long, whole);
}

/// Records of it that its session had numbered before were counted once more, and another
/// job's came twice, under other numbers.
#[tokio::test]
async fn a_removed_job_of_which_it_is_not_known_where_it_was_ends_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), SOON);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let mut seen = Vec::new();
    let removed = peer.submit("ticker", ticker(150)).await;
    until_seq(&mut peer, &mut seen, 20).await;
    let (before, job) = peer.submit_collect("ticker", ticker(100_000)).await;
    seen.extend(before);
    until_end_of(&removed, &mut peer, &mut seen).await;
    until_gone(&removed, &runtime, &mut peer, &mut seen).await;
    let (id, token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    // Nor is it known which number a record of the other one has.
    let mut asker = Peer::connect(&runtime.address, ALICE).await;
    let list = Payload::SessionListJobs(Default::default());
    asker.send("", list).await;
    let Some(Payload::SessionJobs(page)) = asker.next().await.payload else {
        panic!("no page");
    };
    let listed = page
        .jobs
        .iter()
        .map(|job| (&*job.job_id, job.last_event_seq));
    assert_eq!(listed.collect::<Vec<_>>(), [(&*job, 0)]);
    let mut observer = Peer::connect(&runtime.address, ALICE).await;
    let subscribe = proto::JobSubscribe {
        history: true,
        from_event_seq: seen.len() as u64,
        ..Default::default()
    };
    observer.send(&job, Payload::JobSubscribe(subscribe)).await;
    let refused = observer.error().await;
    assert!(refused.message.contains("from_event_seq"), "{refused:?}");
    let after = seen.len() as u64;
    let mut resumed = Peer::resume(&runtime.address, ALICE, &id, &token, after).await;
    assert_eq!(resumed.error().await.code, "RESUME_WINDOW_EXPIRED");
}

/// A resume noted that a job had ended, its connection broke before its client had read as
/// far, and the next one found what it had noted in its way.
#[tokio::test]
async fn a_mark_ahead_of_the_client_is_not_in_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), SOON);
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let mut seen = Vec::new();
    peer.submit("ticker", ticker(100_000)).await;
    let short = peer.submit("echo", json!(1)).await;
    until_end_of(&short, &mut peer, &mut seen).await;
    until_gone(&short, &runtime, &mut peer, &mut seen).await;
    let (id, mut token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    let after = seen.len();
    for _ in 0..2 {
        let resumed = Peer::resume(&runtime.address, ALICE, &id, &token, after as u64).await;
        let mut peer = resumed.welcomed().await;
        token = peer.resume_token.clone();
        // What its client does not remember afterwards.
        seen.truncate(after);
        until_marked(dir.path(), &mut peer, &mut seen).await;
    }
    assert_eq!(seqs(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
}

/// Who said that it had all of a job was sent all of it again.
#[tokio::test]
async fn an_event_seq_means_the_same_after_a_mark() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let mut seen = Vec::new();
    peer.submit("ticker", ticker(100_000)).await;
    let short = peer.submit("ticker", ticker(5)).await;
    until_end_of(&short, &mut peer, &mut seen).await;
    let end = seen.len();
    let heard_from = async |event_seq: usize| {
        let mut observer = Peer::connect(&runtime.address, ALICE).await;
        let subscribe = proto::JobSubscribe {
            history: true,
            from_event_seq: event_seq as u64,
            ..Default::default()
        };
        observer
            .send(&short, Payload::JobSubscribe(subscribe))
            .await;
        let heard = observer.ping_collect().await;
        let heard = heard.iter().filter(|envelope| envelope.event_seq > 0);
        heard.count()
    };
    assert_eq!(heard_from(end).await, 0);
    until_seq(&mut peer, &mut seen, end + 10).await;
    let (id, token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    let after = seen.len() as u64;
    let resumed = Peer::resume(&runtime.address, ALICE, &id, &token, after).await;
    let mut peer = resumed.welcomed().await;
    until_marked(dir.path(), &mut peer, &mut seen).await;
    for had in [end, end + 10, seen.len()] {
        assert_eq!(heard_from(had).await, 0, "from {had}, the end is {end}");
    }
    assert!(
        heard_from(1).await >= 5,
        "who has not all of it hears the rest"
    );
}
