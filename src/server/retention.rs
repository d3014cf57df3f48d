//! How long what is over is kept, and the task that sees to it while running.
//!
//! Age counts from a job's terminal. A job that runs is never touched, nor one
//! that a connected session has still to finish reading, at whichever replica.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::cell::Readers;
use crate::fanout::Hub;
use crate::job::now;
use crate::log::{Command, Error, Log, StreamId};

/// Jobs looked at, and jobs removed, in one transaction.
const BATCH: usize = 64;
/// What a trimmed job leaves is needed by sessions that could still want it.
const REMAINS_KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Seconds an ended job and its events are kept.
    pub age_max_sec: u64,
    /// Above this size of the store the oldest ended jobs go early; 0 is no bound.
    pub bytes_max: u64,
    pub check_interval_sec: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age_max_sec: 7 * 24 * 3600,
            bytes_max: 0,
            check_interval_sec: 60,
        }
    }
}

impl Retention {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.age_max_sec >= 1,
            "retention.age_max_sec: must be 1 or more"
        );
        let interval = self.check_interval_sec;
        ensure!(
            (1..=3600).contains(&interval),
            "retention.check_interval_sec: is {interval}, must be 1 to 3600"
        );
        Ok(())
    }
}

/// Runs until the log is closed.
pub(super) async fn run(
    log: Log,
    hub: Arc<Hub>,
    elsewhere: Option<Readers>,
    retention: Retention,
    resume_window: Duration,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(retention.check_interval_sec));
    loop {
        ticks.tick().await;
        let cell = elsewhere.as_ref();
        let passed = async {
            match cell {
                Some(cell) if !cell.trims().await? => Ok(0),
                cell => pass(&log, &hub, cell, &retention, resume_window).await,
            }
        };
        match passed.await {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "trimmed ended jobs"),
            Err(error) => tracing::warn!(%error, "retention failed; it tries again"),
        }
    }
}

/// One look at the store; returns the jobs removed.
async fn pass(
    log: &Log,
    hub: &Hub,
    elsewhere: Option<&Readers>,
    retention: &Retention,
    resume_window: Duration,
) -> Result<usize, Error> {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let age_max = ms(Duration::from_secs(retention.age_max_sec));
    let (mut removed, mut after) = (0, 0);
    loop {
        let oldest = now().0.saturating_sub(age_max);
        let used = log.bytes_used().await?;
        let mut excess = match retention.bytes_max {
            0 => 0,
            bytes_max => used.saturating_sub(bytes_max),
        };
        let jobs = log.trimmable(after, BATCH).await?;
        let mut more = jobs.len() == BATCH;
        let mut streams: Vec<StreamId> = Vec::new();
        for job in jobs {
            if job.ended_at_ms > oldest && excess == 0 {
                more = false;
                break;
            }
            // One that stays must not hide those behind it.
            after = job.end_position;
            if !hub.is_followed(job.stream) {
                streams.push(job.stream);
                excess = excess.saturating_sub(job.bytes.max(1));
            }
        }
        let wanted = streams.len();
        let Some(trimmed) = trim(log, hub, elsewhere, streams).await? else {
            break;
        };
        removed += trimmed;
        // What is still read makes room for those behind it.
        more |= trimmed < wanted;
        if trimmed == 0 && !more {
            break;
        }
    }
    let forget = Command::Forget {
        parked_before_ms: now().0.saturating_sub(ms(resume_window)),
        ended_before_ms: now().0.saturating_sub(age_max + ms(REMAINS_KEPT)),
    };
    log.execute(forget).await?;
    Ok(removed)
}

/// Removes those that nobody has still to read; none when that cannot be said now.
async fn trim(
    log: &Log,
    hub: &Hub,
    elsewhere: Option<&Readers>,
    streams: Vec<StreamId>,
) -> Result<Option<usize>, Error> {
    if streams.is_empty() {
        return Ok(Some(0));
    }
    let Some(cell) = elsewhere else {
        return trim_but(log, hub, streams, &HashSet::new()).await.map(Some);
    };
    let trimmed = match cell.of(&streams).await {
        Ok(Some(read)) => trim_but(log, hub, streams, &read).await.map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    // However that went: those who answered hold readers back until then.
    cell.over().await;
    trimmed
}

async fn trim_but(
    log: &Log,
    hub: &Hub,
    mut streams: Vec<StreamId>,
    read: &HashSet<StreamId>,
) -> Result<usize, Error> {
    let _trimming = hub.trimming().await;
    streams.retain(|stream| !read.contains(stream) && !hub.is_followed(*stream));
    let trimmed = streams.len();
    if trimmed > 0 {
        log.trim(streams).await?;
    }
    Ok(trimmed)
}
