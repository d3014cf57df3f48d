//! The HTTP client of a collector.

use reqwest::Client;

use super::otlp::Endpoint;
use super::pem::tls;

pub(super) fn client(endpoint: &Endpoint) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(tls(endpoint)?)
        // The headers may have a key in them, for this address and no other.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(endpoint.timeout)
        .build()
        .map_err(|error| error.to_string())
}
