//! Many jobs at once: in one session, whose stream they share, and over many.

use std::time::{Duration, Instant};

use super::client::{Ask, Client, Wire, read_all};
use super::process::Process;
use super::report::{Report, Target};
use super::{Ground, median, stream};

/// Of all jobs together.
const EVENTS: u64 = 500_000;
/// Submits that are under way at a time.
const SUBMITS: u64 = 50;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let (events, jobs) = (ground.amount(EVENTS), ground.amount(1_000));
    for wire in Wire::ALL {
        for sessions in [1, 64] {
            let shape = Shape {
                sessions,
                jobs: jobs.div_ceil(sessions),
                events: (events / jobs).max(1),
            };
            let (mut ours, mut theirs) = (vec![], vec![]);
            for _ in 0..ground.rounds {
                theirs.push(floor(ground, wire, &shape).await?);
                ours.push(arcpd(&[&ground.runtime], wire, &shape).await?);
            }
            let (ours, theirs) = (median(&mut ours), median(&mut theirs));
            let over = if sessions == 1 { "session" } else { "sessions" };
            let all = shape.jobs * sessions;
            let name = format!("{all} jobs at once, {sessions} {over}, {wire}");
            report.add(name, "events/s", ours, Some(theirs), Target::None);
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub sessions: u64,
    /// In each session.
    pub jobs: u64,
    /// Of each job.
    pub events: u64,
}

impl Shape {
    pub fn all(&self) -> u64 {
        self.sessions * self.jobs * self.events
    }

    fn per_sec(&self, seconds: f64) -> f64 {
        self.all() as f64 / seconds
    }
}

/// Events a second of jobs that begin at one moment, sessions spread over runtimes.
pub async fn arcpd(runtimes: &[&Process], wire: Wire, shape: &Shape) -> anyhow::Result<f64> {
    let mut clients = Vec::new();
    for (_, runtime) in (0..shape.sessions).zip(runtimes.iter().cycle()) {
        clients.push(runtime.dial(wire).session().await?);
    }
    // All begin at one moment, when all have been submitted.
    let begin = Instant::now() + Duration::from_secs(1);
    for client in &mut clients {
        let mut left = shape.jobs;
        while left > 0 {
            let submits = left.min(SUBMITS);
            submit(client, submits, shape.events, begin).await?;
            left -= submits;
        }
    }
    let last = shape.jobs * (shape.events + 1);
    let (_clients, seconds) = read_all(clients, shape.jobs, last).await?;
    Ok(shape.per_sec(seconds))
}

async fn submit(client: &mut Client, jobs: u64, events: u64, begin: Instant) -> anyhow::Result<()> {
    for _ in 0..jobs {
        let wait = begin.saturating_duration_since(Instant::now());
        let input = stream::firehose(events, wait.as_millis() as u64);
        client.submit("firehose", &input).await?;
    }
    for _ in 0..jobs {
        client.accepted().await?;
    }
    Ok(())
}

/// Streams of as many messages.
async fn floor(ground: &Ground, wire: Wire, shape: &Shape) -> anyhow::Result<f64> {
    let messages = shape.jobs * (shape.events + 1) - 1;
    let mut best: f64 = 0.0;
    for batch in stream::batches(wire) {
        let name = format!("stream:{messages}:{batch}");
        let mut clients = Vec::new();
        for _ in 0..shape.sessions {
            let mut client = ground.floor.dial(wire).open(&name, None).await?;
            client.recv().await?;
            clients.push(client);
        }
        for client in &mut clients {
            client.send(Ask::Ping).await?;
        }
        let (_clients, seconds) = read_all(clients, 1, messages + 1).await?;
        best = best.max(shape.per_sec(seconds));
    }
    Ok(best)
}
