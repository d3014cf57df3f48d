//! A mark says where a session is, and changes nothing of what it sees.
//!
//! A resume counts from the last operation of the view before it. What has ended since has
//! to be known for that, and retention removes it one day: where nothing else is asked for in
//! a session, the end of one of its streams is noted as an operation.

use std::time::Duration;

use tokio::time::Instant;

use super::actor::{Actor, End};
use super::view::{Change, Op};
use crate::log::StreamId;

/// A store that is full removes what has ended once it is looked at again; else it is kept
/// for longer.
const EVERY: Duration = Duration::from_secs(60);

pub(super) struct Mark {
    /// A stream that has ended since the last operation.
    ended: Option<StreamId>,
    due_at: Instant,
}

impl Mark {
    /// Where something had ended when a session was taken up again it is due: when its last
    /// operation was, nobody knows.
    pub fn new(ended: Option<StreamId>) -> Self {
        let due_at = Instant::now();
        Self { ended, due_at }
    }

    /// An operation is the last one.
    pub fn reset(&mut self) {
        self.ended = None;
        self.due_at = Instant::now() + EVERY;
    }

    pub fn has_ended(&mut self, stream: StreamId) {
        self.ended = Some(stream);
    }

    /// The stream that is to be noted, if it is time.
    fn due(&self) -> Option<StreamId> {
        self.ended.filter(|_| self.due_at <= Instant::now())
    }
}

impl Actor {
    pub(super) async fn check_mark(&mut self) -> Result<(), End> {
        let due = self.mark.due().filter(|_| !self.is_replaying());
        let Some(stream) = due else {
            return Ok(());
        };
        if !self.sessions.log.healthy() {
            // It is not what ends a session.
            self.mark.due_at = Instant::now() + self.sessions.limits.heartbeat_interval;
            return Ok(());
        }
        let (at, change) = (self.cursor(), Change::Unwatch { stream });
        let recorded = self.record(&[Op { at, change }]).await;
        recorded.map_err(|failure| self.fail(failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_is_noted_a_minute_after_the_last_operation_and_at_once_after_a_resume() {
        assert_eq!(Mark::new(Some(1)).due(), Some(1));
        let mut mark = Mark::new(None);
        assert_eq!(mark.due(), None, "nothing has ended");
        mark.reset();
        mark.has_ended(2);
        tokio::time::advance(EVERY - Duration::from_secs(1)).await;
        assert_eq!(mark.due(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(mark.due(), Some(2));
        mark.reset();
        tokio::time::advance(2 * EVERY).await;
        assert_eq!(mark.due(), None, "an operation says where the session is");
    }
}
