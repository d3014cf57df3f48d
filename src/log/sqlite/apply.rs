//! Writes a group in one transaction, and publishes it once that is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::execute::{Due, execute, insert_block};
use super::group::Told;
use super::ownership::{self, Origin, execute_of};
use super::{State, import, seek, tally};
use crate::log::{Block, Command, Outcome, PendingBlock, Position};

/// What a group came to.
#[derive(Default)]
pub(in crate::log) struct Applied {
    pub outcomes: Vec<Outcome>,
    pub blocks: Vec<Arc<Block>>,
    /// Of what was sent, the blocks that do not count: their job is another's.
    left_out: Vec<usize>,
    /// There may be credentials to see to after it.
    due: bool,
    /// The last position of a store that was brought in.
    imported: Option<Position>,
    /// Of what principals have in a cell.
    pub changes: Vec<tally::Change>,
}

/// The same on every replica that has applied the same before. Without an origin there
/// is one process, and everything is its own.
pub(in crate::log) fn apply(
    connection: &Connection,
    origin: Option<Origin>,
    commands: &[Command],
    pending: &[PendingBlock],
    tail: Position,
) -> rusqlite::Result<Applied> {
    let mut applied = Applied::default();
    for command in commands {
        let outcome = match origin {
            Some(origin) => applied.counted(connection, origin, command)?,
            None => execute(connection, command)?,
        };
        applied.outcomes.push(outcome);
    }
    applied.due = commands.iter().any(may_make_due);
    let mut position = tail;
    let done = commands.iter().zip(&applied.outcomes);
    let imports = |(command, outcome): (&Command, &Outcome)| {
        matches!(command, Command::ImportEnd { .. }) && *outcome == Outcome::Done
    };
    if origin.is_some() && done.into_iter().any(imports) {
        position = import::tail(connection)?;
        applied.imported = Some(position);
        // There was nothing before.
        applied.changes.extend(tally::count(connection)?);
    }
    for (index, block) in pending.iter().enumerate() {
        match origin {
            Some(origin) if !ownership::accepts(connection, origin.replica, block)? => {
                applied.left_out.push(index);
                continue;
            }
            _ => applied.insert(connection, &mut position, block)?,
        }
        if origin.is_some() && block.terminal.is_some() {
            ownership::release(connection, block.stream)?;
            applied
                .changes
                .extend(tally::ended(connection, block.stream)?);
        }
    }
    for (index, command) in commands.iter().enumerate() {
        if let (Command::AppendOwn { stream, record }, Outcome::Done) =
            (command, &applied.outcomes[index])
        {
            let own = PendingBlock {
                stream: *stream,
                first_seq: seek::seq_at(connection, *stream, Position::MAX)? + 1,
                count: 1,
                data: record.clone(),
                terminal: None,
                mark: None,
                spent_json: None,
                traced: false,
                epoch: 0,
            };
            applied.insert(connection, &mut position, &own)?;
        }
    }
    Ok(applied)
}

/// Beside terminals.
fn may_make_due(command: &Command) -> bool {
    match command {
        Command::SetCredential { .. } | Command::MoveJob { .. } | Command::Inherit { .. } => true,
        Command::CreateJob {
            owner, credentials, ..
        } => owner.is_some() && !credentials.is_empty(),
        _ => false,
    }
}

impl Applied {
    fn counted(
        &mut self,
        connection: &Connection,
        origin: Origin,
        command: &Command,
    ) -> rusqlite::Result<Outcome> {
        let changes = tally::changes(connection, command)?;
        let outcome = execute_of(connection, origin, command)?;
        if outcome == Outcome::Done {
            self.changes.extend(changes);
        }
        Ok(outcome)
    }

    fn insert(
        &mut self,
        connection: &Connection,
        position: &mut Position,
        pending: &PendingBlock,
    ) -> rusqlite::Result<()> {
        *position += Position::from(pending.count > 0);
        let Due(due) = insert_block(connection, *position, pending)?;
        self.due |= due;
        if pending.count > 0 {
            let mut block = Block::new(
                *position,
                pending.stream,
                pending.first_seq,
                pending.count,
                pending.data.clone(),
                pending.terminal.is_some(),
            );
            block.traced = pending.traced;
            self.blocks.push(Arc::new(block));
        }
        Ok(())
    }

    /// The last position in use.
    pub fn tail(&self, before: Position) -> Position {
        let last = self.blocks.last().map(|block| block.position);
        last.or(self.imported).unwrap_or(before)
    }

    /// The order is the contract: committed, then answers, then fan-out, which is its
    /// caller's: of the blocks that this returns.
    pub fn publish(self, state: &State, told: Option<Told>) -> Vec<Arc<Block>> {
        state.recent.extend(&self.blocks);
        state.tally.change(self.changes);
        let last = self.blocks.last().map(|block| block.position);
        if let Some(last) = last.or(self.imported) {
            state.committed.store(last, Ordering::Release);
        }
        if let Some(told) = told {
            told.committed(self.outcomes, &self.left_out);
        }
        state.ends.tell(&self.blocks);
        if self.due {
            state.credentials_due.notify_one();
        }
        self.blocks
    }
}
