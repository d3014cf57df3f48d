//! Reads the stream from where this replica's file is, and makes sure that it is the
//! stream that the file is of.
//!
//! Whoever begins to read, at the start or again, begins at the last entry that is
//! there already and looks whether it is the same one. Before that nothing is passed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{ClusterInfo, ConsumerErrorKind, Info, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::broken::Broken;
use super::connect::LEADER_TRIES;
use super::followed::Followed;
use super::news::News;
use super::place::{Place, Received};
use super::reading::{Reading, consumer_at};
use super::takers::Takers;
use super::{FORMAT_KEY, STALL};
use crate::log::sqlite::State;
use crate::log::sqlite::health::Part;

const RETRY: Duration = Duration::from_millis(100);
/// After a silence of so long the stream is asked whether there is more, and then again
/// and again: it may have no leader for a while, and nobody says when it has one.
const SILENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);
/// A request that is made while nobody leads is never answered: another is made so soon,
/// and the first answer counts, on a machine that has much to do that of an earlier one.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// Where one server is given a consumer and has just died, nobody answers; meanwhile
/// nothing is read.
const PLACED_WITHIN: Duration = Duration::from_millis(100);

pub(super) struct Tail {
    jetstream: Context,
    stream: Stream,
    /// What the stream was given when it was made.
    identity: String,
    place: Place,
    state: Arc<State>,
    followed: Arc<Followed>,
    /// When the stream last answered as it should.
    heard_at: Instant,
}

/// Why it is not read now.
enum Failure {
    Again(String),
    /// It never will be, if that is still so in a while.
    Broken(Broken),
}

impl Tail {
    pub fn new(
        (jetstream, stream): (Context, Stream),
        identity: String,
        place: Place,
        state: Arc<State>,
        followed: Arc<Followed>,
    ) -> Self {
        Self {
            jetstream,
            stream,
            identity,
            place,
            state,
            followed,
            heard_at: Instant::now(),
        }
    }

    /// Runs until it is stopped, nobody takes what it reads, or there can be no more.
    pub async fn run(mut self, mut reading: Reading, takers: Takers) {
        let stopped = takers.stopped.clone();
        let read = async {
            loop {
                match self.follow(&mut reading, &takers).await {
                    Ok(()) => return,
                    Err(error) => self.cut_off(&error),
                }
                match self.begin().await {
                    Ok(begun) => reading = begun,
                    Err(broken) => {
                        let why = broken.advice(&self.stream.cached_info().config.name);
                        // Nobody to hear of it: the process ends.
                        let _ = takers.news.send(News::Lost(why));
                        // What is written now is for nobody.
                        return takers.stopped.cancel();
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stopped.cancelled() => {}
            () = read => {}
        }
    }

    /// Tries until the stream is read from where it was left, or it is certain that it
    /// never will be.
    pub async fn begin(&mut self) -> Result<Reading, Broken> {
        let mut said: Option<(Broken, Instant)> = None;
        loop {
            match self.try_begin().await {
                Ok(reading) => {
                    self.heard();
                    return Ok(reading);
                }
                Err(Failure::Broken(broken)) => {
                    let since = said.filter(|(before, _)| before.is_like(broken));
                    let (_, since) = *said.insert(since.unwrap_or_else(|| {
                        self.cut_off(&broken.to_string());
                        (broken, Instant::now())
                    }));
                    if since.elapsed() >= broken.sure_after() {
                        return Err(broken);
                    }
                    if broken == Broken::Gone {
                        self.not_heard();
                    }
                }
                Err(Failure::Again(error)) => {
                    said = None;
                    self.cut_off(&error);
                }
            }
            self.look();
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_begin(&mut self) -> Result<Reading, Failure> {
        let at = self.place.sequence;
        let consumer = self.beside_leader().await?;
        // After it: while a consumer is there, so is the stream that it was made in.
        let info = self.info().await?;
        self.followed.seen(info.state.last_sequence);
        self.check(&info).map_err(Failure::Broken)?;
        let mut reading = Reading::by(&consumer).await.map_err(Failure::Again)?;
        // Before the first there is nothing to compare, nor where the entry was trimmed.
        if at > 0 && info.state.first_sequence <= at {
            let found = tokio::time::timeout(ASK_TIMEOUT, read_until(&mut reading, at)).await;
            let found = found.map_err(|_| Failure::Again("nothing is read in time".into()))?;
            let found = found.map_err(Failure::Again)?;
            if found.sequence != at {
                return Err(Failure::Broken(Broken::Missing(at)));
            }
            if !self.place.is(&found) {
                return Err(Failure::Broken(Broken::Other(at)));
            }
        }
        Ok(reading)
    }

    /// What a consumer needs is with one server, and another is chosen for the next.
    async fn consumer(&self) -> Result<Consumer<Config>, Failure> {
        let at = self.place.sequence;
        let ask = || {
            let stream = self.stream.clone();
            async move {
                let consumer = consumer_at(&stream, at.max(1)).await;
                consumer.map_err(|error| match error.kind() {
                    ConsumerErrorKind::JetStream(error) => refusal(&error),
                    _ => Failure::Again(error.to_string()),
                })
            }
        };
        self.asked("no consumer is made", ask).await
    }

    /// The server that leads the stream has an entry first: another hears of it once most
    /// have it, a trip later. Which one has a consumer nobody can ask for, so some are made;
    /// those that are not read by are forgotten by their servers. It is no loss where the
    /// leader changes later.
    async fn beside_leader(&self) -> Result<Consumer<Config>, Failure> {
        let mut consumer = self.consumer().await?;
        let servers = self.info().await?.cluster;
        let Some(leader) = servers.and_then(|servers| servers.leader) else {
            return Ok(consumer);
        };
        let is_there = |consumer: &Consumer<Config>| {
            let cluster = consumer.cached_info().cluster.as_ref();
            cluster.and_then(|cluster| cluster.leader.as_ref()) == Some(&leader)
        };
        let until = Instant::now() + PLACED_WITHIN;
        for _ in 0..LEADER_TRIES {
            if is_there(&consumer) {
                break;
            }
            let another = self.consumer();
            match tokio::time::timeout_at(until, another).await {
                Ok(Ok(another)) => consumer = another,
                _ => break,
            }
        }
        Ok(consumer)
    }

    /// Whether it is the stream that was read so far.
    fn check(&self, info: &Info) -> Result<(), Broken> {
        let (last, applied) = (info.state.last_sequence, self.place.sequence);
        if info.config.metadata.get(FORMAT_KEY) != Some(&self.identity) {
            Err(Broken::Foreign)
        } else if last < applied {
            Err(Broken::Short { last, applied })
        } else {
            Ok(())
        }
    }

    async fn info(&self) -> Result<Info, Failure> {
        let ask = || {
            let jetstream = self.jetstream.clone();
            let name = self.stream.cached_info().config.name.clone();
            async move {
                let stream = jetstream.get_stream(name).await;
                let stream = stream.map_err(|error| match error.kind() {
                    GetStreamErrorKind::JetStream(error) => refusal(&error),
                    _ => Failure::Again(error.to_string()),
                })?;
                let info = stream.cached_info();
                match is_served(info.cluster.as_ref()) {
                    true => Ok(info.clone()),
                    false => Err(Failure::Again("most of its servers are not there".into())),
                }
            }
        };
        self.asked("it is not answered for", ask).await
    }

    /// The first answer there is.
    async fn asked<T, F>(&self, unless: &'static str, ask: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut asked = FuturesUnordered::new();
        let mut every = tokio::time::interval(ASK_EVERY);
        let late = tokio::time::sleep(ASK_TIMEOUT);
        tokio::pin!(late);
        loop {
            tokio::select! {
                Some(answered) = asked.next() => return answered,
                _ = every.tick() => {
                    asked.push(ask());
                    self.look();
                }
                () = &mut late => return Err(Failure::Again(format!("{unless} in time"))),
            }
        }
    }

    /// `Ok` when nobody takes what is read any more.
    async fn follow(&mut self, reading: &mut Reading, takers: &Takers) -> Result<(), String> {
        loop {
            let (next, pending) = tokio::select! {
                biased;
                next = reading.next() => next?,
                why = self.overtaken() => return Err(why),
            };
            self.heard();
            if next.sequence <= self.place.sequence {
                continue;
            }
            self.place = Place::of(next.clone());
            self.followed.seen(next.sequence + pending);
            if !takers.take(next).await {
                return Ok(());
            }
        }
    }

    /// Resolves once the stream does not end with what was read, after a silence. The
    /// server that has the consumer may be gone while the others go on, and the client
    /// library takes half a minute to see that.
    async fn overtaken(&mut self) -> String {
        let connects = self.connects();
        tokio::time::sleep(SILENCE).await;
        loop {
            // Its consumer was beside it, and may be gone with it. Once somebody leads again
            // there is another before there is something to read.
            if self.connects() != connects {
                return "its server was lost".into();
            }
            match self.info().await {
                Ok(info) => {
                    if let Err(broken) = self.check(&info) {
                        return broken.to_string();
                    }
                    if info.state.last_sequence > self.place.sequence {
                        return "its consumer says nothing".into();
                    }
                    self.heard();
                }
                Err(Failure::Broken(broken)) => return broken.to_string(),
                Err(Failure::Again(_)) => self.look(),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn connects(&self) -> u64 {
        let statistics = self.jetstream.client().statistics();
        statistics.connects.load(Ordering::Relaxed)
    }

    fn heard(&mut self) {
        self.heard_at = Instant::now();
        if self.state.health.set(Part::Read, true) {
            tracing::info!("the stream of the log is read again");
        }
    }

    /// What no answer will tell.
    fn look(&self) {
        if self.heard_at.elapsed() > STALL {
            self.not_heard();
        }
    }

    fn not_heard(&self) {
        if self.state.health.set(Part::Read, false) {
            tracing::warn!("the stream of the log is not read");
        }
    }

    fn cut_off(&self, error: &str) {
        let after = self.place.sequence;
        tracing::warn!(error, after, "reading the stream was cut off");
    }
}

/// A server that led a stream goes on to answer for it where most of the others are gone, by
/// itself and for ever. Only to its leader are followers that have what it has current, and
/// that is most of them or it could not go on.
fn is_served(cluster: Option<&ClusterInfo>) -> bool {
    // A server without others.
    let Some(cluster) = cluster else { return true };
    let servers = 1 + cluster.replicas.len();
    let current = 1 + cluster.replicas.iter().filter(|peer| peer.current).count();
    cluster.leader.is_some() && 2 * current > servers
}

fn refusal(error: &async_nats::jetstream::Error) -> Failure {
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => Failure::Broken(Broken::Gone),
        _ => Failure::Again(error.to_string()),
    }
}

/// The first entry that is not before one.
async fn read_until(reading: &mut Reading, sequence: u64) -> Result<Received, String> {
    loop {
        let (next, _) = reading.next().await?;
        if next.sequence >= sequence {
            return Ok(next);
        }
    }
}
