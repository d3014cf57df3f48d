//! Connections: their number, and how a drain ends them.

mod support;

use serde_json::json;
use support::ws::Ws;
use support::*;

const OPEN: &str = "arcpd_connections_open";
const RUNNING: &str = "arcpd_jobs_running";

fn start_with(toml: &str) -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start_with(dir.path(), toml);
    (dir, runtime)
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
