//! Where the runtime is and who the client says it is.

use std::time::Duration;

use secrecy::SecretString;

use super::Error;

#[derive(Clone, Debug)]
pub struct Options {
    /// `http://HOST:PORT`, or `https://` for TLS.
    pub server: String,
    pub token: SecretString,
    /// PEM of certificate authorities to trust beside the system's.
    pub ca_pem: Option<String>,
    /// How long a broken connection is dialled again before the client gives up.
    pub retry_for: Duration,
}

impl Options {
    pub fn new(server: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            token: token.into().into(),
            ca_pem: None,
            retry_for: Duration::from_secs(120),
        }
    }

    /// A connection to the runtime, for other services than the session.
    pub async fn channel(&self) -> Result<tonic::transport::Channel, Error> {
        let connected = self.endpoint()?.connect().await;
        connected.map_err(|error| Error::Unreachable {
            server: self.server.clone(),
            reason: causes(&error),
        })
    }

    fn endpoint(&self) -> Result<tonic::transport::Endpoint, Error> {
        let bad = |reason: String| Error::Options(format!("server {:?}: {reason}", self.server));
        let with_scheme = match self.server.contains("://") {
            true => self.server.clone(),
            false => format!("http://{}", self.server),
        };
        let endpoint = tonic::transport::Endpoint::from_shared(with_scheme.clone())
            .map_err(|e| bad(e.to_string()))?
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(2 * 1024 * 1024)
            .initial_connection_window_size(5 * 1024 * 1024)
            .tcp_nodelay(true);
        match with_scheme.split_once("://") {
            Some(("http", _)) => Ok(endpoint),
            Some(("https", _)) => {
                let mut tls = tonic::transport::ClientTlsConfig::new().with_native_roots();
                if let Some(pem) = &self.ca_pem {
                    tls = tls.ca_certificate(tonic::transport::Certificate::from_pem(pem));
                }
                endpoint.tls_config(tls).map_err(|e| bad(e.to_string()))
            }
            _ => Err(bad("must be http://HOST:PORT or https://HOST:PORT".into())),
        }
    }
}

/// An error with what caused it: the first alone says "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
