//! Verdicts over what was recorded (pure). Each says what is wrong, or nothing.

use std::collections::BTreeMap;

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

/// One terminal, behind everything; what counts counts on, from 1 with each attempt.
pub fn job(records: &[Record]) -> Result<(), String> {
    let ends = records.iter().filter(|record| record.is_end()).count();
    if ends != 1 || !records.last().is_some_and(Record::is_end) {
        return Err(format!("{ends} terminals in {records:?}"));
    }
    let mut last = (1, 0);
    for record in records {
        let Some(now) = counted(record) else { continue };
        let goes_on = now.0 == last.0 && now.1 == last.1 + 1;
        let anew = now.0 > last.0 && now.1 == 1;
        if !goes_on && !anew {
            return Err(format!("attempt {}, step {} after {last:?}", now.0, now.1));
        }
        last = now;
    }
    Ok(())
}

/// The attempt and the step that a record is of, if it says so.
fn counted(record: &Record) -> Option<(u64, u64)> {
    if let Some(step) = record.body["current"].as_f64() {
        return Some((1, step as u64));
    }
    let (attempt, step) = record.body["message"].as_str()?.split_once(" step ")?;
    Some((attempt.parse().ok()?, step.parse().ok()?))
}

/// No more was spent than was granted, in thousandths.
pub fn budget(records: &[Record], granted: i64) -> Result<(), String> {
    // What is left is told as a metric too.
    let cost = |record: &&Record| record.body["name"] == "cost.step";
    let spent = records.iter().filter(cost);
    let spent = spent.map(|record| record.body["value"].as_f64().unwrap_or_default());
    let spent = spent
        .map(|value| (value * 1000.0).round() as i64)
        .sum::<i64>();
    if spent > granted {
        return Err(format!("{spent} of {granted} thousandths spent"));
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
