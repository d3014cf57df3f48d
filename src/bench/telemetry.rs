//! What tracing costs: the same work on a runtime that exports every span beside one
//! that exports none, in turn.
//!
//! Whoever takes the spans is this process. It looks at none of them, but shares the
//! processors with all that is measured.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;

use super::client::Wire;
use super::jobs::{self, Trip};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, stream};

const CLIENTS: u64 = 64;
/// Of each runtime in a round: the shorter, the less the machine changes in between.
const TURNS: u64 = 4;
/// What full sampling may leave of a throughput.
const LEFT: Target = Target::RatioAtLeast(0.9);

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let traced = Process::exporting(dir.path(), &sink().await?)?;
    let each = ground.amount(60_000).div_ceil(CLIENTS * TURNS);
    let events = ground.amount(200_000);
    let (mut rates, mut costs, mut streamed) = (vec![], vec![], vec![]);
    for turn in 0..ground.rounds as u64 * TURNS {
        // Neither is always the one that comes second.
        let (on, off) = match turn % 2 {
            0 => {
                let off = echoes(&ground.runtime, each).await?;
                (echoes(&traced, each).await?, off)
            }
            _ => {
                let on = echoes(&traced, each).await?;
                (on, echoes(&ground.runtime, each).await?)
            }
        };
        rates.push((on.0, off.0));
        costs.push((on.1, off.1));
    }
    for _ in 0..ground.rounds {
        let off = stream::job_of(&ground.runtime, Wire::Grpc, events).await?;
        let on = stream::job_of(&traced, Wire::Grpc, events).await?;
        streamed.push((on, off));
    }
    let name = format!("jobs, {CLIENTS} clients, every span exported");
    report.add_pairs(name, "jobs/s", &rates, LEFT);
    let name = "the same, the runtime's CPU a job";
    report.add_pairs(name, "us", &costs, Target::None);
    let name = "one job, its spans exported";
    report.add_pairs(name, "events/s", &streamed, LEFT);
    // Fast, and with holes in the traces, would be no achievement.
    let (rounds, clients) = (ground.rounds as f64, CLIENTS as f64);
    let turns = TURNS as f64 * (2.0 * each as f64 + 1.0) * clients;
    let made = rounds * (turns + 3.0);
    let dropped = traced.metric("arcpd_telemetry_spans_dropped_total").await?;
    let share = 100.0 * dropped / made;
    report.add(
        "spans dropped meanwhile",
        "%",
        share,
        None,
        Target::AtMost(0.0),
    );
    Ok(())
}

/// Jobs a second, and microseconds of the runtime's CPU for one.
async fn echoes(process: &Process, each: u64) -> anyhow::Result<(f64, f64)> {
    let before = process.cpu();
    let echo = Trip::Job("echo");
    let (rate, _) = jobs::trips(process, Wire::Grpc, echo, CLIENTS, each).await?;
    let spent = process.cpu() - before;
    Ok((rate, spent * 1e6 / (CLIENTS * each) as f64))
}

/// Where spans are taken and forgotten: its URL.
async fn sink() -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/v1/traces", post(|_: Bytes| async {}));
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}
