//! Events a second through the log: one job, many jobs, and what observers at the other
//! replicas receive of one.

use anyhow::ensure;

use super::cell::Cell;
use super::floor::Bare;
use super::{Ground, REPLICAS};
use crate::bench::client::{Ask, SESSIONS_PER_CONNECTION, Wire, read_all};
use crate::bench::many::{self, Shape};
use crate::bench::report::{Report, Target};
use crate::bench::{median, stream};

/// Of one round.
const EVENTS: u64 = 200_000;
const SESSIONS: u64 = 64;
const DELIVERIES: u64 = 1_000_000;
const KIB: f64 = 1024.0;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let cell = ground.cell(REPLICAS).await?;
    let bare = ground.bare().await?;
    one(ground, &cell, &bare, report).await?;
    many(ground, &cell, &bare, report).await?;
    for observers in [10, 100] {
        let mut rates = vec![];
        for _ in 0..ground.rounds {
            rates.push(watched(ground, &cell, observers).await?);
        }
        let name = format!("{observers} observers at the other replicas");
        let rate = median(&mut rates);
        report.add(name, "deliveries/s", rate, None, Target::None);
    }
    cell.end(ground).await?;
    ground.remove(&bare.name).await
}

async fn one(ground: &Ground, cell: &Cell, bare: &Bare, report: &mut Report) -> anyhow::Result<()> {
    let events = ground.amount(EVENTS);
    let mut rounds = Rounds::default();
    for _ in 0..ground.rounds {
        let before = ground.written(&cell.stream).await?;
        let rate = stream::job_of(&cell.replicas[0], Wire::Grpc, events).await?;
        rounds.add(ground, cell, bare, before, events, rate).await?;
    }
    rounds.report(report, "one job, replicated", Target::None);
    Ok(())
}

async fn many(
    ground: &Ground,
    cell: &Cell,
    bare: &Bare,
    report: &mut Report,
) -> anyhow::Result<()> {
    let shape = Shape {
        sessions: SESSIONS,
        jobs: 1,
        events: ground.amount(2 * EVENTS) / SESSIONS,
    };
    let mut rounds = Rounds::default();
    for _ in 0..ground.rounds {
        let before = ground.written(&cell.stream).await?;
        let rate = many::arcpd(&[&cell.replicas[0]], Wire::Grpc, &shape).await?;
        rounds
            .add(ground, cell, bare, before, shape.all(), rate)
            .await?;
    }
    let name = format!("{SESSIONS} jobs at one replica, replicated");
    rounds.report(report, &name, Target::RatioAtLeast(0.5));
    Ok(())
}

/// Of the replicas and of the floor, which moves as much in messages of the same size.
#[derive(Default)]
struct Rounds {
    rates: Vec<(f64, f64)>,
    entry_bytes: Vec<f64>,
    entry_events: Vec<f64>,
}

impl Rounds {
    async fn add(
        &mut self,
        ground: &Ground,
        cell: &Cell,
        bare: &Bare,
        (messages_before, bytes_before): (u64, u64),
        events: u64,
        rate: f64,
    ) -> anyhow::Result<()> {
        let (messages, bytes) = ground.written(&cell.stream).await?;
        let messages = messages - messages_before;
        ensure!(messages > 0, "nothing was written");
        let entry_bytes = (bytes - bytes_before) / messages;
        let floor = bare
            .rate(messages, entry_bytes as usize, cell.replicas.len())
            .await?;
        let entry_events = events as f64 / messages as f64;
        self.rates.push((rate, floor * entry_events));
        self.entry_bytes.push(entry_bytes as f64 / KIB);
        self.entry_events.push(entry_events);
        Ok(())
    }

    fn report(mut self, report: &mut Report, name: &str, target: Target) {
        report.add_pairs(name, "events/s", &self.rates, target);
        let bytes = median(&mut self.entry_bytes);
        report.add("an entry of these", "KiB", bytes, None, Target::None);
        let events = median(&mut self.entry_events);
        report.add("an entry of these", "events", events, None, Target::None);
    }
}

/// One job at the first replica, observed at the others; deliveries a second.
async fn watched(ground: &Ground, cell: &Cell, observers: u64) -> anyhow::Result<f64> {
    let events = (ground.amount(DELIVERIES) / observers).clamp(64, 100_000);
    let mut clients = Vec::new();
    let others = &cell.replicas[1..];
    for (index, replica) in others.iter().enumerate() {
        let mut dialler = replica.dial_sharing(Wire::Grpc, SESSIONS_PER_CONNECTION);
        let share = (observers as usize + index) / others.len();
        for _ in 0..share {
            clients.push(dialler.session().await?);
        }
    }
    let mut submitter = cell.replicas[0].dial(Wire::Grpc).session().await?;
    // Everybody watches before the first event, as who comes late misses it.
    let input = stream::firehose(events, 2_000 + 5 * observers);
    submitter.submit("firehose", &input).await?;
    let job = submitter.accepted().await?;
    submitter.send(Ask::Unsubscribe(&job)).await?;
    for client in &mut clients {
        client.send(Ask::Subscribe(&job)).await?;
    }
    for client in &mut clients {
        client.subscribed().await?;
    }
    let (_clients, seconds) = read_all(clients, 1, events + 1).await?;
    Ok((observers * events) as f64 / seconds)
}
