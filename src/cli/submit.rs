use std::io::Read;

use anyhow::Context;

use super::follow::{OnInterrupt, follow, interrupts};
use super::target::Target;
use super::{Status, Usage};
use crate::client;
use crate::protocol::Timestamp;

#[derive(clap::Args)]
pub(super) struct Submit {
    /// `name` or `name@version`.
    agent: String,
    /// JSON; `@FILE` reads a file, `-` stdin. Without it: stdin when that is a
    /// pipe, else null.
    #[arg(long, short)]
    input: Option<String>,
    /// Print the job's id and leave it running.
    #[arg(long)]
    detach: bool,
    /// The same key with the same parameters is the same job, for 24 hours.
    #[arg(long, default_value = "")]
    idempotency_key: String,
    /// Seconds the job may run; 0 is no limit.
    #[arg(long, default_value_t = 0)]
    max_runtime_sec: u64,
    /// A traceparent, or 32 hex digits, to join a trace.
    #[arg(long, env = "TRACEPARENT", default_value = "")]
    trace_id: String,
    /// What the job may do: a JSON object of capabilities and patterns, such as
    /// {"net.fetch":["https://example.com/**"],"cost.budget":["USD:5"]}; `@FILE` reads
    /// a file.
    #[arg(long)]
    lease: Option<String>,
    /// When that ends, RFC 3339; the job ends with it.
    #[arg(long)]
    lease_expires_at: Option<jiff::Timestamp>,
    #[command(flatten)]
    target: Target,
}

impl Submit {
    pub async fn run(self) -> anyhow::Result<Status> {
        let input_json = read_input(self.input.as_deref())?;
        let lease_request_json = match &self.lease {
            Some(lease) => read_json("--lease", Some(lease))?,
            None => String::new(),
        };
        let expires_at = self.lease_expires_at;
        let mut client = self.target.connect().await?;
        let submit = client::Submit {
            agent: self.agent,
            input_json,
            idempotency_key: self.idempotency_key,
            max_runtime_sec: self.max_runtime_sec,
            trace_id: self.trace_id,
            lease_request_json,
            lease_expires_at: expires_at.map(|at| Timestamp(at.as_millisecond())),
        };
        let accepted = client.submit(submit).await?;
        if self.detach {
            super::print::row(&accepted.job_id)?;
            client.close().await;
            return Ok(Status::Success);
        }
        // Before the job is shown to who may want to stop it.
        let interrupts = interrupts()?;
        eprintln!(
            "{} {} trace {}",
            accepted.job_id, accepted.agent, accepted.trace_id
        );
        let job = &accepted.job_id;
        let status = follow(&mut client, job, interrupts, OnInterrupt::Cancel).await?;
        client.close().await;
        Ok(status)
    }
}

fn read_input(input: Option<&str>) -> anyhow::Result<String> {
    read_json("--input", input)
}

fn read_json(flag: &str, input: Option<&str>) -> anyhow::Result<String> {
    use std::io::IsTerminal;
    let stdin = || -> anyhow::Result<String> {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("stdin")?;
        Ok(text)
    };
    let text = match input {
        Some("-") => stdin()?,
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let unread = |error| Usage(format!("{flag} @{path}: {error}"));
                std::fs::read_to_string(path).map_err(unread)?
            }
            None => text.to_owned(),
        },
        None if std::io::stdin().is_terminal() => String::new(),
        None => stdin()?,
    };
    if !text.trim().is_empty() {
        let checked = crate::wire::check_json(flag, &text);
        checked.map_err(|invalid| Usage(invalid.message))?;
    }
    Ok(text.trim().to_owned())
}
