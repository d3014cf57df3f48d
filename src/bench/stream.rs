//! One job, streamed end to end to the client that submitted it.

use std::time::Instant;

use serde_json::json;

use super::client::{Ask, Wire};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, median};

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let events = ground.amount(200_000);
    for wire in Wire::ALL {
        let (mut arcpd, mut bare) = (vec![], vec![]);
        for _ in 0..ground.rounds {
            bare.push(floor(ground, wire, events).await?);
            arcpd.push(job(ground, wire, events).await?);
        }
        let target = match wire {
            Wire::Grpc => Target::RatioAtLeast(0.6),
            Wire::WebSocket => Target::RatioAtLeast(0.2),
        };
        let (arcpd, bare) = (median(&mut arcpd), median(&mut bare));
        let name = format!("one job, {wire}");
        report.add(name, "events/s", arcpd, Some(bare), target);
    }
    Ok(())
}

/// What a firehose that begins after `delay_ms` is given.
pub fn firehose(events: u64, delay_ms: u64) -> String {
    json!({ "events": events, "bytes": 128, "delay_ms": delay_ms }).to_string()
}

/// Events a second of a firehose.
pub async fn job(ground: &Ground, wire: Wire, events: u64) -> anyhow::Result<f64> {
    job_of(&ground.runtime, wire, events).await
}

/// The same of any runtime.
pub async fn job_of(runtime: &Process, wire: Wire, events: u64) -> anyhow::Result<f64> {
    let mut client = runtime.dial(wire).session().await?;
    let started = Instant::now();
    client.submit("firehose", &firehose(events, 0)).await?;
    let received = client.until_ended(1).await?;
    anyhow::ensure!(received == events + 1, "{received} of {events}");
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

/// The better of the ways to use the library: one envelope in a message or
/// many, each text flushed with others.
pub async fn floor(ground: &Ground, wire: Wire, events: u64) -> anyhow::Result<f64> {
    let mut best: f64 = 0.0;
    for batch in batches(wire) {
        let name = format!("stream:{events}:{batch}");
        let mut client = ground.floor.dial(wire).open(&name, None).await?;
        client.recv().await?;
        let started = Instant::now();
        client.send(Ask::Ping).await?;
        client.until_ended(1).await?;
        best = best.max(events as f64 / started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Messages that are sent together: what the floor is tried with.
pub fn batches(wire: Wire) -> &'static [u64] {
    match wire {
        Wire::Grpc => &[1, 64],
        Wire::WebSocket => &[64],
    }
}
