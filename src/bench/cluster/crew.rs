//! Hosts that report all the while, each with a job, and clients that follow these: all of
//! them go on at another replica when they are cut off or sent away, as the protocol
//! tells them to. Nothing may be lost or doubled on the way: the clients check that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Cell;
use crate::bench::client::host::{Host, register, sample};
use crate::bench::client::{Client, Dialler, Kind, Wire, channel};
use crate::wire::proto::serve_response::Message as Hear;
use crate::wire::proto::{AssignmentRef, Registered, Report};

const TICK: Duration = Duration::from_millis(20);
/// One that does not answer is passed over.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds of all replicas.
const RETRY: Duration = Duration::from_millis(20);
/// The run fails for whoever has found nobody by then.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

pub struct Crew {
    pairs: Vec<Pair>,
    /// Clients of jobs that end with their replica, and when they heard of it.
    doomed: JoinSet<anyhow::Result<Instant>>,
    stopped: CancellationToken,
}

struct Pair {
    /// Where its host and its client began.
    host_at: usize,
    client_at: usize,
    host: JoinHandle<anyhow::Result<()>>,
    client: JoinHandle<anyhow::Result<Vec<Instant>>>,
}

/// What a client saw: where it and its host were, and how long it heard nothing.
pub struct Silence {
    pub host_at: usize,
    pub client_at: usize,
    pub longest: Duration,
}

// === impl Crew ===

impl Crew {
    /// A host and a client for each two replicas. All clients have seen events when this
    /// returns.
    pub async fn start(cell: &Cell) -> anyhow::Result<Self> {
        let addresses = cell.addresses();
        let stopped = CancellationToken::new();
        let mut opened = Vec::new();
        let all = 0..addresses.len();
        for (host_at, client_at) in all.clone().flat_map(|h| all.clone().map(move |c| (h, c))) {
            let agent = format!("steady-{host_at}-{client_at}");
            let host = Reporting::start(&addresses, host_at, &agent).await?;
            opened.push((host_at, client_at, agent, host));
        }
        // Behind the registrations, which all replicas hear of through the log.
        cell.settled().await?;
        let mut pairs = Vec::new();
        for (host_at, client_at, agent, host) in opened {
            let mut client = Following::start(&addresses, client_at).await?;
            client.client.submit(&agent, "1").await?;
            let host = tokio::spawn(host.run(stopped.clone()));
            client.until_first().await.context("a first event")?;
            let client = tokio::spawn(client.run(stopped.clone()));
            pairs.push(Pair {
                host_at,
                client_at,
                host,
                client,
            });
        }
        Ok(Self {
            pairs,
            doomed: JoinSet::new(),
            stopped,
        })
    }

    /// A client whose job runs in the process of a replica.
    pub async fn doom(&mut self, cell: &Cell, at: usize) -> anyhow::Result<()> {
        let mut following = Following::start(&cell.addresses(), at).await?;
        let input = r#"{"count":1000000,"interval_ms":20}"#;
        following.client.submit("ticker", input).await?;
        following.until_first().await.context("a first tick")?;
        self.doomed.spawn(following.until_failed());
        Ok(())
    }

    /// When the last of those jobs had ended for its client.
    pub async fn ended(&mut self) -> anyhow::Result<Option<Instant>> {
        let mut last = None;
        while let Some(ended) = self.doomed.join_next().await {
            last = last.max(Some(ended??));
        }
        Ok(last)
    }

    /// Ends all; the silences are those that were not over before `since`.
    pub async fn silences(self, since: Instant) -> anyhow::Result<Vec<Silence>> {
        self.stopped.cancel();
        let mut silences = Vec::new();
        for pair in self.pairs {
            let seen = pair.client.await?.context("a client")?;
            pair.host.await?.context("a host")?;
            silences.push(Silence {
                host_at: pair.host_at,
                client_at: pair.client_at,
                longest: longest(&seen, since, Instant::now()),
            });
        }
        Ok(silences)
    }
}

/// Between two that arrived, or until now, of what was not over before.
pub fn longest(seen: &[Instant], since: Instant, now: Instant) -> Duration {
    let after = seen.iter().skip(1).chain([&now]);
    let gaps = seen.iter().zip(after);
    let gaps = gaps.filter(|(_, next)| **next >= since);
    let gaps = gaps.map(|(last, next)| next.duration_since(*last));
    gaps.max().unwrap_or_else(|| now.duration_since(since))
}

/// Looks for a replica that takes somebody.
struct Search {
    began: Instant,
    tried: usize,
}

impl Search {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            tried: 0,
        }
    }

    /// The one after, in the end each of them again.
    async fn next(&mut self, addresses: &[String], at: &mut usize) -> anyhow::Result<String> {
        ensure!(self.began.elapsed() < GIVE_UP_AFTER, "no replica takes it");
        if self.tried > 0 && self.tried.is_multiple_of(addresses.len()) {
            tokio::time::sleep(RETRY).await;
        }
        self.tried += 1;
        *at = (*at + 1) % addresses.len();
        Ok(addresses[*at].clone())
    }
}

/// A client that resumes wherever it can.
struct Following {
    addresses: Vec<String>,
    at: usize,
    client: Client,
    seen: Vec<Instant>,
}

impl Following {
    async fn start(addresses: &[String], at: usize) -> anyhow::Result<Self> {
        let mut dialler = Dialler::sharing(Wire::Grpc, &addresses[at], 1);
        Ok(Self {
            addresses: addresses.to_vec(),
            at,
            client: dialler.session().await?,
            seen: Vec::new(),
        })
    }

    async fn until_first(&mut self) -> anyhow::Result<()> {
        while self.seen.is_empty() {
            self.hear().await?;
        }
        Ok(())
    }

    async fn run(mut self, stopped: CancellationToken) -> anyhow::Result<Vec<Instant>> {
        loop {
            tokio::select! {
                () = stopped.cancelled() => return Ok(self.seen),
                heard = self.hear() => if let Some(failure) = heard? {
                    bail!("its job or a request failed: {failure}");
                },
            }
        }
    }

    async fn until_failed(mut self) -> anyhow::Result<Instant> {
        while self.hear().await?.is_none() {}
        Ok(Instant::now())
    }

    /// One message, or a connection to another replica; what failed, if it says so.
    async fn hear(&mut self) -> anyhow::Result<Option<String>> {
        match self.client.try_recv().await?.map(|received| received.kind) {
            Some(Kind::Event(_)) => self.seen.push(Instant::now()),
            Some(Kind::Error(message)) => return Ok(Some(message)),
            Some(Kind::Bye(after)) => {
                tokio::time::sleep(after).await;
                self.resume().await?;
            }
            Some(_) => {}
            None => self.resume().await?,
        }
        Ok(None)
    }

    async fn resume(&mut self) -> anyhow::Result<()> {
        let mut search = Search::new();
        loop {
            let address = search.next(&self.addresses, &mut self.at).await?;
            let mut dialler = Dialler::sharing(Wire::Grpc, &address, 1);
            let resumed = self.client.resume(&mut dialler);
            if let Ok(Ok(())) = tokio::time::timeout(DIAL_TIMEOUT, resumed).await {
                return Ok(());
            }
        }
    }
}

/// A host with one job, of which it reports an event each tick.
struct Reporting {
    addresses: Vec<String>,
    at: usize,
    agent: String,
    host: Host,
    of: Option<AssignmentRef>,
    reported: u64,
    unacked: VecDeque<Report>,
}

/// Why a stream is no longer used.
enum Left {
    Stopped,
    /// To be back after this long.
    SentAway(Duration),
}

impl Reporting {
    async fn start(addresses: &[String], at: usize, agent: &str) -> anyhow::Result<Self> {
        let channel = channel(&addresses[at]).await?;
        Ok(Self {
            addresses: addresses.to_vec(),
            at,
            agent: agent.into(),
            host: Host::serving(channel, agent, agent, 1).await?,
            of: None,
            reported: 0,
            unacked: VecDeque::new(),
        })
    }

    async fn run(mut self, stopped: CancellationToken) -> anyhow::Result<()> {
        loop {
            match self.serve(&stopped).await? {
                Left::Stopped => return Ok(()),
                Left::SentAway(after) => tokio::time::sleep(after).await,
            }
            self.register().await?;
        }
    }

    async fn serve(&mut self, stopped: &CancellationToken) -> anyhow::Result<Left> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped.cancelled() => return Ok(Left::Stopped),
                _ = ticks.tick() => self.report().await,
                heard = self.host.hear() => match heard {
                    Ok(Hear::Ack(ack)) => self.forget(ack.seq),
                    Ok(Hear::Assign(assign)) => {
                        let of = assign.r#ref.context("no ref")?;
                        self.host.accept(&of).await?;
                        self.of = Some(of);
                    }
                    Ok(Hear::HeartbeatAck(_)) => {}
                    Ok(Hear::Drain(drain)) => {
                        let after = drain.reconnect_after.unwrap_or_default();
                        return Ok(Left::SentAway(after.try_into()?));
                    }
                    Ok(other) => bail!("{other:?}"),
                    Err(_) => return Ok(Left::SentAway(Duration::ZERO)),
                },
            }
        }
    }

    async fn report(&mut self) {
        let Some(of) = &self.of else { return };
        self.reported += 1;
        let report = sample(self.reported, prost_types::Timestamp::default());
        self.unacked.push_back(report.clone());
        // What a dead stream did not take is said on the next one.
        let _ = self.host.report(of, vec![report]).await;
    }

    fn forget(&mut self, acked: u64) {
        while self.unacked.front().is_some_and(|first| first.seq <= acked) {
            self.unacked.pop_front();
        }
    }

    /// At another replica, with the job that it has and what of it was not acked.
    async fn register(&mut self) -> anyhow::Result<()> {
        let mut search = Search::new();
        let registered = loop {
            let address = search.next(&self.addresses, &mut self.at).await?;
            let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.dial(&address)).await;
            if let Ok(Ok((host, registered))) = dialled {
                self.host = host;
                break registered;
            }
        };
        let Some(of) = self.of.clone() else {
            return Ok(());
        };
        let kept = registered.keep.first();
        ensure!(
            kept.is_some(),
            "{}: the job was dropped at a reconnect",
            self.agent
        );
        self.forget(kept.map_or(0, |kept| kept.acked_seq));
        // What a dead stream does not take is said on the next one.
        let unacked = self.unacked.iter().cloned().collect();
        let _ = self.host.report(&of, unacked).await;
        Ok(())
    }

    async fn dial(&self, address: &str) -> anyhow::Result<(Host, Registered)> {
        let held = self.of.iter().cloned().collect();
        let register = register(&self.agent, &self.agent, 1, held);
        Host::registered(channel(address).await?, register).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_between_two_arrivals_or_goes_on_until_now() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let seen = [at(0), at(900), at(1_000), at(1_300), at(1_350)];
        assert_eq!(longest(&seen, at(1_000), at(1_400)), ms(300));
        // One that had begun before counts whole, one that was over does not count.
        assert_eq!(longest(&seen, at(1_200), at(1_400)), ms(300));
        assert_eq!(longest(&seen, at(1_340), at(2_000)), ms(650));
        assert_eq!(longest(&seen, at(1_000), at(9_000)), ms(7_650));
    }
}
