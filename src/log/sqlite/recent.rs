//! The newest blocks, shared by every reader that is a little behind.
//!
//! Readers that fall out of a channel are usually behind by little and many at
//! once: without this each would read and index the same blocks for itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::log::{Block, Position, StreamId};

const BYTES_MAX: usize = 8 * 1024 * 1024;
/// A reader looks at every block after its place.
const BLOCKS_MAX: usize = 2_048;

#[derive(Default)]
pub(super) struct Recent {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By position, without a gap.
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
}

impl Recent {
    /// Called by the writer before the committed position moves.
    pub fn extend(&self, blocks: &[Arc<Block>]) {
        let mut inner = self.inner.write();
        for block in blocks {
            inner.bytes += block.data.len();
            inner.blocks.push_back(block.clone());
        }
        while inner.bytes > BYTES_MAX || inner.blocks.len() > BLOCKS_MAX {
            let Some(oldest) = inner.blocks.pop_front() else {
                break;
            };
            inner.bytes -= oldest.data.len();
        }
    }

    /// The streams' blocks with `after < position <= up_to`, up to about
    /// `bytes_max`; `None` when not all of them are here.
    pub fn read(
        &self,
        streams: &HashMap<StreamId, u64>,
        after: Position,
        up_to: Position,
        bytes_max: usize,
    ) -> Option<Vec<Arc<Block>>> {
        let inner = self.inner.read();
        let first = inner.blocks.front()?.position;
        if after + 1 < first || inner.blocks.back()?.position < up_to {
            return None;
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for block in inner.blocks.range((after + 1 - first) as usize..) {
            if block.position > up_to || bytes >= bytes_max {
                break;
            }
            let wanted = streams.get(&block.stream);
            if wanted.is_some_and(|after_seq| block.last_seq() > *after_seq) {
                bytes += block.data.len();
                found.push(block.clone());
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(position: Position, stream: StreamId, first_seq: u64) -> Arc<Block> {
        let data = bytes::Bytes::from_static(&[1, 7]);
        Arc::new(Block::new(position, stream, first_seq, 1, data, false))
    }

    #[test]
    fn only_a_reader_whose_whole_way_is_here_is_served() {
        let recent = Recent::default();
        let streams = HashMap::from([(1, 1)]);
        assert!(recent.read(&streams, 0, 0, 9).is_none());
        recent.extend(&[
            block(5, 1, 1),
            block(6, 2, 1),
            block(7, 1, 2),
            block(8, 1, 3),
        ]);
        assert!(
            recent.read(&streams, 3, 8, 9).is_none(),
            "position 4 is not here"
        );
        assert!(recent.read(&streams, 4, 9, 9).is_none(), "nor is 9");
        let positions = |after, up_to, bytes_max| -> Vec<_> {
            let blocks = recent.read(&streams, after, up_to, bytes_max).unwrap();
            blocks.iter().map(|block| block.position).collect()
        };
        assert_eq!(positions(4, 8, 9), [7, 8], "5 is behind the stream's place");
        assert_eq!(positions(4, 7, 9), [7]);
        assert_eq!(positions(4, 8, 1), [7]);
        assert!(positions(8, 8, 9).is_empty());
        let many: Vec<_> = (9..3_000)
            .map(|position| block(position, 3, position as u64))
            .collect();
        recent.extend(&many);
        assert!(
            recent.read(&streams, 8, 2_999, 9).is_none(),
            "the oldest have gone"
        );
        assert_eq!(recent.inner.read().blocks.len(), BLOCKS_MAX);
    }
}
