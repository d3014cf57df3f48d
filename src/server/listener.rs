//! Accepts connections of clients and serves HTTP/1.1 (for WebSocket upgrades)
//! and HTTP/2 (for gRPC) on each, with or without TLS.
//!
//! Every connection is a task with a bound on its handshake, its idleness and,
//! when asked for, its age. Clients' own keepalive pings are answered however
//! often they come: none is sent away for `too_many_pings`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::counted::{Counted, Open};
use super::prompt::Prompt;
use super::tls::Tls;
use crate::drain::{Drain, Stay};

/// Half of them halve the rate of a single stream; twice as much brings nothing.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 5 * 1024 * 1024;
const FRAME_BYTES_MAX: u32 = 128 * 1024;
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Streams a client may open and reset faster than they are looked at.
const PENDING_RESETS_MAX: usize = 20;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is found out by these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// When the process has no descriptors left, accepting again at once would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct ListenerLimits {
    pub connections_max: usize,
    pub streams_per_connection_max: u32,
    /// After it, give or take a tenth, a connection is asked to go.
    pub connection_age_max: Option<Duration>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            streams_per_connection_max: 1_000,
            connection_age_max: None,
        }
    }
}

pub(super) struct Listener {
    pub tcp: TcpListener,
    pub tls: Option<Arc<Tls>>,
    pub limits: ListenerLimits,
    /// Connections that are open now.
    pub open: Arc<AtomicUsize>,
}

impl Listener {
    /// Serves until `drain`, then until every connection is gone, upgraded ones
    /// included.
    pub async fn serve(self, app: Router, drain: Arc<Drain>) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                () = drain.begun() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            prepare(&stream);
            if self.open.load(Ordering::Relaxed) >= self.limits.connections_max {
                // Closed at once: a peer that waits would hold what is scarce.
                tracing::warn!(limit = self.limits.connections_max, "refused a connection");
                continue;
            }
            let connection = Connection {
                app: app.clone(),
                streams_max: self.limits.streams_per_connection_max,
                stay: Stay::new(drain.clone(), self.limits.connection_age_max),
            };
            let open = Open::new(self.open.clone(), connections.token());
            let tls = self.tls.as_ref().map(|tls| tls.acceptor());
            tokio::spawn(connection.run(Counted::new(stream, open), tls));
        }
        drop(self.tcp);
        connections.close();
        connections.wait().await;
    }
}

struct Connection {
    app: Router,
    streams_max: u32,
    stay: Stay,
}

impl Connection {
    async fn run(self, stream: Counted, tls: Option<tokio_rustls::TlsAcceptor>) {
        let Some(tls) = tls else {
            return self.http(stream).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_concurrent_streams(self.streams_max);
        let (app, stay) = (TowerToHyperService::new(self.app), self.stay.clone());
        // Each stream has its own turn to end, and a WebSocket outlives this.
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(stay.clone());
            app.call(request)
        });
        let stream = Prompt::new(stream, HANDSHAKE_TIMEOUT);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = self.stay.over() => {
                // No new requests; what runs is told in its turn and ends.
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// HTTP/2 has pings of its own; a WebSocket without heartbeats and a call over
/// HTTP/1.1 have not, and TCP's find out that their peer is gone.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "a connection has no keepalive");
    }
    // Only costs latency when it fails.
    let _ = stream.set_nodelay(true);
}
