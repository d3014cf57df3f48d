//! Any program as an agent (`[[agent]]` in the configuration).
//!
//! The job's input is its stdin. Each line of stdout is one of
//! ```text
//! {"kind": "progress", "body": {"current": 1, "total": 3}}   an event (draft §8.2);
//!                           `delegate` asks for a child, which works on by itself
//! {"result": …}             the result; the last one counts
//! {"result_chunk": "text"}  the next part of a result too large for a line
//! {"error": {"code": …, "message": …, "retryable": …}}   why it is going to fail
//! anything else             a log event
//! ```
//! A job that has credentials (§9.8) finds them at the file descriptor that
//! `ARCP_CREDENTIALS_FD` names: a line of JSON with all it has, and another line each
//! time that they are others. Arguments and environment can be read by others.
//!
//! Lines of stderr are log events. Exit status 0 is success. The program leads a
//! process group of its own: SIGTERM on cancel, SIGKILL when the grace or the
//! job's time is over, and whatever it leaves behind goes with it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use futures_util::StreamExt;
use rustix::process::{Pid, Signal};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::unix::pipe::Sender;
use tokio::process::{Child, Command};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use crate::job::{Agent, AgentResult, AgentRun, ChunkEncoding, JobContext, ResultWriter};
use crate::protocol::{ErrorCode, Failure};
use crate::wire;

/// Longest line a program may write; a longer one is reported and dropped.
const LINE_BYTES_MAX: usize = 1_000_000;
/// How much of a bad line is shown.
const SHOWN_CHARS: usize = 200;
const CHUNK_BYTES: usize = 256 * 1024;
/// Where a program finds its credentials.
const CREDENTIALS_FD: i32 = 3;
/// For what is in the pipes when the program is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// What a program needs of the runtime's environment. The rest may be secret.
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// What to run, and with what beside the job.
#[derive(Clone, Debug)]
pub struct CommandAgent {
    /// Program and arguments; no shell is involved.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<PathBuf>,
}

impl Agent for CommandAgent {
    fn run(&self, job: JobContext) -> AgentRun {
        let agent = self.clone();
        Box::pin(async move { agent.run_job(job).await })
    }
}

impl CommandAgent {
    async fn run_job(self, job: JobContext) -> Result<AgentResult, Failure> {
        let (mut child, credentials) = self.spawn(&job)?;
        // Ends with this future: what waits for a rotation waits no longer.
        let _told = credentials.map(|pipe| AbortOnDrop(tokio::spawn(tell(pipe, job.clone()))));
        let group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
        let input = job.input_json().to_owned();
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is free not to.
            tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
        }
        let mut report = Report::new(job.clone());
        let mut stdout = lines(child.stdout.take());
        let mut stderr = lines(child.stderr.take());
        let mut told = false;
        let status = loop {
            tokio::select! {
                Some(line) = stdout.next(), if !stdout.ended() => report.stdout(line).await?,
                Some(line) = stderr.next(), if !stderr.ended() => report.stderr(line).await?,
                status = child.wait() => break status,
                () = job.cancelled(), if !told => {
                    told = true;
                    group.signal(Signal::TERM);
                }
            }
        };
        let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
        if let (Some(signal), false) = (signal, told) {
            let program = &self.command[0];
            tracing::warn!(
                signal,
                program,
                trace_id = job.trace_id(),
                session_id = job.session_id(),
                job_id = job.job_id(),
                "an agent was killed by a signal"
            );
        }
        // Nothing of it outlives the job, and nothing holds the pipes open.
        drop(group);
        let rest = async {
            while let Some(line) = stdout.next().await {
                report.stdout(line).await?;
            }
            while let Some(line) = stderr.next().await {
                report.stderr(line).await?;
            }
            Ok(())
        };
        // A program that left its group may hold the pipes; what it says is not ours.
        tokio::time::timeout(DRAIN_TIMEOUT, rest)
            .await
            .unwrap_or(Ok(()))?;
        let status = status.map_err(|e| Failure::internal(format!("agent: {e}")))?;
        report.end(status).await
    }

    fn spawn(&self, job: &JobContext) -> Result<(Child, Option<Sender>), Failure> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| Failure::internal("agent: its command is empty"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(
                PASSED_ON
                    .iter()
                    .filter_map(|name| Some((*name, std::env::var_os(name)?))),
            )
            .envs(&self.env)
            .env("ARCP_JOB_ID", job.job_id())
            .env("ARCP_LEASE", job.lease_json())
            .env("ARCP_TRACE_ID", job.trace_id())
            .env("TRACEPARENT", job.traceparent())
            .envs(said("TRACESTATE", job.tracestate()))
            .envs(said("BAGGAGE", job.baggage()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(dir) = &self.working_dir {
            command.current_dir(dir);
        }
        let pipe = match job.holding() {
            Some(_) => Some(credentials_pipe(&mut command).map_err(|error| {
                tracing::error!(%error, trace_id = job.trace_id(), session_id = job.session_id(), job_id = job.job_id(), "an agent cannot be given its credentials");
                Failure::internal("agent: its credentials cannot be handed over")
            })?),
            None => None,
        };
        let child = command.spawn().map_err(|error| {
            tracing::error!(%error, program, trace_id = job.trace_id(), session_id = job.session_id(), job_id = job.job_id(), "an agent's command cannot be started");
            Failure::internal("agent: its command cannot be started; see the runtime's log")
        })?;
        Ok((child, pipe))
    }
}

/// Gives the program the reading end of a pipe; the other one is ours.
fn credentials_pipe(command: &mut Command) -> std::io::Result<Sender> {
    let (read, write) = std::io::pipe()?;
    let mapping = FdMapping {
        parent_fd: read.into(),
        child_fd: CREDENTIALS_FD,
    };
    command
        .env("ARCP_CREDENTIALS_FD", CREDENTIALS_FD.to_string())
        .fd_mappings(vec![mapping])
        .map_err(std::io::Error::other)?;
    Sender::from_owned_fd(write.into())
}

/// Writes what the job has, now and whenever it changes, while the program reads.
async fn tell(mut pipe: Sender, job: JobContext) {
    let Some(mut holding) = job.holding() else {
        return;
    };
    loop {
        holding.mark_unchanged();
        if let Some(json) = job.credentials_json() {
            let line = [json.expose_secret().as_bytes(), b"\n"].concat();
            if pipe.write_all(&line).await.is_err() {
                return;
            }
        }
        if holding.changed().await.is_err() {
            return;
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A variable that is set when there is something to say.
fn said<'a>(name: &'a str, value: &'a str) -> Option<(&'a str, &'a str)> {
    (!value.is_empty()).then_some((name, value))
}

/// The program and all it started. Killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // An error means that there is nobody left.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Lines of a pipe, the bad ones as errors, and no end after an error.
struct Lines<R> {
    framed: Option<FramedRead<R, LinesCodec>>,
    failed: bool,
}

fn lines<R: AsyncRead + Unpin>(pipe: Option<R>) -> Lines<R> {
    let codec = || LinesCodec::new_with_max_length(LINE_BYTES_MAX);
    Lines {
        framed: pipe.map(|pipe| FramedRead::new(pipe, codec())),
        failed: false,
    }
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn ended(&self) -> bool {
        self.framed.is_none()
    }

    async fn next(&mut self) -> Option<Result<String, String>> {
        loop {
            match self.framed.as_mut()?.next().await {
                Some(Ok(line)) => return Some(Ok(line)),
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                    self.failed = true;
                    return Some(Err(format!("a line of more than {LINE_BYTES_MAX} bytes")));
                }
                Some(Err(LinesCodecError::Io(error))) => {
                    self.failed = true;
                    return Some(Err(format!("a line that cannot be read: {error}")));
                }
                // The framing says "end" once after an error.
                None if std::mem::take(&mut self.failed) => {}
                None => {
                    self.framed = None;
                    return None;
                }
            }
        }
    }
}

/// What a line of stdout may be, but for plain text: the member says which.
#[derive(Deserialize)]
struct Line {
    kind: Option<String>,
    body: Option<Box<RawValue>>,
    result_chunk: Option<String>,
    error: Option<ErrorLine>,
    #[serde(default, deserialize_with = "wire::present")]
    result: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ErrorLine {
    code: Option<ErrorCode>,
    message: String,
    retryable: Option<bool>,
}

/// What the program has said so far.
struct Report {
    job: JobContext,
    result: Option<String>,
    chunks: Option<ResultWriter>,
    error: Option<Failure>,
    last_stderr: String,
}

impl Report {
    fn new(job: JobContext) -> Self {
        Self {
            job,
            result: None,
            chunks: None,
            error: None,
            last_stderr: String::new(),
        }
    }

    async fn stdout(&mut self, line: Result<String, String>) -> Result<(), Failure> {
        match line {
            Ok(line) if line.starts_with('{') => self.message(&line).await,
            Ok(line) if line.trim().is_empty() => Ok(()),
            Ok(line) => self.say("info", line).await,
            Err(what) => self.say("warn", format!("stdout: dropped {what}")).await,
        }
    }

    async fn stderr(&mut self, line: Result<String, String>) -> Result<(), Failure> {
        match line {
            Ok(line) if line.trim().is_empty() => Ok(()),
            Ok(line) => {
                self.last_stderr = shown(&line);
                self.say("warn", line).await
            }
            Err(what) => self.say("warn", format!("stderr: dropped {what}")).await,
        }
    }

    async fn say(&mut self, level: &str, line: String) -> Result<(), Failure> {
        match self.job.log(level, line).await {
            Err(failure) if failure.code == ErrorCode::InvalidRequest => {
                self.job
                    .log("warn", format!("dropped a line: {}", failure.message))
                    .await
            }
            said => said,
        }
    }

    async fn message(&mut self, text: &str) -> Result<(), Failure> {
        let refused = match serde_json::from_str::<Line>(text) {
            Ok(line) => self.take(line).await?,
            Err(error) => Some(error.to_string()),
        };
        match refused {
            None => Ok(()),
            Some(why) => {
                let text = format!("stdout: not used, {why}: {}", shown(text));
                self.say("warn", text).await
            }
        }
    }

    /// Why the line cannot be used, if so.
    async fn take(&mut self, line: Line) -> Result<Option<String>, Failure> {
        if let (Some(kind), Some(body)) = (line.kind, line.body) {
            return Ok(match wire::event_from_json(&kind, body.get()) {
                Ok(event) => self
                    .job
                    .emit(event)
                    .await
                    .err()
                    .map(|failure| failure.message),
                Err(invalid) => Some(invalid.message),
            });
        }
        if let Some(text) = line.result_chunk {
            self.chunk(&text).await?;
        } else if let Some(error) = line.error {
            let code = error.code.unwrap_or(ErrorCode::InternalError);
            let mut failure = Failure::new(code, error.message);
            failure.retryable = error.retryable.unwrap_or(failure.retryable);
            self.error = Some(failure);
        } else if let Some(result) = line.result {
            self.result = Some(result.get().to_owned());
        } else {
            return Ok(Some("it is neither an event, a result nor an error".into()));
        }
        Ok(None)
    }

    async fn chunk(&mut self, text: &str) -> Result<(), Failure> {
        let mut writer = match self.chunks.take() {
            Some(writer) => writer,
            None => self.job.result_writer(ChunkEncoding::Utf8, CHUNK_BYTES)?,
        };
        writer.write(text.as_bytes()).await?;
        self.chunks = Some(writer);
        Ok(())
    }

    async fn end(self, status: ExitStatus) -> Result<AgentResult, Failure> {
        if !status.success() {
            let text = match &*self.last_stderr {
                "" => format!("agent: {status}"),
                line => format!("agent: {status}: {line}"),
            };
            return Err(self.error.unwrap_or_else(|| Failure::internal(text)));
        }
        match self.chunks {
            Some(writer) => writer.finish(None).await,
            None => Ok(self.result.unwrap_or_else(|| "null".into()).into()),
        }
    }
}

fn shown(line: &str) -> String {
    line.chars().take(SHOWN_CHARS).collect()
}
