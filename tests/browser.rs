//! `JobService` from a page of another origin in a real browser.

mod support;

use arcpd::wire::proto::ListJobsRequest;
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use support::chromium::Page;
use support::*;
use tokio::net::TcpListener;

/// Serves the page; returns its origin.
async fn origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let index = Html(include_str!("browser/index.html"));
    let script = include_str!("browser/grpc_web.js");
    let script = ([(CONTENT_TYPE, "text/javascript")], script);
    let files = Router::new()
        .route("/", get(index))
        .route("/grpc_web.js", get(script));
    tokio::spawn(axum::serve(listener, files).into_future());
    origin
}

fn serving(dir: &std::path::Path, allowed: &[&str]) -> Runtime {
    let mut command = serve(dir);
    for origin in allowed {
        command.args(["--cors-allow-origin", origin]);
    }
    Runtime::spawn(&mut command)
}

async fn page(origin: &str, runtime: &Runtime, token: &str, agent: &str, input: Value) -> Page {
    let server = &runtime.address;
    let input = input.to_string().replace('"', "%22");
    let url = format!("{origin}/#server=http://{server}&token={token}&agent={agent}&input={input}");
    Page::open(&url).await
}

const STATUS: &str = "document.getElementById('status').textContent";
const EVENTS: &str = "[...document.querySelectorAll('#events li')].map((item) => item.textContent)";

/// What the page says in the end.
async fn end(page: &mut Page) -> Value {
    let ended = format!("/^(over|failed)/.test({STATUS}) && {STATUS}");
    page.when(&ended).await
}

#[tokio::test]
async fn a_page_submits_a_job_and_shows_its_events_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin().await;
    let runtime = serving(dir.path(), &["https://elsewhere.example", &origin]);
    // Hours long: what the page shows of it came while it ran.
    let input = json!({ "count": 1_000_000, "interval_ms": 50 });
    let mut page = page(&origin, &runtime, ALICE, "ticker", input).await;
    let some = format!("{EVENTS}.length >= 3 && {EVENTS}");
    let shown = page.when(&some).await;
    for (index, shown) in shown.as_array().unwrap().iter().enumerate() {
        let seq = index + 1;
        assert_eq!(shown, &json!(format!("{seq} progress {seq}/1000000")));
    }
    let status = page.eval(STATUS).await;
    assert!(
        status.as_str().unwrap().starts_with("watching job_"),
        "{status}"
    );

    page.eval("document.getElementById('cancel').click()").await;
    assert_eq!(end(&mut page).await, "over");
    let shown = page.eval(EVENTS).await;
    let shown = shown.as_array().unwrap();
    let last = shown.last().unwrap().as_str().unwrap();
    assert_eq!(last, format!("{} error CANCELLED", shown.len()));
}

#[tokio::test]
async fn a_page_gets_result_and_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let origin = origin().await;
    let runtime = serving(dir.path(), &[&origin]);
    let mut good = page(&origin, &runtime, ALICE, "echo", json!({ "a": 1 })).await;
    assert_eq!(end(&mut good).await, "over");
    assert_eq!(good.eval(EVENTS).await, json!([r#"1 result {"a":1}"#]));
    drop(good);
    let stranger = "a-token-nobody-has";
    let mut bad = page(&origin, &runtime, stranger, "echo", json!(1)).await;
    let refused = "failed: status 16: auth: the token is not valid";
    assert_eq!(end(&mut bad).await, refused);
}

#[tokio::test]
async fn a_page_of_an_origin_that_is_not_named_gets_nothing() {
    let origin = origin().await;
    for allowed in [&[][..], &["https://elsewhere.example"]] {
        let dir = tempfile::tempdir().unwrap();
        let runtime = serving(dir.path(), allowed);
        let mut page = page(&origin, &runtime, ALICE, "echo", json!(1)).await;
        assert_eq!(
            end(&mut page).await,
            "failed: Failed to fetch",
            "{allowed:?}"
        );
        // The browser asked first, and was not let.
        let mut alice = jobs::connect(&runtime, ALICE).await;
        let listed = alice.list_jobs(ListJobsRequest::default()).await;
        assert_eq!(listed.unwrap().into_inner().jobs, []);
    }
}
