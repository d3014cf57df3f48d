//! A runtime inside a program: the spans that its agents make with `tracing`.

mod support;

use std::time::Duration;

use arcpd::job::{AgentDirectory, JobContext};
use arcpd::protocol::Failure;
use arcpd::server::{Config, Server, Tokens};
use arcpd::telemetry::{self, AgentSpans};
use serde_json::json;
use support::collector::Collector;
use support::*;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

async fn search(job: JobContext) -> Result<String, Failure> {
    let outer = tracing::info_span!("search", index = "papers", pages = 3);
    async {
        job.progress(1.0, None).await?;
        async { tokio::task::yield_now().await }
            .instrument(tracing::info_span!("fetch", "otel.kind" = "client"))
            .await;
        tracing::error!("what is logged is not a span");
        Ok("1".into())
    }
    .instrument(outer)
    .await
}

#[tokio::test]
async fn what_an_agent_does_in_its_own_spans_is_below_its_jobs_run() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let spans = AgentSpans::default();
    tracing_subscriber::registry().with(spans.layer()).init();
    let mut agents = AgentDirectory::default();
    agents.register("search", "1.0.0", search).unwrap();
    let tokens = Tokens::parse(&format!("alice={ALICE}")).unwrap();
    let mut config = Config::new(dir.path(), tokens, agents);
    config.telemetry = telemetry::Config::from_env(Some(&collector.url)).unwrap();
    config.agent_spans = spans;
    config.drain_deadline = Duration::from_secs(1);
    let server = Server::bind(config).await.unwrap();
    let address = server.address().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));
    // Outside of any agent, and in nobody's trace.
    let outside = tracing::info_span!("outside").entered();
    drop(outside);
    let mut alice = Peer::connect(&address, ALICE).await;
    alice.submit("search", json!({})).await;
    let ended = alice.until_terminal().await;
    let trace = ended.last().unwrap().trace_id.clone();
    let run = collector.span(&trace, "invoke_agent search").await;
    let inner = collector.span(&trace, "fetch").await;
    drop(alice);
    drop(stop);
    running.await.unwrap().unwrap();
    assert_eq!(
        collector.tree(&trace),
        "arcp.job submit\n  invoke_agent search\n    search\n      fetch\n"
    );
    let outer = collector.span(&trace, "search").await;
    outer.has(&[("index", "papers"), ("pages", "3")]);
    assert!(run.start_ns <= outer.start_ns && outer.end_ns <= run.end_ns + 1_000_000);
    assert!(outer.start_ns <= inner.start_ns && inner.end_ns <= outer.end_ns);
    let names: Vec<_> = collector.spans().into_iter().map(|of| of.name).collect();
    assert!(!names.iter().any(|name| name == "outside"), "{names:?}");
}
