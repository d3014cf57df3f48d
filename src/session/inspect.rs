//! What an operator sees of sessions. A session is asked, and answers between two
//! steps of its own: nobody else keeps what is its own to know, and an idle one pays
//! nothing for it.

use std::time::Duration;

use tokio::sync::oneshot;

use super::actor::Actor;
use super::{Sessions, unavailable};
use crate::log::StreamId;
use crate::protocol::{Failure, Timestamp};
use crate::telemetry::Via;

/// One that is at the store, or not open yet, may not answer in time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A session that has a connection.
pub struct Live {
    pub session_id: String,
    pub principal: String,
    /// None while it does not answer.
    pub seen: Option<Seen>,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub via: Via,
    pub state: &'static str,
    pub created_at: Timestamp,
    pub idle: Duration,
    pub last_event_seq: u64,
    /// Of a client that acks.
    pub ack_lag: Option<u64>,
    pub unsent_bytes: usize,
    /// The watched streams, each with its last record that was numbered.
    pub watched: Vec<(StreamId, u64)>,
}

/// A job that a session watches.
pub struct Watched {
    pub stream: StreamId,
    pub job_id: String,
    pub agent: String,
    pub principal: String,
    pub job_seq: u64,
    pub lag: u64,
}

impl Sessions {
    /// Sessions with a connection after one of them, by id.
    pub async fn live(&self, after: &str, limit: usize) -> Vec<Live> {
        let asked = self.ask_after(after, limit);
        let answers = asked.into_iter().map(|(session_id, principal, answer)| {
            let principal = principal.to_string();
            async move {
                let seen = answered(answer).await;
                Live {
                    session_id,
                    principal,
                    seen,
                }
            }
        });
        futures_util::future::join_all(answers).await
    }

    /// What a session watches after one stream; none where it has no connection.
    pub async fn watched(
        &self,
        session_id: &str,
        after: StreamId,
        limit: usize,
    ) -> Result<Option<Vec<Watched>>, Failure> {
        let Some(answer) = self.ask(session_id) else {
            return Ok(None);
        };
        let Some(seen) = answered(answer).await else {
            return Err(Failure::internal("the session does not answer; try again"));
        };
        let mut streams = seen.watched;
        streams.retain(|(stream, _)| *stream > after);
        streams.sort_unstable();
        let mut watched = Vec::new();
        for (stream, job_seq) in streams {
            if watched.len() >= limit {
                break;
            }
            // A session's own stream is no job's.
            let job = self.log.job_by_stream(stream).await.map_err(unavailable)?;
            let Some(job) = job else { continue };
            let last = self.last_job_seq(&job).await?;
            watched.push(Watched {
                stream,
                job_id: job.id,
                agent: job.agent,
                principal: job.principal,
                job_seq,
                lag: last.saturating_sub(job_seq),
            });
        }
        Ok(Some(watched))
    }
}

async fn answered(answer: oneshot::Receiver<Seen>) -> Option<Seen> {
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    answered.ok()?.ok()
}

impl Actor {
    pub(super) fn seen(&self) -> Seen {
        let state = if self.feed.is_resting() {
            "stalled"
        } else if self.is_replaying() {
            "replaying"
        } else if self.feed.is_behind() || !self.runs.is_empty() {
            "catching_up"
        } else {
            "live"
        };
        let last_event_seq = self.next_seq - 1;
        let acked = self.acks.seen.then_some(self.acks.acked);
        Seen {
            via: self.via,
            state,
            created_at: Timestamp(self.row.created_at_ms),
            idle: self.last_inbound.elapsed(),
            last_event_seq,
            ack_lag: acked.map(|acked| last_event_seq.saturating_sub(acked)),
            unsent_bytes: self.outbox.len(),
            watched: self.feed.watched().collect(),
        }
    }
}
