//! Small jobs: how long one takes, how many there can be, and whether what is
//! stored already makes them dearer.

use std::time::Instant;

use tokio::task::JoinSet;

use super::client::{Ask, Client, Wire};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, median, percentile, stream};

const CLIENTS: u64 = 64;

/// What a client does again and again, and is timed at.
#[derive(Clone, Copy)]
pub enum Trip {
    /// A job of an agent of the runtime, from its submit to its result.
    Job(&'static str),
    /// A request of the floor, and its answer.
    Echo,
}

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    for wire in Wire::ALL {
        one(ground, report, wire).await?;
        many(ground, report, wire).await?;
    }
    Ok(())
}

async fn one(ground: &Ground, report: &mut Report, wire: Wire) -> anyhow::Result<()> {
    let count = ground.amount(3_000);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        theirs.extend(trips(&ground.floor, wire, Trip::Echo, 1, count).await?.1);
        ours.extend(
            trips(&ground.runtime, wire, Trip::Job("echo"), 1, count)
                .await?
                .1,
        );
    }
    for (share, name, target) in [
        (0.5, "p50", Target::RatioAtMost(4.0)),
        (0.99, "p99", Target::AtMost(0.7)),
        (0.999, "p99.9", Target::AtMost(2.0)),
    ] {
        let (ours, theirs) = (percentile(&mut ours, share), percentile(&mut theirs, share));
        let name = format!("submit→result, 1 client, {name}, {wire}");
        report.add(name, "ms", ours, Some(theirs), of_grpc(wire, target));
    }
    Ok(())
}

async fn many(ground: &Ground, report: &mut Report, wire: Wire) -> anyhow::Result<()> {
    let each = ground.amount(60_000).div_ceil(CLIENTS);
    let (mut rates, mut times) = (vec![], vec![]);
    let (mut floor_rates, mut floor_times) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        let (rate, taken) = trips(&ground.floor, wire, Trip::Echo, CLIENTS, each).await?;
        floor_rates.push(rate);
        floor_times.extend(taken);
        let (rate, taken) = trips(&ground.runtime, wire, Trip::Job("echo"), CLIENTS, each).await?;
        rates.push(rate);
        times.extend(taken);
    }
    let (ours, theirs) = (median(&mut rates), median(&mut floor_rates));
    let target = of_grpc(wire, Target::AtLeast(25_000.0));
    let name = format!("jobs, {CLIENTS} clients, {wire}");
    report.add(name, "jobs/s", ours, Some(theirs), target);
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let ours = percentile(&mut times, share);
        let theirs = percentile(&mut floor_times, share);
        let name = format!("submit→result, {CLIENTS} clients, {name}, {wire}");
        report.add(name, "ms", ours, Some(theirs), Target::None);
    }
    Ok(())
}

/// The targets of small jobs are those of gRPC.
fn of_grpc(wire: Wire, target: Target) -> Target {
    match wire {
        Wire::Grpc => target,
        Wire::WebSocket => Target::None,
    }
}

/// Trips a second of all clients, and the milliseconds of each trip.
pub async fn trips(
    process: &Process,
    wire: Wire,
    trip: Trip,
    clients: u64,
    each: u64,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let mut ready = Vec::new();
    for _ in 0..clients {
        let mut dialler = process.dial(wire);
        ready.push(match trip {
            Trip::Job(_) => dialler.session().await?,
            Trip::Echo => {
                let mut client = dialler.open("echo", None).await?;
                client.recv().await?;
                client
            }
        });
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for client in ready {
        tasks.spawn(one_after_the_other(client, trip, each));
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.extend(task??);
    }
    let rate = (clients * each) as f64 / started.elapsed().as_secs_f64();
    Ok((rate, times))
}

async fn one_after_the_other(
    mut client: Client,
    trip: Trip,
    count: u64,
) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let started = Instant::now();
        match trip {
            Trip::Job(agent) => {
                client.submit(agent, "1").await?;
                client.until_ended(1).await?;
            }
            Trip::Echo => {
                client.send(Ask::Ping).await?;
                client.recv().await?;
            }
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
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
        let clients = CLIENTS.min(step - stored);
        let more = (step - stored).div_ceil(clients);
        trips(
            &ground.runtime,
            Wire::Grpc,
            Trip::Job("echo"),
            clients,
            more,
        )
        .await?;
        stored += more * clients;
        let mut rates = vec![];
        for _ in 0..ground.rounds {
            rates.push(stream::job(ground, Wire::Grpc, events).await?);
        }
        let rate = median(&mut rates);
        // The floor of the later ones is the first: cost must not grow.
        let floor = *first.get_or_insert(rate);
        let name = format!("one job, gRPC, {step} jobs stored before");
        report.add(name, "events/s", rate, Some(floor), Target::None);
    }
    Ok(())
}
