//! Verdicts over what was recorded (pure). Each says what is wrong, or nothing.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use crate::history::{Answer, Heard};

/// The frames of a session by number.
pub type Stream = BTreeMap<u64, Value>;

/// Each connection goes on after the number it named, without a gap or a double, and
/// what has a number once has it for ever.
pub fn stream(heard: &[Heard]) -> Result<Stream, String> {
    let mut stream = Stream::new();
    let mut next = None;
    for one in heard {
        match one {
            Heard::Attached { after } => next = Some(after + 1),
            Heard::Numbered { seq, frame } => {
                if next != Some(*seq) {
                    return Err(format!("{seq} where {next:?} was due: {frame}"));
                }
                next = Some(seq + 1);
                match stream.get(seq) {
                    Some(before) if before != frame => {
                        return Err(format!("{seq} was {before} and is {frame}"));
                    }
                    Some(_) => {}
                    None => drop(stream.insert(*seq, frame.clone())),
                }
            }
        }
    }
    Ok(stream)
}

/// What a client saw is what the log has, number by number.
pub fn replayed(seen: &Stream, replay: &Stream) -> Result<(), String> {
    for (seq, frame) in seen {
        match replay.get(seq) {
            None => return Err(format!("{seq} was seen and is gone: {frame}")),
            Some(now) if now != frame => {
                return Err(format!("{seq} was seen as {frame} and is {now}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// One job for one key, and no refusal of what was accepted. None when it was never
/// answered.
pub fn one_job(answers: &[Answer]) -> Result<Option<&str>, String> {
    let mut found = None;
    for answer in answers {
        match (answer, found) {
            (Answer::Accepted { job }, None) => found = Some(&**job),
            (Answer::Accepted { job }, Some(first)) if job == first => {}
            _ => return Err(format!("different answers to one key: {answers:?}")),
        }
    }
    Ok(found)
}

/// A row of a session's view, as a replica's file has it.
#[derive(Clone, Copy, Debug)]
pub struct ViewOp {
    pub at_position: i64,
    pub at_seq: u64,
    pub change: Change,
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Watch { stream: i64, after: u64 },
    Unwatch { stream: i64 },
    History { stream: i64, after: u64, to: u64 },
}

/// A block of the log: `first..=last` of a stream, in the order of their positions.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub position: i64,
    pub stream: i64,
    pub first: u64,
    pub last: u64,
}

/// What a view makes of a log: the record that has each number, from 1. Written anew
/// from what the documentation says of views, not by what the runtime does.
pub fn view(ops: &[ViewOp], log: &[Block]) -> Result<Vec<(i64, u64)>, String> {
    let mut numbered = Vec::new();
    let mut watched: BTreeMap<i64, u64> = BTreeMap::new();
    let mut rest = log;
    let mut live = |up_to: i64, watched: &BTreeMap<i64, u64>, numbered: &mut Vec<(i64, u64)>| {
        let count = rest
            .iter()
            .take_while(|block| block.position <= up_to)
            .count();
        let (now, later) = rest.split_at(count);
        rest = later;
        for block in now {
            if let Some(after) = watched.get(&block.stream) {
                let first = block.first.max(after + 1);
                numbered.extend((first..=block.last).map(|seq| (block.stream, seq)));
            }
        }
    };
    for op in ops {
        live(op.at_position, &watched, &mut numbered);
        let next = numbered.len() as u64 + 1;
        if next != op.at_seq {
            return Err(format!("{op:?} where {next} is next"));
        }
        match op.change {
            Change::Watch { stream, after } => {
                watched.entry(stream).or_insert(after);
            }
            Change::Unwatch { stream } => {
                watched.remove(&stream);
            }
            Change::History { stream, after, to } => {
                numbered.extend((after + 1..=to).map(|seq| (stream, seq)));
            }
        }
    }
    live(i64::MAX, &watched, &mut numbered);
    Ok(numbered)
}

/// A host that has a job, and is heard of, does not lose it.
pub fn kept(records: &[Record]) -> Result<(), String> {
    let lost = |record: &&Record| {
        let said = record.body["said"].as_str();
        said.is_some_and(|said| said.contains("agent host lost"))
    };
    match records.iter().find(lost) {
        Some(lost) => Err(format!("its host had it: {}", lost.body)),
        None => Ok(()),
    }
}

/// A record of a job, as a session was sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub kind: String,
    pub body: Value,
}

impl Record {
    fn is_end(&self) -> bool {
        matches!(&*self.kind, "job.result" | "job.error")
    }
}

/// One terminal, behind everything; what counts counts on, from 1 with each attempt, or
/// from the last checkpoint.
pub fn job(records: &[Record]) -> Result<(), String> {
    let ends = records.iter().filter(|record| record.is_end()).count();
    if ends != 1 || !records.last().is_some_and(Record::is_end) {
        return Err(format!("{ends} terminals in {records:?}"));
    }
    let mut last = Counted {
        attempt: 1,
        step: 0,
        saved: 0,
    };
    for record in records {
        let Some(now) = counted(record) else { continue };
        let goes_on = now.attempt == last.attempt && now.step == last.step + 1;
        // A checkpoint that is told of is durable, and there may be one behind it.
        let from = last.saved..=last.step;
        let resumes = now.step == now.saved + 1 && (now.saved == 0 || from.contains(&now.saved));
        let anew = now.attempt > last.attempt && resumes && last.saved <= now.saved;
        if !goes_on && !anew {
            return Err(format!("{now:?} after {last:?}"));
        }
        last = now;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    attempt: u64,
    step: u64,
    /// The step of the checkpoint before it; 0 without one.
    saved: u64,
}

/// What a record counts, if it does.
fn counted(record: &Record) -> Option<Counted> {
    if let Some(step) = record.body["current"].as_f64() {
        return Some(Counted {
            attempt: 1,
            step: step as u64,
            saved: 0,
        });
    }
    let (attempt, rest) = record.body["message"].as_str()?.split_once(" step ")?;
    let (step, saved) = rest.split_once(" saved ").unwrap_or((rest, "0"));
    Some(Counted {
        attempt: attempt.parse().ok()?,
        step: step.parse().ok()?,
        saved: saved.parse().ok()?,
    })
}

/// By a job itself, in thousandths.
pub fn spent(records: &[Record]) -> i64 {
    records.iter().filter_map(cost).sum()
}

/// What a record says was spent. What is left is told as a metric too.
pub fn cost(record: &Record) -> Option<i64> {
    let value = record.body["value"].as_f64();
    (record.body["name"] == "cost.step").then(|| (value.unwrap_or(0.0) * 1000.0).round() as i64)
}

/// No more was spent than was granted, in thousandths, and that much is stored.
pub fn budget(records: &[Record], granted: Option<i64>, stored: i64) -> Result<(), String> {
    let spent = spent(records);
    if granted.is_some_and(|granted| spent > granted) {
        return Err(format!("{spent} of {granted:?} thousandths spent"));
    }
    if spent != stored {
        return Err(format!("{spent} thousandths spent and {stored} stored"));
    }
    Ok(())
}

/// A session has what its jobs say, and all below them, to their last records.
pub fn complete(view: &[(i64, u64)], lasts: &BTreeMap<i64, u64>) -> Result<(), String> {
    let seen: HashSet<_> = view.iter().copied().collect();
    for (stream, last) in lasts {
        if let Some(seq) = (1..=*last).find(|seq| !seen.contains(&(*stream, *seq))) {
            return Err(format!(
                "record {seq} of stream {stream} is not in its view"
            ));
        }
    }
    Ok(())
}

/// The first difference between two replicas' tables.
pub fn alike(
    a: &BTreeMap<String, Vec<String>>,
    b: &BTreeMap<String, Vec<String>>,
) -> Result<(), String> {
    for (table, rows) in a {
        let others = &b[table];
        if let Some((one, other)) = rows.iter().zip(others).find(|(one, other)| one != other) {
            return Err(format!("{table}: {one} here, {other} there"));
        }
        if rows.len() != others.len() {
            return Err(format!(
                "{table}: {} rows here, {} there",
                rows.len(),
                others.len()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn numbered(seq: u64, text: &str) -> Heard {
        let frame = json!(text);
        Heard::Numbered { seq, frame }
    }

    fn attached(after: u64) -> Heard {
        Heard::Attached { after }
    }

    #[test]
    fn a_stream_with_a_gap_a_double_or_another_past_is_refused() {
        let heard = [
            attached(0),
            numbered(1, "a"),
            attached(0),
            numbered(1, "a"),
            numbered(2, "b"),
        ];
        assert_eq!(stream(&heard).unwrap().len(), 2);
        let gap = [attached(0), numbered(1, "a"), numbered(3, "c")];
        let double = [attached(0), numbered(1, "a"), numbered(1, "a")];
        let early = [attached(2), numbered(2, "b")];
        let other = [attached(0), numbered(1, "a"), attached(0), numbered(1, "b")];
        for wrong in [&gap[..], &double, &early, &other, &[numbered(1, "a")]] {
            assert!(stream(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_job_that_was_given_up_is_told() {
        let lost = |kind, text: &str| said(kind, json!({ "said": text }));
        let retried = lost("other", "agent host lost: it did not come back");
        let ended = lost(
            "job.error",
            "agent host lost: it has gone; submit the job again",
        );
        let other = lost("job.error", "CANCELLED");
        assert!(kept(&[other]).is_ok());
        assert!(kept(&[retried]).is_err() && kept(&[ended]).is_err());
    }

    #[test]
    fn what_was_seen_and_is_gone_or_changed_is_told() {
        let seen = Stream::from([(1, json!("a")), (2, json!("b"))]);
        assert_eq!(replayed(&seen, &seen), Ok(()));
        assert!(replayed(&seen, &Stream::from([(1, json!("a"))])).is_err());
        let changed = Stream::from([(1, json!("a")), (2, json!("c"))]);
        assert!(replayed(&seen, &changed).is_err());
    }

    #[test]
    fn a_key_has_one_job() {
        let accepted = |job: &str| Answer::Accepted { job: job.into() };
        let refused = Answer::Refused { code: "C".into() };
        assert_eq!(one_job(&[accepted("a"), accepted("a")]), Ok(Some("a")));
        assert_eq!(one_job(&[]), Ok(None));
        assert!(one_job(&[accepted("a"), accepted("b")]).is_err());
        assert!(one_job(&[accepted("a"), refused]).is_err());
    }

    #[test]
    fn a_view_is_history_and_what_is_live_between_its_operations() {
        let block = |position, stream, first, last| Block {
            position,
            stream,
            first,
            last,
        };
        let op = |at_position, at_seq, change| ViewOp {
            at_position,
            at_seq,
            change,
        };
        let log = [
            block(1, 7, 1, 2),
            block(2, 8, 1, 1),
            block(3, 7, 3, 3),
            block(4, 8, 2, 2),
        ];
        let ops = [
            op(
                0,
                1,
                Change::Watch {
                    stream: 7,
                    after: 0,
                },
            ),
            op(
                2,
                3,
                Change::History {
                    stream: 8,
                    after: 0,
                    to: 1,
                },
            ),
            op(
                2,
                4,
                Change::Watch {
                    stream: 8,
                    after: 1,
                },
            ),
            op(3, 5, Change::Unwatch { stream: 7 }),
        ];
        let numbered = [(7, 1), (7, 2), (8, 1), (7, 3), (8, 2)];
        assert_eq!(view(&ops, &log), Ok(numbered.to_vec()));
        // One whose number is not the next, as after a record that was passed over.
        assert!(view(&[ops[0], op(2, 2, ops[1].change)], &log).is_err());
    }

    fn said(kind: &str, body: Value) -> Record {
        let kind = kind.into();
        Record { kind, body }
    }

    #[test]
    fn a_job_ends_once_and_counts_on() {
        let step = |text: &str| said("log", json!({ "message": text }));
        let end = said("job.result", json!({}));
        let (one, two) = (step("1 step 1"), step("1 step 2"));
        let (again, three) = (step("2 step 1"), step("1 step 3"));
        let right = [one.clone(), two.clone(), again, end.clone()];
        assert_eq!(job(&right), Ok(()));
        let doubled = [one.clone(), one.clone(), end.clone()];
        let skipped = [one.clone(), three, end.clone()];
        let twice = [one.clone(), end.clone(), end.clone()];
        let behind = [one.clone(), end, two];
        for wrong in [&doubled[..], &skipped, &twice, &behind, &[one]] {
            assert!(job(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_job_goes_on_from_its_last_checkpoint_and_not_from_before_or_behind_it() {
        let begun = [
            "1 step 1 saved 0",
            "1 step 2 saved 0",
            "1 step 3 saved 2",
            "1 step 4 saved 2",
        ];
        let then = |next: &str| {
            let said_all = begun.into_iter().chain([next]);
            let steps = said_all.map(|text| said("log", json!({ "message": text })));
            let records: Vec<_> = steps.chain([said("job.result", json!({}))]).collect();
            job(&records)
        };
        for right in ["2 step 3 saved 2", "2 step 5 saved 4", "3 step 4 saved 3"] {
            assert_eq!(then(right), Ok(()), "{right}");
        }
        for wrong in [
            "2 step 1 saved 0",
            "2 step 2 saved 1",
            "2 step 6 saved 5",
            "2 step 5 saved 2",
        ] {
            assert!(then(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_budget_is_what_is_spent_and_not_what_is_left() {
        let cost = said("metric", json!({ "name": "cost.step", "value": 0.1 }));
        let left = said(
            "metric",
            json!({ "name": "cost.budget.remaining", "value": 0.9 }),
        );
        let records = [cost.clone(), left, cost];
        assert_eq!(budget(&records, Some(200), 200), Ok(()));
        assert!(budget(&records, Some(199), 200).is_err());
        assert!(
            budget(&records, Some(200), 100).is_err(),
            "100 are forgotten"
        );
        assert_eq!(budget(&records, None, 200), Ok(()));
    }

    #[test]
    fn a_view_without_the_end_of_a_job_is_told() {
        let view = [(7, 1), (8, 1), (7, 2)];
        assert_eq!(complete(&view, &BTreeMap::from([(7, 2), (8, 1)])), Ok(()));
        assert!(complete(&view, &BTreeMap::from([(7, 3)])).is_err());
        assert!(complete(&view, &BTreeMap::from([(9, 1)])).is_err());
    }

    #[test]
    fn files_that_differ_are_told() {
        let file = |rows: &[&str]| {
            let rows = rows.iter().map(|row| (*row).to_owned()).collect();
            BTreeMap::from([("job".to_owned(), rows)])
        };
        assert_eq!(alike(&file(&["a", "b"]), &file(&["a", "b"])), Ok(()));
        assert!(alike(&file(&["a", "b"]), &file(&["a", "c"])).is_err());
        assert!(alike(&file(&["a", "b"]), &file(&["a"])).is_err());
    }
}
