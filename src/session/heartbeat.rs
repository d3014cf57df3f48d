//! Liveness both ways (§6.4), and the one other thing a session waits for.

use tokio::time::Instant;

use super::actor::{Actor, End};
use crate::job::now;
use crate::protocol::message::ReplyBody;
use crate::protocol::{ErrorCode, Failure, id};

impl Actor {
    /// The earlier of: say something after an interval of silence, and give the
    /// peer up after two without hearing of it; both only when negotiated (§6.4).
    pub(super) fn next_deadline(&self) -> Instant {
        let interval = self.sessions.limits.heartbeat_interval;
        let barrier = self.barrier.as_ref().map(|barrier| barrier.until);
        let heartbeat = (self.last_outbound + interval).min(self.last_inbound + 2 * interval);
        barrier.map_or(heartbeat, |until| until.min(heartbeat))
    }

    pub(super) async fn on_deadline(&mut self) -> Result<(), End> {
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
        if self.last_inbound.elapsed() >= 2 * interval {
            let text = "nothing was heard for two heartbeat intervals; resume the session";
            return Err(self.fail(Failure::new(ErrorCode::HeartbeatLost, text)));
        }
        if self.last_outbound.elapsed() >= interval {
            self.last_outbound = Instant::now();
            let nonce = format!("p_{}", id::message_id());
            let sent_at = now();
            self.reply(ReplyBody::Ping { nonce, sent_at });
        }
        Ok(())
    }
}
