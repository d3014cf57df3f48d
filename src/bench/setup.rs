//! Opening sessions: one after the other, many at a time, and beside a job that
//! emits as fast as it can.

use std::time::Instant;

use tokio::task::JoinSet;

use super::client::{Dialler, Wire};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, median, stream};

const AT_A_TIME: u64 = 64;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    for wire in Wire::ALL {
        let count = ground.amount(500);
        let (mut ours, mut theirs) = (vec![], vec![]);
        for _ in 0..ground.rounds {
            theirs.push(at_a_time(&ground.floor, wire, 1, count).await?);
            ours.push(at_a_time(&ground.runtime, wire, 1, count).await?);
        }
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        let name = format!("sessions set up, one at a time, {wire}");
        report.add(name, "1/s", ours, Some(theirs), Target::None);

        let each = ground.amount(1_920).div_ceil(AT_A_TIME);
        let (mut ours, mut theirs) = (vec![], vec![]);
        for _ in 0..ground.rounds {
            theirs.push(at_a_time(&ground.floor, wire, AT_A_TIME, each).await?);
            ours.push(at_a_time(&ground.runtime, wire, AT_A_TIME, each).await?);
        }
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        let target = match wire {
            Wire::Grpc => Target::RatioAtLeast(0.5),
            Wire::WebSocket => Target::None,
        };
        let name = format!("sessions set up, {AT_A_TIME} at a time, {wire}");
        report.add(name, "1/s", ours, Some(theirs), target);

        let mut worst = vec![];
        for _ in 0..ground.rounds {
            worst.push(beside_a_firehose(ground, wire).await?);
        }
        let name = format!("connect beside a firehose, worst of 50, {wire}");
        let target = match wire {
            Wire::Grpc => Target::AtMost(20.0),
            Wire::WebSocket => Target::None,
        };
        report.add(name, "ms", median(&mut worst), None, target);
    }
    Ok(())
}

/// A connection of its own, and the first answer on it.
async fn one(mut dialler: Dialler) -> anyhow::Result<()> {
    dialler.open("echo", None).await?.recv().await.map(drop)
}

/// Sessions a second; so many tasks open `each`, one after the other.
pub async fn at_a_time(
    process: &Process,
    wire: Wire,
    tasks: u64,
    each: u64,
) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut openers = JoinSet::new();
    for _ in 0..tasks {
        let diallers: Vec<_> = (0..each).map(|_| process.dial(wire)).collect();
        openers.spawn(async move {
            for dialler in diallers {
                one(dialler).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(opener) = openers.join_next().await {
        opener??;
    }
    Ok((tasks * each) as f64 / started.elapsed().as_secs_f64())
}

/// Milliseconds of the slowest of 50, while another session's job emits.
async fn beside_a_firehose(ground: &Ground, wire: Wire) -> anyhow::Result<f64> {
    let mut busy = ground.runtime.dial(wire).session().await?;
    let input = stream::firehose(ground.amount(1_000_000), 0);
    busy.submit("firehose", &input).await?;
    let reader = tokio::spawn(async move { busy.until_ended(1).await });
    let mut worst: f64 = 0.0;
    for _ in 0..50 {
        let started = Instant::now();
        one(ground.runtime.dial(wire)).await?;
        worst = worst.max(started.elapsed().as_secs_f64() * 1e3);
    }
    reader.abort();
    Ok(worst)
}
