//! Request bodies that stop in the middle.
//!
//! A stream of a session or a host is quiet for as long as it likes: it has times of
//! its own, and HTTP/2 pings find out that its peer is gone. What is one message long
//! has neither, nor has anything over HTTP/1.1, where it would hold a connection.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::Version;
use tower_http::timeout::TimeoutBody;

/// Between two pieces of a body.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Every call takes one message.
const ONE_MESSAGE: &str = "/arcp.v1.JobService/";

/// The call ends as if its peer had gone, and HTTP/1.1 closes the connection.
pub(super) async fn bound(request: Request, next: Next) -> Response {
    let one_message = request.uri().path().starts_with(ONE_MESSAGE);
    if request.version() >= Version::HTTP_2 && !one_message {
        return next.run(request).await;
    }
    let request = request.map(|body| Body::new(TimeoutBody::new(SILENCE_MAX, body)));
    next.run(request).await
}
