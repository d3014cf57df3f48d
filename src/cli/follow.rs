//! Shows a job to a person: progress and logs on stderr, the result on stdout.

use std::io::Write;

use anyhow::Context;
use base64::Engine;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Status;
use super::print::{plain, plain_lines};
use crate::client::Client;
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::job_event::Body;
use crate::wire::proto::{self, Envelope};

/// What an interrupt (Ctrl-C) does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnInterrupt {
    /// Asks the job to stop and waits for its end; a second one leaves.
    Cancel,
    Leave,
}

/// Interrupts from here on; none is lost between two looks. One that comes before
/// ends the process.
pub(super) fn interrupts() -> std::io::Result<Signal> {
    signal(SignalKind::interrupt())
}

/// Reads the session until the job's terminal.
pub(super) async fn follow(
    client: &mut Client,
    job_id: &str,
    mut interrupts: Signal,
    on_interrupt: OnInterrupt,
) -> anyhow::Result<Status> {
    let mut view = View::new();
    let mut asked = on_interrupt == OnInterrupt::Leave;
    loop {
        let envelope = tokio::select! {
            envelope = client.recv() => envelope?,
            _ = interrupts.recv() => {
                if std::mem::replace(&mut asked, true) {
                    anyhow::bail!("left; job {job_id} runs on");
                }
                view.say("cancelling; press Ctrl-C again to leave the job running");
                client.cancel(job_id, "interrupted").await?;
                continue;
            }
        };
        if envelope.job_id != job_id {
            continue;
        }
        if let Some(status) = view.show(envelope)? {
            return Ok(status);
        }
    }
}

struct View {
    bar: ProgressBar,
    out: std::io::Stdout,
}

impl View {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        let bar = ProgressBar::new(0);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self {
            bar,
            out: std::io::stdout(),
        }
    }

    fn say(&self, line: &str) {
        // `println` of a bar that is not drawn prints nothing.
        self.bar.suspend(|| eprintln!("{}", plain_lines(line)));
    }

    /// The status once the job is over.
    fn show(&mut self, envelope: Envelope) -> anyhow::Result<Option<Status>> {
        match envelope.payload {
            Some(Payload::JobEvent(event)) => {
                if let Some(body) = event.body {
                    self.event(body)?;
                }
                Ok(None)
            }
            Some(Payload::JobResult(result)) => {
                self.bar.finish_and_clear();
                if result.result_id.is_empty() {
                    writeln!(self.out, "{}", result.result_json)?;
                }
                self.out.flush()?;
                Ok(Some(Status::Success))
            }
            Some(Payload::JobError(error)) => {
                self.bar.finish_and_clear();
                let message = plain_lines(&error.message);
                eprintln!("{}: {message}", plain(&error.code));
                Ok(Some(status_of(&error)))
            }
            _ => Ok(None),
        }
    }

    fn event(&mut self, body: Body) -> anyhow::Result<()> {
        match body {
            Body::Progress(progress) => {
                self.bar.set_length(progress.total.unwrap_or(0.0) as u64);
                self.bar.set_message(plain(&progress.message));
                self.bar.set_position(progress.current as u64);
            }
            Body::Log(log) => self.say(&format!("{:<5} {}", log.level, log.message)),
            Body::Thought(thought) => self.say(&format!("think {}", thought.text)),
            Body::ToolCall(call) => {
                self.say(&format!(
                    "call  {} {} {}",
                    call.call_id, call.tool, call.args_json
                ));
            }
            Body::ToolResult(result) => {
                let outcome = format!("{}{}", result.result_json, result.error_json);
                self.say(&format!("done  {} {outcome}", result.call_id));
            }
            Body::Status(status) => {
                self.say(&format!("state {} {}", status.phase, status.message));
            }
            Body::Metric(metric) => {
                self.say(&format!(
                    "meter {} {} {}",
                    metric.name, metric.value, metric.unit
                ));
            }
            Body::ArtifactRef(artifact) => {
                self.say(&format!("file  {} {}", artifact.content_type, artifact.uri));
            }
            Body::Delegate(child) => {
                self.say(&format!("child {} {}", child.agent, child.child_job_id));
            }
            Body::ResultChunk(chunk) => self.chunk(&chunk)?,
            Body::Other(other) => self.say(&format!("{} {}", other.kind, other.body_json)),
        }
        Ok(())
    }

    /// Chunks go out as they come; none is kept.
    fn chunk(&mut self, chunk: &proto::ResultChunk) -> anyhow::Result<()> {
        let bytes = match &*chunk.encoding {
            "base64" => base64::engine::general_purpose::STANDARD
                .decode(&chunk.data)
                .context("a result chunk is not base64")?,
            _ => chunk.data.clone().into_bytes(),
        };
        self.out.write_all(&bytes)?;
        Ok(())
    }
}

fn status_of(error: &proto::JobError) -> Status {
    match &*error.final_status {
        "cancelled" => Status::Cancelled,
        "timed_out" => Status::TimedOut,
        _ => Status::JobFailed,
    }
}
