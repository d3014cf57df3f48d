//! One job watched by many sessions.

use super::client::{Ask, SESSIONS_PER_CONNECTION, Wire, read_all};
use super::report::{Report, Target};
use super::{Ground, median, stream};

/// Deliveries of one round, whatever the number of observers.
const DELIVERIES: u64 = 1_000_000;

pub struct Round {
    pub deliveries_per_sec: f64,
    pub cpu_us: f64,
}

impl Round {
    fn new(deliveries: u64, seconds: f64, cpu: f64) -> Self {
        Self {
            deliveries_per_sec: deliveries as f64 / seconds,
            cpu_us: cpu * 1e6 / deliveries as f64,
        }
    }
}

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    for wire in Wire::ALL {
        for observers in [1, 10, 100, 1_000] {
            compare(ground, report, wire, observers).await?;
        }
    }
    Ok(())
}

async fn compare(
    ground: &Ground,
    report: &mut Report,
    wire: Wire,
    observers: u64,
) -> anyhow::Result<()> {
    let events = (ground.amount(DELIVERIES) / observers).clamp(64, 100_000);
    let (mut ours, mut theirs, mut cpu, mut floor_cpu) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ground.rounds {
        let floor = floor(ground, wire, observers, events).await?;
        let arcpd = watched(ground, wire, observers, events, 0).await?;
        ours.push(arcpd.deliveries_per_sec);
        theirs.push(floor.deliveries_per_sec);
        cpu.push(arcpd.cpu_us);
        floor_cpu.push(floor.cpu_us);
    }
    let target = match (wire, observers) {
        (Wire::Grpc, 100..) => Target::RatioAtLeast(0.85),
        _ => Target::None,
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let name = format!("{observers} observers, {wire}");
    report.add(name, "deliveries/s", ours, Some(theirs), target);
    let (cpu, floor_cpu) = (median(&mut cpu), median(&mut floor_cpu));
    let name = format!("{observers} observers, server CPU a delivery, {wire}");
    report.add(name, "us", cpu, Some(floor_cpu), Target::None);
    Ok(())
}

/// A firehose to `observers` sessions; as many as `stopped` more never read.
pub async fn watched(
    ground: &Ground,
    wire: Wire,
    observers: u64,
    events: u64,
    stopped: u64,
) -> anyhow::Result<Round> {
    let mut dialler = ground.runtime.dial_sharing(wire, SESSIONS_PER_CONNECTION);
    let mut clients = Vec::new();
    for _ in 0..observers {
        clients.push(dialler.session().await?);
    }
    let mut alone = ground.runtime.dial(wire);
    let mut still = Vec::new();
    for _ in 0..stopped {
        still.push(alone.session().await?);
    }
    let mut submitter = alone.session().await?;
    // Everybody watches before the first event: who comes late misses the agent's
    // first ones, which fails the run.
    let delay_ms = 1_000 + 2 * observers;
    let input = stream::firehose(events, delay_ms);
    submitter.submit("firehose", &input).await?;
    let job = submitter.accepted().await?;
    // Only those that are counted are served.
    submitter.send(Ask::Unsubscribe(&job)).await?;
    for client in still.iter_mut().chain(&mut clients) {
        client.send(Ask::Subscribe(&job)).await?;
    }
    for client in still.iter_mut().chain(&mut clients) {
        client.subscribed().await?;
    }
    let cpu = ground.runtime.cpu();
    let (clients, seconds) = read_all(clients, 1, events + 1).await?;
    let cpu = ground.runtime.cpu() - cpu;
    drop((clients, submitter, still));
    Ok(Round::new(observers * events, seconds, cpu))
}

/// The bare library: the same number of streams, messages encoded once.
async fn floor(ground: &Ground, wire: Wire, observers: u64, events: u64) -> anyhow::Result<Round> {
    let mut dialler = ground.floor.dial_sharing(wire, SESSIONS_PER_CONNECTION);
    let mut clients = Vec::new();
    for _ in 0..observers {
        let mut client = dialler.open("fan", None).await?;
        client.recv().await?;
        clients.push(client);
    }
    let cpu = ground.floor.cpu();
    let start = format!("start:{events}");
    clients[0].send(Ask::Hello(&start, None)).await?;
    let (_clients, seconds) = read_all(clients, 1, events + 1).await?;
    let cpu = ground.floor.cpu() - cpu;
    Ok(Round::new(observers * events, seconds, cpu))
}
