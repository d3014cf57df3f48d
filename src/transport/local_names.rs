//! Without tokens a page in a browser is as good as its user, and a page may have
//! its own name point at this machine: such a runtime answers to local names only.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const REFUSAL: &str = "Host: with --dev it must be localhost or a loopback address\n";

pub async fn only(request: Request, next: Next) -> Response {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let host = request.headers().get(http::header::HOST);
    let named = authority.or_else(|| host.and_then(|host| host.to_str().ok()));
    match named.is_some_and(is_local) {
        true => next.run(request).await,
        false => (http::StatusCode::FORBIDDEN, REFUSAL).into_response(),
    }
}

/// `HOST` or `HOST:PORT`.
fn is_local(named: &str) -> bool {
    let Ok(authority) = named.parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_are_localhost_and_loopback_addresses() {
        for local in [
            "localhost",
            "LOCALHOST:7777",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:7777",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example:7777",
            "10.0.0.1",
            "[::2]:1",
            "a b",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }
}
