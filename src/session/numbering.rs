//! The numbers a session gives to records of the log, found without replaying
//! what lies before. Everything follows from the session's view operations.

use super::view::{self, PastOp, Plan};
use crate::log::{Error, Log, Position, StreamId};

const ONE_BLOCK: usize = 1;

/// Where a session goes on after `last_event_seq`: from where its view says, as near to it
/// as the log's blocks allow. `None` when the log does not have what that takes.
pub(super) async fn resume(
    log: &Log,
    mut plan: Plan,
    last_event_seq: u64,
) -> Result<Option<Plan>, Error> {
    let ahead = plan.ahead.iter().map(|op| op.change.stream()).collect();
    if log.any_trimmed(ahead).await? {
        return Ok(None);
    }
    let up_to = plan.ahead.first().map(|op| op.at.position);
    let up_to = up_to.unwrap_or_else(|| log.committed());
    let wanted = last_event_seq.saturating_add(1) - plan.cursor.next_seq;
    let streams: Vec<_> = plan.watches.iter().map(|(s, seq)| (*s, *seq)).collect();
    let reached = log
        .skip(streams, plan.cursor.position, wanted, up_to)
        .await?;
    if reached.trimmed {
        return Ok(None);
    }
    let missing = wanted - reached.records;
    if missing > 0 && plan.ahead.is_empty() {
        // The client's number is in the middle of the next block, or made up.
        let streams = reached.streams.iter().copied().collect();
        let next = log
            .read_merged(&streams, reached.position, up_to, ONE_BLOCK)
            .await?;
        let inside = next.first().is_some_and(|block| {
            let after_seq = reached.streams.iter().find(|(s, _)| *s == block.stream);
            block.last_seq() - after_seq.map_or(0, |(_, seq)| *seq) >= missing
        });
        if !inside {
            return Ok(None);
        }
    }
    plan.cursor.position = reached.position;
    plan.cursor.next_seq += reached.records;
    plan.watches = reached.streams.into_iter().collect();
    Ok(Some(plan))
}

/// The `event_seq` of the last record at `position`, of a stream the session watches.
pub(super) async fn number_at(log: &Log, ops: &[PastOp], position: Position) -> Result<u64, Error> {
    // An operation at a position comes after the records there.
    let before = ops.partition_point(|past| past.op.at.position < position);
    let plan = view::after(&ops[..before]);
    let streams: Vec<_> = plan.watches.iter().map(|(s, seq)| (*s, *seq)).collect();
    let records = log
        .count_to(streams, plan.cursor.position, position)
        .await?;
    Ok(plan.cursor.next_seq - 1 + records)
}

/// The last record of a stream that has a number of at most `event_seq`.
pub(super) async fn job_seq_at(
    log: &Log,
    ops: &[PastOp],
    stream: StreamId,
    event_seq: u64,
) -> Result<u64, Error> {
    let plan = view::plan(ops, event_seq);
    let taken = ops.len() - plan.ahead.len();
    let Some(after_seq) = view::watched_after(&ops[..taken], stream) else {
        return Ok(0);
    };
    let up_to = plan.ahead.first().map(|op| op.at.position);
    let up_to = up_to.unwrap_or_else(|| log.committed());
    let wanted = event_seq.saturating_add(1) - plan.cursor.next_seq;
    let streams: Vec<_> = plan.watches.iter().map(|(s, seq)| (*s, *seq)).collect();
    let reached = log
        .skip(streams, plan.cursor.position, wanted, up_to)
        .await?;
    let seq = log.seq_at(stream, reached.position).await?.max(after_seq);
    let streams = reached.streams.iter().copied().collect();
    let next = log
        .read_merged(&streams, reached.position, up_to, ONE_BLOCK)
        .await?;
    let inside = match next.first() {
        Some(block) if block.stream == stream => {
            (wanted - reached.records).min(u64::from(block.count))
        }
        _ => 0,
    };
    Ok(seq + inside)
}
