//! Opening sessions: one after the other, many at a time, and beside a job that
//! emits as fast as it can.

use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use super::peer::{Peer, channel};
use super::report::{Report, Target};
use super::{Ground, median};

const AT_A_TIME: u64 = 64;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let count = ground.amount(500);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        theirs.push(sequential(&ground.floor.address, count).await?);
        ours.push(sequential(&ground.runtime.address, count).await?);
    }
    let floor = Some(median(&mut theirs));
    report.add(
        "sessions set up, one at a time",
        "1/s",
        median(&mut ours),
        floor,
        Target::None,
    );
    let count = ground.amount(1_920).max(AT_A_TIME);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        theirs.push(at_a_time(&ground.floor.address, count).await?);
        ours.push(at_a_time(&ground.runtime.address, count).await?);
    }
    let floor = Some(median(&mut theirs));
    let target = Target::RatioAtLeast(0.5);
    report.add(
        "sessions set up, 64 at a time",
        "1/s",
        median(&mut ours),
        floor,
        target,
    );

    let mut worst = vec![];
    for _ in 0..ground.rounds {
        worst.push(beside_a_firehose(ground).await?);
    }
    let target = Target::AtMost(20.0);
    report.add(
        "connect beside a firehose, worst of 50",
        "ms",
        median(&mut worst),
        None,
        target,
    );
    Ok(())
}

/// A connection of its own, and the first answer on it.
async fn one(address: &str) -> anyhow::Result<()> {
    let mut peer = Peer::open(channel(address).await?, "echo", None).await?;
    peer.recv().await.map(drop)
}

async fn sequential(address: &str, count: u64) -> anyhow::Result<f64> {
    let started = Instant::now();
    for _ in 0..count {
        one(address).await?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

async fn at_a_time(address: &str, count: u64) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let address = address.to_owned();
        tasks.spawn(async move {
            for _ in 0..count / AT_A_TIME {
                one(&address).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok((count / AT_A_TIME * AT_A_TIME) as f64 / started.elapsed().as_secs_f64())
}

/// Milliseconds of the slowest of 50, while another session's job emits.
async fn beside_a_firehose(ground: &Ground) -> anyhow::Result<f64> {
    let address = ground.runtime.address.clone();
    let mut busy = Peer::session(channel(&address).await?).await?;
    let input = json!({ "events": ground.amount(1_000_000), "bytes": 128 }).to_string();
    busy.submit("firehose", &input).await?;
    let reader = tokio::spawn(async move { busy.until_terminal().await });
    let mut worst: f64 = 0.0;
    for _ in 0..50 {
        let started = Instant::now();
        one(&address).await?;
        worst = worst.max(started.elapsed().as_secs_f64() * 1e3);
    }
    reader.abort();
    Ok(worst)
}
