//! A runtime inside a program of your own, with an agent that is a function.
//!
//! `cargo run --example embedded`, then from another shell
//! `ARCPD_TOKEN=my-secret-token-1234 arcpd submit greet -i '"Ada"' --server http://ADDRESS`.

use arcpd::job::{AgentDirectory, JobContext};
use arcpd::protocol::Failure;
use arcpd::server::{Config, Server, Tokens};
use arcpd::telemetry::{self, AgentSpans};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A span of its own, below the job's where traces go out (`OTEL_EXPORTER_OTLP_ENDPOINT`).
#[tracing::instrument]
async fn greeting(name: &str) -> String {
    format!("Hello, {name}")
}

async fn greet(job: JobContext) -> Result<String, Failure> {
    let name: String = serde_json::from_str(job.input_json())
        .map_err(|error| Failure::invalid(format!("input: {error}")))?;
    job.log("info", format!("greeting {name}")).await?;
    job.progress(1.0, Some(1.0)).await?;
    // The result is JSON text.
    Ok(serde_json::json!({ "greeting": greeting(&name).await }).to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut agents = AgentDirectory::default();
    agents
        .register("greet", "1.0.0", greet)
        .map_err(anyhow::Error::msg)?;
    let tokens = Tokens::parse("me=my-secret-token-1234").map_err(anyhow::Error::msg)?;
    let mut config = Config::new("embedded-data", tokens, agents);
    config.telemetry = telemetry::Config::from_env(None).map_err(anyhow::Error::msg)?;
    config.agent_spans = AgentSpans::default();
    tracing_subscriber::registry()
        .with(config.agent_spans.layer())
        .init();
    let server = Server::bind(config).await?;
    println!("http://{}", server.address()?);
    server
        .run(async {
            // Until Ctrl-C; without a handler it runs on.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await
}
