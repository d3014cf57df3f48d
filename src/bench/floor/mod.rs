//! The floor: the raw libraries doing the same work without a log, a session or
//! a check. What a stream or a socket does is in the client's name:
//! ```text
//! echo              every request is answered with one small envelope
//! stream:N:B        N envelopes and a terminal after a request, B in a message or a flush
//! relay             the reports of a host's stream, as envelopes
//! fan               what `start:N` says: N envelopes and a terminal, encoded once, 64 at a time
//! ```

mod grpc;
mod relay;
mod websocket;

use std::ops::Range;

use axum::Router;
use axum::routing::{any, post};
use tokio::sync::broadcast;

/// `bench-floor`: serves until it is killed, or reads a stream of NATS instead.
#[derive(clap::Args)]
pub struct Floor {
    /// URLs of the servers.
    #[arg(long, requires = "stream")]
    reads: Option<String>,
    #[arg(long)]
    stream: Option<String>,
}

/// What a client wants of the floor.
enum Role {
    Echo,
    Stream {
        count: u64,
        batch: u64,
    },
    /// The client end of a relay.
    Relay,
    Fan,
    Start {
        count: u64,
    },
}

/// Messages encoded once, broadcast to every stream.
struct Fan<T>(broadcast::Sender<T>);

// === impl Floor ===

impl Floor {
    pub async fn run(self) -> anyhow::Result<()> {
        if let (Some(servers), Some(stream)) = (&self.reads, &self.stream) {
            return super::cluster::read_all(servers, stream).await;
        }
        super::process::raise_open_files();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let ready =
            serde_json::json!({ "fields": { "listen": listener.local_addr()?.to_string() } });
        eprintln!("{ready}");
        let app = Router::new()
            .route("/fan/Session", post(grpc::fan_out))
            .with_state(Fan::new())
            .route("/arcp", any(websocket::upgrade))
            .with_state(Fan::new())
            .merge(grpc::router());
        let drain = crate::drain::Drain::new(false);
        crate::server::serve_plain(listener, app, drain).await;
        Ok(())
    }
}

// === impl Role ===

impl Role {
    fn of(name: &str) -> Option<Self> {
        Some(match name.split(':').collect::<Vec<_>>()[..] {
            ["echo"] => Self::Echo,
            ["stream", count, batch] => Self::Stream {
                count: count.parse().ok()?,
                batch: batch.parse().ok()?,
            },
            ["relay"] => Self::Relay,
            ["fan"] => Self::Fan,
            ["start", count] => Self::Start {
                count: count.parse().ok()?,
            },
            _ => return None,
        })
    }
}

// === impl Fan ===

impl<T: Clone> Fan<T> {
    fn new() -> Self {
        Self(broadcast::Sender::new(1024))
    }

    /// `count` messages and a terminal; `encode` makes one value of many numbers.
    async fn feed(&self, count: u64, encode: impl Fn(Range<u64>, u64) -> T) {
        const BATCH: u64 = 64;
        let mut next = 1;
        while next <= count + 1 {
            // Lossless: the slowest stream is never more than half the channel behind.
            while self.0.len() > 512 {
                tokio::task::yield_now().await;
            }
            let last = (next + BATCH).min(count + 2);
            // Nobody listening is no error.
            let _ = self.0.send(encode(next..last, count));
            next = last;
            tokio::task::yield_now().await;
        }
    }
}

impl<T> Clone for Fan<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
