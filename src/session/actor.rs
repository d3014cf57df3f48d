//! One attached session: reads requests, writes what its view has, keeps the
//! connection alive. It owns all of its state; nothing here holds a lock
//! across an await, and a client that does not read stops nobody but itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::feed::{Feed, Next};
use super::outbox::Outbox;
use super::view::{Change, Cursor, Op};
use super::{Connection, Sessions};
use crate::job::now;
use crate::log::{SessionRow, StreamId};
use crate::protocol::message::{Reply, ReplyBody};
use crate::protocol::{ErrorCode, Failure, Request, RequestBody, id};
use crate::wire::{JobHeader, SessionHeader};

/// Encoded bytes that may wait for the transport before the log is left alone.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// Above this, requests wait too: replies of a client that does not read are bounded.
const OUTBOX_BYTES_HARD_MAX: usize = 1024 * 1024;
/// Requests that wait for a replay to end.
const DEFERRED_MAX: usize = 64;
const HISTORY_READ_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Actor {
    pub sessions: Arc<Sessions>,
    pub row: SessionRow,
    pub features: Vec<String>,
    pub header: SessionHeader,
    pub headers: HashMap<StreamId, JobHeader>,
    pub feed: Feed,
    pub outbox: Outbox,
    /// The number of the next record of the view.
    pub next_seq: u64,
    /// Records below are counted, not sent: the client has them.
    pub deliver_from: u64,
    /// Operations of an earlier connection that a replay has still to pass.
    pub ahead: VecDeque<Op>,
    pub op_count: u32,
    pub acked: u64,
    pub deferred: VecDeque<Request>,
    pub last_inbound: Instant,
    pub last_outbound: Instant,
}

/// Why a connection ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// The transport is gone; nothing more can be said.
    Gone,
    /// Say what is in the outbox and close.
    Close,
}

impl Actor {
    pub async fn run(mut self, mut connection: Connection, displaced: CancellationToken) {
        let end = self.serve(&mut connection, &displaced).await;
        if end == End::Close && !self.outbox.is_empty() {
            let last = self.outbox.take(true);
            // A peer that does not read its last message is not waited for.
            let _ = tokio::time::timeout(
                self.sessions.limits.hello_timeout,
                connection.outbound.send(last),
            )
            .await;
        }
    }

    async fn serve(&mut self, connection: &mut Connection, displaced: &CancellationToken) -> End {
        loop {
            if let Err(end) = self.fill().await {
                return end;
            }
            let room =
                self.outbox.len() < OUTBOX_BYTES_HARD_MAX && self.deferred.len() < DEFERRED_MAX;
            let draining = self.sessions.draining.clone();
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = displaced.cancelled() => {
                    self.reply(ReplyBody::Bye { reason: "resumed by another connection".into() });
                    return End::Close;
                }
                () = draining.cancelled() => {
                    self.reply(ReplyBody::Bye { reason: "the runtime is shutting down; resume".into() });
                    return End::Close;
                }
                permit = connection.outbound.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(self.outbox.take(false));
                        self.last_outbound = Instant::now();
                    }
                    Err(_) => return End::Gone,
                },
                request = connection.inbound.next(), if room => {
                    self.last_inbound = Instant::now();
                    let Some(request) = request else { return End::Gone };
                    if let Err(end) = self.receive(request).await {
                        return end;
                    }
                }
                () = self.feed.woken(), if self.outbox.len() < OUTBOX_BYTES_MAX => {}
                () = tokio::time::sleep_until(deadline) => {
                    if let Err(end) = self.on_deadline() {
                        return end;
                    }
                }
            }
        }
    }

    /// Takes what the view has until the outbox is full or the view is level.
    async fn fill(&mut self) -> Result<(), End> {
        while self.outbox.len() < OUTBOX_BYTES_MAX {
            let limit = self.ahead.front().map(|op| op.at.position);
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
            if let Some(op) = self.ahead.front().copied() {
                if self.feed.cursor.position < op.at.position {
                    // Committed is behind what was promised: the log was cut.
                    return Err(self.fail(Failure::internal("the log ends before this session")));
                }
                self.ahead.pop_front();
                self.pass(op).await?;
                continue;
            }
            if let Some(request) = self.deferred.pop_front() {
                self.handle(request).await?;
                continue;
            }
            if self.feed.holds_newer() {
                // The dispatcher is between its send and its `published`.
                tokio::task::yield_now().await;
                continue;
            }
            return Ok(());
        }
        Ok(())
    }

    /// Passes an operation of an earlier connection during a replay.
    async fn pass(&mut self, op: Op) -> Result<(), End> {
        match op.change {
            Change::Watch { stream, after_seq } => self.feed.watch(stream, after_seq, true),
            Change::Unwatch { stream } => self.feed.unwatch(stream),
            Change::History {
                stream,
                after_seq,
                to_seq,
            } => {
                self.history(stream, after_seq, to_seq).await?;
            }
        }
        Ok(())
    }

    /// Numbers and sends the records `after_seq < seq <= to_seq` of one stream.
    pub(super) async fn history(
        &mut self,
        stream: StreamId,
        mut after_seq: u64,
        to_seq: u64,
    ) -> Result<(), End> {
        while after_seq < to_seq {
            let up_to = self.sessions.log.committed();
            let read =
                self.sessions
                    .log
                    .read_stream(stream, after_seq, up_to, HISTORY_READ_BYTES_MAX);
            let blocks = read.await.map_err(|error| self.store_failed(error))?;
            if blocks.is_empty() {
                return Err(self.fail(Failure::internal("history: part of it is no longer kept")));
            }
            for block in blocks {
                let last = block.last_seq().min(to_seq);
                self.push(&block, after_seq, last).await?;
                after_seq = last;
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, next: Next) -> Result<(), End> {
        let last = next.block.last_seq();
        self.push(&next.block, next.after_seq, last).await?;
        if next.block.terminal {
            self.headers.remove(&next.block.stream);
        }
        Ok(())
    }

    /// Encodes records `after_seq < seq <= to_seq` of a block.
    async fn push(
        &mut self,
        block: &crate::log::Block,
        after_seq: u64,
        to_seq: u64,
    ) -> Result<(), End> {
        if !self.headers.contains_key(&block.stream) {
            let job = self.sessions.log.job_by_stream(block.stream).await;
            let Some(job) = job.map_err(|error| self.store_failed(error))? else {
                return Err(self.fail(Failure::internal("a record belongs to no job")));
            };
            let header = self.header.for_job(&job.id, &job.trace_id);
            self.headers.insert(block.stream, header);
        }
        let first = block.first_seq.max(after_seq + 1);
        let base = self.next_seq;
        self.next_seq += (to_seq + 1).saturating_sub(first);
        let deliver_from = self.deliver_from;
        let records = (first..=to_seq)
            .map(|seq| (base + (seq - first), (seq - block.first_seq) as usize))
            .filter(|(event_seq, _)| *event_seq >= deliver_from);
        self.outbox
            .push_records(&self.headers[&block.stream], block, records);
        Ok(())
    }

    /// Whether the view of an earlier connection is still being replayed.
    pub(super) fn replaying(&self) -> bool {
        !self.ahead.is_empty() || self.next_seq < self.deliver_from
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            position: self.feed.cursor.position,
            next_seq: self.next_seq,
        }
    }

    async fn receive(&mut self, request: Result<Request, crate::wire::Invalid>) -> Result<(), End> {
        let request = match request {
            Ok(request) => request,
            Err(invalid) => {
                self.error(invalid.request_id, None, Failure::invalid(invalid.message));
                return Ok(());
            }
        };
        let changes_view = matches!(
            request.body,
            RequestBody::Submit(_) | RequestBody::Subscribe { .. } | RequestBody::Unsubscribe
        );
        if changes_view && self.replaying() {
            // An operation has its place behind those of the replay.
            self.deferred.push_back(request);
            return Ok(());
        }
        self.handle(request).await
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

    fn fail(&mut self, failure: Failure) -> End {
        self.error(None, None, failure);
        End::Close
    }

    fn store_failed(&mut self, error: crate::log::Error) -> End {
        let failure = super::attach::unavailable(error);
        self.fail(failure)
    }

    /// The earlier of: say something after an interval of silence, and give the
    /// peer up after two without hearing of it.
    fn next_deadline(&self) -> Instant {
        let interval = self.sessions.limits.heartbeat_interval;
        (self.last_outbound + interval).min(self.last_inbound + 2 * interval)
    }

    fn on_deadline(&mut self) -> Result<(), End> {
        let interval = self.sessions.limits.heartbeat_interval;
        if self.last_inbound.elapsed() >= 2 * interval {
            let text = "nothing was heard for two heartbeat intervals; resume the session";
            return Err(self.fail(Failure::new(ErrorCode::HeartbeatLost, text)));
        }
        if self.last_outbound.elapsed() >= interval {
            self.last_outbound = Instant::now();
            let nonce = format!("p_{}", id::message_id());
            self.reply(ReplyBody::Ping {
                nonce,
                sent_at: now(),
            });
        }
        Ok(())
    }
}
