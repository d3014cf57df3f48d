//! The demo in a real Jaeger, as its query API has it.

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use support::jaeger::Jaeger;

#[test]
#[ignore = "builds Jaeger with Go where it is not in the cache: minutes"]
fn the_demo_is_one_waterfall_in_jaeger() {
    let jaeger = Jaeger::start();
    let demo = Command::new(env!("CARGO_BIN_EXE_arcpd"))
        .arg("demo")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &jaeger.otlp)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("OTEL_METRICS_EXPORTER", "none")
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
    let spans = answer["data"][0]["spans"].as_array().unwrap();
    let parent = |span: &Value| span["references"][0]["spanID"].as_str().map(str::to_owned);
    let names: BTreeMap<_, _> = spans
        .iter()
        .map(|span| {
            (
                span["spanID"].as_str().unwrap(),
                span["operationName"].as_str().unwrap(),
            )
        })
        .collect();
    let mut tree: Vec<_> = spans
        .iter()
        .map(|span| {
            let above = parent(span).map(|id| names[&*id]);
            (above, span["operationName"].as_str().unwrap())
        })
        .collect();
    tree.sort_unstable();
    assert_eq!(
        tree,
        [
            (None, "arcp.job submit"),
            (Some("arcp.job submit"), "invoke_agent word-count"),
            (Some("invoke_agent word-count"), "execute_tool rank"),
        ]
    );
    for span in spans {
        // Jaeger's own word on a parent that never came, or a clock that cannot be.
        assert_eq!(span["warnings"], Value::Null, "{span}");
    }
    let processes = answer["data"][0]["processes"].as_object().unwrap();
    assert!(
        processes
            .values()
            .all(|process| process["serviceName"] == "arcpd")
    );
    let operations = jaeger.get("/api/services/arcpd/operations").to_string();
    for name in [
        "arcp.session open",
        "arcp.session resume",
        "arcp.job subscribe",
    ] {
        assert!(operations.contains(name), "{operations}");
    }
    if let Some(path) = std::env::var_os("ARCPD_WATERFALL") {
        std::fs::write(path, answer.to_string()).unwrap();
    }
}
