//! *The event stream, the counters and what was granted always add up, after a crash
//! too*: a random tree of jobs that spend, delegate and end, on a host that the test
//! plays, while the runtime is killed and comes back. What is expected is added up
//! from what the host has said, and each answer compared with it.
//!
//! The seed is printed; `ARCPD_MODEL_SEED` plays one again.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use arcpd::wire::proto::job_event::Body;
use arcpd::wire::proto::job_record::Record;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use support::host::*;
use support::jobs::Jobs;
use support::*;

const CURRENCIES: [&str; 2] = ["USD", "EUR"];
const STEPS: usize = 70;
const KILLS: usize = 6;
const DEPTH_MAX: usize = 3;
const JOBS_MAX: usize = 24;

const CONFIG: &str = r#"
[[hosting]]
principal = "workers"
agents = ["worker"]
[hosts]
heartbeat_interval_sec = 5
lost_after_sec = 12
pending_max_sec = 120
attempts_max = 100
"#;

/// A job as its host knows it. Amounts are in thousandths.
struct Job {
    id: String,
    parent: Option<usize>,
    depth: usize,
    granted: [Option<i64>; 2],
    spent: [i64; 2],
    over: bool,
    /// Not while its assignment is on its way.
    of: Option<AssignmentRef>,
    reports: Vec<proto::Report>,
    acked: u64,
}

struct Host {
    dir: tempfile::TempDir,
    runtime: Option<Runtime>,
    peer: HostPeer,
    client: Jobs,
    jobs: Vec<Job>,
    by_id: HashMap<String, usize>,
    /// Assignments of children whose name is not known yet.
    early: HashMap<String, AssignmentRef>,
    asked: u32,
}

fn thousandths(value: f64) -> i64 {
    (value * 1000.0).round() as i64
}

fn text(amount: i64) -> String {
    let amount = amount as f64 / 1000.0;
    amount.to_string()
}

// === what is expected ===

impl Host {
    fn children(&self, job: usize) -> impl Iterator<Item = usize> {
        (0..self.jobs.len()).filter(move |other| self.jobs[*other].parent == Some(job))
    }

    fn line(&self, job: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(job), |job| self.jobs[*job].parent)
    }

    fn total(&self, job: usize, c: usize) -> i64 {
        let below = self.children(job).map(|child| self.total(child, c));
        self.jobs[job].spent[c] + below.sum::<i64>()
    }

    fn held(&self, job: usize, c: usize) -> i64 {
        let below = self.children(job).map(|child| {
            let (held, of) = (self.held(child, c), &self.jobs[child]);
            match of.granted[c] {
                Some(granted) if !of.over => held.max(granted),
                _ => held,
            }
        });
        self.jobs[job].spent[c] + below.sum::<i64>()
    }

    fn left(&self, job: usize, c: usize) -> Option<i64> {
        Some(self.jobs[job].granted[c]? - self.held(job, c))
    }

    fn share(&self, job: usize, c: usize) -> Option<i64> {
        self.line(job).find_map(|above| self.left(above, c))
    }

    fn may_go_on(&self, job: usize) -> bool {
        (0..2).all(|c| {
            let spent_up = |above: usize| {
                let granted = self.jobs[above].granted[c];
                granted.is_some_and(|granted| self.total(above, c) >= granted)
            };
            self.share(job, c).is_none_or(|left| left > 0) && !self.line(job).any(spent_up)
        })
    }

    fn live(&self) -> Vec<usize> {
        let live = |job: &usize| !self.jobs[*job].over && self.jobs[*job].of.is_some();
        (0..self.jobs.len()).filter(live).collect()
    }

    fn below(&self, job: usize) -> Vec<usize> {
        let below = |other: &usize| self.line(*other).any(|above| above == job);
        (0..self.jobs.len()).filter(below).collect()
    }
}

// === what the host says and hears ===

impl Host {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::start_with(dir.path(), CONFIG);
        let peer = dial(&runtime, Vec::new()).await.0;
        let client = jobs::connect(&runtime, ALICE).await;
        let runtime = Some(runtime);
        let mut host = Self {
            dir,
            runtime,
            peer,
            client,
            jobs: Vec::new(),
            by_id: HashMap::new(),
            early: HashMap::new(),
            asked: 0,
        };
        let granted = [Some(10_000), Some(4_000)];
        let submit = proto::SubmitJobRequest {
            lease_request_json: json!({
                "cost.budget": ["USD:10", "EUR:4"],
                "tool.call": ["*"],
                "agent.delegate": ["worker"],
            })
            .to_string(),
            ..jobs::of("worker", json!(null))
        };
        let submitted = host.client.submit_job(submit).await.unwrap().into_inner();
        host.add(submitted.job.unwrap().job_id, None, granted);
        host.assigned(0).await;
        host
    }

    fn add(&mut self, id: String, parent: Option<usize>, granted: [Option<i64>; 2]) {
        self.by_id.insert(id.clone(), self.jobs.len());
        self.jobs.push(Job {
            of: self.early.remove(&id),
            id,
            parent,
            depth: parent.map_or(0, |parent| self.jobs[parent].depth + 1),
            granted,
            spent: [0; 2],
            over: false,
            reports: Vec::new(),
            acked: 0,
        });
    }

    /// The next answer; what else arrives is kept where it belongs.
    async fn hear(&mut self) -> Option<Hear> {
        let heard = self.peer.hear().await.expect("an open stream");
        match heard {
            Hear::Assign(assign) => {
                let of = assign.r#ref.unwrap();
                self.peer.accept(&of).await;
                match self.by_id.get(&of.job_id) {
                    Some(job) => self.jobs[*job].of = Some(of),
                    None => drop(self.early.insert(of.job_id.clone(), of)),
                }
            }
            Hear::Ack(ack) => {
                let job = self.by_id[&ack.r#ref.unwrap().job_id];
                let acked = &mut self.jobs[job].acked;
                *acked = ack.seq.max(*acked);
            }
            Hear::Revoked(revoked) => {
                if let Some(job) = self.by_id.get(&revoked.r#ref.unwrap().job_id) {
                    assert!(self.jobs[*job].over, "{}", revoked.reason);
                }
            }
            Hear::Rejected(rejected) => panic!("{rejected:?}"),
            Hear::ChildEnded(_) | Hear::HeartbeatAck(_) => {}
            answer => return Some(answer),
        }
        None
    }

    async fn answer(&mut self) -> Hear {
        loop {
            if let Some(answer) = self.hear().await {
                return answer;
            }
        }
    }

    async fn assigned(&mut self, job: usize) {
        while self.jobs[job].of.is_none() {
            // A rest between two beats, not a wait for the assignment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.peer.beat().await;
            assert!(self.hear().await.is_none());
        }
    }

    async fn say_authorize(&mut self, job: usize) {
        self.asked += 1;
        let authorize = proto::Authorize {
            r#ref: self.jobs[job].of.clone(),
            call_id: format!("call-{}", self.asked),
            capability: "tool.call".into(),
            target: "t".into(),
        };
        self.peer.say(Say::Authorize(authorize)).await;
    }

    async fn say_delegate(&mut self, parent: usize, name: &str, asked: [Option<i64>; 2]) {
        let named = (0..2).filter_map(|c| Some(format!("{}:{}", CURRENCIES[c], text(asked[c]?))));
        let delegate = proto::DelegateJob {
            r#ref: self.jobs[parent].of.clone(),
            delegate_id: name.into(),
            agent: "worker".into(),
            lease_request_json: json!({
                "cost.budget": named.collect::<Vec<_>>(),
                "tool.call": ["t"],
                "agent.delegate": ["worker"],
            })
            .to_string(),
            ..Default::default()
        };
        self.peer.say(Say::Delegate(delegate)).await;
    }

    async fn delegated(&mut self) -> proto::DelegateResult {
        match self.answer().await {
            Hear::DelegateResult(result) => result,
            other => panic!("{other:?}"),
        }
    }

    async fn report(&mut self, job: usize, report: proto::Report) {
        let reports = vec![report.clone()];
        self.jobs[job].reports.push(report);
        let of = self.jobs[job].of.clone().unwrap();
        self.peer.report(&of, reports).await;
    }

    async fn say_spent(&mut self, job: usize, c: usize, amount: i64) {
        let metric = proto::Metric {
            name: "cost.step".into(),
            value: amount as f64 / 1000.0,
            unit: CURRENCIES[c].into(),
            ..Default::default()
        };
        let seq = self.jobs[job].reports.len() as u64 + 1;
        self.report(job, event(seq, Body::Metric(metric))).await;
        self.jobs[job].spent[c] += amount;
    }

    async fn say_complete(&mut self, job: usize) {
        let seq = self.jobs[job].reports.len() as u64 + 1;
        self.report(job, result(seq, "1")).await;
        for below in self.below(job) {
            self.jobs[below].over = true;
        }
    }

    /// All that was reported by who still runs is durable.
    async fn settle(&mut self) {
        for job in self.live() {
            while self.jobs[job].acked < self.jobs[job].reports.len() as u64 {
                assert!(self.hear().await.is_none());
            }
        }
    }

    /// The job and all below it have their terminals.
    async fn ended(&mut self, job: usize) {
        for below in self.below(job) {
            self.records(below).await;
        }
    }

    async fn kill_and_resume(&mut self) {
        self.runtime.take().expect("one that runs").kill();
        let runtime = Runtime::start_with(self.dir.path(), CONFIG);
        self.client = jobs::connect(&runtime, ALICE).await;
        let resume = self.jobs.iter().filter_map(|job| job.of.as_ref());
        let resume = resume.chain(self.early.values()).map(held).collect();
        let (peer, registered) = dial(&runtime, resume).await;
        (self.peer, self.runtime) = (peer, Some(runtime));
        for kept in registered.keep {
            let of = kept.r#ref.unwrap();
            let Some(job) = self.by_id.get(&of.job_id) else {
                continue;
            };
            let job = &mut self.jobs[*job];
            job.acked = kept.acked_seq;
            let due = job.reports[kept.acked_seq as usize..].to_vec();
            self.peer.report(&of, due).await;
        }
        for of in registered.drop {
            let job = self.by_id.get(&of.job_id);
            let over = job.is_some_and(|job| self.jobs[*job].over);
            assert!(over, "{} was running", of.job_id);
        }
    }
}

async fn dial(
    runtime: &Runtime,
    resume: Vec<proto::HeldAssignment>,
) -> (HostPeer, proto::Registered) {
    let agents = vec![with_policy("worker", proto::LossPolicy::Retry)];
    let register = proto::Register {
        resume,
        ..register("h", agents, 1_000)
    };
    HostPeer::connect(&runtime.address, register).await.unwrap()
}

// === what the durable streams say ===

impl Host {
    /// What a job's stream has: to its end if it is over, and otherwise until it has
    /// all that the host has reported and tells what is left.
    async fn records(&mut self, job: usize) -> Vec<proto::JobRecord> {
        let id = self.jobs[job].id.clone();
        let mut stream = jobs::watch(&mut self.client, &id, 0).await.unwrap();
        let mut records = Vec::new();
        loop {
            if !self.jobs[job].over && self.adds_up(job, &records).is_ok() {
                return records;
            }
            let next = tokio::time::timeout(Duration::from_secs(20), stream.message());
            match next.await {
                Ok(Ok(Some(more))) => records.extend(more.records),
                Ok(Ok(None)) => {
                    assert!(self.jobs[job].over, "{id} has ended");
                    return records;
                }
                Ok(Err(status)) => panic!("{status}"),
                Err(_) => panic!("{id}: {}", self.adds_up(job, &records).unwrap_err()),
            }
        }
    }

    fn adds_up(&self, job: usize, records: &[proto::JobRecord]) -> Result<(), String> {
        let (mut spent, mut told) = ([0; 2], self.jobs[job].granted);
        let mut children = Vec::new();
        for record in records {
            let Some(Record::JobEvent(event)) = &record.record else {
                continue;
            };
            if let Some(Body::Delegate(delegate)) = &event.body {
                children.push(&delegate.child_job_id);
            }
            let Some(Body::Metric(metric)) = &event.body else {
                continue;
            };
            let c = CURRENCIES.iter().position(|c| *c == metric.unit).unwrap();
            match &*metric.name {
                "cost.budget.remaining" => told[c] = Some(thousandths(metric.value)),
                _ => spent[c] += thousandths(metric.value),
            }
        }
        if spent != self.jobs[job].spent {
            let reported = self.jobs[job].spent;
            return Err(format!("the stream has {spent:?} of {reported:?} spent"));
        }
        let made = self.children(job).map(|child| &self.jobs[child].id);
        if !made.eq(children.iter().copied()) {
            return Err(format!("the stream tells of these children: {children:?}"));
        }
        if self.jobs[job].over {
            // Nobody tells what is left of it after its end.
            return Ok(());
        }
        for c in 0..2 {
            let (Some(granted), Some(told)) = (self.jobs[job].granted[c], told[c]) else {
                continue;
            };
            let left = self.left(job, c).unwrap();
            // Less than a twentieth is not told.
            let near = told == left || (told - left).abs() * 20 < granted;
            if !near || (told > 0) != (left > 0) {
                return Err(format!(
                    "{} told {told}, {left} is left of {granted}",
                    CURRENCIES[c]
                ));
            }
        }
        Ok(())
    }

    /// What is durable, told and counted is what was granted and reported.
    async fn check(&mut self) {
        self.settle().await;
        for job in 0..self.jobs.len() {
            let records = self.records(job).await;
            assert_eq!(self.adds_up(job, &records), Ok(()), "{}", self.jobs[job].id);
        }
        for job in self.live() {
            if self.jobs[job].depth < DEPTH_MAX {
                self.probe(job).await;
            }
        }
    }

    /// The counter to the last digit: a refusal says what is left.
    async fn probe(&mut self, job: usize) {
        for c in 0..2 {
            self.asked += 1;
            let mut asked = [None; 2];
            asked[c] = Some(1_000_000_000);
            let name = format!("probe-{}", self.asked);
            self.say_delegate(job, &name, asked).await;
            let refused = self.delegated().await;
            if self.may_go_on(job) {
                assert_eq!(refused.code, "LEASE_SUBSET_VIOLATION", "{refused:?}");
                let left = text(self.share(job, c).expect("the root has both"));
                let said = format!("is more than the {left} the parent has left");
                assert!(refused.message.contains(&said), "{refused:?}, not {left}");
            } else {
                assert_eq!(refused.code, "BUDGET_EXHAUSTED", "{refused:?}");
            }
        }
    }
}

// === the steps ===

impl Host {
    /// Several operations in flight at once, each allowed before any is reported.
    async fn spend(&mut self, random: &mut StdRng) {
        let live = self.live();
        let count = random.random_range(1..=3);
        let chosen: Vec<usize> = live.choose_multiple(random, count).copied().collect();
        for job in &chosen {
            self.say_authorize(*job).await;
        }
        let mut allowed = Vec::new();
        for job in chosen {
            let Hear::AuthorizeResult(answer) = self.answer().await else {
                panic!("an answer");
            };
            assert_eq!(answer.allowed, self.may_go_on(job), "{answer:?}");
            match answer.allowed {
                true => allowed.push(job),
                false => assert_eq!(answer.code, "BUDGET_EXHAUSTED"),
            }
        }
        // Nobody began with a budget above it used up, so what is beyond it now is
        // what these have in flight.
        for job in &allowed {
            for above in self.line(*job) {
                for c in 0..2 {
                    let granted = self.jobs[above].granted[c];
                    assert!(granted.is_none_or(|granted| self.total(above, c) < granted));
                }
            }
        }
        for job in allowed {
            let c = random.random_range(0..2);
            self.say_spent(job, c, random.random_range(1..900)).await;
        }
    }

    async fn delegate(&mut self, random: &mut StdRng, killed: bool) {
        let mut parents = self.live();
        parents.retain(|job| self.jobs[*job].depth < DEPTH_MAX);
        let Some(parent) = parents.choose(random).copied() else {
            return;
        };
        if self.jobs.len() >= JOBS_MAX {
            return;
        }
        let mut asked = [None; 2];
        for (c, asked) in asked.iter_mut().enumerate() {
            let left = self.share(parent, c).unwrap_or_default().max(1);
            if random.random_bool(0.6) {
                *asked = Some(random.random_range(0..=left + left / 4));
            }
        }
        let fits =
            (0..2).all(|c| asked[c].is_none_or(|asked| Some(asked) <= self.share(parent, c)));
        self.asked += 1;
        let name = format!("child-{}", self.asked);
        self.say_delegate(parent, &name, asked).await;
        if killed {
            self.kill_and_resume().await;
            self.say_delegate(parent, &name, asked).await;
        } else if random.random_bool(0.3) {
            // Said twice at once, it is one child.
            self.say_delegate(parent, &name, asked).await;
            let first = self.delegated().await;
            let expected = fits && self.may_go_on(parent);
            assert_eq!(first.code.is_empty(), expected, "{first:?}");
        }
        let made = self.delegated().await;
        if !self.may_go_on(parent) {
            assert_eq!(made.code, "BUDGET_EXHAUSTED", "{made:?}");
        } else if !fits {
            assert_eq!(made.code, "LEASE_SUBSET_VIOLATION", "{made:?}");
        } else {
            assert_eq!(made.code, "", "{made:?}");
            self.add(made.child_job_id, Some(parent), asked);
        }
    }

    async fn end(&mut self, random: &mut StdRng, killed: bool) {
        let live = self.live();
        let Some(job) = live
            .iter()
            .filter(|job| **job > 0)
            .copied()
            .collect::<Vec<_>>()
            .choose(random)
            .copied()
        else {
            return;
        };
        // What is not durable when a job ends above is lost with its job.
        self.settle().await;
        self.say_complete(job).await;
        if killed {
            self.kill_and_resume().await;
        }
        self.ended(job).await;
    }
}

#[tokio::test]
async fn what_is_granted_spent_and_told_adds_up_whenever_the_runtime_is_killed() {
    let seed = std::env::var("ARCPD_MODEL_SEED");
    let seed = seed.map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("ARCPD_MODEL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut host = Host::start().await;
    let mut kills: BTreeSet<usize> = BTreeSet::new();
    while kills.len() < KILLS {
        kills.insert(random.random_range(1..STEPS));
    }
    for step in 0..STEPS {
        let killed = kills.contains(&step);
        match random.random_range(0..10) {
            0..6 => {
                host.spend(&mut random).await;
                if killed {
                    host.kill_and_resume().await;
                }
            }
            6..9 => host.delegate(&mut random, killed).await,
            _ => host.end(&mut random, killed).await,
        }
        if step % 10 == 9 {
            host.check().await;
        }
    }
    // What was not spent is back.
    for job in (1..host.jobs.len()).rev() {
        if !host.jobs[job].over {
            host.assigned(job).await;
            host.say_complete(job).await;
            host.ended(job).await;
        }
    }
    host.check().await;
    for c in 0..2 {
        let granted = host.jobs[0].granted[c].unwrap();
        assert_eq!(host.left(0, c), Some(granted - host.total(0, c)));
    }
    host.say_complete(0).await;
    host.ended(0).await;
}
