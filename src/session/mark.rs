//! A mark says where a session is, and changes nothing of what it sees.
//!
//! A resume counts from the last operation of the view before it. What has ended since has
//! to be known for that, and retention forgets it one day: where nothing is asked for in a
//! session for long, the end of one of its streams is noted as an operation.

use std::time::Duration;

use tokio::time::Instant;

use super::actor::{Actor, End};
use super::view::{Change, Op};
use crate::log::StreamId;

/// Shorter than anything is kept after its end.
const EVERY: Duration = Duration::from_secs(3_600);

pub(super) struct Mark {
    /// A stream that has ended since the last operation.
    ended: Option<StreamId>,
    due_at: Instant,
}

impl Mark {
    /// Of a session that is taken up again it is due: when its last operation was, nobody
    /// knows.
    pub fn of_resumed(ended: Option<StreamId>) -> Self {
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
}

impl Actor {
    pub(super) async fn check_mark(&mut self) -> Result<(), End> {
        let Some(stream) = self.mark.ended else {
            return Ok(());
        };
        if self.mark.due_at > Instant::now() || self.is_replaying() {
            return Ok(());
        }
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
