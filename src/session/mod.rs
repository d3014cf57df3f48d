//! Sessions: a client's view of the log, apart from any connection.
//!
//! A connection is attached by [`attach`]: hello or resume, then [`Actor::run`]
//! until the client leaves, the transport breaks or another connection takes
//! the session over. What outlives it is in the log alone: the session's row
//! and its view operations. A session never stops a job by going away.

mod actor;
mod attach;
mod back_pressure;
mod claim;
mod feed;
mod heartbeat;
mod inbound;
mod inspect;
mod jobs;
mod mark;
mod numbering;
mod open;
mod outbox;
mod principal;
mod recent;
mod replay;
mod requests;
mod subscribe;
mod view;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::mpsc;

pub use attach::attach;
pub use inbound::Inbound;
pub use inspect::{Live, Seen, Watched};
pub use outbox::Chunk;
pub use watch::Watch;

use crate::drain::{Drain, Stay};
use crate::fanout::Hub;
use crate::job::Jobs;
use crate::log::Log;
use crate::protocol::{Departure, ErrorCode, Failure, TraceContext, feature};
use crate::telemetry::Via;

/// Bounds of a session; every one is announced or documented.
#[derive(Clone, Debug)]
pub struct Limits {
    pub hello_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub resume_window: Duration,
    /// Jobs one session may watch at once, its own included.
    pub subscriptions_max: usize,
    /// Connections one principal may have at once.
    pub sessions_per_principal_max: usize,
    /// Numbered messages a client that acks may be behind before it is told.
    pub ack_lag_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(30),
            resume_window: Duration::from_secs(600),
            subscriptions_max: 1024,
            sessions_per_principal_max: 16_384,
            ack_lag_max: 1_000,
        }
    }
}

/// Who a bearer token belongs to.
pub trait Authenticator: Send + Sync + 'static {
    fn principal(&self, token: &str) -> Option<String>;

    /// Development: whoever reaches the port is let in.
    fn lets_anybody_in(&self) -> bool {
        false
    }
}

/// What all sessions share.
pub struct Sessions {
    pub log: Log,
    pub hub: Arc<Hub>,
    pub jobs: Arc<Jobs>,
    pub limits: Limits,
    pub authenticator: Box<dyn Authenticator>,
    /// When the runtime stops, sessions say so and end.
    pub drain: Arc<Drain>,
    attached: Mutex<claim::Registry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

/// Why the runtime ends a connection, for a transport that has codes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// Both sides are done, or the session is on another connection.
    Done,
    /// The peer is to go on elsewhere, or here again.
    Away(Departure),
    /// Not this peer, or not any more.
    Refused,
    /// The peer does not speak the protocol.
    Malformed,
    /// The runtime's own fault.
    Fault,
}

impl Goodbye {
    fn after(failure: &Failure) -> Self {
        match failure.code {
            ErrorCode::InvalidRequest => Self::Malformed,
            ErrorCode::InternalError => Self::Fault,
            _ => Self::Refused,
        }
    }
}

/// A transport's two ends, whatever the transport.
pub struct Connection {
    pub inbound: Inbound,
    pub outbound: mpsc::Sender<Chunk>,
    pub encoding: Encoding,
    /// From `authorization: Bearer …` of the connection, for a hello without a token.
    pub bearer: Option<SecretString>,
    /// From the metadata of the connection, for what says no trace of its own.
    pub trace: TraceContext,
    pub stay: Stay,
}

/// How long a peer that was told goodbye may take to hang up.
const LINGER: Duration = Duration::from_secs(2);

impl Connection {
    fn via(&self) -> Via {
        match self.encoding {
            Encoding::Protobuf => Via::Session,
            Encoding::Json => Via::WebSocket,
        }
    }

    /// Whether the peer has hung up or is about to, as far as is known. A stream of HTTP/2
    /// whose request is over still has its response.
    fn is_gone(&mut self) -> bool {
        self.inbound.look();
        let hung_up = self.encoding == Encoding::Json && self.inbound.is_over();
        self.outbound.is_closed() || hung_up || self.inbound.has_left()
    }

    /// Ends the outbound side and reads on for a while: HTTP/2 resets a stream
    /// whose request is dropped early, and the reset may overtake the last message.
    fn linger(self) {
        let Self {
            inbound, outbound, ..
        } = self;
        drop(outbound);
        tokio::spawn(tokio::time::timeout(LINGER, inbound.rest()));
    }
}

impl Sessions {
    pub fn new(
        log: Log,
        hub: Arc<Hub>,
        jobs: Arc<Jobs>,
        limits: Limits,
        authenticator: Box<dyn Authenticator>,
        drain: Arc<Drain>,
    ) -> Arc<Self> {
        Arc::new(Self {
            log,
            hub,
            jobs,
            limits,
            authenticator,
            drain,
            attached: Mutex::default(),
        })
    }

    /// In force for who offers these.
    fn features(&self, offered: &[String]) -> Vec<String> {
        feature::intersect(offered, self.jobs.credentials().is_some())
    }

    /// Connections attached now.
    pub fn attached(&self) -> usize {
        self.attached.lock().len()
    }
}

fn unavailable(error: crate::log::Error) -> Failure {
    tracing::error!(%error, "the store is not available");
    Failure::internal("the store is not available; try again")
}
