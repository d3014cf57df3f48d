//! Where one signal goes: `OTEL_EXPORTER_OTLP_*`, each of which a signal may have for
//! itself.

use std::time::Duration;

use super::{Get, pairs, timeout};
use crate::masked::without_user_info;
use crate::telemetry::otlp::{Endpoint, Protocol};
use crate::telemetry::pem::PemFile;

/// The variables of one signal.
struct Signal<'a> {
    /// As in the variables' names: `TRACES`.
    name: &'a str,
    get: Get<'a>,
}

/// `own` is the configuration's own; the environment goes before it. None when neither
/// says where to.
pub(super) fn of(
    signal: &str,
    own: Option<&str>,
    get: Get<'_>,
) -> Result<Option<Endpoint>, String> {
    let signal = Signal { name: signal, get };
    let (name, url) = match (signal.of("ENDPOINT"), own) {
        (Some(set), _) => set,
        (None, Some(url)) => ("telemetry.otlp_endpoint".into(), url.to_owned()),
        (None, None) => return Ok(None),
    };
    let as_it_is = name.contains(signal.name);
    let uri = uri(&url).map_err(|why| format!("{name}: {:?} {why}", without_user_info(&url)))?;
    let protocol = signal.protocol(&uri)?;
    let (client_cert, client_key) = signal.client()?;
    Ok(Some(Endpoint {
        uri,
        as_it_is,
        protocol,
        gzip: signal.gzip()?,
        headers: signal.headers()?,
        timeout: signal.timeout()?,
        ca: signal.pem("CERTIFICATE"),
        client_cert,
        client_key,
    }))
}

impl Signal<'_> {
    /// A variable's name and value; the signal's own goes before the one for all.
    fn of(&self, name: &str) -> Option<(String, String)> {
        let specific = format!("OTEL_EXPORTER_OTLP_{}_{name}", self.name);
        let general = format!("OTEL_EXPORTER_OTLP_{name}");
        match (self.get)(&specific) {
            Some(value) => Some((specific, value)),
            None => (self.get)(&general).map(|value| (general, value)),
        }
    }

    fn protocol(&self, uri: &http::Uri) -> Result<Protocol, String> {
        match self.of("PROTOCOL") {
            Some((name, value)) => {
                Protocol::parse(&value).map_err(|error| format!("{name}: {error}"))
            }
            // The registered port of one of the two.
            None if uri.port_u16() == Some(4317) => Ok(Protocol::Grpc),
            None => Ok(Protocol::HttpProtobuf),
        }
    }

    fn gzip(&self) -> Result<bool, String> {
        match self.of("COMPRESSION") {
            None => Ok(false),
            Some((_, value)) if value == "none" => Ok(false),
            Some((_, value)) if value == "gzip" => Ok(true),
            Some((name, value)) => Err(format!("{name}: {value:?} is neither gzip nor none")),
        }
    }

    fn headers(&self) -> Result<Vec<(String, String)>, String> {
        let Some((name, value)) = self.of("HEADERS") else {
            return Ok(Vec::new());
        };
        let headers = pairs(&name, &value)?;
        let bad = |(key, value): &(String, String)| {
            http::HeaderName::try_from(key).is_err() || http::HeaderValue::try_from(value).is_err()
        };
        match headers.iter().any(bad) {
            true => Err(format!("{name}: has what cannot be a header")),
            false => Ok(headers),
        }
    }

    fn timeout(&self) -> Result<Duration, String> {
        match self.of("TIMEOUT") {
            Some((name, _)) => timeout(self.get, &name, Duration::ZERO),
            None => Ok(Duration::from_secs(10)),
        }
    }

    fn pem(&self, name: &str) -> Option<PemFile> {
        self.of(name).map(|(variable, path)| PemFile {
            variable,
            path: path.into(),
        })
    }

    /// The certificate that is shown, and its key.
    fn client(&self) -> Result<(Option<PemFile>, Option<PemFile>), String> {
        let both = (self.pem("CLIENT_CERTIFICATE"), self.pem("CLIENT_KEY"));
        if let (Some(file), None) | (None, Some(file)) = &both {
            return Err(format!(
                "{}: a client certificate and its key need each other; give both or none",
                file.variable
            ));
        }
        Ok(both)
    }
}

fn uri(url: &str) -> Result<http::Uri, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("is no URL: {error}"))?;
    match matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() {
        true => Ok(uri),
        false => Err("must be http:// or https:// and a host".into()),
    }
}
