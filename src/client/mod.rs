//! A client of a runtime over gRPC, in one session that outlives its connections.
//!
//! The command line uses it, and so may any Rust program. [`Client`] reads and
//! writes envelopes; when the connection breaks it dials again and resumes, and
//! it checks that every `event_seq` is the one after the last: a program sees
//! 1, 2, 3… or an error, never a gap. It keeps nothing of what it has delivered.

mod connection;
mod operator;
mod options;
mod requests;

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::wire::proto::envelope::Payload;
use crate::wire::proto::{self, Envelope};
use connection::Connection;
pub use operator::Operator;
pub use options::Options;
pub use requests::{Accepted, Submit};

/// First wait before dialling again; doubled each time, jittered over its whole.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Options(String),
    #[error("cannot reach {server}: {reason}")]
    Unreachable { server: String, reason: String },
    /// The runtime's answer to a request, or to the session.
    #[error("{code}: {message}")]
    Refused {
        code: String,
        message: String,
        retryable: bool,
    },
    #[error("event_seq {found} came where {expected} was due; this is a defect of the runtime")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("the runtime sent {0}")]
    Unexpected(String),
}

impl From<proto::SessionError> for Error {
    fn from(error: proto::SessionError) -> Self {
        Self::Refused {
            code: error.code,
            message: error.message,
            retryable: error.retryable,
        }
    }
}

/// One session.
pub struct Client {
    options: Options,
    connection: Option<Connection>,
    session_id: String,
    resume_token: String,
    agents: Vec<proto::AgentInfo>,
    /// The last numbered envelope that was received.
    last_event_seq: u64,
    /// Received while a request waited for its answer.
    ready: VecDeque<Envelope>,
    next_id: u64,
    /// Times the session was resumed.
    resumed: u64,
}

impl Client {
    /// Opens a session; fails at once when the runtime cannot be reached.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let mut client = Self {
            options,
            connection: None,
            session_id: String::new(),
            resume_token: String::new(),
            agents: Vec::new(),
            last_event_seq: 0,
            ready: VecDeque::new(),
            next_id: 0,
            resumed: 0,
        };
        client.dial().await?;
        Ok(client)
    }

    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// What the runtime offered when it welcomed this session.
    pub fn agents(&self) -> &[proto::AgentInfo] {
        &self.agents
    }

    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Drops the connection without a word, as a broken network does. The next
    /// call dials again and resumes.
    pub fn cut(&mut self) {
        self.connection = None;
    }

    /// The next envelope that is not part of keeping the session alive. Dials
    /// again and resumes as long as the options allow.
    pub async fn recv(&mut self) -> Result<Envelope, Error> {
        loop {
            if let Some(envelope) = self.ready.pop_front() {
                return Ok(envelope);
            }
            if let Some(envelope) = self.step().await? {
                return Ok(envelope);
            }
        }
    }

    /// One thing that happened: an envelope, or a connection lost or made.
    async fn step(&mut self) -> Result<Option<Envelope>, Error> {
        let Some(connection) = &mut self.connection else {
            self.redial().await?;
            return Ok(None);
        };
        match connection.recv().await {
            Some(envelope) => self.take(envelope).await,
            None => {
                self.connection = None;
                Ok(None)
            }
        }
    }

    /// Sees to what keeps the session going; gives back the rest.
    async fn take(&mut self, envelope: Envelope) -> Result<Option<Envelope>, Error> {
        if envelope.event_seq > 0 {
            let expected = self.last_event_seq + 1;
            if envelope.event_seq != expected {
                let found = envelope.event_seq;
                return Err(Error::OutOfOrder { expected, found });
            }
            self.last_event_seq = expected;
            return Ok(Some(envelope));
        }
        match envelope.payload {
            Some(Payload::SessionPing(ping)) => {
                let pong = proto::SessionPong {
                    ping_nonce: ping.nonce,
                    received_at: String::new(),
                };
                self.send("", "", Payload::SessionPong(pong)).await;
                Ok(None)
            }
            // The runtime is going away, or another connection has the session.
            Some(Payload::SessionBye(_)) => {
                self.connection = None;
                Ok(None)
            }
            _ => Ok(Some(envelope)),
        }
    }

    /// Sends one message and returns its id. A broken connection is found by the
    /// next receive.
    async fn send(&mut self, job_id: &str, trace_id: &str, payload: Payload) -> String {
        self.next_id += 1;
        let id = format!("c{}", self.next_id);
        self.send_as(&id, job_id, trace_id, payload).await;
        id
    }

    async fn send_as(&mut self, id: &str, job_id: &str, trace_id: &str, payload: Payload) {
        let envelope = Envelope {
            arcp: crate::protocol::VERSION.into(),
            id: id.into(),
            session_id: self.session_id.clone(),
            job_id: job_id.into(),
            trace_id: trace_id.into(),
            payload: Some(payload),
            ..Default::default()
        };
        if let Some(connection) = &mut self.connection
            && !connection.send(envelope).await
        {
            self.connection = None;
        }
    }

    /// Opens the session, or takes it up again.
    async fn dial(&mut self) -> Result<(), Error> {
        let resume = (!self.session_id.is_empty()).then(|| proto::Resume {
            session_id: self.session_id.clone(),
            resume_token: self.resume_token.clone(),
            last_event_seq: self.last_event_seq,
        });
        let (connection, session_id, welcome) =
            Connection::open(&self.options, resume.clone()).await?;
        self.connection = Some(connection);
        self.session_id = session_id;
        self.resume_token = welcome.resume_token;
        self.agents = welcome.agents;
        if resume.is_some() {
            self.resumed += 1;
            // Shows that the new token has arrived.
            let pong = proto::SessionPong::default();
            self.send("", "", Payload::SessionPong(pong)).await;
        }
        Ok(())
    }

    async fn redial(&mut self) -> Result<(), Error> {
        let give_up_at = Instant::now() + self.options.retry_for;
        let mut wait = RETRY_MIN;
        loop {
            match self.dial().await {
                Err(Error::Unreachable { .. }) if Instant::now() + wait < give_up_at => {}
                Err(Error::Refused {
                    retryable: true, ..
                }) if Instant::now() + wait < give_up_at => {}
                dialled => return dialled,
            }
            let jittered = rand::rng().random_range(Duration::ZERO..=wait);
            tokio::time::sleep(jittered).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}
