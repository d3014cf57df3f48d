//! What it costs to ask before an operation: in-process, under a lease of a thousand
//! patterns, of budgets that a thousand jobs below share, and over a host's stream beside a bare echo of the same messages.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tokio::sync::mpsc;

use super::client::channel;
use super::client::host::Host;
use super::process::cpu_of;
use super::report::{Report, Target};
use super::{Ground, median};
use crate::authority::Policy;
use crate::job::{AgentDirectory, Delegation, JobContext, Jobs, Limits, NewJob};
use crate::log::{Durability, Log, OpenOptions};
use crate::protocol::Failure;
use crate::protocol::message::Submit;
use crate::telemetry::{Telemetry, Via};
use crate::wire::proto::job_service_client::JobServiceClient;
use crate::wire::proto::serve_request::Message as Say;
use crate::wire::proto::serve_response::Message as Hear;
use crate::wire::proto::{self, AssignmentRef};

const AGENT: &str = "asks";
const PATTERNS: usize = 1_000;
/// What is delegated to runs until its parent ends.
const BELOW: &str = "waits";
const CURRENCIES: usize = 32;
const JOBS_BELOW: usize = 1_000;
/// Asked of one before it is the other's turn: some 10 ms, in which a machine seldom
/// changes its pace, and enough for the first few, at a process that slept, not to count.
const QUESTIONS: u64 = 100;

pub async fn run(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let (tool, piece) = ("x".repeat(256), format!("*{}-{{}}*", "x".repeat(200)));
    let path = format!("/{}", "a".repeat(31)).repeat(127);
    let walk = format!("/**/{}*{{}}/**", "a".repeat(30));
    for (name, lease, target) in [
        ("names", lease("tool.call", &[], "tool-{}.*"), "tool-999.go"),
        (
            "URLs",
            lease("net.fetch", &[], "https://*.h{}.example.com/v1/**"),
            "https://a.h999.example.com/v1/x",
        ),
        // The last two are about the dearest that a submit lets through: all of the slow
        // patterns are compared, and what matches comes last.
        (
            "names, 14 of them `*x..x-{}*`",
            lease("tool.call", &slow(14, &piece, "*"), "tool-{}.*"),
            &tool,
        ),
        (
            "paths, 5 of them `/**/a..a*{}/**`",
            lease("fs.read", &slow(5, &walk, "/**"), "/w/{}/*"),
            &path,
        ),
    ] {
        let mut costs = vec![];
        for _ in 0..ground.rounds {
            costs.push(in_process(ground.amount(50_000), &lease, target, 0).await?);
        }
        report.add(
            format!("authorize in-process, {PATTERNS} {name}, CPU"),
            "us",
            median(&mut costs),
            None,
            Target::AtMost(20.0),
        );
    }
    let mut costs = vec![];
    for _ in 0..ground.rounds {
        let (count, lease) = (ground.amount(50_000), budgets(JOBS_BELOW + 1));
        costs.push(in_process(count, &lease, "tool-999.go", JOBS_BELOW).await?);
    }
    report.add(
        format!(
            "authorize in-process, budgets of {CURRENCIES} currencies, {JOBS_BELOW} jobs below, CPU"
        ),
        "us",
        median(&mut costs),
        None,
        Target::AtMost(20.0),
    );
    let mut pairs = vec![];
    for _ in 0..ground.rounds {
        let mut theirs = Asking::open(&ground.floor.address).await?;
        submit(&ground.runtime.address).await?;
        let mut ours = Asking::open(&ground.runtime.address).await?;
        for _ in 0..ground.amount(10_000).div_ceil(QUESTIONS) {
            let floor = theirs.some().await?;
            pairs.push((ours.some().await?, floor));
        }
        theirs.end().await?;
        ours.end().await?;
    }
    report.add_pairs(
        "authorize over a host's stream, p50",
        "ms",
        &pairs,
        Target::RatioAtMost(1.5),
    );
    Ok(())
}

/// `first`, and as many of `others` as make a thousand.
fn lease(capability: &str, first: &[String], others: &str) -> String {
    let others = (first.len()..PATTERNS).map(|n| others.replace("{}", &n.to_string()));
    let patterns: Vec<_> = first.iter().cloned().chain(others).collect();
    serde_json::json!({ capability: patterns }).to_string()
}

fn slow(count: usize, pattern: &str, last: &str) -> Vec<String> {
    let patterns = (0..count).map(|n| pattern.replace("{}", &n.to_string()));
    patterns.chain([last.to_owned()]).collect()
}

/// So many units of each currency.
fn budgets(units: usize) -> String {
    let budgets: Vec<_> = (0..CURRENCIES).map(|n| format!("C{n}:{units}")).collect();
    let (tools, below) = (["tool-*"], [BELOW]);
    let lease = serde_json::json!({
        "tool.call": tools, "agent.delegate": below, "cost.budget": budgets,
    });
    lease.to_string()
}

/// Microseconds of this process for one question, from its text to its rule. Each job
/// `below` has a unit of each currency for its own.
async fn in_process(count: u64, lease: &str, target: &str, below: usize) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let (committed, mut blocks) = mpsc::channel(64);
    let options = OpenOptions {
        dir: dir.path().into(),
        durability: Durability::Process,
    };
    let log = Log::open(options, committed)?;
    tokio::spawn(async move { while blocks.recv().await.is_some() {} });
    let capability = match target {
        url if url.contains("://") => "net.fetch",
        path if path.starts_with('/') => "fs.read",
        _ => "tool.call",
    };
    let (done, mut told) = mpsc::channel(1);
    let asked = target.to_owned();
    let agent = move |job: JobContext| {
        let (done, asked) = (done.clone(), asked.clone());
        async move {
            for n in 0..below {
                let delegation = Delegation {
                    delegate_id: format!("below-{n}"),
                    agent: BELOW.into(),
                    input_json: String::new(),
                    lease_request_json: budgets(1),
                    expires_at: None,
                };
                job.delegate(delegation).await?;
            }
            let before = cpu_of(std::process::id());
            for _ in 0..count {
                job.authorize("call", capability, &asked).await?;
            }
            let spent = cpu_of(std::process::id()) - before;
            let _ = done.send(spent * 1e6 / count as f64).await;
            Ok::<_, Failure>("null".to_owned())
        }
    };
    let mut agents = AgentDirectory::default();
    let registered = agents.register(AGENT, "1.0.0", agent);
    registered.map_err(anyhow::Error::msg)?;
    let waits = |job: JobContext| async move {
        job.cancelled().await;
        Ok::<_, Failure>("null".to_owned())
    };
    let registered = agents.register(BELOW, "1.0.0", waits);
    registered.map_err(anyhow::Error::msg)?;
    let limits = Limits {
        delegation_children_max: JOBS_BELOW,
        ..Limits::default()
    };
    let (policy, telemetry) = (Policy::default(), Telemetry::default());
    let jobs = Jobs::new(log.clone(), agents, limits, policy, None, 0, telemetry);
    let new = NewJob {
        session_id: String::new(),
        principal: "bench".into(),
        trace: Default::default(),
        via: Via::Inside,
        submit: Submit {
            agent: AGENT.into(),
            input_json: "null".into(),
            lease_request_json: lease.to_owned(),
            lease_expires_at: None,
            idempotency_key: None,
            max_runtime_sec: 0,
        },
    };
    let accepted = jobs.submit(new, |_| None).await?;
    jobs.start(accepted);
    let cost = told.recv().await.context("a question was refused")?;
    tokio::task::spawn_blocking(move || log.close()).await?;
    Ok(cost)
}

async fn submit(address: &str) -> anyhow::Result<()> {
    let request = proto::SubmitJobRequest {
        agent: AGENT.into(),
        lease_request_json: lease("tool.call", &[], "tool-{}.*"),
        ..Default::default()
    };
    // Known once a host of it has been there.
    let host = Host::serving(channel(address).await?, "first", AGENT, 1).await?;
    let mut client = JobServiceClient::new(channel(address).await?);
    client.submit_job(request).await?;
    drop(host);
    Ok(())
}

/// A host with a job that asks, one question after the other.
struct Asking {
    host: Host,
    of: AssignmentRef,
}

impl Asking {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let mut host = Host::serving(channel(address).await?, "asks", AGENT, 1).await?;
        let of = host.assigned().await?;
        host.accept(&of).await?;
        Ok(Self { host, of })
    }

    /// Milliseconds of a question and its answer: the median of some.
    async fn some(&mut self) -> anyhow::Result<f64> {
        let mut times = vec![];
        for _ in 0..QUESTIONS {
            let started = Instant::now();
            self.host.say(authorize(&self.of)).await?;
            loop {
                match self.host.hear().await? {
                    Hear::AuthorizeResult(answer) => {
                        ensure!(answer.allowed, "{answer:?}");
                        break;
                    }
                    Hear::Ack(_) | Hear::HeartbeatAck(_) => {}
                    other => bail!("not an answer: {other:?}"),
                }
            }
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(&mut times))
    }

    async fn end(self) -> anyhow::Result<()> {
        let result = vec![super::client::host::result(1)];
        self.host.report(&self.of, result).await
    }
}

fn authorize(of: &AssignmentRef) -> Say {
    Say::Authorize(proto::Authorize {
        r#ref: Some(of.clone()),
        call_id: "call-1".into(),
        capability: "tool.call".into(),
        target: "tool-999.go".into(),
    })
}
