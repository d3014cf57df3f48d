//! A replica whose machine's clock is wrong. Its clock is faked by Debian's faketime.

mod support;

use std::path::Path;

use serde_json::json;
use support::nats::Nats;
use support::ws::{Ws, hello};
use support::*;

fn replica(nats: &Nats, dir: &Path, ahead: Option<&str>) -> Runtime {
    let mut command = serve(dir);
    command.args(["--cluster", &nats.url(), "--cluster-replication", "1"]);
    if let Some(ahead) = ahead {
        command
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME", ahead)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    Runtime::spawn(&mut command)
}

/// The library that says another time to a process.
fn faketime() -> String {
    apt::install("faketime", "/usr/bin/faketime");
    let lib = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let path = format!("{lib}/libfaketimeMT.so.1");
    assert!(Path::new(&path).exists(), "{path}");
    path
}

/// It forgot the sessions of the others, and made a second job for a key.
#[tokio::test]
async fn a_replica_a_day_ahead_forgets_no_session_and_no_key() {
    let nats = Nats::single();
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let right = replica(&nats, dirs[0].path(), None);
    let ahead = replica(&nats, dirs[1].path(), Some("+90000s"));
    let submit = json!({ "agent": "echo", "input": 1, "idempotency_key": "once" });

    let mut client = Ws::connect(&right, ALICE).await;
    client.say("job.submit", submit.clone()).await;
    let first = client.hear_type("job.accepted").await["payload"]["job_id"].clone();
    client.until_terminal().await;
    let token = json!({
        "session_id": client.session_id, "resume_token": client.resume_token, "last_event_seq": 0,
    });
    drop(client);

    let resume = hello("r", ALICE, json!({ "resume": token }));
    let mut client = Ws::open(&ahead, resume).await;
    assert_eq!(client.until_terminal().await.len(), 1);
    client.say("job.submit", submit).await;
    let again = client.hear_type("job.accepted").await;
    assert_eq!(again["payload"]["job_id"], first, "{again}");
}
