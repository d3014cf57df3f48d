//! The end: everything is whole again, and what was recorded is held against what the
//! replicas have and serve.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::checker;
use crate::files::{File, Job};
use crate::history::Recorded;
use crate::keys::{self, End, Key};
use crate::support::credentials::assert_clean;
use crate::{jobs, sessions};

/// For what runs to end, and for the replicas to be level.
const LEVEL_WITHIN: Duration = Duration::from_secs(90);

/// All that is wrong.
#[derive(Default)]
pub struct Faults(Vec<String>);

impl Faults {
    pub fn found(&mut self, what: &str, verdict: Result<(), String>) {
        if let Err(why) = verdict {
            self.0.push(format!("{what}: {why}"));
        }
    }

    pub fn unless(&mut self, what: &str, right: bool, why: impl FnOnce() -> String) {
        self.found(what, right.then_some(()).ok_or_else(why));
    }
}

/// Waits until no replica has a job that is not over, and no key of one is left.
pub async fn all_over(cell: &Cell) {
    let began = Instant::now();
    loop {
        cell.ready().await;
        let files = read(cell);
        let unfinished = files.each_ref().map(File::unfinished);
        let keys = files.each_ref().map(File::credentials);
        if unfinished.iter().all(Vec::is_empty) && keys == [0; 3] {
            return;
        }
        assert!(
            began.elapsed() < LEVEL_WITHIN,
            "jobs that do not end: {unfinished:?}; keys that are left: {keys:?}; logs in {}",
            cell.logs.display()
        );
        tokio::task::yield_now().await;
    }
}

fn read(cell: &Cell) -> [File; 3] {
    cell.replicas
        .each_ref()
        .map(|replica| File::read(replica.file()))
}

/// The three files at the same place in the stream.
async fn level(cell: &Cell) -> [File; 3] {
    let began = Instant::now();
    loop {
        let files = read(cell);
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

pub async fn faults(cell: &Cell, mut recorded: Recorded) -> Vec<String> {
    let mut faults = Faults(std::mem::take(&mut recorded.faults));
    sessions::resume_all(cell, &mut recorded, &mut faults).await;
    let files = level(cell).await;
    // A replica of another version has what that one's tables have.
    let columns = files.each_ref().map(File::columns);
    let common = columns[0]
        .iter()
        .filter(|one| columns.iter().all(|all| all.contains(one)));
    let common = common.cloned().collect();
    let tables = files.each_ref().map(|file| file.tables(&common));
    for (other, there) in tables.iter().enumerate().skip(1) {
        faults.found(
            &format!("the files of replicas 0 and {other}"),
            checker::alike(&tables[0], there),
        );
    }
    drop(tables);
    let rows = files[0].jobs();
    submits(&recorded, &rows, &mut faults);
    credentials(cell, &rows, &mut faults);
    let told = jobs::told(cell, &rows, &mut faults).await;
    jobs::judge(&files[0], &rows, &told, &recorded, &mut faults);
    sessions::judge(cell, &files[0], &rows, &recorded, &mut faults).await;
    for (number, replica) in cell.replicas.iter().enumerate() {
        for fault in replica.faults() {
            faults.found(&format!("replica {number}"), Err(fault));
        }
    }
    faults.0
}

/// What was accepted is there.
fn submits(recorded: &Recorded, rows: &[Job], faults: &mut Faults) {
    let by_id: HashMap<_, _> = rows.iter().map(|job| (&*job.id, job)).collect();
    for (key, answers) in &recorded.submits {
        let what = format!("the submits with key {key}");
        match checker::one_job(answers) {
            Err(why) => faults.found(&what, Err(why)),
            Ok(None) => {}
            Ok(Some(job)) => {
                let row = by_id.get(job);
                let kept = row.is_some_and(|row| row.key.as_ref() == Some(key));
                faults.unless(&what, kept, || format!("{job} was accepted and is lost"));
            }
        }
    }
}

/// Each key went with its job, and is nowhere to be read.
fn credentials(cell: &Cell, rows: &[Job], faults: &mut Faults) {
    let ends = rows.iter().filter_map(|job| {
        let (at, parent) = (job.ended?.1, job.parent.clone());
        Some((job.id.clone(), End { at, parent }))
    });
    let made = cell.gateway.keys();
    let keys: Vec<_> = made
        .into_iter()
        .map(|key| Key {
            job: key.asked["metadata"]["arcp_job_id"]
                .as_str()
                .unwrap_or_default()
                .into(),
            alias: key.alias,
            made_at: key.made_at.as_millisecond(),
            deleted_at: key.deleted_at.map(|at| at.as_millisecond()),
        })
        .collect();
    println!("{} keys, {} teams", keys.len(), cell.gateway.teams().len());
    faults.found("the gateway", keys::keys(&keys, &ends.collect()));
    for team in cell.gateway.teams() {
        faults.unless(&format!("team {}", team.id), team.deleted, || {
            "is left".into()
        });
    }
    for number in 0..cell.replicas.len() {
        let log = cell.logs.join(format!("replica-{number}.log"));
        for path in [cell.replicas[number].file(), &log] {
            let text = std::fs::read(path).expect("a file of this test");
            assert_clean(&path.display().to_string(), &text);
        }
    }
}
