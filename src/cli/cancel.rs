use super::Status;
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Cancel {
    job: String,
    #[arg(long, default_value = "cancelled from the command line")]
    reason: String,
    #[command(flatten)]
    target: Target,
}

impl Cancel {
    pub async fn run(self) -> anyhow::Result<Status> {
        let mut client = self.target.connect().await?;
        client.cancel(&self.job, &self.reason).await?;
        client.close().await;
        Ok(Status::Success)
    }
}
