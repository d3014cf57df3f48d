//! The README's first command: everything once, on a runtime of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::Status;
use super::print::row;
use crate::client::{Client, Options, Submit};
use crate::job::AgentDirectory;
use crate::server::{Config, Server, Tokens};
use crate::wire::proto::Envelope;
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::job_event::Body;

/// Rest of the agent between steps, so that there is something to watch.
const STEP: Duration = Duration::from_millis(100);
/// Numbered envelopes after which the connection is cut.
const CUT_AFTER: usize = 10;
const README: &str = include_str!("../../README.md");

#[derive(clap::Args)]
pub(super) struct Demo {
    /// The text to count words in; this repository's README without it.
    file: Option<PathBuf>,
}

impl Demo {
    pub async fn run(self) -> anyhow::Result<Status> {
        let text = match &self.file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
            None => README.to_owned(),
        };
        let dir = tempfile::tempdir()?;
        let token = format!("demo-{:032x}", rand::random::<u128>());
        let server = Server::bind(config(dir.path().into(), &token)?).await?;
        let address = format!("http://{}", server.address()?);
        row(&format!(
            "runtime    {address}, store in {}",
            dir.path().display()
        ))?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(server.run(async {
            // Also when the sender is dropped: then the demo is over.
            let _ = stopped.await;
        }));
        let shown = show(&address, &token, text).await;
        let _ = stop.send(());
        served.await??;
        shown
    }
}

fn config(data_dir: PathBuf, token: &str) -> anyhow::Result<Config> {
    let tokens = Tokens::parse(&format!("demo={token}")).map_err(anyhow::Error::msg)?;
    let mut agents = AgentDirectory::default();
    crate::agent::demo::register(&mut agents).map_err(anyhow::Error::msg)?;
    Ok(Config {
        drain_deadline: Duration::from_secs(5),
        telemetry: crate::telemetry::Config::from_env(None).map_err(anyhow::Error::msg)?,
        ..Config::new(data_dir, tokens, agents)
    })
}

async fn show(address: &str, token: &str, text: String) -> anyhow::Result<Status> {
    let mut client = Client::connect(Options::new(address, token)).await?;
    row(&format!("session    {} over gRPC", client.session_id()))?;
    let text_lines = text.lines().count();
    let input = serde_json::json!({ "text": text, "step_ms": STEP.as_millis() as u64 });
    let submit = Submit {
        agent: "word-count".into(),
        input_json: input.to_string(),
        ..Submit::default()
    };
    let accepted = client.submit(submit).await?;
    row(&format!(
        "job        {} runs {}",
        accepted.job_id, accepted.agent
    ))?;
    // Every line is an event; of a short text the cut comes early.
    let cut_after = CUT_AFTER.min(text_lines.max(1));
    let seen = watch(&mut client, "submitter", Some(cut_after)).await?;
    let (lost, doubled) = tally(&seen);
    row(&format!(
        "resumed    {} time(s); events lost {lost}, doubled {doubled}",
        client.resumed()
    ))?;

    let mut observer = Client::connect(Options::new(address, token)).await?;
    observer.subscribe(&accepted.job_id, true).await?;
    let history = watch(&mut observer, "observer", None).await?;
    let same = payloads(&history) == payloads(&seen);
    row(&format!(
        "observer   {} sees history: {}",
        observer.session_id(),
        if same { "the same" } else { "something else" }
    ))?;
    let result = seen.last().and_then(|envelope| envelope.payload.as_ref());
    match result {
        Some(Payload::JobResult(result)) => row(&format!("result     {}", result.result_json))?,
        other => anyhow::bail!("the job ended with {other:?}"),
    }
    row(&format!("trace      {}", accepted.trace_id))?;
    ensure!(
        client.resumed() == 1,
        "the connection was cut and the session not resumed"
    );
    ensure!(
        lost == 0 && doubled == 0 && same,
        "the stream was not what was promised"
    );
    client.close().await;
    observer.close().await;
    Ok(Status::Success)
}

/// Numbered envelopes up to the terminal, with a bar; cuts the connection after some.
async fn watch(
    client: &mut Client,
    who: &'static str,
    cut_after: Option<usize>,
) -> anyhow::Result<Vec<Envelope>> {
    let bar = ProgressBar::new(0).with_prefix(who);
    bar.set_style(ProgressStyle::with_template(
        "{prefix:10} {bar:40} {pos}/{len} lines",
    )?);
    let mut seen = Vec::new();
    loop {
        let envelope = client.recv().await?;
        if envelope.event_seq == 0 {
            continue;
        }
        let terminal = matches!(
            envelope.payload,
            Some(Payload::JobResult(_) | Payload::JobError(_))
        );
        if let Some(Payload::JobEvent(event)) = &envelope.payload
            && let Some(Body::Progress(progress)) = &event.body
        {
            bar.set_length(progress.total.unwrap_or(0.0) as u64);
            bar.set_position(progress.current as u64);
        }
        seen.push(envelope);
        if terminal {
            bar.finish();
            return Ok(seen);
        }
        if Some(seen.len()) == cut_after {
            bar.suspend(|| {
                row(&format!(
                    "cut        the connection, after {} events",
                    seen.len()
                ))
            })?;
            client.cut();
        }
    }
}

/// Numbers missing from 1..=n, and numbers there more than once.
fn tally(seen: &[Envelope]) -> (u64, usize) {
    let numbers: std::collections::BTreeSet<_> = seen.iter().map(|e| e.event_seq).collect();
    let last = numbers.last().copied().unwrap_or(0);
    (last - numbers.len() as u64, seen.len() - numbers.len())
}

fn payloads(envelopes: &[Envelope]) -> Vec<&Option<Payload>> {
    envelopes.iter().map(|envelope| &envelope.payload).collect()
}
