//! Tokens that were refused: counted for each service, and a line of the log.

use prometheus_client::encoding::EncodeLabelSet;

use super::Telemetry;
use super::logs::AUDIT;

/// Where a token is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Session,
    Job,
    Admin,
    AgentHost,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfService {
    service: &'static str,
}

impl Service {
    pub(super) const ALL: [Self; 4] = [Self::Session, Self::Job, Self::Admin, Self::AgentHost];

    fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Job => "job",
            Self::Admin => "admin",
            Self::AgentHost => "agent_host",
        }
    }

    pub(super) fn label(self) -> OfService {
        OfService {
            service: self.as_str(),
        }
    }
}

impl Telemetry {
    /// A token that is nobody's, or none where one is needed.
    pub fn unauthenticated(&self, service: Service) {
        self.metrics.unauthenticated(service);
        let service = service.as_str();
        // Nobody's name is known: they share the lines of a service.
        if self.lines.admits("authenticate", service) {
            tracing::warn!(
                target: AUDIT,
                operation = "authenticate",
                service,
                decision = "refused",
                "a token is not valid"
            );
        }
    }
}
