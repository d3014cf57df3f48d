//! The numbers a session gives to records of the log, found without replaying
//! what lies before. Everything follows from the session's view operations.

use super::view::{self, Change, PastOp, Plan};
use crate::log::{Error, Log, Position, StreamId, Watched};

const ONE_BLOCK: usize = 1;

/// Where a session goes on after `last_event_seq`: from where its view says, as near to it
/// as the log's blocks allow. `None` when the log does not have what that takes.
pub(super) async fn resume(
    log: &Log,
    mut plan: Plan,
    last_event_seq: u64,
) -> Result<Option<Plan>, Error> {
    // The end of a watch needs nothing of its stream.
    let needed = (plan.ahead.iter()).filter(|op| !matches!(op.change, Change::Unwatch { .. }));
    let needed = needed.map(|op| op.change.stream()).collect();
    if log.any_trimmed(needed).await? {
        return Ok(None);
    }
    let up_to = plan.ahead.first().map(|op| op.at.position);
    let up_to = up_to.unwrap_or_else(|| log.committed());
    let wanted = last_event_seq.saturating_add(1) - plan.cursor.next_seq;
    let streams = plan.watches.values().copied().collect();
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
    let watched = |(stream, after_seq)| {
        let watched = Watched {
            stream,
            after_seq,
            is_at_start: true,
        };
        (stream, watched)
    };
    plan.watches = reached.streams.into_iter().map(watched).collect();
    Ok(Some(plan))
}

/// The `event_seq` of the last record at `position`, of a stream the session watches. `None`
/// where it is not known any more.
pub(super) async fn number_at(
    log: &Log,
    ops: &[PastOp],
    position: Position,
) -> Result<Option<u64>, Error> {
    // An operation at a position comes after the records there.
    let before = ops.partition_point(|past| past.op.at.position < position);
    let plan = view::after(&ops[..before]);
    let streams = plan.watches.into_values().collect();
    let records = log
        .count_to(streams, plan.cursor.position, position)
        .await?;
    Ok(records.map(|records| plan.cursor.next_seq - 1 + records))
}

/// The last record of a stream that has a number of at most `event_seq`. `None` where that is
/// not known any more.
pub(super) async fn job_seq_at(
    log: &Log,
    ops: &[PastOp],
    stream: StreamId,
    event_seq: u64,
) -> Result<Option<u64>, Error> {
    let plan = view::plan(ops, event_seq);
    let taken = ops.len() - plan.ahead.len();
    let Some(after_seq) = view::watched_after(&ops[..taken], stream) else {
        return Ok(Some(0));
    };
    let up_to = plan.ahead.first().map(|op| op.at.position);
    let up_to = up_to.unwrap_or_else(|| log.committed());
    let wanted = event_seq.saturating_add(1) - plan.cursor.next_seq;
    let streams = plan.watches.values().copied().collect();
    let reached = log
        .skip(streams, plan.cursor.position, wanted, up_to)
        .await?;
    if reached.trimmed {
        return Ok(None);
    }
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
    Ok(Some(seq + inside))
}
