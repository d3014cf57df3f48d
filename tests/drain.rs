//! The runtime is replaced under load, with the signal and the time that a pod has:
//! nobody loses anything, nobody is silent for longer than it takes, and it is gone
//! in time.

mod support;

use std::time::{Duration, Instant};

use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef, Envelope, envelope::Payload, job_event::Body};
use serde_json::{Value, json};
use support::host::*;
use support::ws::{self, Ws};
use support::*;
use tokio::sync::watch;
use tonic_types::StatusExt;

const ROLLS: usize = 5;
/// What each client hears between two of them, at least.
const EVENTS_BETWEEN: u64 = 1_000;
/// Reports of the host that may wait for their acks.
const UNACKED_MAX: u64 = 64;
/// What the chart gives the pod without any values set.
const GRACE: Duration = Duration::from_secs(30);
/// To be back once it serves again: nobody is silent for much longer than it is away.
const COMES_BACK: Duration = Duration::from_secs(1);

/// How far a client is, and its longest silence.
struct Progress {
    seq: watch::Sender<u64>,
    heard: Instant,
    silence: Duration,
}

impl Progress {
    fn new(seq: watch::Sender<u64>) -> Self {
        Self {
            seq,
            heard: Instant::now(),
            silence: Duration::ZERO,
        }
    }

    /// Every number once, in order.
    fn hear(&mut self, seq: u64) {
        assert_eq!(seq, *self.seq.borrow() + 1);
        self.seq.send_replace(seq);
        self.silence = self.silence.max(self.heard.elapsed());
        self.heard = Instant::now();
    }
}

/// Reports numbers until it is told to end; returns the last.
async fn host(address: String, mut rolled: Rolled, mut end: watch::Receiver<bool>) -> u64 {
    let (mut host, _) = HostPeer::connect(&address, register("h", vec![agent("a")], 1))
        .await
        .unwrap();
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let (mut sent, mut acked) = (0, 0);
    loop {
        let ending = *end.borrow_and_update();
        if ending && acked == sent {
            host.report(&of, vec![result(sent + 1, "\"end\"")]).await;
            host.acked(sent + 1).await;
            return sent;
        }
        while !ending && sent < acked + UNACKED_MAX {
            sent += 1;
            host.report(&of, vec![log(sent, &sent.to_string())]).await;
        }
        match host.hear().await {
            Ok(Hear::Ack(ack)) => acked = ack.seq,
            Ok(Hear::Drain(drain)) => assert!(drain.reconnect_after.is_some()),
            Ok(_) => {}
            Err(_) => {
                drop(host);
                rolled.changed().await.unwrap();
                host = back(&address, &of).await;
                let again = acked + 1..=sent;
                let again = again.map(|seq| log(seq, &seq.to_string())).collect();
                host.report(&of, again).await;
            }
        }
    }
}

async fn back(address: &str, of: &AssignmentRef) -> HostPeer {
    let mut register = register("h", vec![agent("a")], 1);
    register.resume = vec![held(of)];
    let (host, registered) = HostPeer::connect(address, register).await.unwrap();
    assert_eq!(registered.keep.len(), 1, "{registered:?}");
    host
}

/// Rolls so far. A client redials when the next runtime serves: it is the silence that
/// is measured, not how a client finds its end.
type Rolled = watch::Receiver<usize>;

/// Over gRPC; returns the words of the events and its longest silence.
async fn submitter(
    address: String,
    mut peer: Peer,
    mut rolled: Rolled,
    seq: watch::Sender<u64>,
) -> (Vec<String>, Duration) {
    let (mut words, mut progress) = (Vec::new(), Progress::new(seq));
    loop {
        let Some(envelope) = peer.try_next().await else {
            let (session, token) = (peer.session_id.clone(), peer.resume_token.clone());
            // Or the runtime would wait for it to hang up.
            drop(peer);
            rolled.changed().await.unwrap();
            let last = *progress.seq.borrow();
            let resumed = Peer::resume(&address, ALICE, &session, &token, last).await;
            peer = resumed.welcomed().await;
            continue;
        };
        if envelope.event_seq == 0 {
            continue;
        }
        progress.hear(envelope.event_seq);
        match word(&envelope) {
            Some(word) => words.push(word),
            None => return (words, progress.silence),
        }
    }
}

fn word(envelope: &Envelope) -> Option<String> {
    match &envelope.payload {
        Some(Payload::JobEvent(event)) => match &event.body {
            Some(Body::Log(log)) => Some(log.message.clone()),
            other => panic!("{other:?}"),
        },
        Some(Payload::JobResult(_)) => None,
        other => panic!("{other:?}"),
    }
}

/// The same over a WebSocket, by a session that subscribes.
async fn observer(
    address: String,
    mut ws: Ws,
    mut rolled: Rolled,
    seq: watch::Sender<u64>,
) -> (Vec<String>, Duration) {
    let (mut words, mut progress) = (Vec::new(), Progress::new(seq));
    loop {
        let Some(frame) = ws.try_hear().await else {
            let (session, token) = (ws.session_id.clone(), ws.resume_token.clone());
            drop(ws);
            rolled.changed().await.unwrap();
            let resume = json!({ "resume": { "session_id": session,
                "resume_token": token, "last_event_seq": *progress.seq.borrow() } });
            ws = Ws::open_at(&address, ws::hello("r", ALICE, resume)).await;
            continue;
        };
        let Some(seq) = frame["event_seq"].as_u64() else {
            if frame["type"] == "session.bye" {
                assert!(frame["payload"]["reconnect_after_ms"].is_u64(), "{frame}");
            }
            continue;
        };
        progress.hear(seq);
        match frame["payload"]["body"]["message"].as_str() {
            Some(message) => words.push(message.to_owned()),
            None => {
                assert_eq!(frame["type"], "job.result", "{frame}");
                return (words, progress.silence);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_is_rolled_under_load_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A host that has been gone for the whole of a roll is not lost.
    let toml = "[[hosting]]\nprincipal = \"workers\"\nagents = [\"*\"]";
    let mut runtime = Runtime::start_with(dir.path(), toml);
    let address = runtime.address.clone();
    let (end, ending) = watch::channel(false);
    let (rolls, rolled) = watch::channel(0);
    let hosting = tokio::spawn(host(address.clone(), rolled.clone(), ending));
    runtime
        .until_metric("arcpd_hosts", |hosts| hosts == 1)
        .await;
    let mut peer = Peer::connect(&address, ALICE).await;
    let job = peer.submit("a", Value::Null).await;
    let mut ws = Ws::connect(&runtime, ALICE).await;
    ws.say_about(
        &job,
        "job.subscribe",
        json!({ "job_id": job, "history": true }),
    )
    .await;
    let (submitted, mut by_grpc) = watch::channel(0);
    let (observed, mut by_websocket) = watch::channel(0);
    let submitter = tokio::spawn(submitter(address.clone(), peer, rolled.clone(), submitted));
    let observer = tokio::spawn(observer(address.clone(), ws, rolled, observed));

    let mut away = Duration::ZERO;
    for roll in 1..=ROLLS {
        for seq in [&mut by_grpc, &mut by_websocket] {
            let until = *seq.borrow() + EVENTS_BETWEEN;
            seq.wait_for(|seq| *seq >= until).await.unwrap();
        }
        let told = Instant::now();
        assert!(runtime.terminate().await.success());
        assert!(told.elapsed() < GRACE, "gone after {:?}", told.elapsed());
        let config = dir.path().join("arcpd.toml");
        let mut again = serve_at(dir.path(), &address);
        runtime = Runtime::spawn(again.arg("--config").arg(config));
        away = away.max(told.elapsed());
        rolls.send_replace(roll);
    }
    end.send_replace(true);
    let sent = hosting.await.unwrap();
    let expected: Vec<_> = (1..=sent).map(|n| n.to_string()).collect();
    for client in [submitter, observer] {
        let (words, silence) = client.await.unwrap();
        assert!(words == expected, "{} of {sent}", words.len());
        assert!(silence < away + COMES_BACK, "{silence:?}, away {away:?}");
        println!("{sent} events, away {away:?}, silent {silence:?}");
    }
    drop(runtime);
}

#[tokio::test]
async fn a_session_is_told_when_to_come_back_and_its_stream_ends_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    runtime.signal("-TERM");
    let Some(Payload::SessionBye(bye)) = alice.next().await.payload else {
        panic!("expected a bye");
    };
    assert!(bye.reason.contains("shutting down"), "{bye:?}");
    let after = bye.reconnect_after.unwrap();
    let after: Duration = after.try_into().unwrap();
    assert!(after <= Duration::from_secs(2), "{after:?}");
    let status = alice.end().await;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    // Whoever reads one of the two does the same.
    let details = status.get_error_details();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    assert_eq!(retry, Some(after));
    assert!(runtime.exited().await.success());
}

/// A thousand clients that come back at once are as bad as none.
#[tokio::test]
async fn sessions_are_told_different_times() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", runtime.address));
    let channel = endpoint.unwrap().connect().await.unwrap();
    let mut peers = Vec::new();
    for _ in 0..50 {
        let peer = Peer::on(channel.clone(), hello(ALICE)).await;
        peers.push(peer.welcomed().await);
    }
    runtime.signal("-TERM");
    let mut after = Vec::new();
    for peer in &mut peers {
        match peer.next().await.payload {
            Some(Payload::SessionBye(proto::SessionBye {
                reconnect_after: Some(told),
                ..
            })) => after.push(told.seconds as f64 + f64::from(told.nanos) / 1e9),
            other => panic!("{other:?}"),
        }
    }
    after.sort_by(f64::total_cmp);
    // Uniform between 0 and 2 s: five on each side, but for one run in a thousand million.
    assert!(after[4] < 1.0 && after[45] > 1.0, "{after:?}");
    assert!(after[0] >= 0.0 && after[49] <= 2.0, "{after:?}");
}

/// The pod's grace period counts on it.
#[tokio::test]
async fn a_peer_that_does_not_read_is_not_waited_for_beyond_the_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    /// What the chart adds for closing the store.
    const MARGIN: Duration = Duration::from_secs(10);
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = Runtime::start_with(dir.path(), "drain_deadline_sec = 3");
    let mut ws = Ws::connect(&runtime, ALICE).await;
    // More than the buffers between the two hold.
    let input = json!({ "events": 60_000, "bytes": 500 });
    ws.submit("firehose", input).await;
    runtime
        .until_metric("arcpd_jobs_running", |jobs| jobs == 0)
        .await;
    let told = Instant::now();
    runtime.signal("-TERM");
    let exit = tokio::task::spawn_blocking(move || (runtime.wait(), runtime));
    let (exit, runtime) = exit.await.unwrap();
    let took = told.elapsed();
    assert!(exit.success(), "{exit}");
    assert!(took >= DEADLINE && took < DEADLINE + MARGIN, "{took:?}");
    runtime.until_logged("the drain deadline passed").await;
    drop(ws);
}
