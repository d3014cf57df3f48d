//! What each session is sent in the end, at every replica and over both wires, and whether
//! it is what its client was sent before.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cell::Cell;
use crate::checker::{self, Stream};
use crate::files::{File, Job};
use crate::history::{Recorded, Session};
use crate::line::{Line, Wire};
use crate::support::ALICE;
use crate::support::ws::hello;
use crate::verify::Faults;

/// For one frame, with nothing in the way.
const PATIENCE: Duration = Duration::from_secs(30);
/// For a session to be taken by a replica that has stood still, as clients try again.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// At each replica one of them: so all that a session has is sent over both.
const WIRES: [Wire; 3] = [Wire::WebSocket, Wire::Grpc, Wire::WebSocket];

/// Why a session is not served.
enum Unserved {
    /// It is to be tried again.
    ForNow(String),
    Wrong(String),
}

/// Each session once, so that it has the children of its jobs that were made while its
/// client was away.
pub async fn resume_all(cell: &Cell, recorded: &mut Recorded, faults: &mut Faults) {
    let address = cell.replicas[0].ready().await;
    for (id, session) in &mut recorded.sessions {
        let last = session.last();
        let began = Instant::now();
        let resumed = loop {
            let resumed = resume(Wire::WebSocket, &address, id, session, last).await;
            let resumed = match resumed {
                Ok(mut line) => line.until_pong().await.map(drop),
                Err(why) => Err(why),
            };
            match resumed {
                Err(Unserved::ForNow(_)) if began.elapsed() < TAKEN_WITHIN => {}
                resumed => break resumed.map_err(Unserved::text),
            }
        };
        faults.found(&format!("session {id}"), resumed);
    }
}

pub async fn judge(
    cell: &Cell,
    file: &File,
    rows: &[Job],
    recorded: &Recorded,
    faults: &mut Faults,
) {
    let blocks = file.blocks();
    let ids: HashMap<_, _> = rows.iter().map(|job| (job.stream, &*job.id)).collect();
    // What any session has been sent of a job's record.
    let mut sent: BTreeMap<(i64, u64), Value> = BTreeMap::new();
    for (id, session) in &recorded.sessions {
        let what = format!("session {id}");
        let judged = match checker::stream(&session.heard) {
            Ok(seen) => checker::view(&file.view_ops(id), &blocks).map(|view| (seen, view)),
            Err(why) => Err(why),
        };
        let (seen, view) = match judged {
            Ok(judged) => judged,
            Err(why) => {
                faults.found(&what, Err(why));
                continue;
            }
        };
        let own = rows.iter().filter(|job| job.session == *id);
        let lasts = own.map(|job| (job.stream, job.last_seq)).collect();
        faults.found(&what, checker::complete(&view, &lasts));
        let mut session = session.clone();
        for (replica, wire) in cell.replicas.iter().zip(WIRES) {
            let address = replica.ready().await;
            let began = Instant::now();
            let replay = loop {
                let length = view.len() as u64;
                match replay(wire, &address, id, &mut session, length).await {
                    Err(Unserved::ForNow(_)) if began.elapsed() < TAKEN_WITHIN => {}
                    replay => break replay.map_err(Unserved::text),
                }
            };
            let replay = match replay {
                Ok(replay) => replay,
                Err(why) => {
                    faults.found(&what, Err(why));
                    break;
                }
            };
            faults.found(&what, checker::replayed(&seen, &replay));
            for (seq, frame) in &replay {
                let of = view[*seq as usize - 1];
                let mut record = frame.clone();
                for own in ["id", "event_seq", "session_id"] {
                    record.as_object_mut().expect("a frame").remove(own);
                }
                let right = ids.get(&of.0).is_none_or(|id| record["job_id"] == **id);
                let first = sent.entry(of).or_insert_with(|| record.clone());
                let same = right && *first == record;
                faults.unless(&what, same, || {
                    format!("{seq}, record {of:?}, is {record} and elsewhere {first}")
                });
            }
        }
    }
}

/// Attached again, with the token for the next time.
async fn resume(
    wire: Wire,
    address: &str,
    id: &str,
    session: &mut Session,
    after: u64,
) -> Result<Line, Unserved> {
    let token = &session.resume_token;
    let resume = json!({ "session_id": id, "resume_token": token, "last_event_seq": after });
    let hello = hello("r", ALICE, json!({ "resume": resume }));
    let line = Line::open(wire, address, &hello).await;
    let mut line = line.map_err(Unserved::ForNow)?;
    let welcome = hear(&mut line).await?;
    let text = format!("is not resumed: {welcome}");
    match welcome["payload"]["resume_token"].as_str() {
        Some(token) => session.resume_token = token.to_owned(),
        None if welcome["payload"]["retryable"] == true => return Err(Unserved::ForNow(text)),
        None => return Err(Unserved::Wrong(text)),
    }
    Ok(line)
}

/// All of a session's stream, from its first number, as a replica serves it.
async fn replay(
    wire: Wire,
    address: &str,
    id: &str,
    session: &mut Session,
    length: u64,
) -> Result<Stream, Unserved> {
    let mut line = resume(wire, address, id, session, 0).await?;
    let mut replay = Stream::new();
    while (replay.len() as u64) < length {
        let frame = hear(&mut line).await?;
        if let Some(seq) = frame["event_seq"].as_u64() {
            if seq != replay.len() as u64 + 1 {
                let text = format!("its replay has {seq} behind {}", replay.len());
                return Err(Unserved::Wrong(text));
            }
            replay.insert(seq, frame);
        }
    }
    // Behind everything there is nothing.
    let more = line.until_pong().await?;
    let more = more.iter().find(|frame| !frame["event_seq"].is_null());
    match more {
        None => Ok(replay),
        Some(frame) => {
            let text = format!("its replay goes on behind {length}: {frame}");
            Err(Unserved::Wrong(text))
        }
    }
}

/// The next frame, in time.
async fn hear(line: &mut Line) -> Result<Value, Unserved> {
    let heard = timeout(PATIENCE, line.hear()).await;
    let heard = heard.unwrap_or_else(|_| Err("nothing is heard".into()));
    heard.map_err(Unserved::ForNow)
}

impl Unserved {
    fn text(self) -> String {
        match self {
            Self::ForNow(text) | Self::Wrong(text) => text,
        }
    }
}

impl Line {
    /// What comes before the answer to a ping.
    async fn until_pong(&mut self) -> Result<Vec<Value>, Unserved> {
        let ping = json!({ "arcp": "1.1", "id": "p", "type": "session.ping",
            "payload": { "nonce": "n", "sent_at": "" } });
        self.say(&ping).await.map_err(Unserved::ForNow)?;
        let mut before = Vec::new();
        loop {
            let frame = hear(self).await?;
            if frame["type"] == "session.pong" {
                return Ok(before);
            }
            before.push(frame);
        }
    }
}
