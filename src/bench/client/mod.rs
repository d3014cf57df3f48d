//! A client of the runtime or of the floor, over either wire. It decodes all it
//! receives and checks it: a stream's numbers have no gap, and the events of each
//! job come in the order in which its agent counted them.

mod grpc;
pub mod host;
mod order;
mod websocket;

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tokio::task::JoinSet;
use tonic::transport::Channel;

pub use grpc::{channel, sample, sample_end};
pub use websocket::{sample_text, sample_text_end};

use crate::protocol::Timestamp;
use order::Order;

/// Sessions share connections, as those of one client process do. A WebSocket
/// is always a connection of its own.
pub const SESSIONS_PER_CONNECTION: u64 = 100;

#[derive(Clone, Copy, PartialEq)]
pub enum Wire {
    Grpc,
    WebSocket,
}

impl Wire {
    pub const ALL: [Self; 2] = [Self::Grpc, Self::WebSocket];
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Grpc => "gRPC",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// Opens clients of one process.
pub struct Dialler {
    wire: Wire,
    address: String,
    per_connection: u64,
    opened: u64,
    shared: Option<Channel>,
}

/// What a client says.
pub enum Ask<'a> {
    Hello(&'a str, Option<&'a Resume>),
    Submit(&'a str, &'a str),
    Subscribe(&'a str),
    Unsubscribe(&'a str),
    /// Those that began since then.
    Jobs(Timestamp),
    Ping,
}

/// What takes a session up again.
#[derive(Clone, Default)]
pub struct Resume {
    pub session_id: String,
    pub token: String,
    pub last_event_seq: u64,
}

/// What a client reads of a message.
pub struct Received {
    /// 0 when it has no number.
    pub event_seq: u64,
    pub job_id: String,
    pub kind: Kind,
}

pub enum Kind {
    Welcome(Resume),
    Accepted,
    Subscribed,
    /// With the agent's own count, when it is a firehose.
    Event(Option<u64>),
    Result,
    /// So many, in a page.
    Jobs(usize),
    /// A request was refused, or a job failed.
    Error(String),
    /// The runtime goes away; when to be back.
    Bye(Duration),
    Other,
}

enum Connection {
    Grpc(Box<grpc::Peer>),
    WebSocket(Box<websocket::Peer>),
}

pub struct Client {
    connection: Connection,
    /// The session, with the last number that was received.
    pub session: Resume,
    /// Jobs that have ended here.
    ended: u64,
    /// When the first numbered message came.
    began: Option<Instant>,
    /// The floor says the same message again and again.
    order: Option<Order>,
}

/// The number a firehose begins its messages with.
fn count(message: &str) -> Option<u64> {
    message.get(..8)?.parse().ok()
}

// === impl Dialler ===

impl Dialler {
    pub fn sharing(wire: Wire, address: &str, per_connection: u64) -> Self {
        Self {
            wire,
            address: address.into(),
            per_connection,
            opened: 0,
            shared: None,
        }
    }

    /// A new session of the runtime.
    pub async fn session(&mut self) -> anyhow::Result<Client> {
        self.resume(None).await
    }

    pub async fn resume(&mut self, resume: Option<&Resume>) -> anyhow::Result<Client> {
        let mut client = self.open("bench", resume).await?;
        let Kind::Welcome(session) = client.recv().await?.kind else {
            bail!("no welcome");
        };
        let last_event_seq = client.session.last_event_seq;
        client.session = Resume {
            last_event_seq,
            ..session
        };
        client.order = Some(Order::default());
        Ok(client)
    }

    /// `name` tells the floor what to do; the runtime does not mind it.
    pub async fn open(&mut self, name: &str, resume: Option<&Resume>) -> anyhow::Result<Client> {
        let connection = match self.wire {
            Wire::Grpc => {
                let channel = self.channel().await?;
                Connection::Grpc(Box::new(grpc::Peer::open(channel, name, resume).await?))
            }
            Wire::WebSocket => {
                let peer = websocket::Peer::open(&self.address, name, resume).await?;
                Connection::WebSocket(Box::new(peer))
            }
        };
        let last_event_seq = resume.map_or(0, |resume| resume.last_event_seq);
        Ok(Client {
            connection,
            session: Resume {
                last_event_seq,
                ..Resume::default()
            },
            ended: 0,
            began: None,
            order: None,
        })
    }

    async fn channel(&mut self) -> anyhow::Result<Channel> {
        let fresh = self.opened.is_multiple_of(self.per_connection);
        self.opened += 1;
        if let (Some(channel), false) = (&self.shared, fresh) {
            return Ok(channel.clone());
        }
        let channel = grpc::channel(&self.address).await?;
        self.shared = Some(channel.clone());
        Ok(channel)
    }
}

// === impl Connection ===

impl Connection {
    async fn recv(&mut self) -> anyhow::Result<Received> {
        match self {
            Self::Grpc(peer) => peer.recv().await,
            Self::WebSocket(peer) => peer.recv().await,
        }
    }
}

// === impl Client ===

impl Client {
    pub async fn send(&mut self, ask: Ask<'_>) -> anyhow::Result<()> {
        let session_id = &self.session.session_id;
        match &mut self.connection {
            Connection::Grpc(peer) => peer.send(session_id, ask).await,
            Connection::WebSocket(peer) => peer.send(session_id, ask).await,
        }
    }

    pub async fn recv(&mut self) -> anyhow::Result<Received> {
        let received = self.connection.recv().await?;
        self.check(&received)?;
        if let Kind::Error(message) = &received.kind {
            bail!("refused or failed: {message}");
        }
        Ok(received)
    }

    /// `None` once the connection has gone; what it is told of failures is the
    /// caller's to judge.
    pub async fn try_recv(&mut self) -> anyhow::Result<Option<Received>> {
        let Ok(received) = self.connection.recv().await else {
            return Ok(None);
        };
        self.check(&received)?;
        Ok(Some(received))
    }

    /// Goes on over another connection, with the checks where they were.
    pub async fn resume(&mut self, dialler: &mut Dialler) -> anyhow::Result<()> {
        let Client {
            connection,
            session,
            ..
        } = dialler.resume(Some(&self.session)).await?;
        self.connection = connection;
        self.session = session;
        Ok(())
    }

    fn check(&mut self, received: &Received) -> anyhow::Result<()> {
        if received.event_seq > 0 {
            let (expected, found) = (self.session.last_event_seq + 1, received.event_seq);
            ensure!(
                found == expected,
                "event_seq {found} where {expected} was due"
            );
            self.session.last_event_seq = found;
            self.began.get_or_insert_with(Instant::now);
        }
        match (&received.kind, &mut self.order) {
            (Kind::Event(Some(count)), Some(order)) => order.check(&received.job_id, *count)?,
            (Kind::Result, _) => self.ended += 1,
            _ => {}
        }
        Ok(())
    }

    pub async fn submit(&mut self, agent: &str, input_json: &str) -> anyhow::Result<()> {
        self.send(Ask::Submit(agent, input_json)).await
    }

    /// The job of the submit that was sent.
    pub async fn accepted(&mut self) -> anyhow::Result<String> {
        loop {
            let received = self.recv().await?;
            if let Kind::Accepted = received.kind {
                return Ok(received.job_id);
            }
        }
    }

    pub async fn subscribed(&mut self) -> anyhow::Result<()> {
        while !matches!(self.recv().await?.kind, Kind::Subscribed) {}
        Ok(())
    }

    /// Reads up to the end of the jobs that are awaited; returns the number of the
    /// last message.
    pub async fn until_ended(&mut self, jobs: u64) -> anyhow::Result<u64> {
        while self.ended < jobs {
            self.recv().await?;
        }
        self.ended = 0;
        Ok(self.session.last_event_seq)
    }
}

/// Has each client read to the end of `jobs` jobs, the last with number `last`,
/// all at once. Seconds from the first message that anyone had to the last
/// terminal. Gives the clients back: to see a session off is other work.
pub async fn read_all(
    clients: Vec<Client>,
    jobs: u64,
    last: u64,
) -> anyhow::Result<(Vec<Client>, f64)> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let found = client.until_ended(jobs).await?;
            ensure!(found == last, "{found} messages of {last}");
            anyhow::Ok((client, Instant::now()))
        });
    }
    let mut done = Vec::new();
    while let Some(task) = tasks.join_next().await {
        done.push(task??);
    }
    let began = done.iter().filter_map(|(client, _)| client.began).min();
    let ended = done.iter().map(|(_, ended)| *ended).max();
    let (Some(began), Some(ended)) = (began, ended) else {
        bail!("nobody read");
    };
    let clients = done.into_iter().map(|(client, _)| client).collect();
    Ok((clients, (ended - began).as_secs_f64()))
}
