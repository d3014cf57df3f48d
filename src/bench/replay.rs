//! A long stream read again from its start, by a resume.

use std::time::Instant;

use serde_json::json;

use super::peer::{Peer, channel};
use super::report::{Report, Target};
use super::{Ground, median, stream};
use crate::wire::proto;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let events = ground.amount(100_000);
    let address = &ground.runtime.address;
    let mut peer = Peer::session(channel(address).await?).await?;
    let input = json!({ "events": events, "bytes": 128 }).to_string();
    peer.submit("firehose", &input).await?;
    peer.until_terminal().await?;
    let (session_id, mut token) = (peer.session_id.clone(), peer.token.clone());
    drop(peer);
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..ground.rounds {
        let one = stream::floor(ground, events, 1).await?;
        theirs.push(one.max(stream::floor(ground, events, 64).await?));
        let resume = proto::Resume {
            session_id: session_id.clone(),
            resume_token: token,
            last_event_seq: 0,
        };
        let channel = channel(address).await?;
        let started = Instant::now();
        let peer = Peer::open(channel, "bench", Some(resume)).await?;
        let mut peer = peer.welcomed().await?;
        let received = peer.until_terminal().await?;
        anyhow::ensure!(received == events + 1, "{received} of {events}");
        ours.push(events as f64 / started.elapsed().as_secs_f64());
        token = peer.token.clone();
    }
    let floor = Some(median(&mut theirs));
    let target = Target::RatioAtLeast(0.6);
    report.add(
        "replay of a job's events",
        "events/s",
        median(&mut ours),
        floor,
        target,
    );
    Ok(())
}
