use anyhow::bail;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Status;
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Healthcheck {
    /// The gRPC service to ask for; empty is the whole runtime.
    #[arg(long, default_value = "")]
    service: String,
    #[command(flatten)]
    target: Target,
}

impl Healthcheck {
    pub async fn run(self) -> anyhow::Result<Status> {
        let channel = self.target.options()?.channel().await?;
        let service = self.service;
        let answer = HealthClient::new(channel)
            .check(HealthCheckRequest { service })
            .await?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(Status::Success),
            status => bail!("{}", status.as_str_name()),
        }
    }
}
