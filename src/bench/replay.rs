//! A long stream read again from its start, by a resume.

use std::time::Instant;

use super::client::{Resume, Wire};
use super::report::{Report, Target};
use super::{Ground, median, stream};

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let events = ground.amount(100_000);
    for wire in Wire::ALL {
        let mut client = ground.runtime.dial(wire).session().await?;
        let input = stream::firehose(events, 0);
        client.submit("firehose", &input).await?;
        client.until_ended(1).await?;
        let mut session = client.session.clone();
        drop(client);
        let (mut ours, mut theirs) = (vec![], vec![]);
        for _ in 0..ground.rounds {
            theirs.push(stream::floor(ground, wire, events).await?);
            let resume = Resume {
                last_event_seq: 0,
                ..session
            };
            let started = Instant::now();
            let mut client = ground.runtime.dial(wire).resume(Some(&resume)).await?;
            let received = client.until_ended(1).await?;
            anyhow::ensure!(received == events + 1, "{received} of {events}");
            ours.push(events as f64 / started.elapsed().as_secs_f64());
            session = client.session.clone();
        }
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        let target = match wire {
            Wire::Grpc => Target::RatioAtLeast(0.6),
            Wire::WebSocket => Target::None,
        };
        let name = format!("replay of a job's events, {wire}");
        report.add(name, "events/s", ours, Some(theirs), target);
    }
    Ok(())
}
