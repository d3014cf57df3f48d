//! Who waits for streams to end.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Log, State};
use crate::log::{Block, StreamId};

/// By stream: what turns at its end, and how many wait for that.
#[derive(Default)]
pub(super) struct Ends(Mutex<HashMap<StreamId, (CancellationToken, usize)>>);

/// One who waits for an end, until it is dropped.
pub struct Ending {
    state: Arc<State>,
    stream: StreamId,
    ended: CancellationToken,
}

impl Log {
    /// An end that has not been applied yet is heard of by this.
    pub fn ending(&self, stream: StreamId) -> Ending {
        let state = self.shared.state.clone();
        let ended = {
            let mut waited = state.ends.0.lock();
            let (ended, count) = waited.entry(stream).or_default();
            *count += 1;
            ended.clone()
        };
        Ending {
            state,
            stream,
            ended,
        }
    }
}

impl Ends {
    /// These can be read.
    pub fn tell(&self, blocks: &[Arc<Block>]) {
        let mut waited = self.0.lock();
        if waited.is_empty() {
            return;
        }
        for block in blocks.iter().filter(|block| block.terminal) {
            if let Some((ended, _)) = waited.remove(&block.stream) {
                ended.cancel();
            }
        }
    }
}

impl Ending {
    /// Resolves once the terminal can be read; never when it could be before.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.ended.is_cancelled() {
            return;
        }
        let mut waited = self.state.ends.0.lock();
        if let Some((_, count)) = waited.get_mut(&self.stream) {
            *count -= 1;
            if *count == 0 {
                waited.remove(&self.stream);
            }
        }
    }
}
