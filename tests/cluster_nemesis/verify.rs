//! The end: everything is whole again, and what was recorded is held against what the
//! replicas have and serve.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use arcpd::wire::proto::{self, job_event::Body, job_record, job_service_client::JobServiceClient};
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use crate::cell::Cell;
use crate::checker::{self, Record, Stream};
use crate::files::File;
use crate::history::Recorded;
use crate::support::ALICE;
use crate::support::jobs::{Bearer, Jobs, watch_all};
use crate::support::ws::{Ws, hello};
use crate::work::BUDGET;

/// For what runs to end, and for the replicas to be level.
const LEVEL_WITHIN: Duration = Duration::from_secs(90);

/// Waits until no replica has a job that is not over.
pub async fn all_over(cell: &Cell) {
    let began = Instant::now();
    loop {
        cell.ready().await;
        let files = [0, 1, 2].map(|replica| File::read(&cell.file(replica)));
        let unfinished = files.each_ref().map(File::unfinished);
        if unfinished.iter().all(Vec::is_empty) {
            return;
        }
        assert!(
            began.elapsed() < LEVEL_WITHIN,
            "jobs that do not end: {unfinished:?}; logs in {}",
            cell.logs.display()
        );
        tokio::task::yield_now().await;
    }
}

/// The three files at the same place in the stream.
async fn level(cell: &Cell) -> [File; 3] {
    let began = Instant::now();
    loop {
        let files = [0, 1, 2].map(|replica| File::read(&cell.file(replica)));
        if files.iter().all(|file| file.sequence == files[0].sequence) {
            return files;
        }
        let at = files.each_ref().map(|file| file.sequence);
        assert!(
            began.elapsed() < LEVEL_WITHIN,
            "replicas that do not come level: {at:?}; logs in {}",
            cell.logs.display()
        );
        tokio::task::yield_now().await;
    }
}

/// All that is wrong.
pub async fn faults(cell: &Cell, recorded: Recorded) -> Vec<String> {
    let mut faults = recorded.faults;
    let mut found = |what: &str, verdict: Result<(), String>| {
        if let Err(why) = verdict {
            faults.push(format!("{what}: {why}"));
        }
    };
    let files = level(cell).await;
    let tables = files.each_ref().map(File::tables);
    for (other, there) in tables.iter().enumerate().skip(1) {
        found(
            &format!("the files of replicas 0 and {other}"),
            checker::alike(&tables[0], there),
        );
    }
    let file = &files[0];
    let jobs = file.jobs();
    let by_id: HashMap<_, _> = jobs.iter().map(|job| (&*job.id, job)).collect();

    for (key, answers) in &recorded.submits {
        let what = format!("the submits with key {key}");
        match checker::one_job(answers) {
            Err(why) => found(&what, Err(why)),
            Ok(None) => {}
            Ok(Some(job)) => {
                let kept = by_id
                    .get(job)
                    .is_some_and(|row| row.key.as_ref() == Some(key));
                found(
                    &what,
                    kept.then_some(())
                        .ok_or(format!("{job} was accepted and is lost")),
                );
            }
        }
    }

    let mut channels = Vec::new();
    for replica in &cell.replicas {
        let endpoint = Endpoint::from_shared(format!("http://{}", replica.ready().await));
        let channel = endpoint
            .expect("an address")
            .connect()
            .await
            .expect("connects");
        channels.push(JobServiceClient::with_interceptor(channel, Bearer(ALICE)));
    }
    let mut watched: HashMap<String, Vec<String>> = HashMap::new();
    for job in &jobs {
        let mut told = Vec::new();
        for channel in &mut channels {
            told.push(records(channel, &job.id).await);
        }
        let what = format!("job {}", job.id);
        let same = told.iter().all(|records| *records == told[0]);
        found(
            &what,
            same.then_some(())
                .ok_or(format!("differs at replicas: {told:?}")),
        );
        let counted = told[0].iter().map(|(number, _)| *number);
        let consecutive = counted.eq(1..=told[0].len() as u64);
        found(
            &what,
            consecutive
                .then_some(())
                .ok_or(format!("{:?} has gaps", told[0])),
        );
        let records: Vec<_> = told[0].iter().map(|(_, record)| record.clone()).collect();
        found(&what, checker::job(&records));
        if job.lease_json.contains("cost.budget") {
            found(&what, checker::budget(&records, BUDGET));
        }
        watched.insert(
            job.id.clone(),
            told[0].iter().map(|record| format!("{record:?}")).collect(),
        );
    }
    for (job, number, record) in &recorded.watched {
        let now = watched
            .get(job)
            .and_then(|records| records.get(*number as usize - 1));
        let same = now == Some(record);
        found(
            &format!("job {job}"),
            same.then_some(())
                .ok_or(format!("{number} was watched as {record} and is {now:?}")),
        );
    }

    let blocks = file.blocks();
    let ids: HashMap<_, _> = jobs.iter().map(|job| (job.stream, &*job.id)).collect();
    // What any session has been sent of a job's record.
    let mut sent: BTreeMap<(i64, u64), Value> = BTreeMap::new();
    for (session, heard) in &recorded.sessions {
        let what = format!("session {session}");
        let seen = match checker::stream(&heard.heard) {
            Ok(seen) => seen,
            Err(why) => {
                found(&what, Err(why));
                continue;
            }
        };
        let view = match checker::view(&file.view_ops(session), &blocks) {
            Ok(view) => view,
            Err(why) => {
                found(&what, Err(why));
                continue;
            }
        };
        let mut token = heard.resume_token.clone();
        for replica in &cell.replicas {
            let replay = replay(
                &replica.ready().await,
                session,
                &mut token,
                view.len() as u64,
            )
            .await;
            let replay = match replay {
                Ok(replay) => replay,
                Err(why) => {
                    found(&what, Err(why));
                    break;
                }
            };
            found(&what, checker::replayed(&seen, &replay));
            for (seq, frame) in &replay {
                let of = view[*seq as usize - 1];
                let mut record = frame.clone();
                for own in ["id", "event_seq", "session_id"] {
                    record.as_object_mut().expect("a frame").remove(own);
                }
                let right = ids.get(&of.0).is_none_or(|id| record["job_id"] == **id);
                let first = sent.entry(of).or_insert_with(|| record.clone());
                let same = right && *first == record;
                found(
                    &what,
                    same.then_some(()).ok_or(format!(
                        "{seq}, record {of:?}, is {record} and elsewhere {first}"
                    )),
                );
            }
        }
    }
    for (number, replica) in cell.replicas.iter().enumerate() {
        for fault in replica.faults() {
            faults.push(format!("replica {number}: {fault}"));
        }
    }
    faults
}

/// A job's records with their numbers, as a replica serves them.
async fn records(jobs: &mut Jobs, job: &str) -> Vec<(u64, Record)> {
    let records = watch_all(jobs, job).await;
    records.into_iter().map(record).collect()
}

pub fn record(record: proto::JobRecord) -> (u64, Record) {
    let said = match record.record.expect("a record") {
        job_record::Record::JobResult(result) => Record {
            kind: "job.result".into(),
            body: json!({ "said": format!("{result:?}") }),
        },
        job_record::Record::JobError(error) => Record {
            kind: "job.error".into(),
            body: json!({ "said": format!("{error:?}") }),
        },
        job_record::Record::JobEvent(event) => match event.body.expect("a body") {
            Body::Log(log) => Record {
                kind: "log".into(),
                body: json!({ "message": log.message }),
            },
            Body::Progress(progress) => Record {
                kind: "progress".into(),
                body: json!({ "current": progress.current }),
            },
            Body::Metric(metric) => Record {
                kind: "metric".into(),
                body: json!({ "name": metric.name, "value": metric.value }),
            },
            other => Record {
                kind: "other".into(),
                body: json!({ "said": format!("{other:?}") }),
            },
        },
    };
    (record.job_seq, said)
}

/// All of a session's stream, from its first number, as a replica serves it.
async fn replay(
    address: &str,
    session: &str,
    token: &mut String,
    length: u64,
) -> Result<Stream, String> {
    let mut ws = Ws::dial_at(address).await;
    let resume = json!({ "session_id": session, "resume_token": token, "last_event_seq": 0 });
    ws.send(&hello("r", ALICE, json!({ "resume": resume })).to_string())
        .await;
    let welcome = ws.hear().await;
    let given = welcome["payload"]["resume_token"].as_str();
    *token = given
        .ok_or_else(|| format!("is not resumed: {welcome}"))?
        .to_owned();
    let mut replay = Stream::new();
    while (replay.len() as u64) < length {
        let frame = ws.try_hear().await;
        let frame =
            frame.ok_or_else(|| format!("its replay ends at {} of {length}", replay.len()))?;
        if let Some(seq) = frame["event_seq"].as_u64() {
            if seq != replay.len() as u64 + 1 {
                return Err(format!("its replay has {seq} behind {}", replay.len()));
            }
            replay.insert(seq, frame);
        }
    }
    // Behind everything there is nothing.
    let more = ws.ping().await;
    let more = more.iter().find(|frame| !frame["event_seq"].is_null());
    match more {
        None => Ok(replay),
        Some(frame) => Err(format!("its replay goes on behind {length}: {frame}")),
    }
}
