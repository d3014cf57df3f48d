//! The server that leads the stream is killed: how soon after the servers have agreed on
//! another does a client hear on.

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use serde_json::json;
use support::nats::Nats;
use support::ws::Ws;
use support::*;
use tokio::sync::mpsc;

const STREAM: &str = "ARCP_LOG_arcpd";
/// On a machine that has other work to do.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// A silence that is no more than a busy machine.
const SILENCE: Duration = Duration::from_secs(1);
const ROUNDS: usize = 2;

/// When each event of a job comes.
fn arrivals(mut client: Ws) -> mpsc::UnboundedReceiver<Instant> {
    let (arrived_tx, arrived) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            client.hear_type("job.event").await;
            if arrived_tx.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    arrived
}

/// Asked again and again with little patience: when another leads the stream.
async fn led_again(context: &Context, before: &str) -> Instant {
    loop {
        let asked = context.get_stream(STREAM);
        let Ok(Ok(found)) = tokio::time::timeout(Duration::from_millis(200), asked).await else {
            continue;
        };
        let cluster = found.cached_info().cluster.as_ref();
        let leader = cluster.and_then(|cluster| cluster.leader.as_deref());
        if leader.is_some_and(|leader| leader != before) {
            return Instant::now();
        }
    }
}

/// Requests that were made while nobody led, each of which waited its time, came on top of
/// the election.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_on_soon_after_the_stream_has_a_leader_again() {
    let mut nats = Nats::cluster();
    let dir = tempfile::tempdir().unwrap();
    let mut command = serve(dir.path());
    command.args(["--cluster", &nats.urls().join(",")]);
    let runtime = tokio::task::block_in_place(|| Runtime::spawn(&mut command));
    let mut client = Ws::connect(&runtime, ALICE).await;
    let input = json!({ "count": 1_000_000, "interval_ms": 20 });
    client.submit("ticker", input).await;
    let mut arrived = arrivals(client);
    for _ in 0..ROUNDS {
        let leader = nats.leader_of(STREAM).await;
        let mut others = nats.urls();
        others.remove(leader);
        let asking = async_nats::connect(others).await.expect("a server");
        let context = jetstream::new(asking);
        let mut last = arrived.recv().await.expect("events");
        nats.nodes[leader].kill9();
        let killed = Instant::now();
        let led = led_again(&context, nats.nodes[leader].name()).await;
        // The first after the silence; there may be none to speak of.
        let heard = loop {
            let next = arrived.recv().await.expect("events");
            if next > led || next.duration_since(last) > SILENCE && next > killed {
                break next;
            }
            last = next;
        };
        let (led, heard) = (led - killed, heard - killed);
        println!("led again after {led:?}, heard on after {heard:?}");
        assert!(heard < led + HEARD_WITHIN, "led {led:?}, heard {heard:?}");
        nats.nodes[leader].restart();
        nats.until_followed(STREAM).await;
    }
}
