//! A session that has had many jobs: what it costs to take it up again, and to list the
//! newest.

use std::time::Instant;

use super::client::{Ask, Client, Kind, Wire};
use super::report::{Report, Target};
use super::{Ground, median};
use crate::clock::now;
use crate::protocol::Timestamp;

/// Submits that are under way at a time.
const SUBMITS: u64 = 64;
/// The default page.
const PAGE: u64 = 100;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let steps: &[u64] = match (ground.quick, ground.long) {
        (true, _) => &[200, 600],
        (_, false) => &[1_000, 20_000],
        (_, true) => &[1_000, 100_000],
    };
    let mut dialler = ground.runtime.dial(Wire::Grpc);
    let mut client = dialler.session().await?;
    let mut had = 0;
    let mut first = None;
    for step in steps {
        // Some may begin within the millisecond.
        jobs(&mut client, step - had - 2 * PAGE).await?;
        let since = now();
        jobs(&mut client, 2 * PAGE).await?;
        had = *step;
        let (mut resumes, mut lists) = (vec![], vec![]);
        for _ in 0..ground.rounds {
            let began = Instant::now();
            client.resume(&mut dialler).await?;
            resumes.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            list(&mut client, since).await?;
            lists.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let (resume, page) = (median(&mut resumes), median(&mut lists));
        // The floor of the later ones is the first.
        let floors = *first.get_or_insert((resume, page));
        let name = format!("resume of a session that has had {step} jobs, gRPC");
        report.add(name, "ms", resume, Some(floors.0), Target::AtMost(100.0));
        let name = format!("{PAGE} of its newest jobs listed, of {step}, gRPC");
        report.add(name, "ms", page, Some(floors.1), Target::AtMost(100.0));
    }
    Ok(())
}

async fn jobs(client: &mut Client, count: u64) -> anyhow::Result<()> {
    let mut left = count;
    while left > 0 {
        let more = left.min(SUBMITS);
        for _ in 0..more {
            client.submit("echo", "1").await?;
        }
        client.until_ended(more).await?;
        left -= more;
    }
    Ok(())
}

async fn list(client: &mut Client, since: Timestamp) -> anyhow::Result<()> {
    client.send(Ask::Jobs(since)).await?;
    loop {
        if let Kind::Jobs(found) = client.recv().await?.kind {
            anyhow::ensure!(found as u64 == PAGE, "{found} of {PAGE} jobs");
            return Ok(());
        }
    }
}
