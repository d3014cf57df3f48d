//! `JobService.WatchJob`: a job's records by its own numbers.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use arcpd::wire::proto::job_record::Record;
use serde_json::json;
use support::jobs::*;
use support::*;
use tonic::Code;

#[tokio::test]
async fn every_watcher_sees_every_record_once_whenever_it_comes_and_however_slow_it_is() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let input = json!({ "events": 60_000, "bytes": 128, "pause_every": 2_000, "pause_ms": 5 });
    let job = submit(&mut alice, "firehose", input).await;
    // One who takes a message and then nothing more until the job is over.
    let mut slow = watch(&mut connect(&runtime, ALICE).await, &job, 0)
        .await
        .unwrap();
    let mut seen_slowly = next(&mut slow).await.unwrap().unwrap();

    let mut watching = tokio::task::JoinSet::new();
    for after in [0, 1, 7_777, 30_000] {
        let (mut alice, job) = (connect(&runtime, ALICE).await, job.clone());
        watching.spawn(async move {
            let mut stream = watch(&mut alice, &job, after).await.unwrap();
            (after, rest(&mut stream).await)
        });
    }
    let all = watching.join_all().await;
    let late = watch_all(&mut alice, &job).await;
    assert_eq!(numbers(&late), (1..=60_001).collect::<Vec<_>>());
    let Some(Record::JobResult(_)) = late[60_000].record else {
        panic!("{:?}", late[60_000])
    };
    for (after, records) in all {
        assert!(records == late[after as usize..], "after {after}");
    }
    seen_slowly.extend(rest(&mut slow).await);
    assert!(seen_slowly == late, "slowly");
}

#[tokio::test]
async fn records_that_trickle_come_at_once_and_a_burst_in_few_messages() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let input = json!({ "count": 2, "interval_ms": 300 });
    let job = submit(&mut alice, "ticker", input).await;
    let mut stream = watch(&mut alice, &job, 0).await.unwrap();
    for seq in 1..=3 {
        let records = next(&mut stream).await.unwrap().unwrap();
        // The last tick and the terminal may come together.
        assert_eq!(records[0].job_seq, seq);
        if records.len() > 1 {
            assert_eq!(numbers(&records), [2, 3]);
            break;
        }
    }
    let job = submit(
        &mut alice,
        "firehose",
        json!({ "events": 5_000, "bytes": 100 }),
    )
    .await;
    watch_all(&mut alice, &job).await;
    let mut stream = watch(&mut alice, &job, 0).await.unwrap();
    let mut messages = vec![];
    while let Some(response) = stream.message().await.unwrap() {
        messages.push(prost::Message::encoded_len(&response));
    }
    // Some 700 kB: full ones, and the rest of each read of the log.
    assert!(messages.iter().all(|len| *len < 34_000), "{messages:?}");
    assert!(messages.len() < 30, "{messages:?}");
}

#[tokio::test]
async fn a_cursor_beyond_the_last_record_waits_or_is_at_the_end() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(
        &mut alice,
        "ticker",
        json!({ "count": 5, "interval_ms": 100 }),
    )
    .await;
    let mut connection = connect(&runtime, ALICE).await;
    let mut fourth = watch(&mut connection, &job, 3).await.unwrap();
    let mut beyond = watch(&mut connection, &job, 1_000_000).await.unwrap();
    let mut farthest = watch(&mut connection, &job, u64::MAX).await.unwrap();
    assert_eq!(numbers(&rest(&mut fourth).await), [4, 5, 6]);
    assert_eq!(rest(&mut beyond).await, []);
    assert_eq!(rest(&mut farthest).await, []);
    for (after, left) in [
        (4, vec![5, 6]),
        (5, vec![6]),
        (6, vec![]),
        (7, vec![]),
        (u64::MAX, vec![]),
    ] {
        let mut stream = watch(&mut alice, &job, after).await.unwrap();
        assert_eq!(numbers(&rest(&mut stream).await), left);
    }
}

#[tokio::test]
async fn a_watch_goes_on_behind_a_killed_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let address = runtime.address.clone();
    let mut alice = connect(&runtime, ALICE).await;
    let input = json!({ "events": 1_000_000, "bytes": 64, "pause_every": 200, "pause_ms": 1 });
    let job = submit(&mut alice, "firehose", input).await;
    let mut stream = watch(&mut alice, &job, 0).await.unwrap();
    let mut seen = vec![];
    while seen.len() < 2_000 {
        seen.extend(next(&mut stream).await.unwrap().unwrap());
    }
    runtime.kill();
    // What had arrived when it went counts too.
    while let Ok(Some(more)) = next(&mut stream).await {
        seen.extend(more);
    }
    let runtime = Runtime::start_at(dir.path(), &address);
    let mut alice = connect(&runtime, ALICE).await;
    let last = seen.last().unwrap().job_seq;
    seen.extend(rest(&mut watch(&mut alice, &job, last).await.unwrap()).await);
    assert_eq!(numbers(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
    assert!(seen == watch_all(&mut alice, &job).await);
    let Some(Record::JobError(error)) = &seen.last().unwrap().record else {
        panic!("{:?}", seen.last())
    };
    assert_eq!((&*error.code, error.retryable), ("INTERNAL_ERROR", true));
}

#[tokio::test]
async fn a_drain_ends_a_watch_with_when_to_come_again() {
    let (_dir, runtime) = start();
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(
        &mut alice,
        "ticker",
        json!({ "count": 1_000, "interval_ms": 20 }),
    )
    .await;
    let mut stream = watch(&mut alice, &job, 0).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    runtime.signal("-TERM");
    let ended = loop {
        match next(&mut stream).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the job runs on"),
            Err(status) => break status,
        }
    };
    let expected = (
        Code::Unavailable,
        "INTERNAL_ERROR".into(),
        String::new(),
        true,
    );
    assert_eq!(refusal(Err::<(), _>(ended)), expected);
    assert!(runtime.exited().await.success());
}

/// A proxy cut it after a minute without an event.
#[tokio::test]
async fn a_watch_of_a_silent_job_says_that_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), "[limits]\nheartbeat_interval_sec = 1");
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(&mut alice, "sleeper", json!({ "ms": 600_000 })).await;
    let began = std::time::Instant::now();
    let mut stream = watch(&mut alice, &job, 0).await.unwrap();
    for n in 1..=2 {
        assert!(next(&mut stream).await.unwrap().unwrap().is_empty());
        // No sooner than after as many intervals, however late it is read.
        let took = began.elapsed();
        assert!(took >= n * std::time::Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn records_no_longer_kept_are_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[retention]\nage_max_sec = 1\ncheck_interval_sec = 1";
    let runtime = Runtime::start_with(dir.path(), toml);
    let mut alice = connect(&runtime, ALICE).await;
    let job = submit(&mut alice, "echo", json!(1)).await;
    watch_all(&mut alice, &job).await;
    while !runtime.log().contains("trimmed ended jobs") {
        look_again().await;
    }
    let expected = refused(Code::NotFound, "JOB_NOT_FOUND", "");
    assert_eq!(refusal(get(&mut alice, &job).await), expected);
    let (code, reason, ..) = refusal(watch(&mut alice, &job, 1).await);
    assert_eq!(
        (code, &*reason),
        (Code::OutOfRange, "RESUME_WINDOW_EXPIRED")
    );
    let mut bob = connect(&runtime, BOB).await;
    assert_eq!(refusal(watch(&mut bob, &job, 1).await), expected);
}

#[tokio::test]
async fn a_job_stays_until_its_slowest_watcher_has_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[retention]\nage_max_sec = 1\ncheck_interval_sec = 1";
    let runtime = Runtime::start_with(dir.path(), toml);
    let mut alice = connect(&runtime, ALICE).await;
    let input = json!({ "events": 60_000, "bytes": 128, "delay_ms": 100 });
    let job = submit(&mut alice, "firehose", input).await;
    let mut slow = connect(&runtime, ALICE).await;
    let mut slow = watch(&mut slow, &job, 0).await.unwrap();
    let mut seen = next(&mut slow).await.unwrap().unwrap();
    watch_all(&mut alice, &job).await;
    // One that ended later goes, and this one is still there.
    let later = submit(&mut alice, "echo", json!(1)).await;
    watch_all(&mut alice, &later).await;
    while !runtime.log().contains("trimmed ended jobs") {
        look_again().await;
    }
    assert_eq!(refusal(get(&mut alice, &later).await).0, Code::NotFound);
    assert_eq!(get(&mut alice, &job).await.unwrap().last_job_seq, 60_001);
    seen.extend(rest(&mut slow).await);
    assert_eq!(numbers(&seen), (1..=60_001).collect::<Vec<_>>());
}

/// HTTP/1.1 has no resets: a browser that has seen enough closes its socket.
#[tokio::test]
async fn a_watcher_over_http_1_gets_its_head_at_once_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = connect(&runtime, ALICE).await;
    // It has no record while it runs.
    let job = submit(&mut alice, "sleeper", json!({ "ms": 600_000 })).await;
    drop(alice);
    let message = prost::Message::encode_to_vec(&arcpd::wire::proto::WatchJobRequest {
        job_id: job,
        after_job_seq: 0,
    });
    let mut socket = TcpStream::connect(&runtime.address).unwrap();
    let head = format!(
        "POST /arcp.v1.JobService/WatchJob HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {ALICE}\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        runtime.address,
        5 + message.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket
        .write_all(&[0, 0, 0, 0, message.len() as u8])
        .unwrap();
    socket.write_all(&message).unwrap();
    let mut lines = BufReader::new(&socket).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "HTTP/1.1 200 OK");
    drop(lines);
    drop(socket);
    while !runtime
        .admin_get("/metrics")
        .1
        .contains("arcpd_connections_open 0")
    {
        look_again().await;
    }
}
