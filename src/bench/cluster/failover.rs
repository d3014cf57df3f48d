//! How long a client hears nothing of a job that goes on, when a replica is killed or
//! drained, or the NATS server that leads the stream is killed: the longest of nine, each
//! of whom is at a replica of its own choice and its job's host at another or the same.
//!
//! Limits are the default ones, and clients and hosts wait as they are told to.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::crew::{Crew, Silence, longest};
use super::{Cell, Ground, REPLICAS};
use crate::bench::report::{Report, Target};

/// Every one takes this long to watch and a cell of its own.
const ROUNDS_MAX: usize = 3;
/// A replica that is not heard of is declared gone after 3 s; what that does is seen too.
const AFTER_A_REPLICA: Duration = Duration::from_secs(8);
/// An election of NATS takes up to nine, and its client library half a minute to read on.
const AFTER_A_LEADER: Duration = Duration::from_secs(30);
/// Shows that it works, not how long it takes.
const AFTER_A_LEADER_QUICK: Duration = Duration::from_secs(12);
/// Who is killed or drained.
const VICTIM: usize = 0;

pub async fn run(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let rounds = ground.rounds.min(ROUNDS_MAX);
    killed(ground, report, rounds).await?;
    drained(ground, report, rounds).await?;
    if ground.own.is_none() {
        eprintln!("no NATS server is killed: these are not the bench's own");
        return Ok(());
    }
    leaderless(ground, report, rounds).await
}

async fn killed(ground: &Ground, report: &mut Report, rounds: usize) -> anyhow::Result<()> {
    let (mut silences, mut ended) = (vec![], Duration::ZERO);
    for _ in 0..rounds {
        let mut cell = ground.cell(REPLICAS).await?;
        let mut crew = Crew::start(&cell).await?;
        crew.doom(&cell, VICTIM).await?;
        let killed = Instant::now();
        cell.replicas[VICTIM].kill()?;
        if let Some(last) = crew.ended().await? {
            ended = ended.max(last.duration_since(killed));
        }
        tokio::time::sleep_until((killed + AFTER_A_REPLICA).into()).await;
        silences.extend(crew.silences(killed).await?);
        cell.end(ground).await?;
    }
    let target = Target::AtMost(5.0);
    let name = "replica killed: a client's longest silence";
    report.add(name, "s", worst(&silences, |_| true), None, target);
    let at_it = worst(&silences, |s| s.client_at == VICTIM && s.host_at != VICTIM);
    report.add("… it was at that replica", "s", at_it, None, Target::None);
    let of_it = worst(&silences, |s| s.client_at != VICTIM && s.host_at == VICTIM);
    let name = "… its job's host was at that replica";
    report.add(name, "s", of_it, None, Target::None);
    let neither = worst(&silences, |s| s.client_at != VICTIM && s.host_at != VICTIM);
    report.add("… neither was", "s", neither, None, Target::None);
    let name = "… a job in the killed process has ended for its client";
    report.add(name, "s", ended.as_secs_f64(), None, target);
    Ok(())
}

async fn drained(ground: &Ground, report: &mut Report, rounds: usize) -> anyhow::Result<()> {
    let mut silences = vec![];
    for _ in 0..rounds {
        let cell = ground.cell(REPLICAS).await?;
        let crew = Crew::start(&cell).await?;
        let stopped = Instant::now();
        cell.replicas[VICTIM].terminate()?;
        tokio::time::sleep_until((stopped + AFTER_A_REPLICA).into()).await;
        silences.extend(crew.silences(stopped).await?);
        cell.end(ground).await?;
    }
    let name = "replica drained: a client's longest silence";
    let longest = worst(&silences, |_| true);
    report.add(name, "s", longest, None, Target::AtMost(1.0));
    let others = worst(&silences, |s| s.client_at != VICTIM && s.host_at != VICTIM);
    report.add(
        "… neither it nor the host was there",
        "s",
        others,
        None,
        Target::None,
    );
    Ok(())
}

/// The floor is another stream, whose leader is killed after the first's is back.
async fn leaderless(ground: &mut Ground, report: &mut Report, rounds: usize) -> anyhow::Result<()> {
    let (mut silences, mut bare_longest) = (vec![], Duration::ZERO);
    let watched = match ground.quick {
        true => AFTER_A_LEADER_QUICK,
        false => AFTER_A_LEADER,
    };
    for _ in 0..rounds {
        let bare = ground.bare().await?;
        let (name, stopped) = (bare.name.clone(), CancellationToken::new());
        let reader = bare.reader().await?;
        let arrivals = tokio::spawn(bare.arrivals(reader, stopped.clone()));
        let killed = kill_leader(ground, &name).await?;
        tokio::time::sleep_until((killed + watched).into()).await;
        stopped.cancel();
        let seen = arrivals.await?;
        bare_longest = bare_longest.max(longest(&seen, killed, Instant::now()));
        restart(ground, &name).await?;
        ground.remove(&name).await?;

        let cell: Cell = ground.cell(REPLICAS).await?;
        let crew = Crew::start(&cell).await?;
        let killed = kill_leader(ground, &cell.stream).await?;
        tokio::time::sleep_until((killed + watched).into()).await;
        silences.extend(crew.silences(killed).await?);
        restart(ground, &cell.stream).await?;
        cell.end(ground).await?;
    }
    let name = "NATS stream leader killed: a client's longest silence";
    let (ours, bare) = (worst(&silences, |_| true), bare_longest.as_secs_f64());
    report.add(name, "s", ours, Some(bare), Target::None);
    Ok(())
}

async fn kill_leader(ground: &mut Ground, stream: &str) -> anyhow::Result<Instant> {
    let leader = ground.leader(stream).await?;
    let own = ground.own.as_mut().context("servers of its own")?;
    let killed = Instant::now();
    own.kill(&leader)?;
    Ok(killed)
}

async fn restart(ground: &mut Ground, stream: &str) -> anyhow::Result<()> {
    let own = ground.own.as_mut().context("servers of its own")?;
    own.restart().await?;
    ground.leader(stream).await.map(drop)
}

/// In seconds, of those clients.
fn worst(silences: &[Silence], of: impl Fn(&Silence) -> bool) -> f64 {
    let silences = silences.iter().filter(|silence| of(silence));
    let longest = silences.map(|silence| silence.longest).max();
    longest.map_or(f64::NAN, |longest| longest.as_secs_f64())
}
