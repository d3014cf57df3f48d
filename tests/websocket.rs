//! The JSON side over a real WebSocket.

mod support;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::Message;

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn open(runtime: &Runtime) -> Socket {
    tokio_tungstenite::connect_async(format!("ws://{}/arcp", runtime.address))
        .await
        .unwrap()
        .0
}

async fn say(socket: &mut Socket, text: String) {
    socket.send(Message::text(text)).await.unwrap();
}

async fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.expect("open").expect("a frame") {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn hello(token: &str) -> String {
    json!({ "arcp": "1.1", "id": "h", "type": "session.hello", "payload": {
        "client": { "name": "t", "version": "1" }, "auth": { "scheme": "bearer", "token": token },
        "capabilities": { "features": ["subscribe", "list_jobs"] } } })
    .to_string()
}

#[tokio::test]
async fn a_session_in_json_from_hello_to_closed() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut socket = open(&runtime).await;
    say(&mut socket, hello(ALICE)).await;
    let welcome = hear(&mut socket).await;
    assert_eq!(welcome["type"], "session.welcome");
    assert_eq!(welcome["payload"]["session_id"], welcome["session_id"]);
    assert_eq!(
        welcome["payload"]["capabilities"]["features"],
        json!(["list_jobs", "subscribe"])
    );
    let session = welcome["session_id"].clone();
    let message = |id: &str, name: &str, payload: Value| {
        json!({ "arcp": "1.1", "id": id, "type": name, "session_id": session, "payload": payload })
            .to_string()
    };
    say(
        &mut socket,
        message(
            "s",
            "job.submit",
            json!({ "agent": "word-count", "input": { "text": "a b a\nc" } }),
        ),
    )
    .await;
    let accepted = hear(&mut socket).await;
    assert_eq!(accepted["payload"]["request_id"], "s");
    assert_eq!(accepted["payload"]["agent"], "word-count@1.0.0");
    let mut seq = 0;
    let result = loop {
        let frame = hear(&mut socket).await;
        seq += 1;
        assert_eq!(frame["event_seq"], seq);
        if frame["type"] == "job.result" {
            break frame;
        }
    };
    assert_eq!(result["payload"]["result"]["words"], 4);
    assert_eq!(result["payload"]["output"], result["payload"]["result"]);
    say(&mut socket, message("l", "session.list_jobs", json!({}))).await;
    let jobs = hear(&mut socket).await;
    assert_eq!(jobs["payload"]["jobs"][0]["status"], "success");
    assert_eq!(jobs["payload"]["next_cursor"], Value::Null);
    say(&mut socket, message("c", "session.close", json!({}))).await;
    assert_eq!(hear(&mut socket).await["type"], "session.closed");
}

#[tokio::test]
async fn bad_frames_are_answered_and_a_bad_token_names_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut socket = open(&runtime).await;
    say(&mut socket, hello("wrong")).await;
    let refused = hear(&mut socket).await;
    assert_eq!(refused["payload"]["code"], "UNAUTHENTICATED");
    assert!(
        refused["session_id"].is_string(),
        "one SDK drops the frame without it"
    );

    let mut socket = open(&runtime).await;
    say(&mut socket, hello(ALICE)).await;
    hear(&mut socket).await;
    for bad in [
        "not json",
        "[1]",
        r#"{"arcp":"2","id":"x","type":"session.ping"}"#,
    ] {
        say(&mut socket, bad.into()).await;
        assert_eq!(
            hear(&mut socket).await["payload"]["code"],
            "INVALID_REQUEST"
        );
    }
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(
        hear(&mut socket).await["payload"]["code"],
        "INVALID_REQUEST"
    );
    let ping = json!({ "arcp": "1.1", "id": "p", "type": "session.ping", "payload": { "nonce": "n", "sent_at": "" } });
    say(&mut socket, ping.to_string()).await;
    assert_eq!(hear(&mut socket).await["payload"]["ping_nonce"], "n");
}

/// The code of the close that ends what is heard.
async fn closed(socket: &mut Socket) -> u16 {
    loop {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), socket.next());
        let next = next.await.expect("a frame within 30 s");
        match next.expect("a close").expect("a frame") {
            Message::Close(frame) => return frame.expect("a code").code.into(),
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Every one of them was 1000, as if all had gone well.
#[tokio::test]
async fn a_connection_that_the_runtime_ends_is_told_why_by_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut socket = open(&runtime).await;
    say(&mut socket, hello("wrong")).await;
    assert_eq!(closed(&mut socket).await, 1008, "not authenticated");
    for first in [
        "not json",
        r#"{"arcp":"1.1","id":"x","type":"session.ping"}"#,
    ] {
        let mut socket = open(&runtime).await;
        say(&mut socket, first.into()).await;
        assert_eq!(closed(&mut socket).await, 1002, "{first}");
    }
    // No library sends it: a text frame whose one byte is no UTF-8.
    let mut socket = open(&runtime).await;
    use tokio::io::AsyncWriteExt;
    let raw = [0x81, 0x81, 0, 0, 0, 0, 0xff];
    socket.get_mut().write_all(&raw).await.unwrap();
    assert_eq!(closed(&mut socket).await, 1007, "not text");

    let mut socket = open(&runtime).await;
    say(&mut socket, hello(ALICE)).await;
    hear(&mut socket).await;
    say(&mut socket, "x".repeat(1_000_001)).await;
    let refused = hear(&mut socket).await;
    let message = refused["payload"]["message"].as_str().unwrap();
    assert!(message.contains("1000001 bytes, the limit is 1000000"));
    assert_eq!(closed(&mut socket).await, 1009, "too large");

    let mut socket = open(&runtime).await;
    say(&mut socket, hello(ALICE)).await;
    let session = hear(&mut socket).await["session_id"].clone();
    let close = json!({ "arcp": "1.1", "id": "c", "type": "session.close",
        "session_id": session, "payload": {} });
    say(&mut socket, close.to_string()).await;
    assert_eq!(closed(&mut socket).await, 1000, "as asked");

    let mut socket = open(&runtime).await;
    say(&mut socket, hello(ALICE)).await;
    hear(&mut socket).await;
    runtime.signal("-TERM");
    assert_eq!(closed(&mut socket).await, 1001, "going away");
}

/// The answer to a close was made and never sent: a client that left in order saw
/// its connection break (1006).
#[tokio::test]
async fn a_close_is_answered_with_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut socket = open(&runtime).await;
    say(&mut socket, hello(ALICE)).await;
    hear(&mut socket).await;
    socket.close(None).await.unwrap();
    let answer = socket.next().await;
    assert!(matches!(&answer, Some(Ok(Message::Close(_)))), "{answer:?}");
}

/// Nothing went over it between two events, and a proxy cut it after a minute.
#[tokio::test]
async fn a_silent_socket_is_pinged_whether_or_not_its_peer_has_heartbeats() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), "[limits]\nheartbeat_interval_sec = 1");
    let began = std::time::Instant::now();
    let mut socket = open(&runtime).await;
    let hello = json!({ "arcp": "1.1", "id": "h", "type": "session.hello", "payload": {
        "client": { "name": "t", "version": "1" }, "auth": { "scheme": "bearer", "token": ALICE } } });
    say(&mut socket, hello.to_string()).await;
    assert_eq!(hear(&mut socket).await["type"], "session.welcome");
    for n in 1..=2 {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), socket.next());
        let frame = next.await.expect("a frame").unwrap().unwrap();
        assert!(matches!(frame, Message::Ping(_)), "{frame:?}");
        // No sooner than after as many intervals, however late it is read.
        let took = began.elapsed();
        assert!(took >= n * std::time::Duration::from_secs(1), "{took:?}");
    }
}
