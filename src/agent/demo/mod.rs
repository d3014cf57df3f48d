//! Agents that make the protocol visible, behind `--demo-agents`.

mod authority;

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::job::{AgentDirectory, AgentResult, ChunkEncoding, JobContext};
use crate::protocol::{ErrorCode, EventBody, Failure};

/// All of them at 1.0.0, and a `report@2.0.0` that is the default.
pub fn register(agents: &mut AgentDirectory) -> Result<(), String> {
    agents
        .register("echo", "1.0.0", echo)?
        .register("word-count", "1.0.0", word_count)?
        .register("ticker", "1.0.0", ticker)?
        .register("firehose", "1.0.0", firehose)?
        .register("failer", "1.0.0", failer)?
        .register("sleeper", "1.0.0", sleeper)?
        .register("stubborn", "1.0.0", stubborn)?
        .register("report", "1.0.0", |job| report(job, ChunkEncoding::Utf8))?
        .register("report", "2.0.0", |job| report(job, ChunkEncoding::Base64))?;
    authority::register(agents)
}

fn input<T: DeserializeOwned>(job: &JobContext) -> Result<T, Failure> {
    serde_json::from_str(job.input_json())
        .map_err(|error| Failure::invalid(format!("input: {error}")))
}

async fn echo(job: JobContext) -> Result<String, Failure> {
    Ok(job.input_json().to_owned())
}

async fn word_count(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        text: String,
        /// Rest after each step, so that a person can watch.
        #[serde(default)]
        step_ms: u64,
    }
    let Input { text, step_ms } = input(&job)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut words = 0u64;
    let step = lines.len().div_ceil(20).max(1);
    for (index, line) in lines.iter().enumerate() {
        for word in line
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
        {
            words += 1;
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
        if (index + 1) % step == 0 || index + 1 == lines.len() {
            job.progress((index + 1) as f64, Some(lines.len() as f64))
                .await?;
            rest(&job, step_ms).await?;
        }
    }
    let args_json = Some(json!({ "distinct": counts.len() }).to_string());
    let call_id = "rank-1".to_owned();
    let tool = "rank".to_owned();
    job.emit(EventBody::ToolCall {
        tool,
        call_id: call_id.clone(),
        args_json,
    })
    .await?;
    let mut top: Vec<_> = counts.into_iter().collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    top.truncate(20);
    let result = Ok(json!({ "kept": top.len() }).to_string());
    job.emit(EventBody::ToolResult { call_id, result }).await?;
    Ok(
        json!({ "lines": lines.len(), "words": words, "bytes": text.len(), "top": top })
            .to_string(),
    )
}

async fn ticker(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        count: u64,
        interval_ms: u64,
    }
    let Input { count, interval_ms } = input(&job)?;
    for tick in 1..=count {
        rest(&job, interval_ms).await?;
        job.progress(tick as f64, Some(count as f64)).await?;
    }
    Ok(json!({ "ticks": count }).to_string())
}

async fn firehose(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        events: u64,
        bytes: usize,
        #[serde(default)]
        delay_ms: u64,
        #[serde(default)]
        pause_every: u64,
        #[serde(default)]
        pause_ms: u64,
    }
    let input: Input = input(&job)?;
    rest(&job, input.delay_ms).await?;
    let dots = ".".repeat(input.bytes);
    for index in 0..input.events {
        let mut message = String::with_capacity(input.bytes.max(8));
        // Writing to a string cannot fail.
        let _ = write!(message, "{index:08}");
        message.push_str(dots.get(message.len()..).unwrap_or(""));
        job.log("info", message).await?;
        if input.pause_every > 0 && (index + 1) % input.pause_every == 0 {
            rest(&job, input.pause_ms).await?;
        }
        if job.is_cancelled() {
            return Err(cancelled());
        }
    }
    Ok(json!({ "emitted": input.events }).to_string())
}

async fn failer(job: JobContext) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        code: ErrorCode,
        message: String,
        retryable: Option<bool>,
    }
    let Input {
        code,
        message,
        retryable,
    } = input(&job)?;
    let mut failure = Failure::new(code, message);
    failure.retryable = retryable.unwrap_or(failure.retryable);
    Err(failure)
}

/// `bytes` bytes of a repeating pattern, in chunks: text at 1.0.0, base64 at 2.0.0.
async fn report(job: JobContext, encoding: ChunkEncoding) -> Result<AgentResult, Failure> {
    #[derive(Deserialize)]
    struct Input {
        bytes: usize,
        chunk_bytes: usize,
    }
    let Input { bytes, chunk_bytes } = input(&job)?;
    let mut writer = job.result_writer(encoding, chunk_bytes)?;
    const LINE: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n";
    let mut left = bytes;
    while left > 0 {
        let line = &LINE[..left.min(LINE.len())];
        writer.write(line).await?;
        left -= line.len();
        if job.is_cancelled() {
            return Err(cancelled());
        }
    }
    writer.finish(Some(format!("{bytes} bytes"))).await
}

#[derive(Deserialize)]
struct Millis {
    ms: u64,
}

async fn sleeper(job: JobContext) -> Result<String, Failure> {
    let Millis { ms } = input(&job)?;
    rest(&job, ms).await?;
    Ok("null".into())
}

async fn stubborn(job: JobContext) -> Result<String, Failure> {
    let Millis { ms } = input(&job)?;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok("null".into())
}

fn cancelled() -> Failure {
    Failure::new(ErrorCode::Cancelled, "cancelled")
}

async fn rest(job: &JobContext, ms: u64) -> Result<(), Failure> {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(()),
        () = job.cancelled() => Err(cancelled()),
    }
}
