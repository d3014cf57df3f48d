//! What is counted for each transport.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Via;

/// Of each [`Via`], in the order of [`index_of`].
const TRANSPORTS: [&str; 4] = ["grpc", "websocket", "job_service", "inside"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Transport {
    transport: &'static str,
}

/// A counter for each, there from the start and found without a lock: it counts every
/// message.
pub(super) struct ByTransport {
    pub family: Family<Transport, Counter>,
    found: [Counter; TRANSPORTS.len()],
}

impl Default for ByTransport {
    fn default() -> Self {
        let family = Family::default();
        let found = TRANSPORTS.map(|transport| {
            let counter: &Counter = &family.get_or_create(&Transport { transport });
            counter.clone()
        });
        Self { family, found }
    }
}

impl ByTransport {
    pub fn of(&self, via: Via) -> &Counter {
        &self.found[index_of(via)]
    }
}

fn index_of(via: Via) -> usize {
    match via {
        Via::Session => 0,
        Via::WebSocket => 1,
        Via::JobService(_) => 2,
        Via::Inside => 3,
    }
}

/// As labels have it.
pub fn transport_of(via: Via) -> &'static str {
    TRANSPORTS[index_of(via)]
}
