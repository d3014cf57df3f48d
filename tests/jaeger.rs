//! Traces in a real Jaeger, as its query API has them. With `WATERFALL=docs` the
//! pictures of the documentation are drawn from its answers.

mod support;

use std::collections::HashMap;
use std::process::Command;

use serde_json::{Value, json};
use support::jaeger::Jaeger;
use support::waterfall::{id, name, parent, svg};
use support::*;

/// Each span's name after its parent's, in the order of the names.
fn edges(answer: &Value) -> Vec<(&str, &str)> {
    let spans = answer["data"][0]["spans"].as_array().unwrap();
    let names: HashMap<_, _> = spans.iter().map(|span| (id(span), name(span))).collect();
    let above = |span| parent(span).map_or("", |id| names.get(id).unwrap_or(&"nobody's"));
    let mut edges: Vec<_> = spans.iter().map(|span| (above(span), name(span))).collect();
    edges.sort_unstable();
    edges
}

/// What Jaeger has to say against a trace: a parent that never came, a clock that cannot be.
fn check(answer: &Value) {
    for span in answer["data"][0]["spans"].as_array().unwrap() {
        assert_eq!(span["warnings"], Value::Null, "{span}");
    }
    let processes = answer["data"][0]["processes"].as_object().unwrap();
    let of_ours = |process: &Value| process["serviceName"] == "arcpd";
    assert!(processes.values().all(of_ours), "{processes:?}");
}

/// Comes first: `cargo test --test jaeger -- --ignored`, then the others run.
#[test]
#[ignore = "builds Jaeger with Go where it is not in the cache: a quarter of an hour on two busy cores"]
fn jaeger_is_installed() {
    assert!(support::jaeger::install().exists());
}

fn draw(answer: &Value, name: &str) {
    let picture = svg(answer);
    if let Some(dir) = std::env::var_os("WATERFALL") {
        let path = std::path::Path::new(&dir).join(name);
        std::fs::write(path, picture).unwrap();
    }
}

#[test]
fn the_demo_is_one_waterfall_in_jaeger() {
    let Some(jaeger) = Jaeger::start() else {
        return;
    };
    let demo = Command::new(env!("CARGO_BIN_EXE_arcpd"))
        .arg("demo")
        .envs(jaeger.env())
        .output()
        .unwrap();
    let said = String::from_utf8(demo.stdout).unwrap();
    assert!(demo.status.success(), "{said}");
    let trace = said
        .lines()
        .find_map(|line| line.strip_prefix("trace      "))
        .unwrap();
    // The exit came after the last span was taken, so all of it is there.
    let answer = jaeger.get(&format!("/api/traces/{trace}"));
    assert_eq!(
        edges(&answer),
        [
            ("", "arcp.job submit"),
            ("arcp.job submit", "invoke_agent word-count"),
            ("invoke_agent word-count", "execute_tool rank"),
        ]
    );
    check(&answer);
    let operations = jaeger.get("/api/services/arcpd/operations").to_string();
    for name in [
        "arcp.session open",
        "arcp.session resume",
        "arcp.job subscribe",
    ] {
        assert!(operations.contains(name), "{operations}");
    }
    draw(&answer, "waterfall.svg");
}

#[tokio::test]
async fn a_job_and_those_it_delegates_are_one_waterfall_in_jaeger() {
    let Some(jaeger) = Jaeger::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::spawn(serve(dir.path()).envs(jaeger.env()));
    let mut peer = Peer::connect(&runtime.address, ALICE).await;
    let op = |target: &str| json!({ "capability": "tool.call", "target": target });
    let ops = json!({ "delay_ms": 20, "ops": [op("search.web"), op("mail.send")] });
    let lease = json!({ "tool.call": ["search.*"] });
    let submit = arcpd::wire::proto::JobSubmit {
        agent: "delegator".into(),
        input_json: json!({ "agent": "toolbox", "input": ops, "lease_request": lease, "times": 2 })
            .to_string(),
        lease_request_json: json!({ "agent.delegate": ["toolbox"], "tool.call": ["search.*"] })
            .to_string(),
        ..Default::default()
    };
    let submit = arcpd::wire::proto::envelope::Payload::JobSubmit(submit);
    peer.send("", submit).await;
    let mut seen = Vec::new();
    // Two children and their parent.
    for _ in 0..3 {
        seen.extend(peer.until_terminal().await);
    }
    let trace = seen[0].trace_id.clone();
    drop(peer);
    assert!(runtime.terminate().await.success());
    let answer = jaeger.get(&format!("/api/traces/{trace}"));
    let child = [
        ("arcp.job submit", "invoke_agent toolbox"),
        ("invoke_agent delegator", "arcp.job submit"),
        ("invoke_agent toolbox", "arcp.job authorize"),
        ("invoke_agent toolbox", "execute_tool tool.call"),
        ("invoke_agent toolbox", "execute_tool tool.call"),
    ];
    let mut wanted = [child, child].concat();
    wanted.extend([
        ("", "arcp.job submit"),
        ("arcp.job submit", "invoke_agent delegator"),
    ]);
    wanted.sort_unstable();
    assert_eq!(edges(&answer), wanted);
    check(&answer);
    draw(&answer, "waterfall-delegation.svg");
}
