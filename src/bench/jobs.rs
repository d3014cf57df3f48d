//! Small jobs: how long one takes, how many there can be, and whether what is
//! stored already makes them dearer.

use std::time::Instant;

use tokio::task::JoinSet;

use super::peer::{Peer, channel};
use super::report::{Report, Target};
use super::{Ground, median, percentile};
use crate::wire::proto::envelope::Payload;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let count = ground.amount(3_000);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        theirs.extend(echoes(ground, count).await?);
        ours.extend(one_client(ground, count).await?);
    }
    let floor = |share: f64, theirs: &mut Vec<f64>| Some(percentile(theirs, share));
    let p50 = (percentile(&mut ours, 0.5), floor(0.5, &mut theirs));
    report.add(
        "submit→result, 1 client, p50",
        "ms",
        p50.0,
        p50.1,
        Target::RatioAtMost(4.0),
    );
    let p99 = (percentile(&mut ours, 0.99), floor(0.99, &mut theirs));
    report.add(
        "submit→result, 1 client, p99",
        "ms",
        p99.0,
        p99.1,
        Target::AtMost(0.7),
    );
    let p999 = (percentile(&mut ours, 0.999), floor(0.999, &mut theirs));
    report.add(
        "submit→result, 1 client, p99.9",
        "ms",
        p999.0,
        p999.1,
        Target::AtMost(2.0),
    );

    let (mut rates, mut times) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        let (rate, taken) = many_clients(ground, 64, ground.amount(60_000) / 64).await?;
        rates.push(rate);
        times.extend(taken);
    }
    report.add(
        "jobs, 64 clients",
        "jobs/s",
        median(&mut rates),
        None,
        Target::AtLeast(25_000.0),
    );
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    report.add(
        "submit→result, 64 clients, p50",
        "ms",
        p50,
        None,
        Target::None,
    );
    report.add(
        "submit→result, 64 clients, p99",
        "ms",
        p99,
        None,
        Target::None,
    );
    Ok(())
}

/// Milliseconds of each job, one after the other.
pub async fn one_client(ground: &Ground, count: u64) -> anyhow::Result<Vec<f64>> {
    let mut peer = Peer::session(channel(&ground.runtime.address).await?).await?;
    one_after_the_other(&mut peer, "echo", count).await
}

async fn one_after_the_other(peer: &mut Peer, agent: &str, count: u64) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let started = Instant::now();
        peer.submit(agent, "1").await?;
        peer.until_terminal().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

async fn echoes(ground: &Ground, count: u64) -> anyhow::Result<Vec<f64>> {
    let mut peer = Peer::open(channel(&ground.floor.address).await?, "echo", None).await?;
    peer.recv().await?;
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let started = Instant::now();
        peer.send("", Payload::SessionPing(Default::default()))
            .await?;
        peer.recv().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Jobs a second of all, and the milliseconds of each.
async fn many_clients(ground: &Ground, clients: u64, each: u64) -> anyhow::Result<(f64, Vec<f64>)> {
    many_clients_of(ground, "echo", clients, each).await
}

pub async fn many_clients_of(
    ground: &Ground,
    agent: &'static str,
    clients: u64,
    each: u64,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let mut peers = Vec::new();
    for _ in 0..clients {
        peers.push(Peer::session(channel(&ground.runtime.address).await?).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut peer in peers {
        tasks.spawn(async move { one_after_the_other(&mut peer, agent, each).await });
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.extend(task??);
    }
    Ok((
        (clients * each) as f64 / started.elapsed().as_secs_f64(),
        times,
    ))
}

/// The same job when few, more and very many jobs are stored.
pub async fn stored(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let steps: &[u64] = match (ground.quick, ground.long) {
        (true, _) => &[1, 100],
        (_, false) => &[1, 1_000, 20_000],
        (_, true) => &[1, 1_000, 100_000],
    };
    let events = ground.amount(100_000);
    let mut stored = 0;
    let mut first = None;
    for step in steps {
        let more = step.saturating_sub(stored).div_ceil(64);
        many_clients(ground, 64, more).await?;
        stored += more * 64;
        let mut rates = vec![];
        for _ in 0..ground.rounds {
            rates.push(super::stream::job(ground, events).await?);
        }
        let rate = median(&mut rates);
        // The floor of the later ones is the first: cost must not grow.
        let floor = *first.get_or_insert(rate);
        let name = format!("one job, gRPC, {step} jobs stored before");
        report.add(name, "events/s", rate, Some(floor), Target::None);
    }
    Ok(())
}
