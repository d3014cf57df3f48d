//! Connections: their age, their number, and how a drain ends them.

mod support;

use std::sync::{Arc, Mutex};

use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{Envelope, envelope::Payload};
use futures_util::StreamExt;
use serde_json::json;
use support::host::*;
use support::ws::Ws;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tonic_types::StatusExt;

/// The type of an HTTP/2 frame.
const GOAWAY: u8 = 7;
const OPEN: &str = "arcpd_connections_open";
const RUNNING: &str = "arcpd_jobs_running";

fn start_with(toml: &str) -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), toml);
    (dir, runtime)
}

/// An address that leads to the runtime, once, and what came back over it.
async fn tapped(runtime: &Runtime) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut server = TcpStream::connect(&runtime.address).await.unwrap();
    let answered = Arc::new(Mutex::new(Vec::new()));
    let tap = answered.clone();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let there = tokio::io::copy(&mut from_client, &mut to_server);
        let back = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                tap.lock().unwrap().extend(&buffer[..n]);
                to_client.write_all(&buffer[..n]).await.unwrap();
            }
        };
        tokio::select! { _ = there => {}, () = back => {} }
    });
    (address, answered)
}

/// The types of HTTP/2 frames.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        kinds.push(kind);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// At its age the connection takes no more, and its streams end one by one.
#[tokio::test]
async fn an_aged_connection_ends_and_its_session_goes_on_where_it_was() {
    let (_dir, runtime) = start_with("[limits]\nconnection_age_max_sec = 1");
    let (address, answered) = tapped(&runtime).await;
    let mut alice = Peer::connect(&address, ALICE).await;
    // For three times the age; the ticks are on the same wire as the GOAWAY.
    alice
        .submit("ticker", json!({ "count": 300, "interval_ms": 10 }))
        .await;
    let told = || frames(&answered.lock().unwrap()).contains(&GOAWAY);
    let mut seen = Vec::new();
    while seen.last() < Some(&50) {
        seen.push(alice.next().await.event_seq);
    }
    assert!(!told(), "after half a second");
    let bye = loop {
        match alice.next().await {
            Envelope {
                payload: Some(Payload::SessionBye(bye)),
                ..
            } => break bye,
            event => seen.push(event.event_seq),
        }
    };
    assert!(told(), "before its session ends");
    assert!(bye.reason.contains("as old as it may become"), "{bye:?}");
    assert_eq!(bye.reconnect_after, Some(Default::default()));
    let status = alice.end().await;
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let details = status.get_error_details();
    let retry = details.retry_info().expect("it says when").retry_delay;
    assert_eq!(retry, Some(std::time::Duration::ZERO));
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    drop(alice);
    runtime.until_metric(OPEN, |open| open == 0).await;
    let last = *seen.last().unwrap();
    let resumed = Peer::resume(&runtime.address, ALICE, &session, &token, last).await;
    let mut alice = resumed.welcomed().await;
    while seen.last() < Some(&last.next_multiple_of(50)) {
        seen.push(alice.next().await.event_seq);
    }
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_websocket_ends_at_its_age_too() {
    let (_dir, runtime) = start_with("[limits]\nconnection_age_max_sec = 1");
    let mut ws = Ws::connect(&runtime, ALICE).await;
    let opened = std::time::Instant::now();
    let bye = ws.hear_type("session.bye").await;
    assert!(
        opened.elapsed().as_millis() >= 900,
        "{:?}",
        opened.elapsed()
    );
    assert_eq!(bye["payload"]["reconnect_after_ms"], 0, "{bye}");
    let Some(Ok(Message::Close(Some(close)))) = ws.socket.next().await else {
        panic!("a close is due");
    };
    assert_eq!(u16::from(close.code), 1001);
}

#[tokio::test]
async fn a_host_is_told_to_dial_anew_at_its_age_and_keeps_its_job() {
    let toml = format!("{HOSTING}[limits]\nconnection_age_max_sec = 1");
    let (_dir, runtime) = start_with(&toml);
    let mut host = HostPeer::serving(&runtime.address, "h", "a", 1).await;
    let mut alice = Ws::connect(&runtime, ALICE).await;
    alice.submit("a", json!(1)).await;
    let (_, of) = host.assigned().await;
    host.accept(&of).await;
    let Hear::Drain(drain) = host.next().await else {
        panic!("a drain is due");
    };
    assert!(
        drain.reason.contains("as old as it may become"),
        "{drain:?}"
    );
    assert_eq!(drain.reconnect_after, Some(Default::default()));
    assert_eq!(host.end().await.code(), tonic::Code::Unavailable);
    let mut register = register("h", vec![agent("a")], 1);
    register.resume = vec![held(&of)];
    let (mut host, registered) = HostPeer::connect(&runtime.address, register).await.unwrap();
    assert_eq!(registered.keep.len(), 1);
    host.report(&of, vec![result(1, "1")]).await;
    host.acked(1).await;
}

/// An upgraded connection was over for whoever counts them.
#[tokio::test]
async fn a_websocket_counts_as_a_connection() {
    let (_dir, runtime) = start_with("[limits]\nconnections_max = 1");
    let mut ws = Ws::connect(&runtime, ALICE).await;
    assert_eq!(runtime.metric(OPEN), 1);
    let url = format!("ws://{}/arcp", runtime.address);
    let refused = tokio_tungstenite::connect_async(&url).await;
    assert!(refused.is_err(), "one more than the limit");
    ws.ping().await;
    drop(ws);
    runtime.until_metric(OPEN, |open| open == 0).await;
    Ws::connect(&runtime, ALICE).await;
}

/// Nobody minded a socket that said nothing, or half of what begins HTTP/2: as many
/// as the runtime takes kept everybody else out for good.
#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let (_dir, runtime) = start_with("[limits]\nconnections_max = 3");
    let mut silent = Vec::new();
    for said in ["", "PRI * HTTP/2.0\r\n", "GET / HT"] {
        let mut socket = TcpStream::connect(&runtime.address).await.unwrap();
        socket.write_all(said.as_bytes()).await.unwrap();
        silent.push(socket);
    }
    runtime.until_metric(OPEN, |open| open == 3).await;
    runtime.until_metric(OPEN, |open| open == 0).await;
    Ws::connect(&runtime, ALICE).await.ping().await;
}

/// A body that stopped in the middle held its call, and over HTTP/1.1 its connection,
/// for as long as the peer held the socket.
#[tokio::test]
async fn a_body_that_stops_in_the_middle_and_a_connection_that_idles_are_closed() {
    let (_dir, runtime) = start_with("[limits]\nconnections_max = 3");
    let stalled = |path: &str, kind: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Authorization: Bearer {ALICE}\r\n\
             Content-Length: 100\r\n\r\n\0\0"
        )
    };
    let idle = "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let web = stalled("/arcp.v1.JobService/GetJob", "application/grpc-web");
    let plain = stalled("/grpc.health.v1.Health/Check", "application/grpc");
    let mut held = Vec::new();
    for said in [idle, &web, &plain] {
        let mut socket = TcpStream::connect(&runtime.address).await.unwrap();
        socket.write_all(said.as_bytes()).await.unwrap();
        held.push(socket);
    }
    runtime.until_metric(OPEN, |open| open == 3).await;
    runtime.until_metric(OPEN, |open| open == 0).await;
    Ws::connect(&runtime, ALICE).await.ping().await;
}

/// The process ended while there was still something to be said on WebSockets.
#[tokio::test]
async fn a_drain_waits_for_a_websocket_that_reads_late() {
    let (_dir, runtime) = start_with("");
    let mut ws = Ws::connect(&runtime, ALICE).await;
    // More than the buffers between the two hold.
    let input = json!({ "events": 60_000, "bytes": 500 });
    ws.submit("firehose", input).await;
    runtime.until_metric(RUNNING, |jobs| jobs == 0).await;
    runtime.signal("-TERM");
    while runtime.admin_get("/readyz").0 == 200 {}
    let mut last = None;
    while let Some(frame) = ws.try_hear().await {
        last = Some(frame["type"].clone());
    }
    assert_eq!(last, Some(json!("session.bye")));
    assert!(runtime.exited().await.success());
}

/// A peer that was gone without a word and had negotiated no heartbeat was never
/// found out over HTTP/1.1: nothing was sent to it.
#[tokio::test]
async fn a_silent_connection_is_probed_by_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let socket = std::net::TcpStream::connect(&runtime.address).unwrap();
    let peer = socket.local_addr().unwrap();
    // As the kernel lists it, from the runtime's side: the peer's port, and the
    // timer, of which 2 is the keepalive.
    let remote = format!("0100007F:{:04X}", peer.port());
    let probed = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(2) == Some(&&*remote) && fields.get(5).is_some_and(|t| t.starts_with("02:"))
        })
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !probed() {
        assert!(std::time::Instant::now() < until, "no keepalive timer");
        look_again().await;
    }
}
