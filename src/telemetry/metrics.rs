//! The instruments of the runtime: one set, read by Prometheus and sent over OTLP
//! under the same names.
//!
//! No label has a value that grows with use: no session, job or principal, and of
//! agents the first hundred names.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Via;
use super::authentication::{OfService, Service};
use super::by_transport::ByTransport;
pub use super::by_transport::transport_of;
use crate::protocol::ErrorCode;

/// Values of the label `agent`; what comes later is `other`.
const AGENTS_MAX: usize = 100;
pub const OTHER: &str = "other";

/// Values of the label `capability`; those of vendors are `other`.
const CAPABILITIES: [&str; 7] = [
    "fs.read",
    "fs.write",
    "net.fetch",
    "tool.call",
    "agent.delegate",
    "model.use",
    OTHER,
];

/// How jobs end.
const ENDS: [&str; 4] = ["success", "error", "cancelled", "timed_out"];
const OUTCOMES: [&str; 3] = ["resumed", "expired", "refused"];

const WAIT_SECONDS: [f64; 12] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];
const RUN_SECONDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Agent {
    agent: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct JobsOf {
    agent: Arc<str>,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SessionState {
    transport: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decision {
    capability: &'static str,
    decision: &'static str,
}

#[derive(Clone)]
struct RunSeconds;

impl MetricConstructor<Histogram> for RunSeconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(RUN_SECONDS)
    }
}

/// Which agents are a label of their own.
struct Agents {
    known: HashSet<Arc<str>>,
    max: usize,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            max: AGENTS_MAX,
        }
    }
}

pub struct Metrics {
    agents: RwLock<Agents>,
    sessions: Family<SessionState, Gauge>,
    opened: Family<Code, Counter>,
    resumes: Family<Outcome, Counter>,
    requests: ByTransport,
    received_bytes: ByTransport,
    sent: ByTransport,
    sent_bytes: ByTransport,
    pub acks: Counter,
    pub back_pressure: Counter,
    submitted: Family<Agent, Counter>,
    refused: Family<Code, Counter>,
    ended: Family<JobsOf, Counter>,
    run_seconds: Family<Agent, Histogram, RunSeconds>,
    queue_seconds: Histogram,
    first_event_seconds: Histogram,
    pub host_losses: Counter,
    pub records: Counter,
    pub record_bytes: Counter,
    authorizations: Family<Decision, Counter>,
    unauthenticated: Family<OfService, Counter>,
    pub budgets_exhausted: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let authorizations = Family::default();
        // All are there from the start: a rate from nothing to one is no rate.
        for capability in CAPABILITIES {
            for decision in ["allowed", "refused"] {
                drop(authorizations.get_or_create(&Decision {
                    capability,
                    decision,
                }));
            }
        }
        let sessions = Family::default();
        for transport in ["grpc", "websocket"] {
            let state = "attached";
            drop(sessions.get_or_create(&SessionState { transport, state }));
        }
        let resumes = Family::default();
        for outcome in OUTCOMES {
            drop(resumes.get_or_create(&Outcome { outcome }));
        }
        let (opened, refused) = (Family::default(), Family::default());
        drop(opened.get_or_create(&Code { code: "OK" }));
        for code in ErrorCode::ALL.map(ErrorCode::as_str) {
            drop(opened.get_or_create(&Code { code }));
            drop(refused.get_or_create(&Code { code }));
        }
        let unauthenticated = Family::default();
        for service in Service::ALL {
            drop(unauthenticated.get_or_create(&service.label()));
        }
        Self {
            agents: RwLock::default(),
            sessions,
            opened,
            resumes,
            requests: ByTransport::default(),
            received_bytes: ByTransport::default(),
            sent: ByTransport::default(),
            sent_bytes: ByTransport::default(),
            acks: Counter::default(),
            back_pressure: Counter::default(),
            submitted: Family::default(),
            refused,
            ended: Family::default(),
            run_seconds: Family::new_with_constructor(RunSeconds),
            queue_seconds: Histogram::new(WAIT_SECONDS),
            first_event_seconds: Histogram::new(WAIT_SECONDS),
            host_losses: Counter::default(),
            records: Counter::default(),
            record_bytes: Counter::default(),
            authorizations,
            unauthenticated,
            budgets_exhausted: Counter::default(),
        }
    }
}

impl Metrics {
    #[rustfmt::skip]
    pub fn register(&self, to: &mut Registry) {
        to.register("sessions", "Sessions, by transport and state; parked ones have no connection, and so no transport", self.sessions.clone());
        to.register("session_hellos", "Sessions asked for, by the code of a refusal or OK", self.opened.clone());
        to.register("session_resumes", "Sessions taken up again, or not", self.resumes.clone());
        to.register("session_requests", "Messages of clients, by transport", self.requests.family.clone());
        to.register_with_unit("session_received", "Bytes of messages of clients, by transport", Unit::Bytes, self.received_bytes.family.clone());
        to.register("session_sent_messages", "Messages to clients, by transport", self.sent.family.clone());
        to.register_with_unit("session_sent", "Bytes to clients, by transport", Unit::Bytes, self.sent_bytes.family.clone());
        to.register("session_acks", "Acknowledgements of clients", self.acks.clone());
        to.register("session_back_pressure", "Clients told that they are behind", self.back_pressure.clone());
        to.register("jobs_submitted", "Jobs accepted, by agent", self.submitted.clone());
        to.register("jobs_refused", "Submits refused, by code", self.refused.clone());
        to.register("jobs_ended", "Jobs ended, by agent and status", self.ended.clone());
        to.register_with_unit("job_run", "From a job's acceptance to its end, by agent", Unit::Seconds, self.run_seconds.clone());
        to.register_with_unit("job_queue", "From a job's acceptance to a host's", Unit::Seconds, self.queue_seconds.clone());
        to.register_with_unit("job_first_event", "From a job's acceptance to its first record", Unit::Seconds, self.first_event_seconds.clone());
        to.register("host_losses", "Jobs whose host was lost, each counted, and a host without jobs not", self.host_losses.clone());
        to.register("log_records", "Records committed", self.records.clone());
        to.register_with_unit("log_record", "Bytes of records committed", Unit::Bytes, self.record_bytes.clone());
        to.register("authorizations", "Operations asked for, by capability and decision", self.authorizations.clone());
        to.register("authentications_refused", "Tokens that were refused, by the service they were shown to", self.unauthenticated.clone());
        to.register("budgets_exhausted", "Jobs that ran out of a budget", self.budgets_exhausted.clone());
    }

    /// Agents of the runtime itself, which those of hosts cannot push out.
    pub fn reserve(&self, agents: impl Iterator<Item = String>) {
        for agent in agents {
            self.agents.write().max += 1;
            self.agent(&agent);
        }
    }

    /// A name that may be a label: of agents that hosts bring, the first hundred are.
    fn agent(&self, agent: &str) -> Arc<str> {
        if let Some(known) = self.agents.read().known.get(agent) {
            return known.clone();
        }
        let mut agents = self.agents.write();
        if agents.known.len() >= agents.max {
            return OTHER.into();
        }
        let agent: Arc<str> = agent.into();
        agents.known.insert(agent.clone());
        self.begin(&agent);
        agent
    }

    /// All that is counted of an agent, from nothing on: what comes with its first
    /// count shows no rate.
    fn begin(&self, agent: &Arc<str>) {
        let of = Agent {
            agent: agent.clone(),
        };
        drop(self.submitted.get_or_create(&of));
        drop(self.run_seconds.get_or_create(&of));
        for status in ENDS {
            let agent = agent.clone();
            drop(self.ended.get_or_create(&JobsOf { agent, status }));
        }
    }

    pub fn session_attached(&self, via: Via, by: i64) {
        let of = SessionState {
            transport: transport_of(via),
            state: "attached",
        };
        self.sessions.get_or_create(&of).inc_by(by);
    }

    pub fn sessions_parked(&self, count: i64) {
        let of = SessionState {
            transport: "none",
            state: "parked",
        };
        self.sessions.get_or_create(&of).set(count);
    }

    pub fn hello(&self, refused: Option<ErrorCode>, resume: bool) {
        let code = refused.map_or("OK", ErrorCode::as_str);
        if !resume {
            self.opened.get_or_create(&Code { code }).inc();
            return;
        }
        let outcome = match refused {
            None => "resumed",
            Some(ErrorCode::ResumeWindowExpired) => "expired",
            Some(_) => "refused",
        };
        self.resumes.get_or_create(&Outcome { outcome }).inc();
    }

    /// A message of a client, whatever is in it.
    pub fn received(&self, via: Via, bytes: usize) {
        self.requests.of(via).inc();
        self.received_bytes.of(via).inc_by(bytes as u64);
    }

    pub fn sent(&self, via: Via, messages: usize, bytes: usize) {
        self.sent.of(via).inc_by(messages as u64);
        self.sent_bytes.of(via).inc_by(bytes as u64);
    }

    /// Jobs that are not over, made when asked for: 0 where an agent has none now.
    pub fn jobs<'a>(
        &self,
        jobs: impl Iterator<Item = (&'a str, &'static str)>,
    ) -> Family<JobsOf, Gauge> {
        let family = Family::<JobsOf, Gauge>::default();
        for agent in self.agents.read().known.iter() {
            for status in ["pending", "running"] {
                let agent = agent.clone();
                drop(family.get_or_create(&JobsOf { agent, status }));
            }
        }
        for (agent, status) in jobs {
            let agent = self.agent(agent);
            family.get_or_create(&JobsOf { agent, status }).inc();
        }
        family
    }

    pub fn submitted(&self, agent: &str) {
        let agent = self.agent(agent);
        self.submitted.get_or_create(&Agent { agent }).inc();
    }

    pub fn refused(&self, code: ErrorCode) {
        let code = code.as_str();
        self.refused.get_or_create(&Code { code }).inc();
    }

    pub fn ended(&self, agent: &str, status: &'static str, ms: i64) {
        let agent = self.agent(agent);
        let run = self.run_seconds.get_or_create(&Agent {
            agent: agent.clone(),
        });
        run.observe(seconds(ms));
        self.ended.get_or_create(&JobsOf { agent, status }).inc();
    }

    pub fn queued(&self, ms: i64) {
        self.queue_seconds.observe(seconds(ms));
    }

    pub fn first_event(&self, ms: i64) {
        self.first_event_seconds.observe(seconds(ms));
    }

    pub(super) fn unauthenticated(&self, service: Service) {
        self.unauthenticated.get_or_create(&service.label()).inc();
    }

    /// What is no capability of the protocol is an agent's own text.
    pub fn authorized(&self, capability: &str, allowed: bool) {
        let known = CAPABILITIES.into_iter().find(|known| *known == capability);
        let capability = known.unwrap_or(OTHER);
        let decision = if allowed { "allowed" } else { "refused" };
        let of = Decision {
            capability,
            decision,
        };
        self.authorizations.get_or_create(&of).inc();
    }
}

fn seconds(ms: i64) -> f64 {
    ms.max(0) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with a hundred names had the runtime's own agents counted as `other`
    /// until the next start.
    #[test]
    fn a_hosts_names_push_no_agent_of_the_runtime_out() {
        let metrics = Metrics::default();
        metrics.reserve(["ticker@1.0.0".into()].into_iter());
        for number in 0..110 {
            metrics.submitted(&format!("junk-{number}@1.0.0"));
        }
        metrics.submitted("ticker@1.0.0");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("jobs_submitted_total{agent=\"ticker@1.0.0\"} 1\n"));
        assert!(text.contains("jobs_submitted_total{agent=\"other\"} 10\n"));
    }

    /// What a hundred thousand different agents, a name a submit, would do to a
    /// monitoring system.
    #[test]
    fn a_label_has_a_hundred_and_one_agents_at_most() {
        let metrics = Metrics::default();
        for number in 0..100_000 {
            let agent = format!("agent-{number}@1.0.0");
            metrics.submitted(&agent);
            metrics.ended(&agent, "success", number);
        }
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("jobs_submitted_total"));
        assert_eq!(lines.count(), 101);
        assert!(text.contains("jobs_submitted_total{agent=\"other\"} 99900"));
        assert!(text.lines().count() < 2_500, "{}", text.lines().count());
    }
}
