//! Liveness both ways (§6.4), and the one other thing a session waits for.

use std::time::Duration;

use tokio::time::Instant;

use super::actor::{Actor, End};
use crate::job::now;
use crate::protocol::message::ReplyBody;
use crate::protocol::{ErrorCode, Failure, id};

/// For what the peer said while nobody listened: the process stood still, or the
/// store did. It is in the socket then, and read before this is over.
const LAST_LOOK_MAX: Duration = Duration::from_secs(1);

impl Actor {
    /// The earlier of: say something after an interval of silence, and give the
    /// peer up after two without hearing of it; both only when negotiated (§6.4).
    pub(super) fn next_deadline(&self) -> Instant {
        let interval = self.sessions.limits.heartbeat_interval;
        let barrier = self.barrier.as_ref().map(|barrier| barrier.until);
        let lost = self.last_inbound + 2 * interval;
        let heartbeat = self
            .give_up_at
            .unwrap_or((self.last_outbound + interval).min(lost));
        barrier.map_or(heartbeat, |until| until.min(heartbeat))
    }

    /// `listening` is whether requests are read now.
    pub(super) async fn on_deadline(&mut self, listening: bool) -> Result<(), End> {
        if self
            .barrier
            .as_ref()
            .is_some_and(|b| b.until <= Instant::now())
        {
            self.lower_barrier().await?;
        }
        let interval = self.sessions.limits.heartbeat_interval;
        if !self.has("heartbeat") {
            // A peer that did not negotiate it need not answer; TCP and HTTP/2
            // find out that it is gone.
            (self.last_inbound, self.last_outbound) = (Instant::now(), Instant::now());
            return Ok(());
        }
        if !listening && self.last_taken.elapsed() < 2 * interval {
            // Its requests wait for what it is still being sent, and it takes that.
            self.last_inbound = Instant::now();
            self.give_up_at = None;
        } else if self.last_inbound.elapsed() >= 2 * interval {
            self.give_up_at
                .get_or_insert_with(|| Instant::now() + LAST_LOOK_MAX.min(interval / 2));
        }
        if self.give_up_at.is_some_and(|at| at <= Instant::now()) {
            let text = "nothing was heard for two heartbeat intervals; resume the session";
            return Err(self.fail(Failure::new(ErrorCode::HeartbeatLost, text)));
        }
        if self.give_up_at.is_none() && self.last_outbound.elapsed() >= interval {
            self.last_outbound = Instant::now();
            let nonce = format!("p_{}", id::message_id());
            let sent_at = now();
            self.reply(ReplyBody::Ping { nonce, sent_at });
        }
        Ok(())
    }
}
