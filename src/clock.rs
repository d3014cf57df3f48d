//! The wall clock. What decides takes `now` as an argument; this is for the rim.
//!
//! Of a replica it is the clock of the servers of its log, which all replicas share: a
//! machine whose own is wrong would forget sessions and keys of all the others. What the
//! servers say is in each message; of its own entries a replica knows when it sent them
//! and when it had them back, and their time has to be in between.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protocol::Timestamp;

/// Clocks that differ by no more are taken for the same.
const SAME_MS: i64 = 1_000;

/// How far the servers' clock is ahead of this machine's.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

pub(crate) fn now() -> Timestamp {
    Timestamp(of_machine() + AHEAD_MS.load(Ordering::Relaxed))
}

/// An entry of this replica's is back that it sent so long ago, with the servers' time.
pub(crate) fn follow(published: Timestamp, sent: Duration) {
    let heard = of_machine();
    let ahead = ahead(published.0, heard - sent.as_millis() as i64, heard);
    let before = AHEAD_MS.swap(ahead, Ordering::Relaxed);
    if (ahead - before).abs() > SAME_MS {
        tracing::warn!(
            ahead_ms = ahead,
            "this machine's clock and that of the log's servers differ by that; theirs counts"
        );
    }
}

fn ahead(published: i64, sent: i64, heard: i64) -> i64 {
    let ahead = published - published.clamp(sent.min(heard), heard);
    match ahead.abs() > SAME_MS {
        true => ahead,
        false => 0,
    }
}

fn of_machine() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since_epoch.as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::ahead;

    #[test]
    fn a_clock_is_out_by_what_no_delay_explains() {
        assert_eq!(ahead(50_000, 49_000, 51_000), 0);
        assert_eq!(ahead(50_000, 40_000, 60_000), 0);
        assert_eq!(ahead(50_999, 49_000, 50_000), 0);
        assert_eq!(ahead(750_000, 49_000, 50_000), 700_000);
        assert_eq!(ahead(50_000, 749_000, 750_000), -699_000);
    }
}
