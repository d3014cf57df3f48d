//! Liveness and readiness, in plain text, apart from client traffic.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;

use crate::session::Sessions;

pub fn router(sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(sessions)
}

async fn ready(State(sessions): State<Arc<Sessions>>) -> (StatusCode, &'static str) {
    if sessions.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if !sessions.log.healthy() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store does not accept commits\n",
        )
    } else {
        (StatusCode::OK, "ok\n")
    }
}
