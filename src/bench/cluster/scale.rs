//! What a replica more costs: the same work in cells of one, two, three and five. Each
//! applies all that any of them takes, and how much of a processor that is for an event,
//! a job and a session tells where a cell ends.

use super::{Cell, Ground};
use crate::bench::client::Wire;
use crate::bench::jobs::{Trip, trips};
use crate::bench::many::{self, Shape};
use crate::bench::process::cpu_of;
use crate::bench::report::{Report, Target};
use crate::bench::{median, setup};

const EVENTS: u64 = 400_000;
const SESSIONS: u64 = 60;
const JOBS: u64 = 10_000;
const OPENED: u64 = 3_000;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let sizes: &[usize] = match ground.quick {
        true => &[1, 2],
        false => &[1, 2, 3, 5],
    };
    for size in sizes {
        let cell = ground.cell(*size).await?;
        let first = [&cell.replicas[0]];
        let all: Vec<_> = cell.replicas.iter().collect();
        let shape = Shape {
            sessions: SESSIONS,
            jobs: 1,
            events: ground.amount(EVENTS) / SESSIONS,
        };
        let spread = format!("{SESSIONS} jobs over {size} replicas");
        let mut events = Costs::new(spread, "event");
        let mut apart = Costs::new(format!("{SESSIONS} jobs at 1 of {size} replicas"), "event");
        let mut jobs = Costs::new(format!("short jobs at 1 of {size} replicas"), "job");
        let mut opened = Costs::new(format!("sessions at 1 of {size} replicas"), "session");
        let each = ground.amount(JOBS).div_ceil(SESSIONS);
        let opens = ground.amount(OPENED).div_ceil(SESSIONS);
        for _ in 0..ground.rounds {
            events
                .of(
                    ground,
                    &cell,
                    shape.all(),
                    many::arcpd(&all, Wire::Grpc, &shape),
                )
                .await?;
            apart
                .of(
                    ground,
                    &cell,
                    shape.all(),
                    many::arcpd(&first, Wire::Grpc, &shape),
                )
                .await?;
            let echoes = trips(first[0], Wire::Grpc, Trip::Job("echo"), SESSIONS, each);
            let echoes = async { Ok(echoes.await?.0) };
            jobs.of(ground, &cell, SESSIONS * each, echoes).await?;
            let sessions = setup::at_a_time(first[0], Wire::Grpc, SESSIONS, opens);
            opened.of(ground, &cell, SESSIONS * opens, sessions).await?;
        }
        for costs in [events, apart, jobs, opened] {
            costs.report(report);
        }
        cell.end(ground).await?;
    }
    Ok(())
}

/// Of one sort of work in one cell, by round.
struct Costs {
    name: String,
    unit: &'static str,
    rates: Vec<f64>,
    /// Microseconds of processor time for one, at the first replica, at another (their
    /// mean), of all NATS servers, and of the clients.
    first: Vec<f64>,
    other: Vec<f64>,
    nats: Vec<f64>,
    clients: Vec<f64>,
}

/// Seconds of processor time so far.
struct Spent {
    replicas: Vec<f64>,
    nats: Option<f64>,
    clients: f64,
}

impl Spent {
    fn now(ground: &Ground, cell: &Cell) -> Self {
        Self {
            replicas: cell.replicas.iter().map(|replica| replica.cpu()).collect(),
            nats: ground.own.as_ref().map(|own| own.cpu()),
            clients: cpu_of(std::process::id()),
        }
    }
}

impl Costs {
    fn new(name: String, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            rates: vec![],
            first: vec![],
            other: vec![],
            nats: vec![],
            clients: vec![],
        }
    }

    async fn of(
        &mut self,
        ground: &Ground,
        cell: &Cell,
        count: u64,
        work: impl Future<Output = anyhow::Result<f64>>,
    ) -> anyhow::Result<()> {
        let before = Spent::now(ground, cell);
        let rate = work.await?;
        // What the others still have to apply belongs to it.
        cell.settled().await?;
        let after = Spent::now(ground, cell);
        let each = |before: f64, after: f64| (after - before) * 1e6 / count as f64;
        let replicas = before.replicas.iter().zip(&after.replicas);
        let mut replicas = replicas.map(|(before, after)| each(*before, *after));
        self.rates.push(rate);
        self.first.extend(replicas.next());
        let others: Vec<f64> = replicas.collect();
        if !others.is_empty() {
            let mean = others.iter().sum::<f64>() / others.len() as f64;
            self.other.push(mean);
        }
        if let (Some(before), Some(after)) = (before.nats, after.nats) {
            self.nats.push(each(before, after));
        }
        self.clients.push(each(before.clients, after.clients));
        Ok(())
    }

    fn report(mut self, report: &mut Report) {
        let per_sec = match self.unit {
            "event" => "events/s",
            "job" => "jobs/s",
            _ => "1/s",
        };
        report.add(
            &self.name,
            per_sec,
            median(&mut self.rates),
            None,
            Target::None,
        );
        for (who, values) in [
            ("the first replica", &mut self.first),
            ("another replica", &mut self.other),
            ("the NATS servers", &mut self.nats),
            ("the clients", &mut self.clients),
        ] {
            if !values.is_empty() {
                let name = format!("… CPU of {who}, for one {}", self.unit);
                report.add(name, "us", median(values), None, Target::None);
            }
        }
    }
}
