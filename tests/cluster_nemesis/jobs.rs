//! What the replicas tell of each job in the end, and whether it can be so.

use std::collections::HashMap;

use arcpd::wire::proto::{self, job_event::Body, job_record, job_service_client::JobServiceClient};
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use crate::budgets::{self, Child, Family, Said};
use crate::cell::Cell;
use crate::checker::{self, Record};
use crate::files::{File, Job};
use crate::history::Recorded;
use crate::support::ALICE;
use crate::support::jobs::{Bearer, watch_all};
use crate::verify::Faults;
use crate::work::granted;

/// A job's records with their numbers.
type Records = Vec<(u64, Record)>;

/// Of each job, what all replicas say alike.
pub async fn told(cell: &Cell, rows: &[Job], faults: &mut Faults) -> HashMap<String, Records> {
    let mut channels = Vec::new();
    for replica in &cell.replicas {
        let endpoint = Endpoint::from_shared(format!("http://{}", replica.ready().await));
        let channel = endpoint.expect("an address").connect().await;
        let channel = channel.expect("connects");
        channels.push(JobServiceClient::with_interceptor(channel, Bearer(ALICE)));
    }
    let mut all = HashMap::new();
    for job in rows {
        let mut told: Vec<Records> = Vec::new();
        for channel in &mut channels {
            let records = watch_all(channel, &job.id).await;
            told.push(records.into_iter().map(record).collect());
        }
        let same = told.iter().all(|records| *records == told[0]);
        faults.unless(&format!("job {}", job.id), same, || {
            format!("differs at replicas: {told:?}")
        });
        all.insert(job.id.clone(), told.swap_remove(0));
    }
    all
}

pub fn judge(
    file: &File,
    rows: &[Job],
    told: &HashMap<String, Records>,
    recorded: &Recorded,
    faults: &mut Faults,
) {
    let positions = file.positions();
    for job in rows {
        let what = format!("job {} of {:?}", job.id, job.parent);
        let numbered = &told[&job.id];
        let counted = numbered.iter().map(|(number, _)| *number);
        let consecutive = counted.eq(1..=numbered.len() as u64);
        faults.unless(&what, consecutive, || format!("{numbered:?} has gaps"));
        let records: Vec<_> = numbered.iter().map(|(_, record)| record.clone()).collect();
        faults.found(&what, checker::job(&records));
        faults.found(
            &what,
            checker::budget(&records, granted(&job.lease), job.spent),
        );
        if !recorded.excused.contains(&job.id) {
            faults.found(&what, checker::kept(&records));
        }
        if let Some(family) = family(job, rows, told, &positions) {
            faults.found(&what, budgets::family(&family));
        }
    }
    for (job, number, record) in &recorded.watched {
        let records = told.get(job);
        let now = records.and_then(|records| records.get(*number as usize - 1));
        let same = now.is_some_and(|now| format!("{:?}", now.1) == *record);
        faults.unless(&format!("job {job}"), same, || {
            format!("{number} was watched as {record} and is {now:?}")
        });
    }
}

/// A job that may delegate, and its children.
fn family(
    job: &Job,
    rows: &[Job],
    told: &HashMap<String, Records>,
    positions: &HashMap<(i64, u64), i64>,
) -> Option<Family> {
    job.lease.get("agent.delegate")?;
    let below = rows
        .iter()
        .filter(|row| row.parent.as_ref() == Some(&job.id));
    let children = below.map(|child| Child {
        id: child.id.clone(),
        granted: granted(&child.lease),
        spent: child.spent,
        ended_at: child.ended.map_or(i64::MAX, |(position, _)| position),
    });
    let said = told[&job.id].iter().filter_map(|(number, record)| {
        let position = positions[&(job.stream, *number)];
        said(record).map(|said| (position, said))
    });
    Some(Family {
        granted: granted(&job.lease)?,
        said: said.collect(),
        children: children.collect(),
    })
}

/// What a record of a job that delegates says of its budget.
fn said(record: &Record) -> Option<Said> {
    let body = &record.body;
    match &*record.kind {
        "metric" => checker::cost(record).map(Said::Spent),
        "delegate" => Some(Said::Child(body["child"].as_str()?.into())),
        "tool_result" => {
            let amount = body["call"].as_str()?.strip_prefix("rest-")?.parse().ok()?;
            let code = body["error"]["code"].as_str()?;
            let full = ["LEASE_SUBSET_VIOLATION", "BUDGET_EXHAUSTED"].contains(&code);
            full.then_some(Said::Refused(amount))
        }
        _ => None,
    }
}

pub fn record(record: proto::JobRecord) -> (u64, Record) {
    let number = record.job_seq;
    let (kind, body) = match record.record.expect("a record") {
        job_record::Record::JobResult(result) => {
            ("job.result", json!({ "said": format!("{result:?}") }))
        }
        job_record::Record::JobError(error) => {
            ("job.error", json!({ "said": format!("{error:?}") }))
        }
        job_record::Record::JobEvent(event) => match event.body.expect("a body") {
            Body::Log(log) => ("log", json!({ "message": log.message })),
            Body::Progress(progress) => ("progress", json!({ "current": progress.current })),
            Body::Metric(metric) => (
                "metric",
                json!({ "name": metric.name, "value": metric.value }),
            ),
            Body::Delegate(delegate) => (
                "delegate",
                json!({ "name": delegate.delegate_id, "child": delegate.child_job_id }),
            ),
            Body::ToolResult(result) => {
                let error: Value = serde_json::from_str(&result.error_json).unwrap_or_default();
                (
                    "tool_result",
                    json!({ "call": result.call_id, "error": error }),
                )
            }
            other => ("other", json!({ "said": format!("{other:?}") })),
        },
    };
    let kind = kind.into();
    (number, Record { kind, body })
}
