//! A runtime inside a program of your own, with an agent that is a function.
//!
//! `cargo run --example embedded`, then from another shell
//! `ARCPD_TOKEN=my-secret-token-1234 arcpd submit greet -i '"Ada"' --server http://ADDRESS`.

use arcpd::job::{AgentDirectory, JobContext};
use arcpd::protocol::Failure;
use arcpd::server::{Config, Server, Tokens};

async fn greet(job: JobContext) -> Result<String, Failure> {
    let name: String = serde_json::from_str(job.input_json())
        .map_err(|error| Failure::invalid(format!("input: {error}")))?;
    job.log("info", format!("greeting {name}")).await?;
    job.progress(1.0, Some(1.0)).await?;
    // The result is JSON text.
    Ok(serde_json::json!({ "greeting": format!("Hello, {name}") }).to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut agents = AgentDirectory::default();
    agents
        .register("greet", "1.0.0", greet)
        .map_err(anyhow::Error::msg)?;
    let tokens = Tokens::parse("me=my-secret-token-1234").map_err(anyhow::Error::msg)?;
    let server = Server::bind(Config::new("embedded-data", tokens, agents)).await?;
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
