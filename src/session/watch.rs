//! One job followed by its own numbers, without a session: the log while
//! behind, the job's channel while level with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::{Chunk, Sessions, unavailable};
use crate::fanout::Hub;
use crate::log::{Block, JobRow, Log, Position, StreamId};
use crate::protocol::{ErrorCode, Failure};
use crate::wire;

/// Bytes of blocks one catch-up read brings.
const READ_BYTES_MAX: usize = 256 * 1024;
/// A message is sent once it has this much, or everything that is ready.
const MESSAGE_BYTES: usize = 32 * 1024;

const AFTER_SEQ_MAX: u64 = 1 << 62;

pub struct Watch {
    log: Log,
    following: Following,
    /// The last record delivered, or the one the client has.
    after_seq: u64,
    position: Position,
    /// Behind: the log is read first.
    behind: bool,
    ready: VecDeque<Arc<Block>>,
    /// The job's terminal has been delivered, or the client has it.
    over: bool,
}

impl Sessions {
    /// Follows a job after one of its records.
    pub async fn watch(
        &self,
        principal: &str,
        job_id: &str,
        after_seq: u64,
    ) -> Result<Watch, Failure> {
        let job = match self.watchable(principal, Some(job_id)).await {
            Ok(job) => job,
            Err(failure) => return Err(self.unless_trimmed(principal, job_id, failure).await),
        };
        // What a trim leaves after this stays: the watch follows the stream.
        let pin = self.hub.pin([job.stream]).await;
        let watch = Watch::new(self, &job, after_seq);
        drop(pin);
        let trimmed = self.log.any_trimmed(vec![job.stream]).await;
        match trimmed.map_err(unavailable)? {
            true => Err(expired()),
            false => Ok(watch),
        }
    }

    /// A job whose records are gone was there: what is left of it says so.
    async fn unless_trimmed(&self, principal: &str, job_id: &str, failure: Failure) -> Failure {
        match self.log.trimmed_job(job_id).await {
            Ok(Some(job)) if job.principal == principal => expired(),
            Ok(_) => failure,
            Err(error) => unavailable(error),
        }
    }
}

fn expired() -> Failure {
    Failure::new(
        ErrorCode::ResumeWindowExpired,
        "job_id: the records of this job are no longer kept",
    )
}

impl Watch {
    fn new(sessions: &Sessions, job: &JobRow, after_seq: u64) -> Self {
        Self {
            log: sessions.log.clone(),
            // There before the log is read, so nothing falls between the two.
            following: Following::new(sessions.hub.clone(), job.stream),
            // No job has more; what counts beyond it would overflow.
            after_seq: after_seq.min(AFTER_SEQ_MAX),
            position: 0,
            behind: true,
            ready: VecDeque::new(),
            over: false,
        }
    }

    /// Waits for records and returns a `WatchJobResponse` of those that are
    /// ready, behind [`Chunk::PREFIX_BYTES`] of room; none behind the terminal.
    pub async fn next(&mut self) -> Result<Option<BytesMut>, Failure> {
        while self.ready.is_empty() {
            if self.over {
                return Ok(None);
            }
            if self.behind {
                self.catch_up().await?;
            } else {
                let received = self.following.receiver.recv().await;
                self.received(received.map_err(|error| match error {
                    RecvError::Lagged(n) => TryRecvError::Lagged(n),
                    RecvError::Closed => TryRecvError::Closed,
                }))?;
            }
        }
        let mut message = BytesMut::with_capacity(Chunk::PREFIX_BYTES);
        message.extend_from_slice(&[0; Chunk::PREFIX_BYTES]);
        while message.len() < MESSAGE_BYTES {
            let Some(block) = self.ready.pop_front() else {
                if self.behind || self.over {
                    break;
                }
                match self.following.receiver.try_recv() {
                    Err(TryRecvError::Empty) => break,
                    received => self.received(received)?,
                }
                continue;
            };
            self.put(block, &mut message);
        }
        Ok(Some(message))
    }

    async fn catch_up(&mut self) -> Result<(), Failure> {
        let stream = self.following.channel.stream;
        let committed = self.log.committed();
        let streams = HashMap::from([(stream, self.after_seq)]);
        let blocks = self
            .log
            .read_merged(&streams, self.position, committed, READ_BYTES_MAX)
            .await
            .map_err(unavailable)?;
        if !blocks.is_empty() {
            return blocks.into_iter().try_for_each(|block| self.take(block));
        }
        // Level. The terminal may be among what the client has: nothing comes
        // behind it, so the row is asked.
        let job = self.log.job_by_stream(stream).await.map_err(unavailable)?;
        let last_seq = job.and_then(|job| job.end_position.map(|_| job.last_seq));
        self.over = last_seq.is_some_and(|last_seq| last_seq <= self.after_seq);
        self.behind = false;
        Ok(())
    }

    fn received(&mut self, received: Result<Arc<Block>, TryRecvError>) -> Result<(), Failure> {
        match received {
            Ok(block) => self.take(block),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => {
                self.behind = true;
                Ok(())
            }
        }
    }

    /// Keeps what is new of a block. A hole would be a loss that only the
    /// numbers show, so it is an error.
    fn take(&mut self, block: Arc<Block>) -> Result<(), Failure> {
        let taken = self.ready.back().map_or(self.after_seq, |b| b.last_seq());
        if block.last_seq() <= taken {
            self.over |= block.terminal;
            return Ok(());
        }
        if block.first_seq > taken + 1 {
            let (first, stream) = (block.first_seq, block.stream);
            let text = format!("record {first} of stream {stream} came after {taken}");
            return Err(unavailable(crate::log::Error::Unavailable(text)));
        }
        self.position = block.position;
        self.over |= block.terminal;
        self.ready.push_back(block);
        Ok(())
    }

    /// Encodes from a block what still has room; the rest goes back.
    fn put(&mut self, block: Arc<Block>, message: &mut BytesMut) {
        let new = (self.after_seq + 1).saturating_sub(block.first_seq) as usize;
        for index in new..block.count as usize {
            if message.len() >= MESSAGE_BYTES {
                self.ready.push_front(block);
                return;
            }
            let job_seq = block.first_seq + index as u64;
            wire::frame_job_record(job_seq, block.record(index), message);
            self.after_seq = job_seq;
        }
    }
}

/// A receiver that takes its channel along when it was the last. The fields go
/// in their order, and the hub counts receivers that are there.
struct Following {
    receiver: Receiver<Arc<Block>>,
    channel: Channel,
}

struct Channel {
    hub: Arc<Hub>,
    stream: StreamId,
}

impl Following {
    fn new(hub: Arc<Hub>, stream: StreamId) -> Self {
        Self {
            receiver: hub.subscribe(stream),
            channel: Channel { hub, stream },
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.hub.release(self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_follow_a_job_takes_its_channel_along() {
        let hub = Hub::new(0);
        let one = Following::new(hub.clone(), 1);
        let two = Following::new(hub.clone(), 1);
        drop(one);
        assert!(hub.is_followed(1));
        drop(two);
        assert_eq!(hub.channels(), 0);
    }
}
