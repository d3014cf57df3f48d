//! Whether the log does all of its work. Each part says so of its own work alone: one that
//! does well hides none that fails.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A commit that has not ended after so long stands for one that fails: a disk that does not
/// answer says nothing.
const COMMIT_MAX: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Part {
    /// To the file.
    Commit = 1,
    /// To the stream of a cell, and what comes of it.
    Publish = 2,
    /// Of the stream of a cell.
    Read = 4,
    /// What was read, to the end.
    Follow = 8,
}

impl Part {
    const ALL: [Self; 4] = [Self::Commit, Self::Publish, Self::Read, Self::Follow];

    /// What there is to say of it when it fails.
    pub const fn failing(self) -> &'static str {
        match self {
            Self::Commit => "the store does not accept commits",
            Self::Publish => "the replicated log does not answer",
            Self::Read => "the replicated log cannot be read",
            Self::Follow => "this replica does not keep up with the replicated log",
        }
    }
}

/// Well, until a part says otherwise.
#[derive(Default)]
pub(in crate::log) struct Health {
    failing: AtomicU8,
    /// Since when a commit is on its way.
    committing: Mutex<Option<Instant>>,
}

impl Health {
    /// True when it was otherwise before.
    pub fn set(&self, part: Part, well: bool) -> bool {
        let bit = part as u8;
        let before = match well {
            true => self.failing.fetch_and(!bit, Ordering::Relaxed),
            false => self.failing.fetch_or(bit, Ordering::Relaxed),
        };
        (before & bit == 0) != well
    }

    pub fn commit_begins(&self) {
        *self.committing.lock() = Some(Instant::now());
    }

    pub fn commit_has_ended(&self) {
        *self.committing.lock() = None;
    }

    /// What is not well for whoever may go elsewhere.
    pub fn not_well(&self) -> Option<Part> {
        let since = *self.committing.lock();
        let stands = since.is_some_and(|since| since.elapsed() > COMMIT_MAX);
        // What else fails in a cell fails because of it.
        stands.then_some(Part::Commit).or(self.failing_part())
    }

    /// What fails first, if anything does.
    pub fn failing(&self) -> Option<&'static str> {
        self.failing_part().map(Part::failing)
    }

    pub fn failing_part(&self) -> Option<Part> {
        let failing = self.failing.load(Ordering::Relaxed);
        let failing = |part: &Part| failing & *part as u8 != 0;
        Part::ALL.into_iter().find(failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_does_well_hides_none_that_fails() {
        let health = Health::default();
        assert_eq!(health.failing_part(), None);
        assert!(health.set(Part::Commit, false));
        assert!(!health.set(Part::Commit, false), "known");
        assert!(!health.set(Part::Publish, true), "it was never otherwise");
        assert_eq!(health.failing_part(), Some(Part::Commit));
        assert!(health.set(Part::Read, false));
        assert!(health.set(Part::Commit, true));
        assert_eq!(health.failing_part(), Some(Part::Read));
        assert!(health.set(Part::Read, true));
        assert_eq!(health.failing_part(), None);
    }
}
