use super::Status;
use super::follow::{OnInterrupt, follow, interrupts};
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Watch {
    job: String,
    /// Only what comes from now on.
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    target: Target,
}

impl Watch {
    pub async fn run(self) -> anyhow::Result<Status> {
        let mut client = self.target.connect().await?;
        client.subscribe(&self.job, !self.no_history).await?;
        let status = follow(&mut client, &self.job, interrupts()?, OnInterrupt::Leave).await?;
        client.close().await;
        Ok(status)
    }
}
