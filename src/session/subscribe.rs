//! Watching jobs: history, then live, with one boundary between the two.

use std::time::Duration;

use tokio::time::Instant;

use super::actor::{Actor, End};
use super::numbering;
use super::replay::Replay;
use super::unavailable;
use super::view::{Change, Op, PastOp};
use crate::job::now;
use crate::log::{JobRow, Position, StreamId};
use crate::protocol::Failure;
use crate::protocol::id;
use crate::protocol::message::{Profile, ReplyBody};

/// How long a history waits for the peer to show that it is ready for it.
const BARRIER_TIMEOUT: Duration = Duration::from_millis(250);

/// A history that waits for a pong: the Python SDK drops what arrives before
/// its subscribe call has returned, and it answers pings in order.
pub(super) struct Barrier {
    nonce: String,
    pub until: Instant,
    job: JobRow,
    from_job_seq: u64,
}

impl Actor {
    pub(super) async fn subscribe(
        &mut self,
        request_id: &str,
        job_id: Option<&str>,
        history: bool,
        (from_event_seq, from_job_seq): (u64, u64),
    ) -> Result<JobRow, Failure> {
        self.require("subscribe")?;
        let job = self.sessions.watchable(&self.row.principal, job_id).await?;
        let limit = self.sessions.limits.subscriptions_max;
        if self.feed.watch_count() >= limit && !self.feed.watches(job.stream) {
            return Err(Failure::internal(format!(
                "job.subscribe: this session watches {limit} jobs, which is the limit; \
                 unsubscribe from some or open another session"
            )));
        }
        let from = match (from_job_seq, from_event_seq) {
            (0, 0) => 0,
            (0, event_seq) => self.job_seq(&job, event_seq).await?,
            (job_seq, _) => job_seq,
        };
        let body = ReplyBody::Subscribed {
            request_id: request_id.into(),
            agent: job.agent.clone(),
            status: job.status.clone(),
            subscribed_from: self.next_seq - 1,
            replayed: history,
            grant: super::jobs::granted(&job.grant),
        };
        self.reply_about(Some(job.id.clone()), Some(job.trace_id.clone()), body);
        if history && self.outbox.profile() == Profile::Python {
            self.raise_barrier(job.clone(), from);
            return Ok(job);
        }
        self.observe(&job, history, from).await?;
        Ok(job)
    }

    /// `from_event_seq` counts in the submitting session's numbering.
    async fn job_seq(&self, job: &JobRow, event_seq: u64) -> Result<u64, Failure> {
        let log = &self.sessions.log;
        let gone = || {
            Failure::invalid(
                "from_event_seq: no session has a numbering of this job, or it is gone; \
                 leave it out, or use from_job_seq",
            )
        };
        let ops = log.view_ops(&job.session_id).await.map_err(unavailable)?;
        if ops.is_empty() {
            return Err(gone());
        }
        let ops: Vec<_> = ops.iter().filter_map(PastOp::from_row).collect();
        let seq = numbering::job_seq_at(log, &ops, job.stream, event_seq).await;
        seq.map_err(unavailable)?.ok_or_else(gone)
    }

    fn raise_barrier(&mut self, job: JobRow, from_job_seq: u64) {
        let nonce = format!("p_{}", id::message_id());
        self.barrier = Some(Barrier {
            nonce: nonce.clone(),
            until: Instant::now() + BARRIER_TIMEOUT,
            job,
            from_job_seq,
        });
        let sent_at = now();
        self.reply(ReplyBody::Ping { nonce, sent_at });
    }

    pub(super) async fn on_pong(&mut self, nonce: &str) -> Result<(), End> {
        if self.barrier.as_ref().is_some_and(|b| b.nonce == nonce) {
            self.lower_barrier().await?;
        }
        Ok(())
    }

    /// The peer is ready, or has had its time.
    pub(super) async fn lower_barrier(&mut self) -> Result<(), End> {
        let Some(barrier) = self.barrier.take() else {
            return Ok(());
        };
        if let Err(failure) = self.observe(&barrier.job, true, barrier.from_job_seq).await {
            return Err(self.fail(failure));
        }
        Ok(())
    }

    /// Adds history, then live. An observer of a job that is over gets its
    /// history, terminal included, and nothing to wait for.
    pub(super) async fn observe(
        &mut self,
        job: &JobRow,
        history: bool,
        from: u64,
    ) -> Result<(), Failure> {
        // A stream watched already goes on where it is: history ends there.
        let boundary = if self.feed.watches(job.stream) {
            self.cursor().position
        } else {
            self.sessions.log.committed()
        };
        self.observe_from(job, history, from, boundary).await
    }

    /// What is up to `boundary` is history, the rest comes in the order of the log.
    async fn observe_from(
        &mut self,
        job: &JobRow,
        history: bool,
        from: u64,
        boundary: Position,
    ) -> Result<(), Failure> {
        let log = self.sessions.log.clone();
        let watched = self.feed.watches(job.stream);
        let pins = self.sessions.hub.pin([job.stream]).await;
        let (stream, mut at) = (job.stream, self.cursor());
        let tail = log.seq_at(stream, boundary).await.map_err(unavailable)?;
        let now = log.job_by_stream(stream).await.map_err(unavailable)?;
        let ended = now.and_then(|job| job.end_position);
        let replay = (history && from < tail).then_some((from, tail));
        let follow = !watched && ended.is_none_or(|at| at > boundary);
        let mut ops = Vec::new();
        if let Some((after_seq, to_seq)) = replay {
            let change = Change::History {
                stream,
                after_seq,
                to_seq,
            };
            ops.push(Op { at, change });
            at.next_seq += to_seq - after_seq;
        }
        if follow {
            let after_seq = tail;
            let change = Change::Watch { stream, after_seq };
            ops.push(Op { at, change });
        }
        self.record(&ops).await?;
        self.replay = replay.map(|(after_seq, to_seq)| Replay {
            stream,
            after_seq,
            to_seq,
            _pins: pins,
        });
        if follow {
            self.feed.watch(stream, tail, true);
        }
        Ok(())
    }

    /// A job that one of this session's delegated comes into its view: all of it,
    /// behind what the session has seen by now, and no sooner: the event that tells of
    /// it may be on its way.
    pub(super) async fn adopt(&mut self, stream: StreamId) -> Result<(), End> {
        let job = self.sessions.log.job_by_stream(stream).await;
        let Some(job) = job.map_err(|error| self.store_failed(error))? else {
            return Ok(());
        };
        let boundary = self.cursor().position;
        if let Err(failure) = self.observe_from(&job, true, 0, boundary).await {
            return Err(self.fail(failure));
        }
        Ok(())
    }

    /// No answer: there is none in the protocol (§7.6).
    pub(super) async fn unsubscribe(&mut self, job_id: Option<&str>) -> Result<(), Failure> {
        self.require("subscribe")?;
        let job = self.visible(job_id).await?;
        if self.feed.watches(job.stream) {
            let (at, change) = (self.cursor(), Change::Unwatch { stream: job.stream });
            self.record(&[Op { at, change }]).await?;
            self.feed.unwatch(job.stream);
        }
        Ok(())
    }
}
