//! Sessions of a cell that more than one replica has to do with in the same moment.

mod support;

use std::path::Path;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use futures_util::future::join_all;
use serde_json::json;
use support::both::{Client, Wire};
use support::link::{Link, State};
use support::nats::Nats;
use support::*;
use tokio::task::JoinHandle;

const ROUNDS: usize = 20;

fn replica(nats: &Nats, dir: &Path) -> Runtime {
    replica_at(&nats.url(), dir)
}

fn replica_at(url: &str, dir: &Path) -> Runtime {
    Runtime::spawn(serve(dir).args(["--cluster", url, "--cluster-replication", "1"]))
}

/// A replica, and one that has a link between itself and the server.
async fn slow_and_other(nats: &Nats, dirs: &[tempfile::TempDir; 2]) -> (Link, Runtime, Runtime) {
    let link = Link::start(nats.url().trim_start_matches("nats://").into()).await;
    let through = format!("nats://{}", link.address);
    let slow = tokio::task::block_in_place(|| replica_at(&through, dirs[0].path()));
    (link, slow, replica(nats, dirs[1].path()))
}

/// What clients have said to it.
fn heard(replica: &Runtime) -> u64 {
    ["grpc", "websocket"]
        .map(|by| format!("arcpd_session_requests_total{{transport=\"{by}\"}}"))
        .iter()
        .map(|name| replica.metric(name))
        .sum()
}

/// A resume that the replica has heard, and cannot answer while the log does not.
async fn waiting(wire: Wire, replica: &Runtime, ticket: &(String, String)) -> JoinHandle<()> {
    let before = heard(replica);
    let (address, ticket) = (replica.address.clone(), ticket.clone());
    let resume = tokio::spawn(async move {
        let resumed = Client::open_at(wire, &address, Some((&ticket, 0))).await;
        // Its connection stays, and it says nothing.
        let _resumed = resumed.unwrap_or_else(|error| panic!("{error}"));
        std::future::pending().await
    });
    let started = std::time::Instant::now();
    while heard(replica) == before {
        assert!(started.elapsed().as_secs() < 30, "it is not heard");
        look_again().await;
    }
    assert!(!resume.is_finished(), "the log does not answer there");
    resume
}

/// A session that is begun, and a job that comes to its end: whoever waited for the log
/// before goes on before that.
async fn serves(replica: &Runtime) {
    let mut peer = Peer::connect(&replica.address, ALICE).await;
    peer.submit("echo", json!(1)).await;
    peer.until_terminal().await;
}

/// What a hello is answered with.
async fn opened(mut peer: Peer) -> Result<Peer, proto::SessionError> {
    let envelope = peer.next().await;
    match envelope.payload {
        Some(Payload::SessionWelcome(welcome)) => {
            peer.session_id = envelope.session_id;
            peer.resume_token = welcome.resume_token;
            Ok(peer)
        }
        Some(Payload::SessionError(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

async fn ended(peer: &mut Peer) {
    while peer.try_next().await.is_some() {}
}

/// A client whose first resume seemed lost tries another replica. Whichever claim is first,
/// the one that goes on has a token that is good, and who is refused may try again.
#[tokio::test]
async fn of_two_resumes_in_the_same_moment_the_one_that_goes_on_can_be_resumed() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let replicas = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
    let mut client = Peer::connect(&replicas[0].address, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    for round in 0..ROUNDS {
        let (id, token) = (client.session_id.clone(), client.resume_token.clone());
        let resumed = replicas.iter().map(async |replica| {
            let address = &replica.address;
            opened(Peer::resume(address, ALICE, &id, &token, 0).await).await
        });
        let mut welcomed = Vec::new();
        for opened in join_all(resumed).await {
            match opened {
                Ok(peer) => welcomed.push(peer),
                Err(error) => assert!(error.retryable, "{error:?} in round {round}"),
            }
        }
        let mut last = welcomed.pop().expect("one that goes on");
        client = match welcomed.pop() {
            None => last,
            Some(mut first) => tokio::select! {
                () = ended(&mut first) => last,
                () = ended(&mut last) => first,
            },
        };
    }
    client.submit("echo", json!(2)).await;
    client.until_terminal().await;
}

/// Once the log answered, the session was taken from the connection at the other replica,
/// for one that nobody had any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_its_client_gave_up_takes_nothing_from_where_the_client_is() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (link, slow, other) = slow_and_other(&nats, &dirs).await;
    for wire in [Wire::Grpc, Wire::WebSocket] {
        let ticket = Client::connect(wire, &other, ALICE).await.ticket();
        link.set(State::Frozen);
        let resume = waiting(wire, &slow, &ticket).await;
        resume.abort();
        // Its connection is closed with what it had.
        assert!(resume.await.unwrap_err().is_cancelled());
        let mut client = Client::resume(wire, &other, &ticket).await;
        link.set(State::Whole);
        serves(&slow).await;
        client.jobs().await;
    }
}

/// The replica cannot know that nobody listens there: the token that the client was given
/// elsewhere was void, and its session could not be resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_seems_to_wait_leaves_the_client_the_token_that_it_has() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (link, slow, other) = slow_and_other(&nats, &dirs).await;
    for wire in [Wire::Grpc, Wire::WebSocket] {
        let ticket = Client::connect(wire, &other, ALICE).await.ticket();
        link.set(State::Frozen);
        let resume = waiting(wire, &slow, &ticket).await;
        let mut client = Client::resume(wire, &other, &ticket).await;
        link.set(State::Whole);
        // It is told that another connection has it, and then that is so.
        while client.try_hear().await.is_some() {}
        let mut client = Client::resume(wire, &other, &client.ticket()).await;
        client.jobs().await;
        resume.abort();
    }
}

/// One that left with the others went on to take over from them, was told that it was gone
/// itself, and ended with an error.
#[tokio::test]
async fn replicas_that_are_drained_in_the_same_moment_all_end_well() {
    let nats = Nats::single();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    for _ in 0..3 {
        let replicas = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
        let ended = join_all(replicas.map(Runtime::terminate)).await;
        for status in ended {
            assert!(status.success(), "{status}");
        }
    }
}
