//! A host that dials two replicas of a cell: which of the two has it, and its jobs.

mod support;

use std::time::Duration;

use arcpd::wire::proto::AssignmentRef;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use serde_json::json;
use support::host::*;
use support::link::{Link, State};
use support::nats::Nats;
use support::replicas::*;
use support::ws::Ws;
use support::*;

/// A replica that was slow let a host in that had given it up and was elsewhere, and took
/// its job from there: nobody was left who worked on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_its_host_gave_up_takes_nothing_from_where_the_host_is() {
    let nats = Nats::single();
    let link = Link::start(nats.url().trim_start_matches("nats://").into()).await;
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let through = format!("nats://{}", link.address);
    let slow = tokio::task::block_in_place(|| replica_at(&through, dirs[0].path()));
    let b = replica(&nats, dirs[1].path());
    let mut client = Ws::connect(&b, ALICE).await;
    let mut host = HostPeer::serving(&b.address, "h", "a", 1).await;
    client.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![log(1, "begun")]).await;
    host.acked(1).await;

    link.set(State::Frozen);
    let mut elsewhere = register("h", vec![agent("a")], 1);
    elsewhere.resume = vec![held(&of)];
    let dialled = HostPeer::connect(&slow.address, elsewhere);
    let given_up = tokio::time::timeout(Duration::from_millis(500), dialled).await;
    assert!(given_up.is_err(), "the log does not answer there");
    // It knows that by the time the log answers.
    slow.until_metric("arcpd_connections_open", |open| open == 0)
        .await;
    link.set(State::Whole);
    slow.until_logged("a host is gone").await;

    // On the stream that it has.
    host.report(&of, vec![result(2, "5")]).await;
    host.acked(2).await;
    let seen = client.until_terminal().await;
    assert_eq!(seen.last().unwrap()["payload"]["result"], 5);
}

/// Each of two connections closed the other, and the host's job was given up.
#[tokio::test]
async fn of_two_dials_in_the_same_moment_one_stays_and_has_the_job() {
    let nats = Nats::single();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [a, b, c] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut client = Ws::connect(&c, ALICE).await;
    for round in 0..20 {
        let name = format!("h{round}");
        let mut host = HostPeer::serving(&c.address, &name, "a", 1).await;
        client.submit("a", json!(round)).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "begun")]).await;
        host.acked(1).await;

        let mut at_a = HostPeer::dial(&a.address, WORKERS).await.unwrap();
        let mut at_b = HostPeer::dial(&b.address, WORKERS).await.unwrap();
        let mut elsewhere = register(&name, vec![agent("a")], 1);
        elsewhere.resume = vec![held(&of)];
        let (to_a, to_b) = (elsewhere.clone(), elsewhere);
        tokio::join!(at_a.say(Say::Register(to_a)), at_b.say(Say::Register(to_b)));
        let (mut registered, mut closed) = ([false; 2], [false; 2]);
        // Which one closes is for the log to say.
        while !(registered[0] && closed[1] || registered[1] && closed[0]) {
            let (who, heard) = tokio::select! {
                heard = at_a.hear(), if !closed[0] => (0, heard),
                heard = at_b.hear(), if !closed[1] => (1, heard),
            };
            match heard {
                Ok(Hear::Registered(told)) => {
                    assert_eq!((told.keep.len(), told.drop.len()), (1, 0), "{told:?}");
                    registered[who] = true;
                }
                Ok(_) => {}
                Err(over) => {
                    let taken_over = "another connection of this host has taken over";
                    assert_eq!(over.message(), taken_over);
                    closed[who] = true;
                }
            }
            assert_ne!(closed, [true; 2], "in round {round}");
        }
        let stays = if closed[0] { &mut at_b } else { &mut at_a };
        stays.report(&of, vec![result(2, "5")]).await;
        let seen = client.until_terminal().await;
        assert_eq!(seen.last().unwrap()["payload"]["result"], 5, "{seen:?}");
    }
}

/// As an agent host does: what it has is reported again wherever it is let in.
async fn ends_its_job(runtime: &Runtime, name: &str, mut host: HostPeer, of: &AssignmentRef) {
    loop {
        host.report(of, vec![result(2, "5")]).await;
        let over = loop {
            match host.hear().await {
                Ok(Hear::Ack(ack)) if ack.seq >= 2 => return,
                Ok(Hear::Revoked(revoked)) => panic!("{revoked:?}"),
                Ok(_) => {}
                Err(over) => break over,
            }
        };
        let taken_over = "another connection of this host has taken over";
        assert_eq!(over.message(), taken_over);
        let mut again = register(name, vec![agent("a")], 1);
        again.resume = vec![held(of)];
        let (next, told) = HostPeer::connect(&runtime.address, again).await.unwrap();
        if told.keep.is_empty() {
            // The report had come in time.
            return;
        }
        host = next;
    }
}

/// It had taken the job with it: the host was told that the job was over, on the stream
/// that it went on with.
#[tokio::test]
async fn a_host_that_gives_a_dial_up_at_any_moment_still_has_its_job() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [a, b] = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut client = Ws::connect(&b, ALICE).await;
    for round in 0..24 {
        let name = format!("h{round}");
        let mut host = HostPeer::serving(&a.address, &name, "a", 1).await;
        client.submit("a", json!(round)).await;
        let (_, of) = host.assigned().await;
        host.accept(&of).await;
        host.report(&of, vec![log(1, "begun")]).await;
        host.acked(1).await;

        let mut given_up = HostPeer::dial(&b.address, WORKERS).await.unwrap();
        let mut elsewhere = register(&name, vec![agent("a")], 1);
        elsewhere.resume = vec![held(&of)];
        given_up.say(Say::Register(elsewhere)).await;
        let patience = Duration::from_millis(round % 12);
        let _ = tokio::time::timeout(patience, given_up.hear()).await;
        drop(given_up);
        ends_its_job(&a, &name, host, &of).await;
        let seen = client.until_terminal().await;
        assert_eq!(seen.last().unwrap()["payload"]["result"], 5, "{seen:?}");
    }
}
