//! What is committed together: commands and blocks, and who is told of them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::queue::{Answer, Item};
use crate::log::{BlockSource, Command, Error, Outcome, PendingBlock};

/// Blocks in one group; a group is one transaction.
const BLOCKS_MAX: usize = 4096;
/// A group of this many records makes the writer busy.
const BUSY_RECORDS: u32 = 128;

#[derive(Default)]
pub(in crate::log) struct Group {
    pub commands: Vec<Command>,
    pub blocks: Vec<PendingBlock>,
    pub told: Told,
    bytes: usize,
}

/// Who waits for a group.
#[derive(Default)]
pub(in crate::log) struct Told {
    answers: Vec<Answer>,
    /// With the last of their reports in the group, and which block has it.
    sources: Vec<(Arc<dyn BlockSource>, u64, usize)>,
}

impl Group {
    /// Adds what waits, in its order, up to about as many bytes; returns the rest. So
    /// whoever waited before a command is committed with it or before it.
    pub fn add(&mut self, mut waiting: VecDeque<Item>, bytes_max: usize) -> VecDeque<Item> {
        while let Some(item) = waiting.pop_front() {
            let bytes = match &item {
                Item::Command(command, _) => command.bytes(),
                // Known once it is taken, which cannot be taken back.
                Item::Source(_) => 0,
            };
            let full = self.bytes >= bytes_max || self.bytes.saturating_add(bytes) > bytes_max;
            if (full && !self.is_empty()) || self.blocks.len() >= BLOCKS_MAX {
                waiting.push_front(item);
                break;
            }
            match item {
                Item::Command(command, answer) => {
                    self.bytes = self.bytes.saturating_add(bytes);
                    self.commands.push(*command);
                    self.told.answers.push(answer);
                }
                Item::Source(source) => self.take(source),
            }
        }
        waiting
    }

    fn take(&mut self, source: Arc<dyn BlockSource>) {
        let Some(block) = source.take() else {
            return;
        };
        self.bytes += block.data.len();
        // Kept only where there is something to tell.
        if let Some(mark) = &block.mark {
            self.told
                .sources
                .push((source, mark.seq, self.blocks.len()));
        }
        self.blocks.push(block);
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.commands.is_empty()
    }

    pub fn records(&self) -> u32 {
        self.blocks.iter().map(|block| block.count).sum()
    }

    pub fn is_large(&self) -> bool {
        self.records() >= BUSY_RECORDS
    }

    /// Refuses the commands; the blocks stay.
    pub fn refuse(&mut self, error: &Error) {
        self.commands.clear();
        self.told.refuse(error);
    }
}

impl Told {
    pub fn refuse(&mut self, error: &Error) {
        let why = error.why();
        for answer in self.answers.drain(..) {
            // A caller that went away needs no answer.
            let _ = answer.send(Err(Error::Unavailable(why.clone())));
        }
    }

    /// Who has said what was left out is not told that it is durable.
    pub fn committed(self, outcomes: Vec<Outcome>, left_out: &[usize]) {
        for (outcome, answer) in outcomes.into_iter().zip(self.answers) {
            let _ = answer.send(Ok(outcome));
        }
        for (source, report_seq, block) in self.sources {
            match left_out.contains(&block) {
                true => source.left_out(),
                false => source.committed(report_seq),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;

    /// A job's buffer with one record of some bytes.
    struct Records(usize);

    impl BlockSource for Records {
        fn take(&self) -> Option<PendingBlock> {
            Some(PendingBlock {
                stream: 1,
                first_seq: 1,
                count: 1,
                data: Bytes::from(vec![0; self.0]),
                terminal: None,
                mark: None,
                spent_json: None,
                traced: false,
                epoch: 0,
            })
        }

        fn committed(&self, _: u64) {}
    }

    /// Commands went ahead of blocks that waited before them when not all fitted: who
    /// had waited for a barrier found its own records missing.
    #[test]
    fn a_barrier_does_not_overtake_blocks_that_do_not_fit() {
        let (answer, _answered) = oneshot::channel();
        let source = || Item::Source(Arc::new(Records(60)));
        let waiting = [
            source(),
            source(),
            source(),
            Item::Command(Box::new(Command::Barrier), answer),
        ];
        let mut first = Group::default();
        let left = first.add(waiting.into(), 100);
        assert_eq!((first.blocks.len(), first.commands.len()), (2, 0));
        let mut second = Group::default();
        assert!(second.add(left, 100).is_empty());
        assert_eq!((second.blocks.len(), second.commands.len()), (1, 1));
    }

    /// Counts what it is told.
    struct Heard(Mutex<Vec<Option<u64>>>);

    impl BlockSource for Heard {
        fn take(&self) -> Option<PendingBlock> {
            let mark = Some(crate::log::ReportMark {
                seq: 5,
                ..Default::default()
            });
            Records(1)
                .take()
                .map(|block| PendingBlock { mark, ..block })
        }

        fn committed(&self, report_seq: u64) {
            self.0.lock().push(Some(report_seq));
        }

        fn left_out(&self) {
            self.0.lock().push(None);
        }
    }

    /// A host was told that its reports are durable although their job was another
    /// replica's by then: it forgot them, and nobody else had them. Or it was told nothing.
    #[test]
    fn whoever_says_what_does_not_count_is_not_told_that_it_is_durable() {
        let heard = [(); 2].map(|()| Arc::new(Heard(Default::default())));
        let items = heard.iter().map(|source| Item::Source(source.clone()));
        let mut group = Group::default();
        group.add(items.collect(), usize::MAX);
        group.told.committed(Vec::new(), &[0]);
        let told = heard.map(|source| source.0.lock().clone());
        assert_eq!(told, [[None], [Some(5)]]);
    }
}
