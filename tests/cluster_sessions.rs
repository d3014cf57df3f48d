//! Sessions of a cell that more than one replica has to do with in the same moment.

mod support;

use std::path::Path;

use arcpd::wire::proto;
use arcpd::wire::proto::envelope::Payload;
use futures_util::future::join_all;
use serde_json::json;
use support::nats::Nats;
use support::*;

const ROUNDS: usize = 20;

fn replica(nats: &Nats, dir: &Path) -> Runtime {
    let url = nats.url();
    Runtime::spawn(serve(dir).args(["--cluster", &url, "--cluster-replication", "1"]))
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
