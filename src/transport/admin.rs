//! Liveness, readiness and metrics, in plain text, apart from client traffic.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode, header};

use crate::session::Sessions;
use crate::telemetry::logs::Filter;

const FILTER_BYTES_MAX: usize = 4 * 1024;

/// Makes the text of `/metrics` when asked: nothing is counted twice, nothing on a
/// hot path.
pub type Scraper = Arc<dyn Fn() -> BoxFuture<'static, Option<String>> + Send + Sync>;

#[derive(Clone)]
struct Admin {
    sessions: Arc<Sessions>,
    scrape: Scraper,
    log_filter: Option<Filter>,
}

pub fn router(sessions: Arc<Sessions>, scrape: Scraper, log_filter: Option<Filter>) -> Router {
    let health = tonic::service::Routes::new(super::admin_health::service(sessions.clone()));
    let health = health.prepare().into_axum_router().reset_fallback();
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/log", get(log).post(set_log))
        .layer(DefaultBodyLimit::max(FILTER_BYTES_MAX))
        .merge(super::admin_credentials::router(sessions.clone()))
        .with_state(Admin {
            sessions,
            scrape,
            log_filter,
        })
        .merge(health)
        .layer(axum::middleware::from_fn(not_from_a_page))
}

/// A browser on this machine reaches this port for whatever page it shows, and says
/// whose; there is nobody whose pages may change anything here.
async fn not_from_a_page(request: Request, next: Next) -> Response {
    let asks = request.method() == Method::GET || request.method() == Method::HEAD;
    if !asks && request.headers().contains_key(header::ORIGIN) {
        let text = "origin: pages may not change anything here\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    match not_ready(&admin.sessions) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        None => (StatusCode::OK, "ok\n".into()),
    }
}

/// Why it should be given no more work, if so.
pub(super) fn not_ready(sessions: &Sessions) -> Option<String> {
    match sessions.drain.is_begun() {
        true => Some("draining".into()),
        false => sessions.log.failing(),
    }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn metrics(State(admin): State<Admin>) -> Result<impl IntoResponse, StatusCode> {
    let text = (admin.scrape)().await;
    let text = text.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}

async fn log(State(admin): State<Admin>) -> Result<String, StatusCode> {
    let filter = admin.log_filter.ok_or(StatusCode::NOT_FOUND)?;
    Ok(format!("{}\n", filter.get()))
}

/// Until the next start; `RUST_LOG` is what that begins with.
async fn set_log(State(admin): State<Admin>, body: String) -> (StatusCode, String) {
    let Some(filter) = admin.log_filter else {
        let text = "the program that embeds this runtime keeps its own log\n";
        return (StatusCode::NOT_FOUND, text.into());
    };
    match filter.set(body.trim()) {
        Ok(()) => (StatusCode::OK, format!("{}\n", filter.get())),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
