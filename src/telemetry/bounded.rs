//! Lines of the log that peers could write without end: so many of one operation and
//! one principal in a while, and of the rest how many there were.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::logs::AUDIT;

/// Of an operation and a principal, between two sums.
const LINES_MAX: u64 = 10;
/// From one sum to the next.
pub const SUM_INTERVAL: Duration = Duration::from_secs(10);

/// What has been asked for since the last sum; principals are those of the
/// configuration, so it does not grow.
#[derive(Default)]
pub struct Bounded(Mutex<HashMap<(&'static str, String), u64>>);

impl Bounded {
    /// Whether one more refusal has a line of its own; it is of a principal, or of a
    /// service where nobody is known.
    pub fn admits(&self, operation: &'static str, of: &str) -> bool {
        let mut asked = self.0.lock();
        let count = asked.entry((operation, of.into())).or_default();
        *count += 1;
        *count <= LINES_MAX
    }

    /// Says how many have had none, and begins anew.
    pub fn sum_up(&self) {
        let asked = std::mem::take(&mut *self.0.lock());
        for ((operation, of), count) in asked {
            if count > LINES_MAX {
                tracing::warn!(
                    target: AUDIT,
                    operation,
                    of,
                    decision = "refused",
                    suppressed = count - LINES_MAX,
                    "more of the same, without a line of their own"
                );
            }
        }
    }

    /// Sums up again and again.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(SUM_INTERVAL).await;
            self.sum_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_take_no_lines_from_another() {
        let lines = Bounded::default();
        let admitted = |principal| {
            let asked = 0..1_000;
            asked
                .filter(|_| lines.admits("subscribe", principal))
                .count()
        };
        assert_eq!((admitted("alice"), admitted("bob")), (10, 10));
        lines.sum_up();
        assert_eq!(admitted("alice"), 10);
    }
}
