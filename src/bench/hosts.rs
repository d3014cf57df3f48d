//! Jobs on remote agents: how fast their events come through, how many there can
//! be, how soon one is assigned, and what idle hosts cost.

use std::time::Instant;

use anyhow::ensure;
use tokio::task::JoinSet;

use super::client::host::{Host, result, sample};
use super::client::{Client, Wire, channel};
use super::jobs::{Trip, trips};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, median, percentile};

const AGENT: &str = "remote";
const BATCH: u64 = 64;
const IN_FLIGHT: u32 = 1_000;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let events = ground.amount(200_000);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        theirs.push(relayed(ground, events).await?);
        ours.push(streamed(ground, events).await?);
    }
    report.add(
        "one job on a remote agent, gRPC",
        "events/s",
        median(&mut ours),
        Some(median(&mut theirs)),
        Target::RatioAtLeast(0.4),
    );
    assign(ground, report).await?;
    for hosts in [1, 16] {
        let mut rates = vec![];
        for _ in 0..ground.rounds {
            rates.push(many(ground, hosts).await?);
        }
        let name = format!("jobs through {hosts} hosts, 64 clients");
        let target = Target::AtLeast(8_000.0);
        report.add(name, "jobs/s", median(&mut rates), None, target);
    }
    idle(ground, report).await
}

/// Reads to the terminal while the host sends; events a second.
async fn read(mut client: Client, started: Instant, events: u64) -> anyhow::Result<f64> {
    let received = client.until_ended(1).await?;
    ensure!(received == events + 1, "{received} of {events}");
    Ok(events as f64 / started.elapsed().as_secs_f64())
}

/// One job's events, as many in a message as a burst has, acks read on the side.
async fn send(mut host: Host, events: u64) -> anyhow::Result<()> {
    let of = host.assigned().await?;
    host.accept(&of).await?;
    let ts = prost_types::Timestamp {
        seconds: 1_800_000_000,
        nanos: 123_000_000,
    };
    let mut next = 1;
    while next <= events {
        let last = (next + BATCH).min(events + 1);
        let reports = (next..last).map(|seq| sample(seq, ts)).collect();
        let sent = host.report(&of, reports);
        sent.await?;
        next = last;
    }
    host.report(&of, vec![result(events + 1)]).await?;
    // Acks come until the runtime hangs up.
    while host.hear().await.is_ok() {}
    Ok(())
}

async fn streamed(ground: &Ground, events: u64) -> anyhow::Result<f64> {
    let address = &ground.runtime.address;
    let host = Host::serving(channel(address).await?, "one", AGENT, 1).await?;
    let mut client = ground.runtime.dial(Wire::Grpc).session().await?;
    let started = Instant::now();
    client.submit(AGENT, "1").await?;
    let sender = tokio::spawn(send(host, events));
    let rate = read(client, started, events).await;
    sender.abort();
    rate
}

async fn relayed(ground: &Ground, events: u64) -> anyhow::Result<f64> {
    let address = &ground.floor.address;
    let mut client = ground.floor.dial(Wire::Grpc).open("relay", None).await?;
    client.recv().await?;
    let host = Host::serving(channel(address).await?, "one", AGENT, 1).await?;
    let started = Instant::now();
    let sender = tokio::spawn(send(host, events));
    let rate = read(client, started, events).await;
    sender.abort();
    rate
}

/// From a client's submit to the assignment at a host that waits for it.
async fn assign(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let address = &ground.runtime.address;
    let mut host = Host::serving(channel(address).await?, "assign", AGENT, 1).await?;
    let mut client = ground.runtime.dial(Wire::Grpc).session().await?;
    let mut times = vec![];
    for _ in 0..ground.amount(5_000) {
        let started = Instant::now();
        client.submit(AGENT, "1").await?;
        let of = host.assigned().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        host.accept(&of).await?;
        host.report(&of, vec![result(1)]).await?;
        client.until_ended(1).await?;
    }
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    report.add("submit→assigned, p50", "ms", p50, None, Target::AtMost(0.5));
    report.add("submit→assigned, p99", "ms", p99, None, Target::None);
    Ok(())
}

async fn many(ground: &Ground, hosts: u64) -> anyhow::Result<f64> {
    let address = &ground.runtime.address;
    let mut serving = JoinSet::new();
    for index in 0..hosts {
        let name = format!("many-{index}");
        let mut host = Host::serving(channel(address).await?, &name, AGENT, IN_FLIGHT).await?;
        serving.spawn(async move { host.echo().await });
    }
    let each = ground.amount(20_000) / 64;
    let trip = Trip::Job(AGENT);
    let (rate, _) = trips(&ground.runtime, Wire::Grpc, trip, 64, each.max(1)).await?;
    if let Some(Ok(ended)) = serving.try_join_next() {
        ended?;
    }
    Ok(rate)
}

async fn idle(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let count = if ground.quick { 100 } else { 1_000 };
    let dir = tempfile::tempdir()?;
    let runtime = Process::runtime(dir.path())?;
    let before = runtime.memory();
    let mut hosts = Vec::new();
    let mut shared = channel(&runtime.address).await?;
    for index in 0..count {
        if index % 100 == 0 {
            shared = channel(&runtime.address).await?;
        }
        let name = format!("idle-{index}");
        hosts.push(Host::serving(shared.clone(), &name, AGENT, 1).await?);
    }
    let each = (runtime.memory() - before) / f64::from(count) / 1024.0;
    let name = format!("memory of an idle host, {count}, 100 a connection");
    report.add(name, "KiB", each, None, Target::None);
    // What they cost a job: its place is looked for among all of them.
    let (submits, trip) = (ground.amount(1_000), Trip::Job("echo"));
    let mut times = trips(&runtime, Wire::Grpc, trip, 1, submits).await?.1;
    let name = format!("submit→result beside {count} idle hosts, p50");
    report.add(name, "ms", median(&mut times), None, Target::None);
    Ok(())
}
