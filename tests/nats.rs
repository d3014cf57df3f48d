//! The NATS servers of the tests do what the tests of a cluster take for granted.

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context, stream};
use support::nats::{Cluster, Nats};

const STREAM: &str = "LOG";

/// A context whose requests give up soon: a test asks again, and says until when.
async fn connect(urls: Vec<String>) -> Context {
    let options = async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(1)));
    let client = options.connect(urls).await.expect("a server");
    let mut context = jetstream::new(client);
    context.set_timeout(Duration::from_secs(1));
    context
}

async fn stream(context: &Context, num_replicas: usize) {
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["log.>".into()],
        num_replicas,
        ..Default::default()
    };
    context.create_stream(config).await.expect("a stream");
}

async fn publish(context: &Context, text: &'static str) -> Result<u64, String> {
    let sent = context.publish("log.job", text.into()).await;
    let acknowledged = sent.map_err(|error| error.to_string())?.await;
    let ack = acknowledged.map_err(|error| error.to_string())?;
    Ok(ack.sequence)
}

/// Publishes until it is acknowledged. A stream without a leader refuses or is silent,
/// and what the servers do about that is theirs; that it ends in time is the test.
async fn acknowledged(context: &Context, text: &'static str) -> u64 {
    let started = Instant::now();
    loop {
        match publish(context, text).await {
            Ok(sequence) => return sequence,
            Err(error) => {
                let waited = started.elapsed();
                assert!(waited.as_secs() < 60, "{error} after {waited:?}");
            }
        }
    }
}

async fn stored(context: &Context, sequence: u64) -> String {
    let stream = context.get_stream(STREAM).await.expect("the stream");
    let message = stream.get_raw_message(sequence).await.expect("a message");
    String::from_utf8(message.payload.to_vec()).unwrap()
}

async fn with_stream() -> (Cluster, Context) {
    let started = Instant::now();
    let cluster = Nats::cluster();
    println!("a cluster of three in {:?}", started.elapsed());
    let context = connect(cluster.urls()).await;
    stream(&context, 3).await;
    (cluster, context)
}

#[tokio::test]
async fn a_killed_server_comes_back_where_it_was_with_what_it_had() {
    let mut nats = Nats::single();
    let url = nats.url();
    let context = connect(vec![url.clone()]).await;
    stream(&context, 1).await;
    assert_eq!(publish(&context, "kept").await, Ok(1));

    nats.kill9();
    let address = url.trim_start_matches("nats://");
    TcpStream::connect(address).expect_err("nobody listens");
    nats.restart();
    assert_eq!(nats.url(), url);
    // By a connection that never saw the first one.
    let context = connect(vec![url]).await;
    assert_eq!(stored(&context, 1).await, "kept");
    assert_eq!(publish(&context, "next").await, Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_outlives_the_leader_of_a_stream() {
    let (mut cluster, context) = with_stream().await;
    assert_eq!(publish(&context, "before").await, Ok(1));
    let first = cluster.leader_of(STREAM).await;

    cluster.nodes[first].kill9();
    let killed = Instant::now();
    let sequence = acknowledged(&context, "after").await;
    println!("acknowledged {:?} after the kill", killed.elapsed());
    let second = cluster.leader_of(STREAM).await;
    assert_ne!(first, second);
    assert_eq!(stored(&context, 1).await, "before");
    assert_eq!(stored(&context, sequence).await, "after");

    // The dead one comes back as one of three: then another may die.
    cluster.nodes[first].restart();
    cluster.until_followed(STREAM).await;
    cluster.nodes[second].kill9();
    let sequence = acknowledged(&context, "again").await;
    assert_eq!(stored(&context, sequence).await, "again");
    assert_ne!(cluster.leader_of(STREAM).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_loses_its_stream_and_catches_up() {
    let (cluster, _) = with_stream().await;
    let first = cluster.leader_of(STREAM).await;
    cluster.nodes[first].pause();
    let paused = Instant::now();
    // A client of the two others: a connection to the paused one takes minutes to fail.
    let mut urls = cluster.urls();
    urls.remove(first);
    let context = connect(urls).await;
    let sequence = acknowledged(&context, "meanwhile").await;
    println!("acknowledged {:?} after the pause", paused.elapsed());

    cluster.nodes[first].resume();
    cluster.until_followed(STREAM).await;
    let context = connect(vec![cluster.nodes[first].url()]).await;
    assert_eq!(stored(&context, sequence).await, "meanwhile");
    assert_ne!(cluster.leader_of(STREAM).await, first);
}

#[test]
fn no_server_outlives_a_test_that_panics() {
    let (tell, told) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let nats = Nats::single();
        nats.pause();
        tell.send(nats.url()).unwrap();
        panic!("as tests do");
    });
    test.join().expect_err("a panic");
    let url = told.recv().expect("it had started");
    let address = url.trim_start_matches("nats://");
    TcpStream::connect(address).expect_err("nobody listens");
}
