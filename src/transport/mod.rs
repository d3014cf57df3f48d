//! The sockets: gRPC, gRPC-Web and WebSocket on one port, admin on another.
//!
//! A transport turns its frames into requests and writes the chunks a session
//! gives it. What may be done with a job is not its to say.

pub mod admin;
mod admin_credentials;
mod admin_health;
pub mod admin_service;
pub mod agent_host;
mod call;
mod cors;
pub mod grpc;
mod jobs;
mod local_names;
mod slow_body;
mod status;
pub mod websocket;

use axum::Router;
use futures_util::{Stream, StreamExt};

pub use cors::Cors;

use crate::protocol::TraceContext;

/// Largest message a client may send, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Chunks that may wait for a transport; the session waits beyond it.
const OUTBOUND_CHUNKS_MAX: usize = 2;

/// Everything clients reach on the one port.
pub fn router(
    inspection: admin_service::Inspection,
    health: grpc::Health,
    cors: &Cors,
) -> Result<Router, tonic_reflection::server::Error> {
    let sessions = inspection.sessions.clone();
    let agent_host = agent_host::service(inspection.hosts.clone(), sessions.log.clone());
    let admin = admin_service::service(inspection);
    let mut jobs = jobs::router(sessions.clone()).layer(tonic_web::GrpcWebLayer::new());
    if let Some(cors) = cors.layer() {
        jobs = jobs.layer(cors);
    }
    let open = sessions.authenticator.lets_anybody_in();
    let all = grpc::router(sessions.clone(), agent_host, admin, health)?
        .merge(jobs)
        .merge(websocket::router(sessions))
        .layer(axum::middleware::from_fn(slow_body::bound));
    Ok(match open {
        true => all.layer(axum::middleware::from_fn(local_names::only)),
        false => all,
    })
}

/// The frames of a stream up to the first that could not be read, that one included:
/// what follows it has no beginning, and is not waited for.
fn until_broken<T, E>(
    frames: impl Stream<Item = Result<T, E>>,
) -> impl Stream<Item = Result<T, E>> {
    let with_end = |frame: Result<T, E>| {
        let end = frame.is_err().then_some(None);
        futures_util::stream::iter([Some(frame)].into_iter().chain(end))
    };
    let until_end = frames
        .flat_map(with_end)
        .take_while(|frame| std::future::ready(frame.is_some()));
    until_end.filter_map(std::future::ready)
}

/// The trace context that a call or a connection came with.
fn trace(headers: &http::HeaderMap) -> TraceContext {
    TraceContext::from_metadata(|name| {
        let values = headers.get_all(name).into_iter();
        values.filter_map(|value| value.to_str().ok()).collect()
    })
}

/// The token of an `authorization: Bearer …` header.
fn bearer(headers: &http::HeaderMap) -> Option<secrecy::SecretString> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned().into())
}
