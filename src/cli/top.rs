//! A view of a runtime that refreshes; for operators.
//!
//! One frame is plain text, so `--once` is one for scripts. On a terminal each is
//! drawn over the last, cut to what fits, until `q` or a signal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use super::operator::{host_head, host_row, job_head, job_row, session_head, session_row};
use super::print::{exactly, plain};
use super::screen::{Screen, quit_key, stop_signal};
use super::target::Target;
use super::{Status, Usage};
use crate::client::Operator;
use crate::wire::proto;

/// Of each list; the lists in full are commands of their own.
const ROWS_MAX: u32 = 100;
/// Where the size of the terminal cannot be had.
const SIZE: (usize, usize) = (24, 80);

const HOME: &str = "\x1b[H";
const TO_END_OF_LINE: &str = "\x1b[K";
const TO_END_OF_SCREEN: &str = "\x1b[J";

#[derive(clap::Args)]
pub(super) struct Top {
    /// Print one frame and exit.
    #[arg(long)]
    once: bool,
    /// Seconds between frames.
    #[arg(long, default_value_t = 2.0)]
    interval_sec: f64,
    #[command(flatten)]
    target: Target,
}

struct Seen {
    overview: proto::GetOverviewResponse,
    sessions: Vec<proto::LiveSession>,
    jobs: Vec<proto::LiveJob>,
    hosts: Vec<proto::LiveHost>,
}

impl Top {
    pub async fn run(self) -> anyhow::Result<Status> {
        let interval = Duration::try_from_secs_f64(self.interval_sec);
        let interval = interval.ok().filter(|interval| !interval.is_zero());
        let Some(interval) = interval else {
            return Err(Usage("--interval-sec: must be more than 0".into()).into());
        };
        let mut operator = Operator::connect(&self.target.options()?).await?;
        let first = see(&mut operator).await?;
        if self.once || !std::io::stdout().is_terminal() {
            return exactly(&frame(&first, None)).map(|()| Status::Success);
        }
        // Heard before there is anything to be given back.
        let stopped = stop_signal()?;
        let screen = Screen::enter()?;
        let ended = tokio::select! {
            ended = refresh(&mut operator, first, interval) => ended,
            () = stopped => Ok(()),
            () = quit_key() => Ok(()),
        };
        drop(screen);
        ended.map(|()| Status::Success)
    }
}

async fn see(operator: &mut Operator) -> Result<Seen, crate::client::Error> {
    Ok(Seen {
        overview: operator.overview().await?,
        sessions: operator.sessions(ROWS_MAX, String::new()).await?.0,
        jobs: operator.jobs(ROWS_MAX, String::new()).await?.0,
        hosts: operator.hosts(ROWS_MAX, String::new()).await?.0,
    })
}

async fn refresh(
    operator: &mut Operator,
    mut seen: Seen,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut rate = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        draw(&frame(&seen, rate))?;
        ticks.tick().await;
        let now = see(operator).await?;
        rate = rate_of(&seen.overview, &now.overview);
        seen = now;
    }
}

/// Records a second between two looks.
fn rate_of(before: &proto::GetOverviewResponse, now: &proto::GetOverviewResponse) -> Option<f64> {
    let seconds = seconds(now.at?) - seconds(before.at?);
    let records = now.records.saturating_sub(before.records);
    (seconds > 0.0).then(|| records as f64 / seconds)
}

fn seconds(at: prost_types::Timestamp) -> f64 {
    at.seconds as f64 + f64::from(at.nanos) / 1e9
}

fn draw(frame: &str) -> std::io::Result<()> {
    let (rows, columns) = size();
    let mut out = String::from(HOME);
    for (number, line) in frame.lines().take(rows).enumerate() {
        if number > 0 {
            out.push('\n');
        }
        out.extend(line.chars().take(columns));
        out.push_str(TO_END_OF_LINE);
    }
    out.push_str(TO_END_OF_SCREEN);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()
}

fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let size = size.map(|size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    size.ok().filter(|size| size.0 > 0).unwrap_or(SIZE)
}

fn frame(seen: &Seen, rate: Option<f64>) -> String {
    let of = &seen.overview;
    let mut text = String::new();
    let mut line = |row: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", plain(&row).trim_end());
    };
    let up = of.at.zip(of.started_at);
    let up = up.map_or(0.0, |(at, started)| seconds(at) - seconds(started));
    let rate = rate.map_or(String::new(), |rate| format!(", {rate:.0} a second"));
    line(format!("arcpd {}  {}  up {up:.0} s", of.version, of.state));
    line(format!(
        "sessions  {} attached, {} parked",
        of.sessions_attached, of.sessions_parked
    ));
    line(format!(
        "jobs      {} running, {} pending",
        of.jobs_running, of.jobs_pending
    ));
    line(format!(
        "log       {} records{rate}; positions {} to {}; {} bytes in use",
        of.records, of.first_position, of.committed_position, of.store_used_bytes
    ));
    line(format!(
        "fan-out   {} blocks behind, {} catch-ups",
        of.fanout_lag_blocks, of.fanout_catch_ups
    ));
    for limit in &of.limits {
        let whose = match &*limit.principal {
            "" => String::new(),
            principal => format!("  ({principal})"),
        };
        line(format!(
            "limit     {:<32} {} of {}{whose}",
            limit.name, limit.used, limit.max
        ));
    }
    line(String::new());
    line(host_head());
    seen.hosts.iter().for_each(|host| line(host_row(host)));
    line(String::new());
    line(job_head());
    seen.jobs.iter().for_each(|job| line(job_row(job)));
    line(String::new());
    line(session_head());
    seen.sessions.iter().for_each(|s| line(session_row(s)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_records_between_two_looks() {
        let at = |seconds, records| proto::GetOverviewResponse {
            at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            records,
            ..Default::default()
        };
        assert_eq!(rate_of(&at(10, 100), &at(14, 300)), Some(50.0));
        assert_eq!(rate_of(&at(10, 100), &at(10, 300)), None);
        // The runtime began anew.
        assert_eq!(rate_of(&at(10, 100), &at(12, 0)), Some(0.0));
    }
}
