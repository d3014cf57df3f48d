//! Traces and metrics on their way out: spans made of the committed log, and the
//! thread that hands them to a collector.
//!
//! The rest of the runtime says what happened through a [`Telemetry`], and waits for
//! nothing: what does not fit a queue is dropped and counted. Jobs' spans come from
//! their records ([`run`]), so that a trace shows what a client is shown, costs an
//! agent nothing, and can be ended by another run of the runtime. Nothing here ever
//! holds a span open.
//! OpenTelemetry's SDK has what is not particular to jobs: sampler, batches, OTLP.
//! `tracing-opentelemetry` is for what agents in this process do ([`agents`]) and
//! nothing else: a call that is worth a span (a submit, a cancel, a provisioner's)
//! has one whose id others must know before it is over, and stores or derives it;
//! the layer gives ids of its own, and a second span would say the same twice.
//!
//! ```text
//! caller ─▶ arcp.job submit ─▶ invoke_agent <name> ─▶ execute_tool <tool>
//!                                                 ├─▶ arcp.job submit (of a child) ─▶ …
//!                                                 └─▶ arcp.job cancel, arcp.host lost, …
//! arcp.session resume, arcp.job subscribe: traces of their own, with links to runs
//! ```

mod agents;
mod authentication;
mod bounded;
mod by_transport;
mod encode;
mod env;
mod exporter;
mod http;
mod job;
mod jobs;
pub mod logs;
pub mod metrics;
pub mod names;
mod observer;
mod openmetrics;
mod otlp;
mod pem;
mod push;
mod queue;
mod refused;
mod run;
mod sampler;
mod session;
mod span;
mod thread;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

pub use agents::AgentSpans;
pub(crate) use agents::context_of;
pub use authentication::Service;
pub use bounded::Bounded;
pub use env::{Batch, Config};
pub use job::JobTrace;
pub use jobs::Submitted;
pub use metrics::Metrics;
pub use otlp::{Endpoint, Protocol};
pub use pem::PemFile;
pub use push::{Push, Text};
pub use sampler::Sampler;
pub use session::{Asked, LINKS_MAX};
pub use span::{now_ns, random_id};

use crate::log::Block;
use observer::{Inbox, Message, Waiting};
use queue::Counts;
use span::Span;

/// Cheap to clone. The default exports nothing; instruments count in any case.
#[derive(Clone, Default)]
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    /// Which refusals have a line of the log.
    pub lines: Arc<Bounded>,
    shared: Option<Arc<Shared>>,
}

struct Shared {
    inbox: Inbox,
    waiting: Arc<Waiting>,
    counts: Arc<Counts>,
    sampler: Sampler,
}

/// How spans have fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub exported: u64,
    pub dropped: u64,
}

/// How a request reached the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Session,
    WebSocket,
    JobService(&'static str),
    /// A job of another job, or of the program that embeds the runtime.
    Inside,
}

impl Telemetry {
    /// Off when the configuration says nowhere to. Must not be given a certificate
    /// that cannot be read.
    pub fn start(config: Config) -> Result<Self, String> {
        let Some(endpoint) = config.traces.clone() else {
            return Ok(Self::default());
        };
        let counts = Arc::new(Counts::new(config.batch.queue_max));
        let waiting = Arc::new(Waiting::default());
        let sampler = config.sampler.clone();
        let sender = exporter::spawn(config, endpoint, counts.clone(), waiting.clone())?;
        let inbox = Inbox {
            sender,
            waiting: waiting.clone(),
        };
        let shared = Shared {
            inbox,
            waiting,
            counts,
            sampler,
        };
        Ok(Self {
            metrics: Arc::default(),
            lines: Arc::default(),
            shared: Some(Arc::new(shared)),
        })
    }

    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    fn sampler(&self) -> Option<&Sampler> {
        self.shared.as_ref().map(|shared| &shared.sampler)
    }

    pub fn fate(&self) -> Fate {
        self.shared.as_ref().map_or(Fate::default(), |shared| Fate {
            exported: shared.counts.exported.load(Ordering::Relaxed),
            dropped: shared.counts.dropped.load(Ordering::Relaxed)
                + shared.waiting.dropped.load(Ordering::Relaxed),
        })
    }

    fn send(&self, message: Message) {
        if let Some(shared) = &self.shared {
            shared.inbox.send(message);
        }
    }

    fn span(&self, span: Span) {
        self.send(Message::Span(Box::new(span)));
    }

    /// Committed blocks, in order.
    pub fn committed(&self, group: &[Arc<Block>]) {
        let records = group.iter().map(|block| u64::from(block.count)).sum();
        let bytes = group.iter().map(|block| block.data.len() as u64).sum();
        self.metrics.records.inc_by(records);
        self.metrics.record_bytes.inc_by(bytes);
        if let Some(shared) = &self.shared {
            shared.inbox.blocks(group);
        }
    }

    /// Waits until what was said so far is with the collector, but no longer.
    pub async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        self.send(Message::Flush(done));
        if self.is_on() && tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}
