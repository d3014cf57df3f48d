//! What sessions and jobs cost that do nothing, and what they cost the others.

use std::time::{Duration, Instant};

use super::client::{Client, Wire};
use super::jobs::{Trip, trips};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, median, stream};

const SESSIONS_PER_CONNECTION: u64 = 1_000;
/// Below the limit of what one session watches.
const JOBS_PER_SESSION: u64 = 1_000;
const KIB: f64 = 1024.0;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let (few, many) = match ground.quick {
        true => (100, 200),
        false => (1_000, 10_000),
    };
    for (count, per_connection) in [(few, 100), (few, 1), (many, SESSIONS_PER_CONNECTION)] {
        let (arcpd, floor) = idle(Wire::Grpc, count, per_connection).await?;
        let name =
            format!("memory of an idle session, {count} gRPC, {per_connection} a connection");
        let target = Target::AtMost(floor + 8.0);
        report.add(name, "KiB", arcpd, Some(floor), target);
    }
    for count in [few, many] {
        let (arcpd, floor) = idle(Wire::WebSocket, count, 1).await?;
        let name = format!("memory of an idle session, {count} WebSocket");
        report.add(name, "KiB", arcpd, Some(floor), Target::AtMost(26.0));
    }
    for count in [few, many] {
        let name = format!("memory of a running job, {count} watched");
        let each = running(count).await?;
        report.add(name, "KiB", each, None, Target::AtMost(8.0));
    }
    beside(ground, report, many).await
}

/// KiB of each session of the runtime, and of each stream of the floor.
async fn idle(wire: Wire, count: u64, per_connection: u64) -> anyhow::Result<(f64, f64)> {
    // New processes: memory that others gave back would hide what these take.
    let floor = sessions(&Process::floor()?, wire, count, per_connection)
        .await?
        .0;
    let dir = tempfile::tempdir()?;
    let runtime = Process::runtime(dir.path())?;
    let arcpd = sessions(&runtime, wire, count, per_connection).await?.0;
    Ok((arcpd, floor))
}

/// KiB of each, and the sessions, still open.
async fn sessions(
    process: &Process,
    wire: Wire,
    count: u64,
    per_connection: u64,
) -> anyhow::Result<(f64, Vec<Client>)> {
    let before = process.memory();
    let mut dialler = process.dial_sharing(wire, per_connection);
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = dialler.open("echo", None).await?;
        client.recv().await?;
        clients.push(client);
    }
    Ok(((process.memory() - before) / count as f64 / KIB, clients))
}

/// KiB of each of `count` jobs that have run and are watched for a while.
async fn running(count: u64) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let runtime = Process::runtime(dir.path())?;
    let mut dialler = runtime.dial(Wire::Grpc);
    let mut clients = Vec::new();
    for _ in 0..count.div_ceil(JOBS_PER_SESSION) {
        clients.push(dialler.session().await?);
    }
    let before = runtime.memory();
    for index in 0..count {
        let client = &mut clients[(index / JOBS_PER_SESSION) as usize];
        client.submit("sleeper", r#"{"ms":3600000}"#).await?;
        client.accepted().await?;
    }
    Ok((runtime.memory() - before) / count as f64 / KIB)
}

/// Latency and rate with and without many idle sessions, in turns.
async fn beside(ground: &Ground, report: &mut Report, count: u64) -> anyhow::Result<()> {
    let (jobs, events) = (ground.amount(2_000), ground.amount(200_000));
    let (mut alone, mut alone_rate, mut beside, mut beside_rate) = (vec![], vec![], vec![], vec![]);
    let mut cpu = vec![];
    let runtime = &ground.runtime;
    for _ in 0..ground.rounds {
        alone.extend(
            trips(runtime, Wire::Grpc, Trip::Job("echo"), 1, jobs)
                .await?
                .1,
        );
        alone_rate.push(stream::job(ground, Wire::Grpc, events).await?);
        let (_, kept) = sessions(runtime, Wire::Grpc, count, SESSIONS_PER_CONNECTION).await?;
        let (busy, started) = (runtime.cpu(), Instant::now());
        let quiet = Duration::from_secs(if ground.quick { 1 } else { 5 });
        tokio::time::sleep(quiet).await;
        cpu.push((runtime.cpu() - busy) / started.elapsed().as_secs_f64() * 100.0);
        beside.extend(
            trips(runtime, Wire::Grpc, Trip::Job("echo"), 1, jobs)
                .await?
                .1,
        );
        beside_rate.push(stream::job(ground, Wire::Grpc, events).await?);
        drop(kept);
    }
    let (ours, alone) = (median(&mut beside), median(&mut alone));
    let name = format!("submit→result p50 beside {count} idle sessions, gRPC");
    report.add(name, "ms", ours, Some(alone), Target::RatioAtMost(1.1));
    let (ours, alone) = (median(&mut beside_rate), median(&mut alone_rate));
    let name = format!("one job, gRPC, beside {count} idle sessions");
    let target = Target::RatioAtLeast(0.9);
    report.add(name, "events/s", ours, Some(alone), target);
    let name = format!("CPU of {count} idle sessions, gRPC");
    let target = Target::AtMost(5.0);
    report.add(name, "% of a core", median(&mut cpu), None, target);
    Ok(())
}
