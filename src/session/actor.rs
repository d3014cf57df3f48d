//! One attached session: reads requests, writes what its view has, keeps the
//! connection alive. It owns all of its state; nothing here holds a lock
//! across an await, and a client that does not read stops nobody but itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::claim::Claim;
use super::feed::{Feed, Next};
use super::inbound::Said;
use super::mark::Mark;
use super::outbox::{Outbox, Run};
use super::recent::Recent;
use super::replay::Replay;
use super::subscribe::Barrier;
use super::view::{Cursor, Op};
use super::{Connection, Goodbye, Sessions};
use crate::credential::Held;
use crate::fanout::Pin;
use crate::log::{Block, Command, Outcome, SessionRow, StreamId};
use crate::protocol::message::{Reply, ReplyBody};
use crate::protocol::{ErrorCode, Failure, Request, RequestBody, TraceContext, feature};
use crate::telemetry::Via;
use crate::wire::{JobHeader, SessionHeader};

/// Encoded bytes that may wait for the transport; more are encoded as they go.
const OUTBOX_BYTES_MAX: usize = 32 * 1024;
/// A peer that takes nothing for so long is not followed for; the log has it all.
const STALLED_AFTER: Duration = Duration::from_millis(100);
/// Above this, requests wait too: replies of a client that does not read are bounded.
const OUTBOX_BYTES_HARD_MAX: usize = 1024 * 1024;
/// Requests that wait for a replay to end.
const DEFERRED_MAX: usize = 64;
/// A client of a runtime that goes away comes back after a part of this, not all at once.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

pub(super) struct Actor {
    pub sessions: Arc<Sessions>,
    pub row: SessionRow,
    pub features: Vec<String>,
    pub header: SessionHeader,
    pub headers: HashMap<StreamId, Arc<JobHeader>>,
    pub feed: Feed,
    pub outbox: Outbox,
    /// Numbered, not yet encoded, in order.
    pub runs: VecDeque<Run>,
    /// The number of the next record of the view.
    pub next_seq: u64,
    /// Records below are counted, not sent: the client has them.
    pub deliver_from: u64,
    /// Operations of an earlier connection that a replay has still to pass.
    pub ahead: VecDeque<(Op, Pin)>,
    /// A history on its way; what is live waits behind it.
    pub replay: Option<Replay>,
    pub barrier: Option<Barrier>,
    pub op_count: u32,
    pub mark: Mark,
    /// A change was sent to the log and not answered: what the view is may only be
    /// learned by a resume.
    pub is_unsure: bool,
    /// The connection's.
    pub trace: Box<TraceContext>,
    pub via: Via,
    pub acks: Acks,
    pub deferred: VecDeque<Request>,
    pub recent: Recent,
    /// Jobs delegated in this session: all, and those still to come into its view.
    pub known_children: HashSet<StreamId>,
    pub children: VecDeque<StreamId>,
    pub last_inbound: Instant,
    pub last_outbound: Instant,
    /// When the transport last took something.
    pub last_taken: Instant,
    /// Since when the outbox is full and nothing of it is taken.
    pub full_since: Option<Instant>,
    /// Set once the peer was silent for too long: it is given up then, unless it is
    /// heard first.
    pub give_up_at: Option<Instant>,
}

/// How far the client says it is. Advisory: nothing is freed by an ack.
#[derive(Default)]
pub(super) struct Acks {
    pub acked: u64,
    /// A client that never acks is never told that it is behind.
    pub seen: bool,
    /// Told once; again only after it has caught up by half.
    pub told: bool,
}

/// Why a connection ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// The transport is gone; nothing more can be said.
    Gone,
    /// Say what is in the outbox and close.
    Close(Goodbye),
}

impl Actor {
    /// Returns whether the peer was told a last thing. The session is free before the peer
    /// sees the end, and before that where another connection has it by then: whoever is back
    /// does not wait until this one has read, or not, that it is over.
    pub async fn run(mut self, connection: &mut Connection, claim: Claim) -> bool {
        let end = self.serve(connection, &claim).await;
        let goodbye = match end {
            End::Close(goodbye) if !self.outbox.is_empty() => Some(goodbye),
            End::Close(_) | End::Gone => None,
        };
        // A peer that does not read its last message is not waited for.
        let limit = self.sessions.limits.hello_timeout;
        let told = async {
            if let Some(goodbye) = goodbye {
                let sent = self.outbox.send_rest(&connection.outbound, goodbye);
                let _ = tokio::time::timeout(limit, sent).await;
            }
        };
        tokio::pin!(told);
        tokio::select! {
            biased;
            () = claim.displaced.cancelled() => {
                drop(claim);
                told.await;
            }
            () = &mut told => claim.park().await,
        }
        goodbye.is_some()
    }

    async fn serve(&mut self, connection: &mut Connection, claim: &Claim) -> End {
        let away_max = RECONNECT_MAX.min(self.sessions.limits.resume_window / 2);
        let stay = connection.stay.clone();
        let turn = stay.turn(away_max);
        tokio::pin!(turn);
        loop {
            if let Err(end) = self.fill().await {
                return end;
            }
            let room =
                self.outbox.len() < OUTBOX_BYTES_HARD_MAX && self.deferred.len() < DEFERRED_MAX;
            let full = self.outbox.len() >= OUTBOX_BYTES_MAX;
            let full_since = match full {
                true => *self.full_since.get_or_insert_with(Instant::now),
                false => Instant::now(),
            };
            let deadline = self.next_deadline();
            // Not biased: a client that reads fast and one that asks without end
            // would each keep the other side waiting.
            tokio::select! {
                () = claim.displaced.cancelled() => return self.displaced(),
                departure = &mut turn => {
                    self.reply(ReplyBody::Bye {
                        reason: format!("{}; resume", departure.cause.as_str()),
                        reconnect_after: Some(departure.reconnect_after),
                    });
                    return End::Close(Goodbye::Away(departure));
                }
                permit = connection.outbound.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        let chunk = self.outbox.take();
                        let metrics = &self.sessions.jobs.telemetry().metrics;
                        metrics.sent(self.via, chunk.envelopes, chunk.bytes.len());
                        permit.send(chunk);
                        self.last_outbound = Instant::now();
                        self.last_taken = self.last_outbound;
                        self.full_since = None;
                    }
                    Err(_) => return End::Gone,
                },
                request = connection.inbound.next(), if room => {
                    self.last_inbound = Instant::now();
                    self.give_up_at = None;
                    // What was answered last may still be read.
                    let Some(said) = request else { return End::Close(Goodbye::Done) };
                    if let Err(end) = self.receive(said).await {
                        return end;
                    }
                }
                () = claim.inbox.some() => {
                    let new = claim.inbox.delegated().into_iter();
                    let new = new.filter(|child| self.known_children.insert(*child));
                    self.children.extend(new);
                    for asked in claim.inbox.asked() {
                        // Who asked may have gone.
                        let _ = asked.send(self.seen());
                    }
                }
                () = self.feed.woken(), if self.outbox.len() < OUTBOX_BYTES_MAX => {}
                () = tokio::time::sleep_until(full_since + STALLED_AFTER),
                    if full && !self.feed.is_resting() => self.feed.rest(),
                () = tokio::time::sleep_until(deadline) => {
                    if let Err(end) = self.on_deadline(room).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Takes what the view has until the outbox is full or the view is level.
    async fn fill(&mut self) -> Result<(), End> {
        while self.outbox.len() < OUTBOX_BYTES_MAX {
            if let Some(run) = self.runs.front_mut() {
                self.outbox.push_run(run, OUTBOX_BYTES_MAX);
                if run.is_done() {
                    self.runs.pop_front();
                }
                continue;
            }
            if let Some(replay) = self.replay.take() {
                self.replay_some(replay).await?;
                continue;
            }
            let limit = self.ahead.front().map(|(op, _)| op.at.position);
            let blocks = self
                .feed
                .next(limit)
                .await
                .map_err(|error| self.store_failed(error))?;
            if !blocks.is_empty() {
                for next in blocks {
                    self.deliver(next).await?;
                }
                continue;
            }
            if let Some((op, pin)) = self.ahead.pop_front() {
                self.pass(op, pin)?;
                continue;
            }
            if self.barrier.is_none()
                && let Some(child) = self.children.pop_front()
            {
                Box::pin(self.adopt(child)).await?;
                continue;
            }
            if self.barrier.is_none()
                && let Some(request) = self.deferred.pop_front()
            {
                Box::pin(self.handle(request)).await?;
                continue;
            }
            if self.feed.holds_newer() {
                // The dispatcher is between its send and its `published`.
                tokio::task::yield_now().await;
                continue;
            }
            break;
        }
        self.check_mark().await?;
        self.check_lag().await
    }

    async fn deliver(&mut self, next: Next) -> Result<(), End> {
        let last = next.block.last_seq();
        self.push(&next.block, next.after_seq, last).await?;
        if next.block.terminal {
            self.headers.remove(&next.block.stream);
            self.mark.has_ended(next.block.stream);
        }
        Ok(())
    }

    /// Numbers records `after_seq < seq <= to_seq` of a block.
    pub(super) async fn push(
        &mut self,
        block: &Arc<Block>,
        after_seq: u64,
        to_seq: u64,
    ) -> Result<(), End> {
        let first = block.first_seq.max(after_seq + 1);
        let base = self.next_seq;
        self.next_seq += (to_seq + 1).saturating_sub(first);
        let known = self.deliver_from.saturating_sub(base);
        let first_new = first.saturating_add(known);
        if first_new > to_seq {
            return Ok(());
        }
        let header = match self.headers.get(&block.stream) {
            Some(header) => header.clone(),
            None => self.header_of(block.stream).await?,
        };
        let rotated = self.rotated(block.stream).await;
        self.runs.push_back(Run {
            header,
            block: block.clone(),
            index: (first_new - block.first_seq) as usize,
            end: (to_seq + 1 - block.first_seq) as usize,
            event_seq: base + known,
            rotated,
        });
        Ok(())
    }

    /// For each block: only for who is told at all.
    async fn rotated(&self, stream: StreamId) -> Option<Arc<Held>> {
        if !self.has(feature::CREDENTIALS) {
            return None;
        }
        let held = self.sessions.jobs.credentials()?.of(stream).await?;
        (held.session_id == self.row.id && held.generation > 1).then_some(held)
    }

    async fn header_of(&mut self, stream: StreamId) -> Result<Arc<JobHeader>, End> {
        let header = if stream == self.row.stream {
            self.header.for_session()
        } else {
            let job = self.sessions.log.job_by_stream(stream).await;
            match job.map_err(|error| self.store_failed(error))? {
                Some(job) => self.header.for_job(&job.id, &job.trace_id),
                None => return Err(self.fail(Failure::internal("a record belongs to no job"))),
            }
        };
        let header = Arc::new(header);
        self.headers.insert(stream, header.clone());
        Ok(header)
    }

    /// Whether a change of the view has to wait for its place.
    pub(super) fn is_replaying(&self) -> bool {
        !self.ahead.is_empty()
            || self.replay.is_some()
            || self.barrier.is_some()
            || self.next_seq < self.deliver_from
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            position: self.feed.cursor.position,
            next_seq: self.next_seq,
        }
    }

    pub(super) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    async fn receive(&mut self, said: Said) -> Result<(), End> {
        if said.is_answer() && self.row.earlier_token_hash.take().is_some() {
            // The peer has the new token: it speaks after its welcome.
            let id = self.row.id.clone();
            let confirmed = self.sessions.log.execute(Command::ConfirmToken { id });
            let confirmed = confirmed.await.map_err(|error| self.store_failed(error))?;
            if confirmed == Outcome::Stale {
                return Err(self.displaced());
            }
        }
        let request = match said.request {
            Ok(request) => request,
            Err(invalid) => {
                if invalid.of_submit {
                    let metrics = &self.sessions.jobs.telemetry().metrics;
                    metrics.refused(ErrorCode::InvalidRequest);
                }
                self.error(invalid.request_id, None, Failure::invalid(invalid.message));
                return Ok(());
            }
        };
        let changes_view = matches!(
            request.body,
            RequestBody::Submit(_) | RequestBody::Subscribe { .. } | RequestBody::Unsubscribe
        );
        if changes_view && self.is_replaying() {
            // An operation has its place behind those of the replay.
            self.deferred.push_back(request);
            return Ok(());
        }
        // A request is rare and its steps are large: kept apart, an idle session is
        // a quarter smaller.
        Box::pin(self.handle(request)).await
    }

    pub(super) fn reply(&mut self, body: ReplyBody) {
        self.reply_about(None, None, body);
    }

    pub(super) fn reply_about(
        &mut self,
        job_id: Option<String>,
        trace_id: Option<String>,
        body: ReplyBody,
    ) {
        let session_id = self.row.id.clone();
        self.outbox.push_reply(Reply {
            session_id,
            job_id,
            trace_id,
            body,
        });
    }

    pub(super) fn error(
        &mut self,
        request_id: Option<String>,
        job_id: Option<String>,
        failure: Failure,
    ) {
        self.reply_about(
            job_id,
            None,
            ReplyBody::Error {
                request_id,
                failure,
            },
        );
    }

    fn displaced(&mut self) -> End {
        self.reply(ReplyBody::Bye {
            reason: "resumed by another connection".into(),
            reconnect_after: None,
        });
        End::Close(Goodbye::Done)
    }

    pub(super) fn fail(&mut self, failure: Failure) -> End {
        let goodbye = Goodbye::after(&failure);
        self.error(None, None, failure);
        End::Close(goodbye)
    }

    pub(super) fn store_failed(&mut self, error: crate::log::Error) -> End {
        let failure = super::unavailable(error);
        self.fail(failure)
    }
}
