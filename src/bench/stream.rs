//! One job, streamed end to end to the client that submitted it.

use std::time::Instant;

use serde_json::json;

use super::peer::{Peer, channel};
use super::report::{Report, Target};
use super::ws::WsPeer;
use super::{Ground, median};

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let events = ground.amount(200_000);
    let (mut arcpd, mut one, mut batch) = (vec![], vec![], vec![]);
    for _ in 0..ground.rounds {
        one.push(floor(ground, events, 1).await?);
        arcpd.push(job(ground, events).await?);
        batch.push(floor(ground, events, 64).await?);
    }
    // The faster of the two ways to use tonic.
    let best = median(&mut one).max(median(&mut batch));
    let target = Target::RatioAtLeast(0.6);
    report.add(
        "one job, gRPC",
        "events/s",
        median(&mut arcpd),
        Some(best),
        target,
    );

    let (mut arcpd, mut floor) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        floor.push(ws_floor(ground, events).await?);
        arcpd.push(ws_job(ground, events).await?);
    }
    let target = Target::RatioAtLeast(0.2);
    let floor = median(&mut floor);
    report.add(
        "one job, WebSocket",
        "events/s",
        median(&mut arcpd),
        Some(floor),
        target,
    );
    Ok(())
}

/// Events a second of a firehose.
pub async fn job(ground: &Ground, events: u64) -> anyhow::Result<f64> {
    let mut peer = Peer::session(channel(&ground.runtime.address).await?).await?;
    let input = json!({ "events": events, "bytes": 128 }).to_string();
    let started = Instant::now();
    peer.submit("firehose", &input).await?;
    let received = peer.until_terminal().await?;
    anyhow::ensure!(received == events + 1, "{received} of {events}");
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

pub async fn floor(ground: &Ground, events: u64, batch: u64) -> anyhow::Result<f64> {
    let channel = channel(&ground.floor.address).await?;
    let started = Instant::now();
    let mut peer = Peer::open(channel, &format!("stream:{events}:{batch}"), None).await?;
    peer.until_terminal().await?;
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

async fn ws_job(ground: &Ground, events: u64) -> anyhow::Result<f64> {
    let mut peer = WsPeer::session(&ground.runtime.address).await?;
    let started = Instant::now();
    peer.submit("firehose", json!({ "events": events, "bytes": 128 }))
        .await?;
    peer.until(events + 1).await?;
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

async fn ws_floor(ground: &Ground, events: u64) -> anyhow::Result<f64> {
    let mut peer = WsPeer::open(&ground.floor.address, &format!("/ws?count={events}")).await?;
    let started = Instant::now();
    peer.until(events).await?;
    Ok(events as f64 / started.elapsed().as_secs_f64())
}
