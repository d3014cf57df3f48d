//! Whatever a peer sends: the documented answer, bounded memory, and a session
//! beside it that notices nothing.

mod support;

use std::io::{Read, Write};

use arcpd::wire::proto::{self, envelope::Payload};
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use serde_json::{Value, json};
use support::ws::{Ws, hello as ws_hello};
use support::*;
use tokio_tungstenite::tungstenite::Message;

/// A runtime, and a session on it that has to get through whatever comes.
struct Beside {
    runtime: Runtime,
    peer: Peer,
    _dir: tempfile::TempDir,
}

impl Beside {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::start(dir.path());
        let mut peer = Peer::connect(&runtime.address, BOB).await;
        peer.submit("ticker", json!({ "count": 30, "interval_ms": 3 }))
            .await;
        Self {
            runtime,
            peer,
            _dir: dir,
        }
    }

    /// The session beside it saw its stream whole, and the runtime did not panic.
    async fn undisturbed(mut self) {
        assert_eq!(
            seqs(&self.peer.until_terminal().await),
            (1..=31).collect::<Vec<_>>()
        );
        let log = self.runtime.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.runtime.pid()));
        let status = status.unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }
}

fn message_of(frame: &Value) -> &str {
    assert_eq!(frame["type"], "session.error", "{frame}");
    frame["payload"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn text_that_is_no_envelope_is_refused_by_field() {
    let beside = Beside::start().await;
    let mut ws = Ws::connect(&beside.runtime, ALICE).await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_input = format!(
        r#"{{"arcp":"1.1","id":"d","type":"job.submit","payload":{{"agent":"echo","input":{deep}}}}}"#
    );
    let submit = |input: &str| {
        format!(
            r#"{{"arcp":"1.1","id":"s","type":"job.submit","payload":{{"agent":"echo","input":{input}}}}}"#
        )
    };
    for (text, names) in [
        ("not json".to_owned(), "frame"),
        (deep, "nested deeper than 64"),
        (deep_input, "nested deeper than 64"),
        ("{}".to_owned(), "arcp"),
        (
            r#"{"arcp":"9","id":"x","type":"session.ping","payload":{}}"#.to_owned(),
            "arcp",
        ),
        (
            r#"{"arcp":1.1,"id":"x","type":"session.ping","payload":{}}"#.to_owned(),
            "arcp: ",
        ),
        (
            r#"{"arcp":"1.1","type":"session.ping","payload":{}}"#.to_owned(),
            "id: ",
        ),
        (
            r#"{"arcp":"1.1","id":"","type":"session.ping"}"#.to_owned(),
            "id: ",
        ),
        (
            r#"{"arcp":"1.1","id":7,"type":"session.ping"}"#.to_owned(),
            "id: ",
        ),
        (
            format!(
                r#"{{"arcp":"1.1","id":"{}","type":"session.ping"}}"#,
                "i".repeat(129)
            ),
            "id: ",
        ),
        (r#"{"arcp":"1.1","id":"x"}"#.to_owned(), "type"),
        (
            r#"["1.1","x","session.ping",null,null,null,null,{}]"#.to_owned(),
            "frame: must be an object",
        ),
        (
            r#"{"arcp":"1.1","id":"x","type":"session.ping","payload":[]}"#.to_owned(),
            "payload",
        ),
        (submit("NaN"), "frame"),
        (submit("1e999"), "input"),
        (submit(r#""\ud800""#), "input"),
        (submit("[1,]"), "frame"),
    ] {
        ws.send(&text).await;
        let refused = ws.hear().await;
        let shown: String = text.chars().take(80).collect();
        assert_eq!(refused["payload"]["code"], "INVALID_REQUEST", "{shown}");
        assert!(
            message_of(&refused).contains(names),
            "{shown}: {}",
            message_of(&refused)
        );
    }
    assert_eq!(
        ws.ping().await,
        Vec::<Value>::new(),
        "the session is none the worse"
    );
    beside.undisturbed().await;
}

#[tokio::test]
async fn a_member_of_the_wrong_type_is_named() {
    let beside = Beside::start().await;
    let mut ws = Ws::connect(&beside.runtime, ALICE).await;
    let long = "k".repeat(257);
    for (kind, field, payload) in [
        ("job.submit", "agent", json!({ "agent": 1 })),
        ("job.submit", "agent", json!({})),
        ("job.submit", "agent", json!({ "agent": "" })),
        ("job.submit", "agent", json!({ "agent": "UPPER" })),
        ("job.submit", "agent", json!({ "agent": "echo@" })),
        (
            "job.submit",
            "max_runtime_sec",
            json!({ "agent": "echo", "max_runtime_sec": -1 }),
        ),
        (
            "job.submit",
            "max_runtime_sec",
            json!({ "agent": "echo", "max_runtime_sec": 1.5 }),
        ),
        (
            "job.submit",
            "idempotency_key",
            json!({ "agent": "echo", "idempotency_key": 7 }),
        ),
        (
            "job.submit",
            "idempotency_key",
            json!({ "agent": "echo", "idempotency_key": long }),
        ),
        (
            "job.submit",
            "lease_request",
            json!({ "agent": "echo", "lease_request": [] }),
        ),
        (
            "job.submit",
            "lease_constraints.expires_at",
            json!({ "agent": "echo", "lease_constraints": { "expires_at": "soon" } }),
        ),
        ("job.subscribe", "job_id", json!({ "job_id": 7 })),
        ("job.subscribe", "job_id", json!({ "history": true })),
        (
            "job.subscribe",
            "from_event_seq",
            json!({ "job_id": "j", "from_event_seq": -1 }),
        ),
        (
            "job.subscribe",
            "history",
            json!({ "job_id": "j", "history": "yes" }),
        ),
        ("job.cancel", "job_id", json!({})),
        ("job.cancel", "job_id", json!({ "job_id": {} })),
        ("session.list_jobs", "limit", json!({ "limit": -1 })),
        (
            "session.list_jobs",
            "cursor",
            json!({ "cursor": "made up" }),
        ),
        (
            "session.list_jobs",
            "filter.status",
            json!({ "filter": { "status": "running" } }),
        ),
        (
            "session.list_jobs",
            "filter.status",
            json!({ "filter": { "status": ["bored"] } }),
        ),
        (
            "session.list_jobs",
            "filter.created_after",
            json!({ "filter": { "created_after": "yesterday" } }),
        ),
        (
            "session.ack",
            "last_processed_seq",
            json!({ "last_processed_seq": -1 }),
        ),
        (
            "session.ack",
            "last_processed_seq",
            json!({ "last_processed_seq": "1" }),
        ),
        (
            "session.ack",
            "last_processed_seq",
            json!({ "last_processed_seq": 1e300 }),
        ),
        ("session.ping", "nonce", json!({ "nonce": 1 })),
        (
            "session.hello",
            "session.hello",
            json!({ "auth": { "scheme": "bearer", "token": "x" } }),
        ),
    ] {
        let id = ws.say(kind, payload.clone()).await;
        let refused = ws.hear().await;
        assert_eq!(
            refused["payload"]["code"], "INVALID_REQUEST",
            "{kind} {payload}"
        );
        assert_eq!(refused["payload"]["request_id"], *id);
        let message = message_of(&refused);
        assert!(
            message.starts_with(&format!("{field}:")),
            "{kind} {payload}: {message}"
        );
    }
    // An ack of the far future is not refused; it is worth what was sent.
    ws.say("session.ack", json!({ "last_processed_seq": u64::MAX }))
        .await;
    assert_eq!(ws.ping().await, Vec::<Value>::new());
    beside.undisturbed().await;
}

/// A refusal repeated what it refused, escaped: frames of 2.7 MB, on which two SDKs
/// drop the connection.
#[tokio::test]
async fn a_refusal_of_a_long_text_is_short() {
    let beside = Beside::start().await;
    let mut ws = Ws::connect(&beside.runtime, ALICE).await;
    let long = "\u{200b}".repeat(300_000);
    for (kind, payload) in [
        (
            "session.list_jobs",
            json!({ "filter": { "status": [long] } }),
        ),
        ("session.ack", json!({ "last_processed_seq": long })),
        (
            "job.submit",
            json!({ "agent": "echo", "max_runtime_sec": long }),
        ),
    ] {
        ws.say(kind, payload).await;
        let refused = ws.hear().await;
        assert_eq!(refused["payload"]["code"], "INVALID_REQUEST", "{kind}");
        assert!(refused.to_string().len() < 10_000, "{kind}");
    }
    beside.undisturbed().await;
}

/// The token names the session there, so there may be no id to answer with; one SDK
/// drops a frame without.
#[tokio::test]
async fn a_refused_resume_without_a_session_id_names_one() {
    let beside = Beside::start().await;
    for session_id in ["".to_owned(), "s".repeat(900_000)] {
        let mut ws = Ws::dial(&beside.runtime).await;
        let payload = json!({ "session_id": session_id, "resume_token": "made up",
            "last_event_seq": 0, "auth": { "scheme": "bearer", "token": ALICE } });
        ws.say("session.resume", payload).await;
        let refused = ws.hear().await;
        assert_eq!(refused["payload"]["code"], "RESUME_WINDOW_EXPIRED");
        let named = refused["session_id"].as_str().unwrap();
        assert!(named.starts_with("sess_"), "{named:.40}");
    }
    beside.undisturbed().await;
}

#[tokio::test]
async fn a_frame_of_two_million_bytes_costs_its_sender_the_connection_only() {
    let beside = Beside::start().await;
    let mut ws = Ws::connect(&beside.runtime, ALICE).await;
    let huge = format!(
        r#"{{"arcp":"1.1","id":"x","type":"{}"}}"#,
        "x".repeat(2_000_000)
    );
    // The socket may be closed before all of it is written.
    let _ = ws.socket.send(Message::text(huge)).await;
    assert!(ws.try_hear().await.is_none());
    let mut peer = Peer::connect(&beside.runtime.address, ALICE).await;
    let submit = proto::JobSubmit {
        agent: "echo".into(),
        input_json: format!("\"{}\"", "x".repeat(2_000_000)),
        ..Default::default()
    };
    peer.send("", Payload::JobSubmit(submit)).await;
    assert!(
        peer.error()
            .await
            .message
            .contains("larger than 1000000 bytes")
    );
    assert!(peer.try_next().await.is_none());
    beside.undisturbed().await;
}

#[tokio::test]
async fn binary_frames_and_invalid_utf8_are_refused() {
    let beside = Beside::start().await;
    let mut ws = Ws::connect(&beside.runtime, ALICE).await;
    ws.socket
        .send(Message::binary(vec![0xff, 0xfe]))
        .await
        .unwrap();
    assert!(message_of(&ws.hear().await).contains("text frame"));
    // A text frame that is not UTF-8, which only a raw socket can send.
    let mut raw = std::net::TcpStream::connect(&beside.runtime.address).unwrap();
    let upgrade = "GET /arcp HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.write_all(upgrade.as_bytes()).unwrap();
    let mut answer = [0; 1024];
    assert!(raw.read(&mut answer).unwrap() > 0);
    raw.write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe])
        .unwrap();
    let mut rest = Vec::new();
    // Closed, one way or the other.
    let _ = raw.read_to_end(&mut rest);
    beside.undisturbed().await;
}

#[tokio::test]
async fn plain_http_and_foreign_pages_are_turned_away() {
    let beside = Beside::start().await;
    for (request, status) in [
        (
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "400",
        ),
        (
            "GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "404",
        ),
        (
            "POST /arcp HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "405",
        ),
        (
            "GET /arcp HTTP/1.1\r\nhost: x\r\norigin: http://evil.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "403",
        ),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let mut raw = std::net::TcpStream::connect(&beside.runtime.address).unwrap();
        raw.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let len = raw.read(&mut answer).unwrap();
        let line = String::from_utf8_lossy(&answer[..len]).into_owned();
        assert!(line.contains(status), "{request}: {line}");
    }
    beside.undisturbed().await;
}

/// A page whose name was made to point at a developer's own machine could use the
/// runtime there: its Origin and its Host were the same.
#[test]
fn without_tokens_only_local_names_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(dir.path());
    let runtime = Runtime::spawn(command.env_remove("ARCPD_TOKENS").arg("--dev"));
    let port = runtime.address.rsplit(':').next().unwrap().to_owned();
    for (host, status) in [
        ("evil.example", "403"),
        ("localhost", "101"),
        ("127.0.0.1", "101"),
    ] {
        let request = format!(
            "GET /arcp HTTP/1.1\r\nhost: {host}:{port}\r\norigin: http://{host}:{port}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut raw = std::net::TcpStream::connect(&runtime.address).unwrap();
        raw.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let len = raw.read(&mut answer).unwrap();
        let line = String::from_utf8_lossy(&answer[..len]).into_owned();
        assert!(line.contains(status), "{host}: {line}");
    }
}

#[tokio::test]
async fn a_protobuf_message_that_is_cut_short_is_answered_and_unknown_fields_are_skipped() {
    let beside = Beside::start().await;
    let envelope = |id: &str, payload| proto::Envelope {
        arcp: "1.1".into(),
        id: id.into(),
        payload: Some(payload),
        ..Default::default()
    };
    let hello = envelope("h", Payload::SessionHello(hello(ALICE)));
    let hello = proto::SessionRequest {
        envelope: Some(hello),
    }
    .encode_to_vec();
    let ping = envelope("p", Payload::SessionPing(Default::default()));
    let mut ping = proto::SessionRequest {
        envelope: Some(ping),
    }
    .encode_to_vec();
    let cut = ping[..ping.len() - 1].to_vec();
    // Field 9999, length-delimited, nobody knows it.
    ping.extend([0xfa, 0xf0, 0x04, 0x02, 1, 2]);
    let frames: Vec<Vec<u8>> = [&hello, &cut, &ping]
        .map(|message| {
            let mut frame = vec![0];
            frame.extend((message.len() as u32).to_be_bytes());
            frame.extend_from_slice(message);
            frame
        })
        .into();
    let body = frames.concat();
    let answers = raw_grpc(&beside.runtime.address, body).await;
    let Some(Payload::SessionError(error)) = &answers[1].payload else {
        panic!("{answers:?}")
    };
    assert!(error.code == "INVALID_REQUEST" && error.message.contains("SessionRequest"));
    assert!(
        matches!(answers[2].payload, Some(Payload::SessionPong(_))),
        "{answers:?}"
    );
    beside.undisturbed().await;
}

/// Sends a body of gRPC frames as it is and reads three envelopes.
async fn raw_grpc(address: &str, body: Vec<u8>) -> Vec<proto::Envelope> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut channel = channel;
    // The request stays open, as a session's does.
    let open = futures_util::stream::iter([Ok::<_, tonic::Status>(bytes::Bytes::from(body))])
        .chain(futures_util::stream::pending());
    let request = http::Request::post(format!("http://{address}/arcp.v1.RuntimeService/Session"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from_stream(open)))
        .unwrap();
    std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx))
        .await
        .unwrap();
    let response = tower::Service::call(&mut channel, request).await.unwrap();
    let mut received = bytes::BytesMut::new();
    let mut envelopes = Vec::new();
    let mut stream = axum::body::Body::new(response.into_body()).into_data_stream();
    while envelopes.len() < 3 {
        received.extend_from_slice(&stream.next().await.expect("open").unwrap());
        while received.len() >= 5 {
            let len = u32::from_be_bytes(received[1..5].try_into().unwrap()) as usize;
            if received.len() < 5 + len {
                break;
            }
            let frame = received.split_to(5 + len);
            envelopes.extend(
                proto::SessionResponse::decode(&frame[5..])
                    .unwrap()
                    .envelopes,
            );
        }
    }
    envelopes
}

#[tokio::test]
async fn a_client_that_never_reads_costs_bounded_memory() {
    let beside = Beside::start().await;
    let before = beside.memory();
    let mut still = Vec::new();
    for _ in 0..4 {
        let mut peer = Peer::connect(&beside.runtime.address, ALICE).await;
        peer.submit("firehose", json!({ "events": 200_000, "bytes": 512 }))
            .await;
        still.push(peer);
    }
    // 400 MB of events; a client that does read waits for their jobs.
    let mut ws = Ws::connect(&beside.runtime, ALICE).await;
    loop {
        ws.say(
            "session.list_jobs",
            json!({ "filter": { "status": ["running"] } }),
        )
        .await;
        let jobs = ws.hear_type("session.jobs").await;
        if jobs["payload"]["jobs"].as_array().unwrap().is_empty() {
            break;
        }
    }
    let grown = (beside.memory().saturating_sub(before)) / (1024 * 1024);
    assert!(grown < 100, "{grown} MiB for four clients that do not read");
    // And one that asks and asks without reading an answer.
    for _ in 0..20_000 {
        let list = ws.envelope("session.list_jobs", json!({}));
        let sent = ws.socket.send(Message::text(list.to_string()));
        if tokio::time::timeout(std::time::Duration::from_millis(200), sent)
            .await
            .is_err()
        {
            break;
        }
    }
    let grown = (beside.memory().saturating_sub(before)) / (1024 * 1024);
    assert!(grown < 120, "{grown} MiB with a client that only asks");
    beside.undisturbed().await;
}

#[tokio::test]
async fn more_sessions_than_a_principal_may_have_are_refused_and_the_rest_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let toml = "[limits]\nsessions_per_principal_max = 100\nrunning_jobs_per_principal_max = 2\nsubscriptions_per_session_max = 1";
    let runtime = Runtime::start_with(dir.path(), toml);
    let mut kept = Vec::new();
    for _ in 0..100 {
        kept.push(Ws::connect(&runtime, ALICE).await);
    }
    let mut ws = Ws::dial(&runtime).await;
    ws.send(&ws_hello("h", ALICE, json!({})).to_string()).await;
    let refused = ws.hear().await;
    assert!(message_of(&refused).contains("100 connected"), "{refused}");
    assert_eq!(refused["payload"]["retryable"], true);
    Ws::connect(&runtime, BOB).await;
    // A resume takes the place of its own session, so it needs no new one.
    let resume = json!({ "session_id": kept[0].session_id, "resume_token": kept[0].resume_token, "last_event_seq": 0 });
    let mut ws = Ws::open(&runtime, ws_hello("h", ALICE, json!({ "resume": resume }))).await;
    let mut jobs = Vec::new();
    for _ in 0..2 {
        jobs.push(ws.submit("sleeper", json!({ "ms": 600_000 })).await["job_id"].clone());
    }
    ws.say("job.submit", json!({ "agent": "echo" })).await;
    assert!(message_of(&ws.hear().await).contains("runs 2 jobs"));
    kept[1]
        .say("job.subscribe", json!({ "job_id": jobs[0] }))
        .await;
    assert_eq!(kept[1].hear().await["type"], "job.subscribed");
    kept[1]
        .say("job.subscribe", json!({ "job_id": jobs[1] }))
        .await;
    assert!(message_of(&kept[1].hear().await).contains("watches 1 jobs"));
}

#[tokio::test]
async fn ten_thousand_sessions_of_one_client_leave_the_others_alone() {
    let beside = Beside::start().await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", beside.runtime.address))
            .unwrap()
            .connect_lazy();
    let before = beside.memory();
    let mut tasks = tokio::task::JoinSet::new();
    let mut channels = vec![channel];
    for _ in 0..9 {
        let address = format!("http://{}", beside.runtime.address);
        channels.push(
            tonic::transport::Endpoint::from_shared(address)
                .unwrap()
                .connect_lazy(),
        );
    }
    for channel in channels {
        tasks.spawn(async move {
            let mut kept = Vec::new();
            for _ in 0..1_000 {
                kept.push(
                    Peer::on(channel.clone(), hello(ALICE))
                        .await
                        .welcomed()
                        .await,
                );
            }
            kept
        });
    }
    let kept = tasks.join_all().await;
    let each = (beside.memory() - before) / 10_000;
    println!("{each} bytes a session, unoptimised");
    assert!(each < 64 * 1024, "{each} bytes a session");
    drop(kept);
    beside.undisturbed().await;
}

#[tokio::test]
async fn a_grpc_message_above_the_limit_is_answered_and_ends_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut alice = Peer::connect(&runtime.address, ALICE).await;
    let submit = proto::JobSubmit {
        agent: "echo".into(),
        input_json: serde_json::json!("x".repeat(1_100_000)).to_string(),
        ..Default::default()
    };
    alice.send("", Payload::JobSubmit(submit)).await;
    let error = alice.error().await;
    assert!(error.message.contains("1000000"), "{}", error.message);
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), alice.try_next());
    assert_eq!(end.await.expect("the end of the stream"), None);
    let (session, token) = (alice.session_id.clone(), alice.resume_token.clone());
    let again = Peer::resume(&runtime.address, ALICE, &session, &token, 0).await;
    again.welcomed().await.ping().await;
}
