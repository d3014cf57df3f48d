//! What an operator sees of credentials, and the one thing there is to do about
//! them. In the admin port, and to callers on this machine alone: the rest of that
//! port may be open to what collects metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::log::CredentialRow;
use crate::protocol::Timestamp;
use crate::session::Sessions;
use crate::wire::rfc3339;

pub(super) fn router<S: Clone + Send + Sync + 'static>(sessions: Arc<Sessions>) -> Router<S> {
    Router::new()
        .route("/credentials", get(list))
        .route("/credentials/{handle}/retry", post(retry))
        .route_layer(from_fn(super::local_names::only))
        .route_layer(from_fn(from_here))
        .with_state(sessions)
}

async fn from_here(
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match from.ip().is_loopback() {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, "ask on the machine itself\n").into_response(),
    }
}

/// Everything that the upstream has, live or to be revoked. There is no secret in it.
async fn list(State(sessions): State<Arc<Sessions>>) -> Result<impl IntoResponse, StatusCode> {
    let rows = sessions.log.credentials(None).await;
    let rows = rows.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let list: Vec<_> = rows.iter().map(shown).collect();
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    Ok((content_type, Value::from(list).to_string()))
}

fn shown(row: &CredentialRow) -> Value {
    let at = |ms: Option<i64>| ms.map(|ms| rfc3339(Timestamp(ms)));
    json!({
        "credential": row.handle, "job_id": row.job_id, "provisioner": row.provisioner,
        "state": row.state.as_str(), "issued_at": at(Some(row.issued_at_ms)),
        "expires_at": at(row.expires_at_ms), "attempts": row.attempts,
        "next_at": at(row.next_at_ms), "error": row.error,
    })
}

async fn retry(
    State(sessions): State<Arc<Sessions>>,
    Path(handle): Path<String>,
) -> (StatusCode, &'static str) {
    let Some(credentials) = sessions.jobs.credentials() else {
        return (StatusCode::CONFLICT, "no provisioner is configured\n");
    };
    match credentials.retry(&handle).await {
        Ok(true) => (StatusCode::ACCEPTED, "the upstream is asked now\n"),
        Ok(false) => (
            StatusCode::NOT_FOUND,
            "no such credential is to be revoked\n",
        ),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store is not available\n",
        ),
    }
}
