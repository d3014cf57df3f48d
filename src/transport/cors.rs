//! Which pages of other origins a browser lets use `JobService`.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser need not ask again.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Origins a page may come from; none by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cors {
    #[default]
    Off,
    /// Development: every page.
    Any,
    Origins(Vec<HeaderValue>),
}

impl Cors {
    /// Reads exact origins, `https://host` or `https://host:port`, or one `*`.
    pub fn parse(origins: &[String]) -> Result<Self, String> {
        match origins {
            [] => Ok(Self::Off),
            [all] if all == "*" => Ok(Self::Any),
            _ => {
                let origins = origins.iter().map(|origin| exact(origin));
                origins.collect::<Result<_, _>>().map(Self::Origins)
            }
        }
    }

    pub(super) fn layer(&self) -> Option<CorsLayer> {
        let origins = match self {
            Self::Off => return None,
            Self::Any => AllowOrigin::any(),
            Self::Origins(origins) => AllowOrigin::list(origins.iter().cloned()),
        };
        let name = HeaderName::from_static;
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::POST])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                name("grpc-timeout"),
                name("traceparent"),
                name("x-grpc-web"),
                name("x-user-agent"),
            ])
            .expose_headers(["grpc-status", "grpc-message", "grpc-status-details-bin"].map(name))
            .max_age(MAX_AGE);
        Some(layer)
    }
}

/// As a browser writes it, or it would never match: no path, no capital, no
/// port that is the scheme's own.
fn exact(origin: &str) -> Result<HeaderValue, String> {
    let wrong = |why: &str| format!("cors.allow_origins: {origin:?} {why}");
    let uri: http::Uri = origin.parse().map_err(|_| wrong("is not an origin"))?;
    let (scheme, host) = match (uri.scheme_str(), uri.host()) {
        (Some(scheme @ ("http" | "https")), Some(host)) => (scheme, host.to_ascii_lowercase()),
        _ => {
            return Err(wrong(
                "must be https://host or http://host, with a port or without",
            ));
        }
    };
    if host.contains('*') {
        return Err(wrong("is a pattern; name each origin"));
    }
    let port = match (scheme, uri.port_u16()) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let as_sent = format!("{scheme}://{host}{port}");
    if as_sent != origin {
        return Err(wrong(&format!("never matches; a browser sends {as_sent}")));
    }
    HeaderValue::from_str(origin).map_err(|_| wrong("is not an origin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact_or_refused_with_what_a_browser_sends() {
        let parse = |origin: &str| Cors::parse(&[origin.to_owned()]);
        assert!(matches!(Cors::parse(&[]), Ok(Cors::Off)));
        assert!(matches!(parse("*"), Ok(Cors::Any)));
        for good in [
            "https://app.example",
            "http://127.0.0.1:8000",
            "http://[::1]:1",
        ] {
            assert!(matches!(parse(good), Ok(Cors::Origins(_))), "{good}");
        }
        for bad in [
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/x",
            "https://App.example",
            "https://app.example:443",
            "https://me@app.example",
            "ftp://app.example",
            "https://*.example",
            "null",
        ] {
            let why = parse(bad).unwrap_err();
            assert!(why.starts_with("cors.allow_origins: "), "{why}");
        }
        assert!(Cors::parse(&["*".into(), "https://a.example".into()]).is_err());
    }
}
