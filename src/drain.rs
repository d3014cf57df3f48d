//! When streams end that have not come to their end: all of them when the runtime stops
//! or is cut off from its log, those of one connection when it is as old as it may become.
//!
//! Where another replica takes them, or this one again, each ends at a moment of its own,
//! is served until then and may be back at once: its peer hears nothing only while it
//! dials. A runtime of its own that stops ends all at once and tells each another time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::protocol::{Cause, Departure};

/// Within this the streams of a connection end, and those of a replica that has few.
const SPREAD_MIN: Duration = Duration::from_millis(500);
/// What each peer of a replica adds: each is a command that all replicas apply, and
/// so many do not keep them from the rest of their work.
const SPREAD_PER_PEER: Duration = Duration::from_micros(500);

/// The end of a runtime.
pub struct Drain {
    begun: CancellationToken,
    /// Those who are there now leave when it turns.
    leaving: Mutex<CancellationToken>,
    is_cut_off: AtomicBool,
    /// Other replicas are there at once.
    replicated: bool,
    /// Set when it begins.
    spread: OnceLock<Duration>,
}

/// How long the streams of one connection may stay.
#[derive(Clone)]
pub struct Stay {
    drain: Arc<Drain>,
    leaving: CancellationToken,
    until: Option<Instant>,
}

impl Drain {
    pub fn new(replicated: bool) -> Arc<Self> {
        Arc::new(Self {
            begun: CancellationToken::new(),
            leaving: Mutex::default(),
            is_cut_off: AtomicBool::new(false),
            replicated,
            spread: OnceLock::new(),
        })
    }

    /// With so many peers connected and so long until the process has to be gone. The
    /// first call counts.
    pub fn begin(&self, peers: usize, deadline: Duration) {
        let spread = match self.replicated {
            true => spread(peers, deadline),
            false => Duration::ZERO,
        };
        let _ = self.spread.set(spread);
        self.begun.cancel();
        self.leaving.lock().cancel();
    }

    /// Whether the log cannot be heard of any more. Who is there, or comes while it is so,
    /// is told to go elsewhere. True when that is new.
    pub fn set_cut_off(&self, is: bool) -> bool {
        if self.is_cut_off.swap(is, Ordering::Relaxed) == is {
            return false;
        }
        let mut leaving = self.leaving.lock();
        match is {
            true => leaving.cancel(),
            false if self.is_begun() => {}
            false => *leaving = CancellationToken::new(),
        }
        true
    }

    pub fn is_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// What is said once it has begun. Peers of a runtime that nobody stands in for stay
    /// away for a part of `away_max`.
    pub fn departure(&self, away_max: Duration) -> Departure {
        let reconnect_after = match self.replicated {
            true => Duration::ZERO,
            false => rand::rng().random_range(Duration::ZERO..=away_max),
        };
        Departure {
            cause: Cause::Shutdown,
            reconnect_after,
        }
    }
}

/// Half of the time is for peers that do not hang up.
fn spread(peers: usize, deadline: Duration) -> Duration {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    let wanted = SPREAD_PER_PEER.saturating_mul(peers).max(SPREAD_MIN);
    wanted.min(deadline / 2)
}

impl Stay {
    /// Until the drain, or an age that is given or taken a tenth of.
    pub fn new(drain: Arc<Drain>, age_max: Option<Duration>) -> Self {
        let jittered = |age: Duration| age.mul_f64(rand::rng().random_range(0.9..=1.1));
        let until = age_max.map(|age| Instant::now() + jittered(age));
        let leaving = drain.leaving.lock().clone();
        Self {
            drain,
            leaving,
            until,
        }
    }

    /// Resolves when the connection is to take nothing new.
    pub async fn over(&self) {
        match self.until {
            None => self.leaving.cancelled().await,
            // Not part of what each stream keeps where no age is set.
            Some(until) => {
                let aged = Box::pin(sleep_until(until));
                tokio::select! {
                    () = aged => {}
                    () = self.leaving.cancelled() => {}
                }
            }
        }
    }

    /// Resolves when one stream of the connection is to end. `away_max` as in
    /// [`Drain::departure`].
    pub async fn turn(&self, away_max: Duration) -> Departure {
        self.over().await;
        let spread = self.drain.spread.get().copied().unwrap_or(SPREAD_MIN);
        if !spread.is_zero() {
            let moment = rand::rng().random_range(Duration::ZERO..=spread);
            // Rare, and not part of what an idle stream keeps.
            Box::pin(sleep(moment)).await;
        }
        self.departure(away_max)
    }

    fn departure(&self, away_max: Duration) -> Departure {
        if self.drain.is_begun() {
            return self.drain.departure(away_max);
        }
        let cause = match self.leaving.is_cancelled() {
            true => Cause::CutOff,
            false => Cause::Age,
        };
        Departure {
            cause,
            reconnect_after: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_peers_leave_over_a_longer_time_but_well_before_the_deadline() {
        let deadline = Duration::from_secs(20);
        assert_eq!(spread(0, deadline), Duration::from_millis(500));
        assert_eq!(spread(1_000, deadline), Duration::from_millis(500));
        assert_eq!(spread(10_000, deadline), Duration::from_secs(5));
        assert_eq!(spread(usize::MAX, deadline), Duration::from_secs(10));
        assert_eq!(spread(0, Duration::ZERO), Duration::ZERO);
    }

    async fn waited(stay: &Stay, away_max: Duration) -> (Departure, Duration) {
        let asked = Instant::now();
        let departure = stay.turn(away_max).await;
        (departure, asked.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn peers_of_one_of_several_replicas_go_one_by_one_and_are_back_at_once() {
        let drain = Drain::new(true);
        let stay = Stay::new(drain.clone(), None);
        drain.begin(2_000, Duration::from_secs(20));
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let (departure, waited) = waited(&stay, Duration::from_secs(2)).await;
            assert_eq!(departure.cause, Cause::Shutdown);
            assert_eq!(departure.reconnect_after, Duration::ZERO);
            assert!(waited <= Duration::from_millis(1_001), "{waited:?}");
            longest = longest.max(waited);
        }
        assert!(longest > Duration::from_millis(500), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn peers_of_a_runtime_of_its_own_are_told_at_once_when_to_be_back() {
        let drain = Drain::new(false);
        let stay = Stay::new(drain.clone(), None);
        drain.begin(100_000, Duration::from_secs(20));
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let (departure, waited) = waited(&stay, Duration::from_secs(2)).await;
            assert_eq!((departure.cause, waited), (Cause::Shutdown, Duration::ZERO));
            longest = longest.max(departure.reconnect_after);
        }
        let within = Duration::from_secs(1)..=Duration::from_secs(2);
        assert!(within.contains(&longest), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_at_a_replica_that_is_cut_off_goes_and_who_comes_later_stays() {
        let drain = Drain::new(true);
        let before = Stay::new(drain.clone(), None);
        assert!(drain.set_cut_off(true) && !drain.set_cut_off(true));
        let meanwhile = Stay::new(drain.clone(), None);
        assert!(drain.set_cut_off(false));
        for stay in [before, meanwhile] {
            let (departure, _) = waited(&stay, Duration::from_secs(2)).await;
            assert_eq!(departure.cause, Cause::CutOff);
            assert_eq!(departure.reconnect_after, Duration::ZERO);
        }
        let later = Stay::new(drain.clone(), None);
        let limit = Duration::from_secs(600);
        assert!(tokio::time::timeout(limit, later.over()).await.is_err());
        drain.begin(1, Duration::from_secs(20));
        drain.set_cut_off(true);
        drain.set_cut_off(false);
        let last = Stay::new(drain.clone(), None);
        let (departure, _) = waited(&last, Duration::from_secs(2)).await;
        assert_eq!(departure.cause, Cause::Shutdown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_stays_for_its_age_give_or_take_a_tenth() {
        let drain = Drain::new(false);
        let age = Duration::from_secs(100);
        let mut stays = Vec::new();
        for _ in 0..100 {
            let stay = Stay::new(drain.clone(), Some(age));
            let asked = Instant::now();
            stay.over().await;
            stays.push(asked.elapsed());
            let (departure, waited) = waited(&stay, Duration::from_secs(2)).await;
            assert_eq!(departure.cause, Cause::Age);
            assert_eq!(departure.reconnect_after, Duration::ZERO);
            assert!(waited <= Duration::from_millis(501), "{waited:?}");
        }
        let (least, most) = (stays.iter().min().unwrap(), stays.iter().max().unwrap());
        assert!((89..=95).contains(&least.as_secs()), "{least:?}");
        assert!((105..=110).contains(&most.as_secs()), "{most:?}");
    }
}
