//! What tests of credentials share: a client that asks for them, and a scanner
//! for the secrets that must not be where it looks.

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::{self, Envelope};
use serde_json::{Value, json};

use super::gateway::{Gateway, KEY_PREFIX, MASTER_KEY};
use super::{Peer, Runtime, hello};

/// The features of a client that knows credentials.
pub fn hello_asking(token: &str) -> proto::SessionHello {
    let mut hello = hello(token);
    hello.features.push("provisioned_credentials".into());
    hello
}

pub async fn asking(address: &str, token: &str) -> Peer {
    Peer::open(address, hello_asking(token))
        .await
        .welcomed()
        .await
}

pub fn lease() -> Value {
    json!({ "model.use": ["tier-fast/*"], "cost.budget": ["USD:5.00"] })
}

pub fn submit(agent: &str, input: Value) -> proto::JobSubmit {
    proto::JobSubmit {
        agent: agent.into(),
        input_json: input.to_string(),
        lease_request_json: lease().to_string(),
        ..Default::default()
    }
}

/// Submits, and returns the job with its credentials as they were shown.
pub async fn submitted(peer: &mut Peer, submit: proto::JobSubmit) -> (String, Value) {
    peer.send("", Payload::JobSubmit(submit)).await;
    loop {
        let envelope = peer.next().await;
        match envelope.payload {
            Some(Payload::JobAccepted(accepted)) => {
                let shown = serde_json::from_str(&accepted.credentials_json);
                return (envelope.job_id, shown.unwrap_or_default());
            }
            Some(Payload::SessionError(error)) => panic!("refused: {error:?}"),
            _ => {}
        }
    }
}

/// The rotation in a record, if it is one: its details.
pub fn rotation(envelope: &Envelope) -> Option<Value> {
    let Some(Payload::JobEvent(event)) = &envelope.payload else {
        return None;
    };
    match &event.body {
        Some(proto::job_event::Body::Status(status)) if status.phase == "credential_rotated" => {
            Some(serde_json::from_str(&status.details_json).unwrap())
        }
        _ => None,
    }
}

/// Fails if there is a secret of the gateway in a text.
pub fn assert_clean(what: &str, text: &[u8]) {
    for secret in [KEY_PREFIX, MASTER_KEY] {
        let found = text
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "{what} holds {secret}");
    }
}

/// Of all the files in a store but those named.
pub fn assert_files_clean(dir: &std::path::Path) {
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap() != "master.key" {
            assert_clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
            files += 1;
        }
    }
    assert!(files > 0);
}

/// Whether the scanner would find what it is for.
pub fn assert_scanner_works(gateway: &Gateway) {
    let value = gateway.keys()[0].value.clone();
    let found = std::panic::catch_unwind(|| assert_clean("itself", value.as_bytes()));
    assert!(found.is_err());
}

/// `arcpd credentials`, which has to succeed: what it prints.
pub fn arcpd(runtime: &Runtime, more: &[&str]) -> String {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_arcpd"))
        .args(["credentials", "--admin", &runtime.admin])
        .args(more)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}
