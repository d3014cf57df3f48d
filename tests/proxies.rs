//! Behind the proxies people have: streams with nothing to say for longer than a proxy
//! waits stay open, on both wires and for agent hosts.

mod support;

use std::time::Duration;

use arcpd::wire::proto::job_service_client::JobServiceClient;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, envelope::Payload};
use serde_json::json;
use support::both::{Client, Wire};
use support::front::{Front, Kind};
use support::host::*;
use support::nats::Nats;
use support::ws::{self, Ws};
use support::*;

const KINDS: [Kind; 2] = [Kind::Nginx, Kind::HaProxy];

/// How long a proxy waits for what is silent, how often the runtime says something,
/// and how long nothing happens.
struct Times {
    /// The proxy's own without.
    idle: Option<&'static str>,
    beat_sec: u64,
    silence: Duration,
}

const SHORT: Times = Times {
    idle: Some("3s"),
    beat_sec: 1,
    silence: Duration::from_secs(10),
};

async fn behind(kind: Kind, times: &Times) -> (tempfile::TempDir, Runtime, Front) {
    let dir = tempfile::tempdir().unwrap();
    let beat = times.beat_sec;
    let toml = format!(
        "[limits]\nheartbeat_interval_sec = {beat}\n[hosts]\nheartbeat_interval_sec = {beat}\n\
         lost_after_sec = 300\n[[hosting]]\nprincipal = \"workers\"\nagents = [\"*\"]"
    );
    let runtime = Runtime::start_with(dir.path(), &toml);
    let front = kind.start(&runtime.address, times.idle).await;
    (dir, runtime, front)
}

/// A job that says nothing for the time; its end comes on the same stream, with number 1.
async fn session_over_grpc(address: &str, ms: u64) -> Result<(), String> {
    let peer = Peer::open(address, hello_with_heartbeat(ALICE)).await;
    let mut peer = peer.welcomed().await;
    peer.submit("sleeper", json!({ "ms": ms })).await;
    loop {
        let envelope = peer.try_next().await.ok_or("the session's stream ended")?;
        match envelope.payload {
            Some(Payload::SessionPing(ping)) => {
                let pong = proto::SessionPong {
                    ping_nonce: ping.nonce,
                    ..Default::default()
                };
                peer.send("", Payload::SessionPong(pong)).await;
            }
            Some(Payload::JobResult(_)) => {
                assert_eq!(envelope.event_seq, 1);
                return Ok(());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// With heartbeats, and without: then the WebSocket's own pings have to do.
async fn session_over_websocket(address: &str, features: &[&str], ms: u64) -> Result<(), String> {
    let hello = json!({ "capabilities": { "features": features } });
    let mut ws = Ws::open_at(address, ws::hello("h", ALICE, hello)).await;
    ws.submit("sleeper", json!({ "ms": ms })).await;
    loop {
        let frame = ws.try_hear_within(Duration::from_secs(300)).await;
        let frame = frame.ok_or("the WebSocket was closed")?;
        match frame["type"].as_str().unwrap() {
            "session.ping" => {
                let pong = json!({ "ping_nonce": frame["payload"]["nonce"], "received_at": "" });
                ws.say("session.pong", pong).await;
            }
            "job.result" => {
                assert_eq!(frame["event_seq"], 1);
                return Ok(());
            }
            other => panic!("{other}: {frame}"),
        }
    }
}

async fn watch(address: &str, ms: u64) -> Result<(), String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let bearer = support::jobs::Bearer(ALICE);
    let mut alice = JobServiceClient::with_interceptor(channel, bearer);
    let job = support::jobs::submit(&mut alice, "sleeper", json!({ "ms": ms })).await;
    let mut stream = support::jobs::watch(&mut alice, &job, 0).await.unwrap();
    loop {
        let message = stream
            .message()
            .await
            .map_err(|status| status.to_string())?;
        let records = message.ok_or("the watch ended")?.records;
        if let Some(last) = records.last() {
            assert_eq!(last.job_seq, 1);
            return Ok(());
        }
    }
}

/// Beats as it was told, and takes a job after the silence.
async fn host(address: &str, beat: Duration, silence: Duration) -> Result<(), String> {
    let mut host = HostPeer::serving(address, "h", "a", 1).await;
    // As often as the test says.
    host.stop_beating();
    let mut beats = tokio::time::interval(beat);
    let over = tokio::time::sleep(silence);
    tokio::pin!(over);
    loop {
        tokio::select! {
            heard = host.hear() => match heard {
                Ok(Hear::HeartbeatAck(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(status) => return Err(status.to_string()),
            },
            _ = beats.tick() => host.beat().await,
            () = &mut over => break,
        }
    }
    let mut alice = Peer::connect(address, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    host.report(&of, vec![result(1, "1")]).await;
    alice.until_terminal().await;
    Ok(())
}

/// Everything at once through one proxy.
async fn silent(kind: Kind, times: &Times) -> Vec<Result<(), String>> {
    let (_dir, _runtime, front) = behind(kind, times).await;
    let ms = times.silence.as_millis() as u64;
    let beat = Duration::from_secs(times.beat_sec);
    let (a, b, c, d, e) = tokio::join!(
        session_over_grpc(&front.grpc, ms),
        session_over_websocket(&front.web, &["heartbeat"], ms),
        session_over_websocket(&front.web, &[], ms),
        watch(&front.grpc, ms),
        host(&front.grpc, beat, times.silence),
    );
    vec![a, b, c, d, e]
}

#[tokio::test]
async fn streams_that_are_silent_for_longer_than_a_proxy_waits_stay_open() {
    let [nginx, haproxy] = KINDS.map(|kind| silent(kind, &SHORT));
    let (nginx, haproxy) = tokio::join!(nginx, haproxy);
    assert_eq!(nginx, vec![Ok(()); 5]);
    assert_eq!(haproxy, vec![Ok(()); 5]);
}

/// Or the proxies would wait for ever, and the test above would show nothing.
#[tokio::test]
async fn a_runtime_that_says_nothing_is_cut_off() {
    let rare = Times {
        beat_sec: 60,
        ..SHORT
    };
    let [nginx, haproxy] = KINDS.map(|kind| silent(kind, &rare));
    let (nginx, haproxy) = tokio::join!(nginx, haproxy);
    for ends in [nginx, haproxy] {
        assert!(ends.iter().all(Result::is_err), "{ends:?}");
    }
}

#[tokio::test]
#[ignore = "takes three minutes: the proxies' own time-outs, and the chart's heartbeat"]
async fn the_same_with_the_times_that_proxies_have_by_themselves() {
    let own = Times {
        idle: None,
        beat_sec: 20,
        silence: Duration::from_secs(150),
    };
    let [nginx, haproxy] = KINDS.map(|kind| silent(kind, &own));
    let (nginx, haproxy) = tokio::join!(nginx, haproxy);
    assert_eq!(nginx, vec![Ok(()); 5]);
    assert_eq!(haproxy, vec![Ok(()); 5]);
}

/// Sessions through a proxy in front of three replicas, some at each: when one is drained,
/// what it had goes on at the others by way of the proxy, which sends nothing there.
async fn drained_behind(kind: Kind) {
    let nats = Nats::single();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [a, b, c] = dirs.each_ref().map(|dir| {
        let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
        Runtime::spawn(serve(dir.path()).args(cluster))
    });
    let front = kind.start_for_cell([&a, &b, &c]).await;
    let mut sessions = Vec::new();
    for (wire, address) in [(Wire::Grpc, &front.grpc), (Wire::WebSocket, &front.web)] {
        for _ in 0..6 {
            let session = Client::open_at(wire, address, None).await.unwrap();
            sessions.push((wire, address, session));
        }
    }
    for (_, _, session) in &mut sessions {
        let input = json!({ "count": 1_000_000, "interval_ms": 20 });
        session.submit("ticker", input, json!({})).await;
    }
    let attached = |replica: &Runtime| replica.metric("arcpd_sessions_attached");
    for replica in [&a, &b, &c] {
        assert!(attached(replica) >= 2, "{kind:?}");
    }
    let leaving = tokio::spawn(a.terminate());
    let mut moved = 0;
    for (wire, address, mut session) in sessions {
        let mut last = 0;
        // What it had submitted at the replica that goes ends with that.
        let ended = loop {
            match session.try_hear().await {
                Some(heard) if heard.seq == 0 => assert_eq!(heard.kind, "session.bye"),
                Some(heard) => last = heard.seq,
                None => break true,
            }
            if last > 100 {
                break false;
            }
        };
        if ended {
            let ticket = session.ticket();
            drop(session);
            let resumed = Client::open_at(wire, address, Some((&ticket, last))).await;
            let heard = resumed.unwrap().try_hear().await.expect("an open stream");
            assert_eq!(heard.seq, last + 1);
            moved += 1;
        }
    }
    assert!(moved >= 2, "{kind:?}: {moved} moved");
    assert!(leaving.await.unwrap().success());
}

#[tokio::test]
async fn a_replica_of_a_cell_that_is_drained_behind_a_proxy_is_not_missed() {
    let [nginx, haproxy] = KINDS.map(drained_behind);
    tokio::join!(nginx, haproxy);
}
