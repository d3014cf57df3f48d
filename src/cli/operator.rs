//! What a runtime has now, of all principals; for operators (docs/observability.md).

use super::Status;
use super::print::row;
use super::target::Target;
use crate::client::{Error, Operator};
use crate::wire::proto;

const PAGE_SIZE: u32 = 1_000;

#[derive(clap::Args)]
pub(super) struct Sessions {
    /// Sessions to show at most; 0 is all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(super) struct Subscriptions {
    session_id: String,
    /// Jobs to show at most; 0 is all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(super) struct Hosts {
    /// Hosts to show at most; 0 is all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    target: Target,
}

/// Page after page, up to a limit; says on stderr where there are more.
async fn all<T>(
    limit: usize,
    mut page: impl AsyncFnMut(u32, String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let (mut rows, mut token) = (Vec::new(), String::new());
    loop {
        // One more than is shown tells whether there are more.
        let left = match limit {
            0 => PAGE_SIZE as usize,
            limit => limit + 1 - rows.len(),
        };
        let (more, next) = page(PAGE_SIZE.min(left as u32), token).await?;
        rows.extend(more);
        if limit > 0 && rows.len() > limit {
            rows.truncate(limit);
            say_more(limit);
            return Ok(rows);
        }
        if next.is_empty() {
            return Ok(rows);
        }
        token = next;
    }
}

pub(super) fn say_more(shown: usize) {
    eprintln!("arcpd: these are {shown}, and there are more; --limit 0 shows all");
}

impl Sessions {
    pub async fn run(self) -> anyhow::Result<Status> {
        let mut operator = Operator::connect(&self.target.options()?).await?;
        let sessions = all(self.limit, async |size, token| {
            operator.sessions(size, token).await
        });
        let rows = sessions.await?;
        row(&session_head())?;
        rows.iter()
            .try_for_each(|session| row(&session_row(session)))?;
        Ok(Status::Success)
    }
}

pub(super) fn session_head() -> String {
    format!(
        "{:<30} {:<16} {:<10} {:<12} {:>5} {:>10} {:>8} {:>9} {:>8}",
        "SESSION",
        "PRINCIPAL",
        "TRANSPORT",
        "STATE",
        "JOBS",
        "LAST SEQ",
        "ACK LAG",
        "UNSENT B",
        "IDLE S"
    )
}

pub(super) fn session_row(session: &proto::LiveSession) -> String {
    let ack_lag = session.ack_lag.map_or("-".into(), |lag| lag.to_string());
    format!(
        "{:<30} {:<16} {:<10} {:<12} {:>5} {:>10} {:>8} {:>9} {:>8}",
        session.session_id,
        session.principal,
        session.transport,
        session.state,
        session.subscriptions,
        session.last_event_seq,
        ack_lag,
        session.unsent_bytes,
        session.idle_ms / 1_000
    )
}

impl Subscriptions {
    pub async fn run(self) -> anyhow::Result<Status> {
        let mut operator = Operator::connect(&self.target.options()?).await?;
        let watched = all(self.limit, async |size, token| {
            operator.subscriptions(&self.session_id, size, token).await
        });
        let rows = watched.await?;
        let [job, agent, seq, lag] = ["JOB", "AGENT", "SEQ", "LAG"];
        row(&format!("{job:<30} {agent:<24} {seq:>10} {lag:>8}"))?;
        for of in rows {
            row(&format!(
                "{:<30} {:<24} {:>10} {:>8}",
                of.job_id, of.agent, of.job_seq, of.lag
            ))?;
        }
        Ok(Status::Success)
    }
}

impl Hosts {
    pub async fn run(self) -> anyhow::Result<Status> {
        let mut operator = Operator::connect(&self.target.options()?).await?;
        let hosts = all(self.limit, async |size, token| {
            operator.hosts(size, token).await
        });
        let rows = hosts.await?;
        row(&host_head())?;
        rows.iter().try_for_each(|host| row(&host_row(host)))?;
        Ok(Status::Success)
    }
}

pub(super) fn host_head() -> String {
    format!(
        "{:<24} {:<16} {:<10} {:>11}  AGENTS",
        "HOST", "PRINCIPAL", "STATE", "PLACES"
    )
}

pub(super) fn host_row(host: &proto::LiveHost) -> String {
    let agents: Vec<_> = host.agents.iter().map(|of| &*of.agent).collect();
    let places = format!("{}/{}", host.places_taken, host.places);
    format!(
        "{:<24} {:<16} {:<10} {places:>11}  {}",
        host.host_name,
        host.principal,
        host.state,
        agents.join(", ")
    )
}

/// For `arcpd jobs --live`.
pub(super) async fn live_jobs(target: &Target, limit: usize) -> anyhow::Result<Status> {
    let mut operator = Operator::connect(&target.options()?).await?;
    let jobs = all(limit, async |size, token| operator.jobs(size, token).await);
    let rows = jobs.await?;
    row(&job_head())?;
    rows.iter().try_for_each(|job| row(&job_row(job)))?;
    Ok(Status::Success)
}

pub(super) fn job_head() -> String {
    format!(
        "{:<30} {:<24} {:<16} {:<10} {:>10} {:>8}  HOST",
        "JOB", "AGENT", "PRINCIPAL", "STATUS", "LAST SEQ", "WATCHERS"
    )
}

pub(super) fn job_row(job: &proto::LiveJob) -> String {
    let status = match job.cancelling {
        true => "cancelling",
        false => &job.status,
    };
    format!(
        "{:<30} {:<24} {:<16} {:<10} {:>10} {:>8}  {}",
        job.job_id, job.agent, job.principal, status, job.last_job_seq, job.watchers, job.host_name
    )
}
