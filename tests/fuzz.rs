//! Anything at all into both decoders: an answer or a refusal with words in it,
//! never a panic. Random bytes rarely get far, so most inputs are valid messages
//! with a few bytes changed. `ARCPD_FUZZ_SECONDS` runs it for longer.

use std::time::{Duration, Instant};

use arcpd::wire::{check_json, event_from_json, parse_json, proto, request_from_proto};
use prost::Message;
use proto::envelope::Payload;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SECONDS: u64 = 3;

/// Calls `run` with ever new inputs until the time is over.
fn fuzz(corpus: &[Vec<u8>], mut run: impl FnMut(&[u8])) {
    let seconds = std::env::var("ARCPD_FUZZ_SECONDS").ok();
    let seconds = seconds
        .and_then(|text| text.parse().ok())
        .unwrap_or(SECONDS);
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (until, mut inputs) = (Instant::now() + Duration::from_secs(seconds), 0);
    while Instant::now() < until {
        for _ in 0..100 {
            run(&mutated(&mut random, corpus));
            inputs += 1;
        }
    }
    println!("{inputs} inputs");
}

fn mutated(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.random()),
            4 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                bytes.splice(at..at, other[from..].iter().copied());
            }
            _ if at < bytes.len() => {
                let end = (at + random.random_range(0..16)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn the_json_decoder_refuses_with_words() {
    let texts = [
        r#"{"arcp":"1.1","id":"a","type":"session.hello","payload":{"client":{"name":"n","version":"1"},"auth":{"scheme":"bearer","token":"t"},"capabilities":{"features":["ack"],"agents":[]},"resume":{"session_id":"s","resume_token":"t","last_event_seq":3}}}"#,
        r#"{"arcp":"1.1","id":"a","type":"job.submit","session_id":"s","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","payload":{"agent":"a@1","input":{"x":[1,2.5e3,"\u00e9\n",null,true]},"lease_request":{"tool.call":["*"]},"lease_constraints":{"expires_at":"2030-01-01T00:00:00Z"},"idempotency_key":"k","max_runtime_sec":5},"extensions":{"optional":true}}"#,
        r#"{"arcp":"1.1","id":"a","type":"session.list_jobs","payload":{"filter":{"status":["running"],"agent":"a","created_after":"2026-01-01T00:00:00Z"},"limit":5,"cursor":null}}"#,
        r#"{"arcp":"1.1","id":"a","type":"job.subscribe","job_id":"j","payload":{"job_id":"j","from_event_seq":7,"history":true}}"#,
        r#"{"arcp":"1.1","id":"a","type":"job.cancel","job_id":"j","payload":{"reason":"r"}}"#,
        r#"{"arcp":"1.1","id":"a","type":"session.ack","payload":{"last_processed_seq":18446744073709551615}}"#,
        "[[[[[[[[",
    ];
    let corpus: Vec<_> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz(&corpus, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Err(invalid) = parse_json(text) {
            assert!(!invalid.message.is_empty());
        }
        let checked = check_json("input", text).is_ok();
        assert!(!checked || serde_json::from_str::<serde_json::Value>(text).is_ok());
    });
}

#[test]
fn the_protobuf_decoder_refuses_with_words() {
    let hello = proto::SessionHello {
        auth_scheme: "bearer".into(),
        auth_token: "token".into(),
        features: vec!["ack".into()],
        resume: Some(proto::Resume {
            session_id: "s".into(),
            resume_token: "t".into(),
            last_event_seq: 9,
        }),
        ..Default::default()
    };
    let submit = proto::JobSubmit {
        agent: "a@1".into(),
        input_json: r#"{"a":[1]}"#.into(),
        lease_request_json: "{}".into(),
        lease_expires_at: Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: -1,
        }),
        idempotency_key: "k".into(),
        max_runtime_sec: u64::MAX,
    };
    let corpus: Vec<_> = [
        Payload::SessionHello(hello),
        Payload::JobSubmit(submit),
        Payload::SessionListJobs(proto::SessionListJobs {
            statuses: vec!["running".into()],
            limit: 5,
            ..Default::default()
        }),
        Payload::JobSubscribe(proto::JobSubscribe {
            history: true,
            from_event_seq: 1,
            from_job_seq: 2,
        }),
        Payload::JobEvent(Default::default()),
        Payload::Unknown(proto::UnknownMessage {
            r#type: "x-vendor.a.b".into(),
            payload_json: "{}".into(),
        }),
    ]
    .map(|payload| {
        let envelope = proto::Envelope {
            arcp: "1.1".into(),
            id: "a".into(),
            session_id: "s".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            extensions_json: r#"{"optional":true}"#.into(),
            payload: Some(payload),
            ..Default::default()
        };
        proto::SessionRequest {
            envelope: Some(envelope),
        }
        .encode_to_vec()
    })
    .into();
    fuzz(&corpus, |bytes| {
        let Ok(request) = proto::SessionRequest::decode(bytes) else {
            return;
        };
        if let Some(envelope) = request.envelope
            && let Err(invalid) = request_from_proto(envelope)
        {
            assert!(!invalid.message.is_empty());
        }
    });
}

#[test]
fn what_a_program_prints_refuses_with_words() {
    let corpus = [
        r#"{"level":"info","message":"m","attributes":{}}"#,
        r#"{"current":1,"total":2}"#,
        r#"{"name":"n","value":1e9,"dims":{"a":"b"}}"#,
        r#"{"call_id":"c","error":{"code":"x"}}"#,
    ]
    .map(|text| text.as_bytes().to_vec());
    let kinds = [
        "log",
        "progress",
        "metric",
        "tool_result",
        "status",
        "x-vendor.a.b",
    ];
    fuzz(&corpus, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        for kind in kinds {
            match event_from_json(kind, text) {
                Ok(event) => drop(event.check()),
                Err(invalid) => assert!(!invalid.message.is_empty()),
            }
        }
    });
}
