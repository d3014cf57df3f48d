//! What sessions cost that do nothing, and what they cost the others.

use std::time::{Duration, Instant};

use super::peer::{Peer, channel};
use super::process::Process;
use super::report::{Report, Target};
use super::ws::WsPeer;
use super::{Ground, jobs, median, stream};

const SESSIONS_PER_CONNECTION: u64 = 1_000;
const KIB: f64 = 1024.0;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let (few, many) = match ground.quick {
        true => (100, 200),
        false => (1_000, 10_000),
    };
    for (count, per_connection) in [(few, 100), (few, 1), (many, SESSIONS_PER_CONNECTION)] {
        // New processes: memory that others gave back would hide what these take.
        let floor = grpc(&Process::floor()?, count, per_connection).await?.0;
        let dir = tempfile::tempdir()?;
        let arcpd = grpc(&Process::runtime(dir.path())?, count, per_connection)
            .await?
            .0;
        let name =
            format!("memory of an idle session, {count} gRPC, {per_connection} a connection");
        let target = Target::AtMost(floor + 8.0);
        report.add(name, "KiB", arcpd, Some(floor), target);
    }
    let dir = tempfile::tempdir()?;
    let runtime = Process::runtime(dir.path())?;
    let before = runtime.memory();
    let mut sockets = Vec::new();
    for _ in 0..few {
        sockets.push(WsPeer::session(&runtime.address).await?);
    }
    let each = (runtime.memory() - before) / few as f64 / KIB;
    report.add(
        format!("memory of an idle session, {few} WebSocket"),
        "KiB",
        each,
        None,
        Target::AtMost(26.0),
    );
    drop(sockets);
    beside(ground, report, many).await
}

/// KiB of each, and the sessions, still open.
async fn grpc(
    process: &Process,
    count: u64,
    per_connection: u64,
) -> anyhow::Result<(f64, Vec<Peer>)> {
    let before = process.memory();
    let mut peers = Vec::new();
    let mut shared = None;
    for index in 0..count {
        if index % per_connection == 0 {
            shared = Some(channel(&process.address).await?);
        }
        if let Some(channel) = &shared {
            let mut peer = Peer::open(channel.clone(), "idle", None).await?;
            peer.recv().await?;
            peers.push(peer);
        }
    }
    Ok(((process.memory() - before) / count as f64 / KIB, peers))
}

/// Latency and rate with and without many idle sessions, in turns.
async fn beside(ground: &Ground, report: &mut Report, count: u64) -> anyhow::Result<()> {
    let (jobs, events) = (ground.amount(2_000), ground.amount(200_000));
    let (mut alone, mut alone_rate, mut beside, mut beside_rate) = (vec![], vec![], vec![], vec![]);
    let mut cpu = vec![];
    for _ in 0..ground.rounds {
        alone.extend(jobs::one_client(ground, jobs).await?);
        alone_rate.push(stream::job(ground, events).await?);
        let (_, kept) = grpc(&ground.runtime, count, SESSIONS_PER_CONNECTION).await?;
        let (busy, started) = (ground.runtime.cpu(), Instant::now());
        let quiet = Duration::from_secs(if ground.quick { 1 } else { 5 });
        tokio::time::sleep(quiet).await;
        cpu.push((ground.runtime.cpu() - busy) / started.elapsed().as_secs_f64() * 100.0);
        beside.extend(jobs::one_client(ground, jobs).await?);
        beside_rate.push(stream::job(ground, events).await?);
        drop(kept);
    }
    let (ours, alone) = (median(&mut beside), median(&mut alone));
    let name = format!("submit→result p50 beside {count} idle sessions");
    report.add(name, "ms", ours, Some(alone), Target::RatioAtMost(1.1));
    let (ours, alone) = (median(&mut beside_rate), median(&mut alone_rate));
    let name = format!("one job, gRPC, beside {count} idle sessions");
    report.add(
        name,
        "events/s",
        ours,
        Some(alone),
        Target::RatioAtLeast(0.9),
    );
    report.add(
        format!("CPU of {count} idle sessions"),
        "% of a core",
        median(&mut cpu),
        None,
        Target::AtMost(5.0),
    );
    Ok(())
}
