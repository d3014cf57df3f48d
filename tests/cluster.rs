//! Replicas of one cell: a client, a host or an operator needs not know which of them
//! has what. Real servers, real processes, real kills.

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use arcpd::wire::proto;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::json;
use support::host::*;
use support::link::{Link, State};
use support::nats::Nats;
use support::replicas::*;
use support::ws::{Ws, hello, seqs};
use support::*;
use tonic_types::StatusExt;

/// From a replica's death to what the others do about it.
const TAKEN_OVER: Duration = Duration::from_secs(8);

/// From a host's register to its answer: half of what is waited for jobs to come.
const LET_IN_WITHIN: Duration = Duration::from_secs(5);

/// From a server's standstill to a replica's next work. An election may be part of it.
const READ_ON_WITHIN: Duration = Duration::from_secs(20);

async fn resume(runtime: &Runtime, from: &Ws, after: u64) -> Ws {
    let resume = json!({
        "session_id": from.session_id, "resume_token": from.resume_token, "last_event_seq": after,
    });
    Ws::open(runtime, hello("r", ALICE, json!({ "resume": resume }))).await
}

#[tokio::test]
async fn replicas_that_begin_a_cell_in_the_same_moment_share_its_stream() {
    let nats = Nats::single();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let replicas = std::thread::scope(|scope| {
        let starts = dirs
            .each_ref()
            .map(|dir| scope.spawn(|| replica(&nats, dir.path())));
        starts.map(|start| start.join().expect("ready"))
    });
    let mut client = Ws::connect(&replicas[0], ALICE).await;
    let accepted = client.submit("echo", json!(1)).await;
    let mut observer = Ws::connect(&replicas[2], ALICE).await;
    let about = json!({ "job_id": accepted["job_id"], "history": true });
    observer.say("job.subscribe", about).await;
    assert_eq!(observer.until_terminal().await.len(), 1);
}

#[tokio::test]
async fn what_is_submitted_at_one_replica_is_watched_listed_and_cancelled_at_another() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut submitter = Ws::connect(&a, ALICE).await;
    let accepted = submitter.submit("sleeper", json!({ "ms": 600_000 })).await;
    let job = accepted["job_id"].as_str().unwrap();
    let mut observer = Ws::connect(&b, ALICE).await;
    observer
        .say("job.subscribe", json!({ "job_id": job, "history": true }))
        .await;
    assert_eq!(observer.hear_type("job.subscribed").await["job_id"], job);
    observer.say("session.list_jobs", json!({})).await;
    let listed = observer.hear_type("session.jobs").await;
    assert_eq!(listed["payload"]["jobs"][0]["job_id"], job);
    // Its submitter is connected, elsewhere: nobody else may cancel it.
    let mut other = Ws::connect(&c, ALICE).await;
    other.say_about(job, "job.cancel", json!({})).await;
    let refused = other.hear().await;
    assert_eq!(refused["payload"]["code"], "PERMISSION_DENIED", "{refused}");
    submitter.say("session.bye", json!({})).await;
    while submitter.try_hear().await.is_some() {}
    other.say_about(job, "job.cancel", json!({})).await;
    let answer = other.hear().await;
    assert_eq!(answer["type"], "job.cancelled", "{answer}");
    let seen = observer.until_terminal().await;
    assert_eq!(seen.last().unwrap()["payload"]["code"], "CANCELLED");
}

#[tokio::test]
async fn concurrent_retries_at_different_replicas_make_one_job() {
    let (_cell, replicas) = Cell::start();
    let mut retries = Vec::new();
    for replica in &replicas {
        retries.push(Ws::connect(replica, ALICE).await);
    }
    let submit = json!({ "agent": "echo", "input": 1, "idempotency_key": "k" });
    for retry in &mut retries {
        retry.say("job.submit", submit.clone()).await;
    }
    let mut jobs = Vec::new();
    for retry in &mut retries {
        let seen = retry.hear_type("job.accepted").await;
        jobs.push(seen["job_id"].clone());
    }
    jobs.dedup();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
}

#[tokio::test]
async fn a_session_resumes_at_another_replica_and_the_one_that_had_it_lets_go() {
    let (_cell, [a, b, _c]) = Cell::start();
    let mut first = Ws::connect(&a, ALICE).await;
    first.submit("echo", json!(1)).await;
    let seen = first.until_terminal().await;
    let last = *seqs(&seen).last().unwrap();
    let mut second = resume(&b, &first, 0).await;
    let again = second.until_terminal().await;
    assert_eq!(seqs(&again), seqs(&seen));
    while first.try_hear().await.is_some() {}
    // It goes on where it was, and back where it came from.
    second.submit("echo", json!(2)).await;
    let more = second.until_terminal().await;
    assert_eq!(seqs(&more)[0], last + 1);
    let mut third = resume(&a, &second, last).await;
    assert_eq!(seqs(&third.until_terminal().await), seqs(&more));
}

#[tokio::test]
async fn when_a_replica_is_killed_its_sessions_go_on_and_its_jobs_end() {
    let (cell, [a, b, c]) = Cell::start();
    let mut submitter = Ws::connect(&a, ALICE).await;
    submitter.submit("sleeper", json!({ "ms": 600_000 })).await;
    let mut bystander = Ws::connect(&c, ALICE).await;
    a.kill();
    let killed = Instant::now();
    let mut resumed = resume(&b, &submitter, 0).await;
    let seen = resumed.until_terminal().await;
    assert!(killed.elapsed() < TAKEN_OVER, "{:?}", killed.elapsed());
    let numbers = seqs(&seen);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let end = &seen.last().unwrap()["payload"];
    assert_eq!(end["retryable"], true, "{end}");
    bystander.submit("echo", json!(1)).await;
    bystander.until_terminal().await;
    // And it comes back, as another.
    let back = replica(&cell.nats, cell.dirs[0].path());
    let mut again = resume(&back, &resumed, 0).await;
    assert_eq!(seqs(&again.until_terminal().await), numbers);
}

#[tokio::test]
async fn a_replica_that_was_paused_past_its_end_stops_and_changes_nothing() {
    let (_cell, [mut a, b, _c]) = Cell::start();
    let mut submitter = Ws::connect(&a, ALICE).await;
    let input = json!({ "count": 100_000, "interval_ms": 20 });
    submitter.submit("ticker", input).await;
    a.signal("-STOP");
    let mut resumed = resume(&b, &submitter, 0).await;
    let seen = resumed.until_terminal().await;
    assert_eq!(seen.last().unwrap()["payload"]["retryable"], true);
    a.signal("-CONT");
    assert!(!a.wait().success(), "it has to be started again");
    assert_eq!(resumed.ping().await, Vec::<serde_json::Value>::new());
    let mut again = resume(&b, &resumed, 0).await;
    assert_eq!(seqs(&again.until_terminal().await), seqs(&seen));
}

#[tokio::test]
async fn a_host_at_one_replica_serves_jobs_submitted_at_another() {
    let (_cell, [a, b, _c]) = Cell::start();
    let mut client = Ws::connect(&a, ALICE).await;
    let mut host = HostPeer::serving(&b.address, "h", "a", 4).await;
    // Known everywhere as soon as it is registered; placed once its room is known.
    let accepted = client.submit("a", json!(7)).await;
    let (assign, of) = host.assigned().await;
    assert_eq!(assign.input_json, "7");
    host.accept(&of).await;
    host.report(&of, vec![log(1, "working"), result(2, "8")])
        .await;
    let seen = client.until_terminal().await;
    assert_eq!(seen.last().unwrap()["job_id"], accepted["job_id"]);
    assert_eq!(seen.last().unwrap()["payload"]["result"], 8);
    // Cancelled where it was submitted, told where its host is.
    let accepted = client.submit("a", json!(9)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    // Behind the accept, which the cancel could overtake on its own connection.
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;
    let job = accepted["job_id"].as_str().unwrap();
    client.say_about(job, "job.cancel", json!({})).await;
    loop {
        if let proto::serve_response::Message::Cancel(_) = host.next().await {
            break;
        }
    }
}

/// Its first records were there before its submitter's session followed it, now and then.
#[tokio::test]
async fn a_job_that_is_over_at_once_at_another_replica_is_seen_from_its_beginning() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut host = HostPeer::serving(&b.address, "h", "a", 64).await;
    let hosting = tokio::spawn(async move {
        loop {
            let (assign, of) = host.assigned().await;
            host.accept(&of).await;
            host.report(&of, vec![result(1, &assign.input_json)]).await;
        }
    });
    let mut clients = Vec::new();
    for replica in [&a, &c, &a, &c] {
        let mut client = Ws::connect(replica, ALICE).await;
        clients.push(tokio::spawn(async move {
            for input in 0..200 {
                client.submit("a", json!(input)).await;
                let seen = client.until_terminal().await;
                assert_eq!(seqs(&seen), [input + 1]);
                assert_eq!(seen[0]["payload"]["result"], input);
            }
        }));
    }
    for client in clients {
        client.await.expect("all of them");
    }
    hosting.abort();
}

/// A replica that was given a job said what is left of its budget before its submitter,
/// elsewhere, listened: the session went on without it, under numbers that a resume gave
/// to others.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_says_elsewhere_before_its_submitter_listens_has_its_number() {
    const CLIENTS: usize = 48;
    let nats = Nats::single();
    let link = Link::start(nats.url().trim_start_matches("nats://").into()).await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let through = format!("nats://{}", link.address);
    let a = tokio::task::block_in_place(|| replica_at(&through, dirs[0].path()));
    let b = replica(&nats, dirs[1].path());
    let mut host = HostPeer::serving(&b.address, "h", "a", 1000).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Ws::connect(&a, ALICE).await);
    }
    // Once one has gone there, the next ones go there at once.
    clients[0].submit("a", json!(1)).await;
    host.assigned().await;
    link.set(State::OneWay);
    let lease = json!({ "cost.budget": ["USD:1"] });
    let submit = json!({ "agent": "a", "input": 2, "lease_request": lease });
    for client in &mut clients {
        client.say("job.submit", submit.clone()).await;
    }
    // What is durable may be said twice.
    let mut acked = HashSet::new();
    while acked.len() < CLIENTS {
        match host.hear().await.expect("an open stream") {
            Hear::Assign(assign) => {
                let of = assign.r#ref.expect("a ref");
                host.accept(&of).await;
                let reports = vec![log(1, "working"), result(2, "3")];
                host.report(&of, reports).await;
            }
            Hear::Ack(ack) if ack.seq == 2 => {
                acked.insert(ack.r#ref.expect("a ref").job_id);
            }
            Hear::Ack(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // All of it comes at once.
    link.set(State::Whole);
    for client in &mut clients {
        let seen = client.until_terminal().await;
        let mut again = resume(&b, client, 0).await;
        assert_eq!(again.until_terminal().await, seen);
    }
}

/// The replica that its host was at is killed, and the host goes to another, where the
/// job goes on: the same attempt, and nothing lost or doubled.
#[tokio::test]
async fn a_job_follows_its_host_to_another_replica() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&c, ALICE).await;
    let mut host = HostPeer::serving(&a.address, "h", "a", 4).await;
    client.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "one"), log(2, "two")]).await;
    host.acked(2).await;
    a.kill();
    let mut again = register("h", vec![agent("a")], 4);
    again.resume = vec![held(&of)];
    let (mut host, registered) = HostPeer::connect(&b.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    assert_eq!(registered.keep[0].acked_seq, 2);
    host.report(&of, vec![log(3, "three"), result(4, "5")])
        .await;
    let seen = client.until_terminal().await;
    assert_eq!(seqs(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
    let said = seen
        .iter()
        .filter(|frame| frame["payload"]["kind"] == "log");
    let said: Vec<_> = said
        .map(|frame| frame["payload"]["body"]["message"].clone())
        .collect();
    assert_eq!(said, ["one", "two", "three"]);
    assert_eq!(seen.last().unwrap()["payload"]["result"], 5);
}

/// What became of a submit was not known to its replica, which forgot it: the job was made
/// and never ran, and a retry on the same connection gave its place in the session's view
/// to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_submit_that_is_answered_too_late_is_made_and_runs() {
    let nats = Nats::single();
    let link = Link::start(nats.url().trim_start_matches("nats://").into()).await;
    let dir = tempfile::tempdir().unwrap();
    let through = format!("nats://{}", link.address);
    let a = tokio::task::block_in_place(|| replica_at(&through, dir.path()));
    let mut client = Ws::connect(&a, ALICE).await;
    let submit = json!({ "agent": "echo", "input": 7, "idempotency_key": "k" });
    link.set(State::OneWay);
    client.say("job.submit", submit.clone()).await;
    let refused = client.hear_type("session.error").await;
    assert_eq!(refused["payload"]["retryable"], true, "{refused}");
    // What its view is, only a resume can tell.
    while client.try_hear().await.is_some() {}
    link.set(State::Whole);
    a.until_logged("answers again").await;
    let mut again = resume(&a, &client, 0).await;
    let seen = again.until_terminal().await;
    assert_eq!(seen.last().unwrap()["payload"]["result"], 7);
    again.say("job.submit", submit).await;
    let accepted = again.hear_type("job.accepted").await;
    assert_eq!(accepted["job_id"], seen[0]["job_id"]);
}

/// The replica that had the host offered it jobs on a stream that nobody read.
#[tokio::test]
async fn a_host_that_dials_another_replica_leaves_the_first_with_what_it_has() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut client = Ws::connect(&c, ALICE).await;
    let mut first = HostPeer::serving(&a.address, "h", "a", 4).await;
    let mut of = Vec::new();
    for _ in 0..2 {
        client.submit("a", json!(1)).await;
        let (_, next) = first.assigned().await;
        first.accept(&next).await;
        of.push(next);
    }
    first.report(&of[0], vec![log(1, "begun")]).await;
    first.acked(1).await;
    // One of them: the other it has forgotten.
    let mut again = register("h", vec![agent("a")], 4);
    again.resume = vec![held(&of[0])];
    let (mut second, registered) = HostPeer::connect(&b.address, again).await.unwrap();
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    assert!(first.end().await.message().contains("taken over"));
    let lost = client.until_terminal().await;
    assert_eq!(lost.last().unwrap()["job_id"], *of[1].job_id);
    assert_eq!(lost.last().unwrap()["payload"]["retryable"], true);
    second.report(&of[0], vec![result(2, "2")]).await;
    let kept = client.until_terminal().await;
    assert_eq!(kept.last().unwrap()["payload"]["result"], 2);
}

/// It was not let in for ten seconds: its replica waited for the job to wait for it.
#[tokio::test]
async fn a_host_that_names_a_job_that_another_has_by_now_is_let_in_at_once() {
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let only = replica(&nats, dir.path());
    let mut client = Ws::connect(&only, ALICE).await;
    let mut first = HostPeer::serving(&only.address, "h1", "a", 1).await;
    client.submit("a", json!(1)).await;
    let (_, given_back) = first.assigned().await;
    let no_more = proto::Capacity { max_in_flight: 0 };
    first.say(Say::Capacity(no_more)).await;
    first
        .say(Say::Decline(proto::Decline {
            r#ref: Some(given_back.clone()),
            reason: "no room".into(),
        }))
        .await;
    let mut second = HostPeer::serving(&only.address, "h2", "a", 1).await;
    let (_, of) = second.assigned().await;
    second.accept(&of).await;
    second.report(&of, vec![log(1, "begun")]).await;
    second.acked(1).await;
    drop(first);
    let mut again = register("h1", vec![agent("a")], 1);
    again.resume = vec![held(&given_back)];
    let dialled = Instant::now();
    let (_first, registered) = HostPeer::connect(&only.address, again).await.unwrap();
    assert_eq!(registered.drop, [given_back]);
    assert!(dialled.elapsed() < LET_IN_WITHIN, "{:?}", dialled.elapsed());
}

/// The whole cell was stopped. Its first replica has all work again a moment after it lets
/// hosts in, and told them meanwhile to drop what they had.
#[tokio::test]
async fn a_host_that_comes_as_the_first_replica_starts_keeps_its_job() {
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let mut only = replica(&nats, dir.path());
    let mut client = Ws::connect(&only, ALICE).await;
    let mut host = HostPeer::serving(&only.address, "h", "a", 4).await;
    client.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;
    for _ in 0..5 {
        assert!(only.terminate().await.success());
        only = replica(&nats, dir.path());
        let mut again = register("h", vec![agent("a")], 4);
        again.resume = vec![held(&of)];
        let (_, registered) = HostPeer::connect(&only.address, again).await.unwrap();
        assert_eq!(registered.keep.len(), 1, "{registered:?}");
    }
}

/// What a replica reads the log by is with one server. When that stood still, the replica
/// took no work until the client library had seen it, half a minute and more later.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_reads_on_when_the_server_that_it_reads_by_stands_still() {
    let nats = Nats::cluster();
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(dir.path());
    command.args(["--cluster", &nats.urls().join(",")]);
    let a = tokio::task::block_in_place(|| Runtime::spawn(&mut command));
    let client = async_nats::connect(nats.urls()).await.expect("a server");
    let jetstream = async_nats::jetstream::new(client);
    let stream = jetstream.get_stream("ARCP_LOG_arcpd").await.unwrap();
    let consumer = stream.consumers().next().await.unwrap().unwrap();
    let leader = consumer.cluster.unwrap().leader.unwrap();
    let node = nats.nodes.iter().find(|node| node.name() == leader);
    node.unwrap().pause();
    let stopped = Instant::now();
    loop {
        let mut client = Ws::dial(&a).await;
        client.send(&hello("h", ALICE, json!({})).to_string()).await;
        // Refused while it is not known what is applied.
        if client.hear().await["type"] == "session.welcome" {
            break;
        }
    }
    assert!(
        stopped.elapsed() < READ_ON_WITHIN,
        "{:?}",
        stopped.elapsed()
    );
}

#[tokio::test]
async fn a_replica_that_is_drained_is_not_missed() {
    let (_cell, [a, b, c]) = Cell::start();
    let mut submitter = Ws::connect(&a, ALICE).await;
    submitter.submit("sleeper", json!({ "ms": 600_000 })).await;
    assert!(a.terminate().await.success());
    let mut resumed = resume(&b, &submitter, 0).await;
    resumed.until_terminal().await;
    // Its work went when it left, not when nobody had heard of it for a while.
    for replica in [&b, &c] {
        assert!(!replica.log().contains("is not heard of"));
    }
}

/// What a replica reads before it has joined waited for a reader that was not there yet.
#[tokio::test]
async fn a_replica_without_a_file_reads_a_long_log_before_it_is_ready() {
    let (cell, [a, _b, _c]) = Cell::start();
    let mut client = Ws::connect(&a, ALICE).await;
    // More entries with records than anybody has room for unread.
    let entries = "arcpd_cluster_entries_applied_total";
    let input = json!({ "count": 1_000_000, "interval_ms": 1 });
    client.submit("ticker", input).await;
    a.until_metric(entries, |applied| applied > 2_000).await;
    let dir = tempfile::tempdir().unwrap();
    let late = replica(&cell.nats, dir.path());
    assert!(late.metric(entries) > 2_000);
    let mut resumed = resume(&late, &client, 0).await;
    assert_eq!(resumed.hear_type("job.event").await["event_seq"], 1);
}

/// A session's welcome listed the agents of hosts at its own replica only.
#[tokio::test]
async fn what_a_host_offers_at_one_replica_is_listed_at_the_others() {
    let (_cell, [a, b, c]) = Cell::start();
    let host = HostPeer::serving(&a.address, "h", "a", 1).await;
    for replica in [&b, &c] {
        until_listed(replica, true).await;
    }
    drop(host);
    for replica in [&b, &c] {
        until_listed(replica, false).await;
    }
}

/// Known everywhere within a second, and asked until then.
async fn until_listed(replica: &Runtime, wanted: bool) {
    let began = Instant::now();
    loop {
        let address = format!("http://{}", replica.address);
        let channel = tonic::transport::Endpoint::from_shared(address).unwrap();
        let peer = Peer::on(channel.connect().await.unwrap(), support::hello(ALICE));
        let welcome = match peer.await.next().await.payload {
            Some(proto::envelope::Payload::SessionWelcome(welcome)) => welcome,
            other => panic!("no welcome: {other:?}"),
        };
        if welcome.agents.iter().any(|agent| agent.name == "a") == wanted {
            return;
        }
        assert!(began.elapsed() < TAKEN_OVER, "listed: {}", !wanted);
    }
}

/// The next replica waited for the host that the offer had been made to.
#[tokio::test]
async fn an_offer_that_nobody_took_is_made_again_at_another_replica() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let hosting = HOSTING.replace("accept_within_sec = 600", "accept_within_sec = 1");
    let [a, b] = dirs.each_ref().map(|dir| {
        let path = dir.path().join("arcpd.toml");
        std::fs::write(&path, &hosting).unwrap();
        let mut command = serve(dir.path());
        command.arg("--config").arg(path);
        command.args(["--cluster", &nats.url(), "--cluster-replication", "1"]);
        Runtime::spawn(&mut command)
    });
    let mut client = Ws::connect(&a, ALICE).await;
    let mut silent = HostPeer::serving(&a.address, "h1", "a", 1).await;
    client.submit("a", json!(1)).await;
    let (_, offered) = silent.assigned().await;
    let mut other = HostPeer::serving(&b.address, "h2", "a", 1).await;
    let (assign, of) = other.assigned().await;
    assert_eq!((assign.attempt, &of.job_id), (1, &offered.job_id));
    other.accept(&of).await;
    other.report(&of, vec![result(1, "2")]).await;
    let seen = client.until_terminal().await;
    assert_eq!(seen.last().unwrap()["payload"]["result"], 2);
}

#[tokio::test]
async fn a_stream_of_less_replication_than_asked_for_is_refused() {
    let nats = Nats::single();
    let dir = tempfile::tempdir().unwrap();
    drop(replica(&nats, dir.path()));
    let mut command = serve(dir.path());
    let refused = command.args(["--cluster", &nats.url()]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("--cluster-replication"), "{text}");
}

/// Clients of a replica that was drained were told to come back within 2 s and hosts within
/// 5 s, as if nobody else were there: whoever followed a job heard nothing for so long.
/// Each is served until its moment comes, and is to go elsewhere at once.
#[tokio::test]
async fn who_is_at_a_drained_replica_is_told_to_go_elsewhere_in_turn() {
    let (_cell, [a, b, _c]) = Cell::start();
    let mut clients = Vec::new();
    let mut hosts = Vec::new();
    for index in 0..20 {
        clients.push(Ws::connect(&a, ALICE).await);
        hosts.push(HostPeer::serving(&a.address, &format!("h{index}"), "a", 1).await);
    }
    a.signal("-TERM");
    for client in &mut clients {
        let bye = client.hear_type("session.bye").await;
        assert_eq!(bye["payload"]["reconnect_after_ms"], 0, "{bye}");
        resume(&b, client, 0).await;
    }
    for host in &mut hosts {
        let proto::serve_response::Message::Drain(drain) = host.next().await else {
            panic!("a drain is due");
        };
        assert_eq!(drain.reconnect_after, Some(Default::default()));
    }
}

/// It was told to come back within 5 s, as if nobody else were there.
#[tokio::test]
async fn a_host_that_comes_to_a_replica_that_drains_is_to_go_elsewhere_at_once() {
    let (_cell, [a, _b, _c]) = Cell::start();
    let mut host = HostPeer::dial(&a.address, WORKERS).await.unwrap();
    // Holds the process until it is read.
    let mut client = Ws::connect(&a, ALICE).await;
    a.signal("-TERM");
    client.hear_type("session.bye").await;
    host.say(Say::Register(register("h", vec![agent("a")], 1)))
        .await;
    let status = host.end().await;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let details = status.get_error_details();
    let after = details.retry_info().and_then(|info| info.retry_delay);
    assert_eq!(after, Some(Duration::ZERO));
    drop(client);
}

/// It never ended: what was to be sent waited for room among what was never answered.
#[tokio::test]
async fn a_replica_whose_servers_are_gone_ends_in_time_when_it_is_told_to() {
    const DEADLINE: Duration = Duration::from_secs(2);
    /// What the chart adds for closing the store.
    const MARGIN: Duration = Duration::from_secs(10);
    let (mut nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let path = dir.path().join("arcpd.toml");
    std::fs::write(&path, format!("drain_deadline_sec = 2\n{HOSTING}")).unwrap();
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    let mut command = serve(dir.path());
    let replica = Runtime::spawn(command.arg("--config").arg(path).args(cluster));
    let mut client = Ws::connect(&replica, ALICE).await;
    let input = json!({ "count": 1_000_000, "interval_ms": 10 });
    client.submit("ticker", input).await;
    let mut host = HostPeer::serving(&replica.address, "h", "a", 1).await;
    client.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    nats.kill9();
    host.report(&of, vec![result(1, "1")]).await;
    // More than may be on its way at once.
    let unhealthy = "arcpd_store_healthy";
    replica
        .until_metric(unhealthy, |healthy| healthy == 0)
        .await;
    let told = Instant::now();
    let exit = replica.terminate().await;
    let took = told.elapsed();
    assert!(exit.success(), "{exit}");
    assert!(took < DEADLINE + MARGIN, "{took:?}");
    println!("gone after {took:?}");
    drop((client, host));
}
