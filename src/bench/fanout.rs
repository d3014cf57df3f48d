//! One job watched by many sessions.

use std::time::Instant;

use anyhow::ensure;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::peer::{Peer, channel};
use super::report::{Report, Target};
use super::{Ground, median};
use crate::wire::proto::envelope::Payload;
use crate::wire::proto::{self, SessionRequest, SessionResponse};

/// Sessions share connections, as those of one client process do.
const SESSIONS_PER_CONNECTION: usize = 100;
/// Deliveries of one round, whatever the number of observers.
const DELIVERIES: u64 = 2_000_000;

struct Round {
    deliveries_per_sec: f64,
    cpu_us: f64,
}

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    for observers in [1, 10, 100, 1_000] {
        let events = (ground.amount(DELIVERIES) / observers).clamp(64, 100_000);
        let (mut ours, mut theirs, mut cpu, mut floor_cpu) = (vec![], vec![], vec![], vec![]);
        for _ in 0..ground.rounds {
            let floor = floor(ground, observers, events).await?;
            let arcpd = watched(ground, observers, events, 0).await?;
            ours.push(arcpd.deliveries_per_sec);
            theirs.push(floor.deliveries_per_sec);
            cpu.push(arcpd.cpu_us);
            floor_cpu.push(floor.cpu_us);
        }
        let target = match observers {
            100.. => Target::RatioAtLeast(0.85),
            _ => Target::None,
        };
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        report.add(
            format!("{observers} observers, gRPC"),
            "deliveries/s",
            ours,
            Some(theirs),
            target,
        );
        let (cpu, floor_cpu) = (median(&mut cpu), median(&mut floor_cpu));
        let name = format!("{observers} observers, server CPU a delivery");
        report.add(name, "us", cpu, Some(floor_cpu), Target::None);
    }
    Ok(())
}

/// Healthy observers beside one that stopped reading, in pairs of rounds.
pub async fn stopped(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let (observers, events) = (20, ground.amount(50_000));
    let rounds = if ground.quick {
        1
    } else {
        ground.rounds.max(9)
    };
    let (mut ratios, mut grown) = (vec![], vec![]);
    for round in 0..rounds {
        // The order changes, so that what drifts does not count for one side.
        let (alone, beside);
        if round % 2 == 0 {
            alone = watched(ground, observers, events, 0).await?;
            let before = ground.runtime.memory();
            beside = watched(ground, observers, events, 1).await?;
            grown.push((ground.runtime.memory() - before) / (1024.0 * 1024.0));
        } else {
            let before = ground.runtime.memory();
            beside = watched(ground, observers, events, 1).await?;
            grown.push((ground.runtime.memory() - before) / (1024.0 * 1024.0));
            alone = watched(ground, observers, events, 0).await?;
        }
        ratios.push(beside.deliveries_per_sec / alone.deliveries_per_sec);
    }
    let spread = ratios.iter().copied().fold(f64::MIN, f64::max)
        - ratios.iter().copied().fold(f64::MAX, f64::min);
    let rate = median(&mut ratios);
    report.add(
        "others' rate beside a stopped observer",
        "× alone",
        rate,
        None,
        Target::AtLeast(0.9),
    );
    report.add(
        "spread of those pairs",
        "× alone",
        spread,
        None,
        Target::None,
    );
    report.add(
        "memory for a stopped observer",
        "MiB",
        median(&mut grown),
        None,
        Target::AtMost(16.0),
    );
    Ok(())
}

async fn channels(address: &str, sessions: u64) -> anyhow::Result<Vec<Channel>> {
    let count = (sessions as usize).div_ceil(SESSIONS_PER_CONNECTION).max(1);
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(channel(address).await?);
    }
    Ok(channels)
}

/// A firehose to `observers` sessions; as many as `stopped` more never read.
async fn watched(
    ground: &Ground,
    observers: u64,
    events: u64,
    stopped: u64,
) -> anyhow::Result<Round> {
    let address = &ground.runtime.address;
    let channels = channels(address, observers).await?;
    let mut submitter = Peer::session(channel(address).await?).await?;
    // Everybody is there before the first event.
    let delay_ms = 1_000 + 3 * observers;
    let input = json!({ "events": events, "bytes": 128, "delay_ms": delay_ms }).to_string();
    submitter.submit("firehose", &input).await?;
    let job = submitter.accepted().await?;
    // Only those that are counted are served.
    submitter
        .send(&job, Payload::JobUnsubscribe(Default::default()))
        .await?;
    let mut still = Vec::new();
    for _ in 0..stopped {
        let mut peer = Peer::session(channel(address).await?).await?;
        peer.subscribe(&job, false).await?;
        still.push(peer);
    }
    let mut peers = Vec::new();
    for index in 0..observers as usize {
        let mut peer = Peer::session(channels[index % channels.len()].clone()).await?;
        peer.subscribe(&job, false).await?;
        peers.push(peer);
    }
    let mut tasks = JoinSet::new();
    let cpu = ground.runtime.cpu();
    for mut peer in peers {
        tasks.spawn(async move {
            let first = peer.recv().await?;
            let started = Instant::now();
            ensure!(first.event_seq == 1, "it began with {}", first.event_seq);
            let text = format!("{:?}", first.payload);
            ensure!(text.contains("\"00000000."), "subscribed too late: {text}");
            peer.last_seq = 1;
            let received = 1 + peer.until_terminal().await?;
            ensure!(received == events + 1, "{received} of {events}");
            anyhow::Ok((started, Instant::now(), peer))
        });
    }
    let round = rate(&mut tasks, observers * events, || {
        ground.runtime.cpu() - cpu
    })
    .await;
    drop((submitter, still));
    round
}

/// From the first event anyone had to the last terminal. Nobody leaves before
/// that: to see a session off is other work.
async fn rate<T: Send + 'static>(
    tasks: &mut JoinSet<anyhow::Result<(Instant, Instant, T)>>,
    deliveries: u64,
    cpu: impl Fn() -> f64,
) -> anyhow::Result<Round> {
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.push(task??);
    }
    let cpu = cpu();
    let started = times.iter().map(|(started, ..)| *started).min();
    let ended = times.iter().map(|(_, ended, _)| *ended).max();
    let (Some(started), Some(ended)) = (started, ended) else {
        anyhow::bail!("nobody watched");
    };
    Ok(Round {
        deliveries_per_sec: deliveries as f64 / (ended - started).as_secs_f64(),
        cpu_us: cpu * 1e6 / deliveries as f64,
    })
}

/// Bare tonic: the same number of streams, messages encoded once.
async fn floor(ground: &Ground, observers: u64, events: u64) -> anyhow::Result<Round> {
    let channels = channels(&ground.floor.address, observers).await?;
    let mut peers = Vec::new();
    for index in 0..observers as usize {
        peers.push(Fan::open(channels[index % channels.len()].clone()).await?);
    }
    let starter = peers[0].requests.clone();
    let cpu = ground.floor.cpu();
    let mut tasks = JoinSet::new();
    for mut peer in peers {
        tasks.spawn(async move {
            let first = peer.next().await?;
            let started = Instant::now();
            let mut expected = 1;
            let mut response = first;
            while expected <= events + 1 {
                for envelope in response.envelopes {
                    let found = envelope.event_seq;
                    ensure!(
                        found == expected,
                        "event_seq {found} where {expected} was due"
                    );
                    expected += 1;
                }
                if expected > events + 1 {
                    break;
                }
                response = peer.next().await?;
            }
            anyhow::Ok((started, Instant::now(), peer))
        });
    }
    starter.send(start(events)).await?;
    rate(&mut tasks, observers * events, || ground.floor.cpu() - cpu).await
}

/// A stream of the floor's fan-out, decoded like the runtime's.
struct Fan {
    requests: tokio::sync::mpsc::Sender<SessionRequest>,
    responses: tonic::Streaming<SessionResponse>,
}

impl Fan {
    async fn open(channel: Channel) -> anyhow::Result<Self> {
        let (requests, rx) = tokio::sync::mpsc::channel(4);
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
        let path = http::uri::PathAndQuery::from_static("/fan/Session");
        let codec = tonic_prost::ProstCodec::<SessionRequest, SessionResponse>::default();
        let request = tonic::Request::new(stream);
        let mut responses: tonic::Streaming<SessionResponse> =
            grpc.streaming(request, path, codec).await?.into_inner();
        let first = responses.message().await?;
        ensure!(first.is_some(), "the floor hung up");
        Ok(Self {
            requests,
            responses,
        })
    }

    async fn next(&mut self) -> anyhow::Result<SessionResponse> {
        let next = self.responses.message().await?;
        next.ok_or_else(|| anyhow::anyhow!("the floor hung up"))
    }
}

/// Tells the floor to feed its streams.
fn start(events: u64) -> SessionRequest {
    let hello = proto::SessionHello {
        client_name: format!("start:{events}"),
        ..Default::default()
    };
    let envelope = proto::Envelope {
        payload: Some(Payload::SessionHello(hello)),
        ..Default::default()
    };
    SessionRequest {
        envelope: Some(envelope),
    }
}
