//! A history on its way to the client, and the operations of an earlier connection
//! that a resume passes again.

use super::actor::{Actor, End};
use super::view::{Change, Op};
use crate::fanout::Pin;
use crate::log::StreamId;
use crate::protocol::{ErrorCode, Failure};

const READ_BYTES_MAX: usize = 256 * 1024;

/// Records `after_seq < seq <= to_seq` of one stream, still to be sent.
pub(super) struct Replay {
    pub stream: StreamId,
    pub after_seq: u64,
    pub to_seq: u64,
    /// The stream may have ended, and has to stay until it has been read.
    pub _pins: Vec<Pin>,
}

impl Actor {
    /// Passes an operation of an earlier connection during a replay.
    pub(super) fn pass(&mut self, op: Op, pin: Pin) -> Result<(), End> {
        if self.cursor() != op.at {
            // The log no longer has what was numbered when this was recorded.
            let text = "resume: part of this session's stream is no longer kept";
            return Err(self.fail(Failure::new(ErrorCode::ResumeWindowExpired, text)));
        }
        match op.change {
            Change::Watch { stream, after_seq } => self.feed.watch(stream, after_seq, true),
            Change::Unwatch { stream } => self.feed.unwatch(stream),
            Change::History {
                stream,
                after_seq,
                to_seq,
            } => {
                self.replay = Some(Replay {
                    stream,
                    after_seq,
                    to_seq,
                    _pins: vec![pin],
                });
            }
        }
        Ok(())
    }

    /// Numbers and sends the next part of a history.
    pub(super) async fn replay_some(&mut self, mut replay: Replay) -> Result<(), End> {
        let Replay {
            stream,
            after_seq,
            to_seq,
            ..
        } = replay;
        let log = &self.sessions.log;
        let read = log.read_stream(stream, after_seq, log.committed(), READ_BYTES_MAX);
        let blocks = read.await.map_err(|error| self.store_failed(error))?;
        if blocks.is_empty() {
            let text = "history: part of it is no longer kept";
            return Err(self.fail(Failure::new(ErrorCode::ResumeWindowExpired, text)));
        }
        for block in blocks {
            let last = block.last_seq().min(to_seq);
            if last > replay.after_seq {
                self.push(&block, replay.after_seq, last).await?;
                replay.after_seq = last;
            }
        }
        if replay.after_seq < to_seq {
            self.replay = Some(replay);
        }
        Ok(())
    }
}
