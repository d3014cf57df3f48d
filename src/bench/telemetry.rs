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
use super::{Ground, median, stream};

const CLIENTS: u64 = 64;
/// What full sampling may leave of a throughput.
const LEFT: Target = Target::RatioAtLeast(0.9);

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let traced = Process::exporting(dir.path(), &sink().await?)?;
    let each = ground.amount(60_000).div_ceil(CLIENTS);
    let events = ground.amount(200_000);
    let (mut on, mut off) = (vec![], vec![]);
    let (mut streamed_on, mut streamed_off) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        for (process, rates, streamed) in [
            (&ground.runtime, &mut off, &mut streamed_off),
            (&traced, &mut on, &mut streamed_on),
        ] {
            let echo = Trip::Job("echo");
            let (rate, _) = jobs::trips(process, Wire::Grpc, echo, CLIENTS, each).await?;
            rates.push(rate);
            streamed.push(stream::job_of(process, Wire::Grpc, events).await?);
        }
    }
    let (on, off) = (median(&mut on), median(&mut off));
    let name = format!("jobs, {CLIENTS} clients, every span exported");
    report.add(name, "jobs/s", on, Some(off), LEFT);
    let (on, off) = (median(&mut streamed_on), median(&mut streamed_off));
    report.add(
        "one job, its spans exported",
        "events/s",
        on,
        Some(off),
        LEFT,
    );
    // Fast, and with holes in the traces, would be no achievement.
    let made = ground.rounds as f64 * (2.0 * (CLIENTS * each) as f64 + CLIENTS as f64 + 3.0);
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

/// Where spans are taken and forgotten: its URL.
async fn sink() -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/v1/traces", post(|_: Bytes| async {}));
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}
