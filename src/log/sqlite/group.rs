//! What is committed together: commands and blocks, and who is told of them.

use std::sync::Arc;

use super::queue::{Answer, Waiting};
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
    /// With the last of their reports in the group.
    sources: Vec<(Arc<dyn BlockSource>, u64)>,
}

impl Group {
    /// Adds what waits, up to about as many bytes; returns what there is no room for.
    pub fn add(&mut self, waiting: Waiting, bytes_max: usize) -> Waiting {
        let mut left = Waiting::default();
        for (command, answer) in waiting.commands {
            let bytes = self.bytes.saturating_add(command.bytes());
            if bytes > bytes_max && !self.commands.is_empty() {
                left.commands.push((command, answer));
                continue;
            }
            self.bytes = bytes;
            self.commands.push(command);
            self.told.answers.push(answer);
        }
        for source in waiting.sources {
            if self.bytes >= bytes_max || self.blocks.len() >= BLOCKS_MAX {
                left.sources.push(source);
                continue;
            }
            let Some(block) = source.take() else {
                continue;
            };
            self.bytes += block.data.len();
            // Kept only where there is something to tell.
            if let Some(mark) = &block.mark {
                self.told.sources.push((source, mark.seq));
            }
            self.blocks.push(block);
        }
        left
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
        for answer in self.answers.drain(..) {
            // A caller that went away needs no answer.
            let _ = answer.send(Err(Error::Unavailable(error.to_string())));
        }
    }

    pub fn committed(self, outcomes: Vec<Outcome>) {
        for (outcome, answer) in outcomes.into_iter().zip(self.answers) {
            let _ = answer.send(Ok(outcome));
        }
        for (source, report_seq) in self.sources {
            source.committed(report_seq);
        }
    }
}
