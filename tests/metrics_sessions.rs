//! What many sessions do to a monitoring system: nothing.

mod support;

use futures_util::StreamExt;
use support::scrape::{series, value};
use support::*;

const SESSIONS: usize = 100_000;
const AT_ONCE: usize = 500;
/// Connections that sessions share, since ports are as many as they are.
const CONNECTIONS: usize = 8;

async fn visit(channel: tonic::transport::Channel) {
    let peer = Peer::on(channel, hello(ALICE)).await;
    peer.welcomed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_sessions_add_no_series() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(dir.path());
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{}", runtime.address));
        channels.push(endpoint.unwrap().connect().await.unwrap());
    }
    let go = |count: usize| {
        let channels = channels.clone();
        let visits = (0..count).map(move |number| visit(channels[number % CONNECTIONS].clone()));
        futures_util::stream::iter(visits)
            .buffer_unordered(AT_ONCE)
            .for_each(|()| std::future::ready(()))
    };
    go(10).await;
    let before = series(&runtime.admin_get("/metrics").1);
    go(SESSIONS).await;
    let (_, after) = runtime.admin_get("/metrics");
    assert_eq!(series(&after), before);
    let hellos = value(&after, "arcpd_session_hellos_total{code=\"OK\"}");
    assert_eq!(hellos, 10.0 + SESSIONS as f64);
}
