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
/// What the peer is to be sent goes first: a mark is a commit that it would wait for.
const AFTER_END: Duration = Duration::from_secs(1);

pub(super) struct Mark {
    /// A stream that has ended since the last operation.
    ended: Option<StreamId>,
    due_at: Instant,
}

impl Mark {
    /// Where something had ended when a session was taken up again it is due soon: when its
    /// last operation was, nobody knows.
    pub fn new(ended: Option<StreamId>) -> Self {
        let due_at = Instant::now() + AFTER_END;
        Self { ended, due_at }
    }

    /// An operation is the last one.
    pub fn reset(&mut self) {
        self.ended = None;
        self.due_at = Instant::now() + EVERY;
    }

    pub fn has_ended(&mut self, stream: StreamId) {
        self.ended = Some(stream);
        self.due_at = self.due_at.max(Instant::now() + AFTER_END);
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
    async fn an_end_is_noted_a_minute_after_the_last_operation_and_soon_after_a_resume() {
        let moment = Duration::from_millis(1);
        let mut mark = Mark::new(Some(1));
        assert_eq!(mark.due(), None, "what there is for the peer is first");
        tokio::time::advance(AFTER_END).await;
        assert_eq!(mark.due(), Some(1));
        mark.reset();
        mark.has_ended(2);
        tokio::time::advance(EVERY - moment).await;
        assert_eq!(mark.due(), None);
        tokio::time::advance(moment).await;
        assert_eq!(mark.due(), Some(2));
        mark.reset();
        tokio::time::advance(2 * EVERY).await;
        assert_eq!(mark.due(), None, "nothing has ended");
        mark.has_ended(3);
        assert_eq!(mark.due(), None, "its end is sent first");
        tokio::time::advance(AFTER_END).await;
        assert_eq!(mark.due(), Some(3));
    }
}
