//! The sockets: gRPC and WebSocket on one port, admin on another.
//!
//! A transport turns its frames into requests and writes the chunks a session
//! gives it; it knows nothing of jobs.

pub mod admin;
pub mod grpc;
pub mod websocket;

use std::sync::Arc;

use axum::Router;

use crate::session::Sessions;

/// Largest message a client may send, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Chunks that may wait for a transport; the session waits beyond it.
const OUTBOUND_CHUNKS_MAX: usize = 2;

/// Everything clients reach on the one port.
pub fn router(
    sessions: Arc<Sessions>,
    health: grpc::Health,
) -> Result<Router, tonic_reflection::server::Error> {
    Ok(grpc::router(sessions.clone(), health)?.merge(websocket::router(sessions)))
}

/// The token of an `authorization: Bearer …` header.
fn bearer(headers: &http::HeaderMap) -> Option<secrecy::SecretString> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned().into())
}
