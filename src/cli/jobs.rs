use anyhow::Context;

use super::Status;
use super::print::{exactly, row};
use super::target::Target;
use crate::wire::proto;

#[derive(clap::Args)]
pub(super) struct Jobs {
    /// pending, running, success, error, cancelled or timed_out; may be repeated.
    #[arg(long)]
    status: Vec<String>,
    /// `name` matches every version, `name@version` one.
    #[arg(long, default_value = "")]
    agent: String,
    /// RFC 3339, exclusive.
    #[arg(long)]
    created_after: Option<String>,
    /// RFC 3339, exclusive.
    #[arg(long)]
    created_before: Option<String>,
    /// Jobs to show at most; 0 is all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[arg(long)]
    json: bool,
    /// Jobs of all principals that are not over; for operators.
    #[arg(long, conflicts_with_all = ["status", "agent", "created_after", "created_before", "json"])]
    live: bool,
    #[command(flatten)]
    target: Target,
}

impl Jobs {
    pub async fn run(self) -> anyhow::Result<Status> {
        if self.live {
            return super::operator::live_jobs(&self.target, self.limit).await;
        }
        let mut list = proto::SessionListJobs {
            statuses: self.status.clone(),
            agent: self.agent.clone(),
            created_after: instant("--created-after", self.created_after.as_deref())?,
            created_before: instant("--created-before", self.created_before.as_deref())?,
            limit: 1_000.min(self.limit as u32),
            cursor: String::new(),
        };
        let mut client = self.target.connect().await?;
        let mut jobs = Vec::new();
        loop {
            let page = client.list(list.clone()).await?;
            jobs.extend(page.jobs);
            list.cursor = page.next_cursor;
            if list.cursor.is_empty() || (self.limit > 0 && jobs.len() >= self.limit) {
                break;
            }
        }
        if self.limit > 0 && (jobs.len() > self.limit || !list.cursor.is_empty()) {
            jobs.truncate(self.limit);
            super::operator::say_more(self.limit);
        }
        client.close().await;
        match self.json {
            true => print_json(&jobs)?,
            false => print_table(&jobs)?,
        }
        Ok(Status::Success)
    }
}

fn instant(flag: &str, text: Option<&str>) -> anyhow::Result<Option<prost_types::Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    let at: jiff::Timestamp = text
        .parse()
        .with_context(|| format!("{flag}: not an RFC 3339 instant"))?;
    Ok(Some(prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }))
}

fn created_at(job: &proto::JobSummary) -> String {
    let at = job.created_at.unwrap_or_default();
    jiff::Timestamp::new(at.seconds, at.nanos).map_or_else(|_| "-".into(), |at| format!("{at:.3}"))
}

fn print_table(jobs: &[proto::JobSummary]) -> anyhow::Result<()> {
    let [job, agent, status] = ["JOB", "AGENT", "STATUS"];
    row(&format!("{job:<30} {agent:<24} {status:<10} CREATED"))?;
    for job in jobs {
        let created = created_at(job);
        row(&format!(
            "{:<30} {:<24} {:<10} {created}",
            job.job_id, job.agent, job.status
        ))?;
    }
    Ok(())
}

fn print_json(jobs: &[proto::JobSummary]) -> anyhow::Result<()> {
    let rows: Vec<_> = jobs
        .iter()
        .map(|job| {
            serde_json::json!({ "job_id": job.job_id, "agent": job.agent, "status": job.status,
                "created_at": created_at(job), "last_event_seq": job.last_event_seq,
                "trace_id": job.trace_id })
        })
        .collect();
    exactly(&format!("{}\n", serde_json::to_string_pretty(&rows)?))
}
