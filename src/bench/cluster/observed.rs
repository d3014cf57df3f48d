//! How long an event takes from its agent to a client: a host at the first replica, which
//! reports events, and a client at the same or at another replica.
//! Both are in this process, so it is two hops of gRPC more than the floor's: a message that
//! is published and read in this process, and by as many others as there are other replicas.
//!
//! At a rate, as agents report, whatever became of the one before; and once with each as soon
//! as the one before has arrived. That is no rate: the next one comes while servers and
//! replicas still have the last, and how much a machine does at once is then what is measured.
//! So it is told, and what is to be reached is of the rates.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::{Cell, Ground, REPLICAS};
use crate::bench::client::host::{Host, sample};
use crate::bench::client::{Client, Kind, Wire, channel};
use crate::bench::percentile;
use crate::bench::report::{Report, Target};
use crate::wire::proto::AssignmentRef;

/// At most, in one turn: replicas and floor take turns, so that the machine is the same to both.
const TURN: u64 = 100;
/// At a slow pace a turn is shorter.
const TURN_TIME: Duration = Duration::from_secs(1);
const TURNS: u64 = 20;
/// A message like an entry with one event.
const ENTRY_BYTES: usize = 512;
/// None is what a replica rests before it applies what nobody there watches: the next event
/// would always come as it does that.
const PACES: [Pace; 4] = [
    Pace::Every(Duration::from_millis(3)),
    Pace::Every(Duration::from_millis(10)),
    Pace::Every(Duration::from_millis(30)),
    Pace::OneAfterTheOther,
];

/// When there is an event.
#[derive(Clone, Copy)]
pub enum Pace {
    Every(Duration),
    /// When the one before has arrived.
    OneAfterTheOther,
}

/// Says when the next one is due.
pub struct Beat(Option<tokio::time::Interval>);

impl Pace {
    fn name(self) -> String {
        match self {
            Self::Every(every) => format!("one each {} ms", every.as_millis()),
            Self::OneAfterTheOther => "one after the other".into(),
        }
    }

    /// In one turn.
    fn count(self) -> u64 {
        match self {
            Self::Every(every) => TURN.min((TURN_TIME.as_millis() / every.as_millis()) as u64),
            Self::OneAfterTheOther => TURN,
        }
    }

    fn target(self) -> Target {
        match self {
            Self::Every(_) => Target::RatioAtMost(1.5),
            Self::OneAfterTheOther => Target::None,
        }
    }

    pub fn beat(self) -> Beat {
        Beat(match self {
            Self::Every(every) => {
                let mut ticks = tokio::time::interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Some(ticks)
            }
            Self::OneAfterTheOther => None,
        })
    }
}

impl Beat {
    pub async fn due(&mut self) {
        if let Some(ticks) = &mut self.0 {
            ticks.tick().await;
        }
    }
}

struct Watched {
    host: Host,
    of: AssignmentRef,
    client: Client,
    reported: u64,
}

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let cell = ground.cell(REPLICAS).await?;
    let bare = ground.bare().await?;
    let others = bare.read_by(REPLICAS - 1)?;
    let bare_alone = ground.bare().await?;
    let mut here = Watched::start(&cell, 0).await?;
    let mut there = Watched::start(&cell, 1).await?;
    let turns = ground.rounds as u64 * ground.amount(TURNS).min(TURNS);
    for pace in PACES {
        let count = pace.count();
        let (mut own, mut other) = (Times::default(), Times::default());
        let (mut floor, mut alone) = (Times::default(), Times::default());
        for _ in 0..turns {
            alone.add(bare_alone.trips(count, ENTRY_BYTES, pace).await?);
            floor.add(bare.trips(count, ENTRY_BYTES, pace).await?);
            other.add(there.trips(count, pace).await?);
            own.add(here.trips(count, pace).await?);
        }
        tell(report, pace, (&own, &mut other), (&mut floor, &mut alone));
    }
    drop((here, there, others));
    cell.end(ground).await?;
    ground.remove(&bare_alone.name).await?;
    ground.remove(&bare.name).await
}

fn tell(
    report: &mut Report,
    pace: Pace,
    (own, other): (&Times, &mut Times),
    (floor, alone): (&mut Times, &mut Times),
) {
    let pairs = |times: &Times| {
        let both = times.medians.iter().zip(&floor.medians);
        both.map(|(time, floor)| (*time, *floor))
            .collect::<Vec<_>>()
    };
    let (own_pairs, other_pairs) = (pairs(own), pairs(other));
    let (target, pace) = (pace.target(), pace.name());
    let name = format!("event to a client at another replica, {pace}, p50");
    report.add_pairs(name, "ms", &other_pairs, target);
    let name = format!("event to a client at another replica, {pace}, p99");
    let bare_p99 = percentile(&mut floor.all, 0.99);
    let p99 = percentile(&mut other.all, 0.99);
    report.add(name, "ms", p99, Some(bare_p99), Target::None);
    let name = format!("event to a client at its host's replica, {pace}, p50");
    report.add_pairs(name, "ms", &own_pairs, Target::None);
    let name = format!("bare NATS with one reader, {pace}, p50");
    let p50 = percentile(&mut alone.all, 0.5);
    report.add(name, "ms", p50, None, Target::None);
}

/// In milliseconds.
#[derive(Default)]
struct Times {
    all: Vec<f64>,
    /// Of each turn.
    medians: Vec<f64>,
}

impl Times {
    fn add(&mut self, mut turn: Vec<f64>) {
        self.medians.push(percentile(&mut turn, 0.5));
        self.all.append(&mut turn);
    }
}

impl Watched {
    /// A job of a host at the first replica, submitted and followed at another.
    async fn start(cell: &Cell, at: usize) -> anyhow::Result<Self> {
        let agent = format!("observed-{at}");
        let first = channel(&cell.replicas[0].address).await?;
        let mut host = Host::serving(first, &agent, &agent, 1).await?;
        // Behind the registration, which all replicas hear of through the log.
        cell.settled().await?;
        let mut client = cell.replicas[at].dial(Wire::Grpc).session().await?;
        client.submit(&agent, "1").await?;
        client.accepted().await?;
        let of = host.assigned().await?;
        host.accept(&of).await?;
        Ok(Self {
            host,
            of,
            client,
            reported: 0,
        })
    }

    async fn trips(&mut self, count: u64, pace: Pace) -> anyhow::Result<Vec<f64>> {
        let ts = prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 123_000_000,
        };
        let (mut times, mut beat) = (Vec::new(), pace.beat());
        for _ in 0..count {
            beat.due().await;
            self.reported += 1;
            let report = sample(self.reported, ts);
            let started = Instant::now();
            self.host.report(&self.of, vec![report]).await?;
            while !matches!(self.client.recv().await?.kind, Kind::Event(Some(_))) {}
            times.push(started.elapsed().as_secs_f64() * 1e3);
            // Its ack, so that none piles up.
            self.host.acked(self.reported).await?;
        }
        Ok(times)
    }
}
