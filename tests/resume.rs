//! Resumes by clients that have not heard what they were told, or do not listen any more.

mod support;

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use serde_json::{Value, json};
use support::both::{Client, Wire};
use support::ws::{self, Ws};
use support::*;
use tokio_tungstenite::tungstenite::Message;

/// More than the buffers between a session and a client that does not read.
const EVENTS: u64 = 100_000;
/// Less than a peer is given to read its last message (`hello_timeout`, 10 s).
const SOON: Duration = Duration::from_secs(5);

fn start() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    (dir, runtime)
}

fn resume_hello(ws: &Ws, after: u64) -> Value {
    let resume = json!({ "session_id": ws.session_id, "resume_token": ws.resume_token,
        "last_event_seq": after });
    ws::hello("h", ALICE, json!({ "resume": resume }))
}

/// The Python SDK says goodbye when it gives up a resume that is not answered; that counted
/// as if it had read the welcome, and the only token that it had was void.
#[tokio::test]
async fn who_leaves_or_asks_before_it_is_welcomed_has_not_read_its_new_token() {
    let (_dir, runtime) = start();
    let mut client = Ws::connect(&runtime, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    for kind in ["session.bye", "session.close", "session.ping"] {
        let mut given_up = Ws::dial(&runtime).await;
        let payload = json!({ "nonce": "n", "sent_at": "" });
        let early = given_up.envelope(kind, payload);
        let hello = resume_hello(&client, 0);
        for frame in [hello, early] {
            let frame = Message::text(frame.to_string());
            given_up.socket.feed(frame).await.unwrap();
        }
        given_up.socket.flush().await.unwrap();
        drop(given_up);
        // With the token that it has, and that it would have been given another for.
        let hello = resume_hello(&client, 0);
        client = Ws::open(&runtime, hello).await;
    }
    assert_eq!(ws::seqs(&client.until_terminal().await), [1]);
}

/// The session waited until its old connection had taken a goodbye that nobody read.
#[tokio::test]
async fn who_resumes_does_not_wait_for_its_own_connection_that_is_stuck() {
    let (_dir, runtime) = start();
    for wire in [Wire::Grpc, Wire::WebSocket] {
        let mut stuck = Client::connect(wire, &runtime, ALICE).await;
        let input = json!({ "events": EVENTS, "bytes": 512 });
        stuck.submit("firehose", input, Value::Null).await;
        runtime
            .until_metric("arcpd_jobs_running", |jobs| jobs == 0)
            .await;
        let began = Instant::now();
        let client = Client::resume(wire, &runtime, &stuck.ticket()).await;
        assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
        drop((client, stuck));
    }
}
