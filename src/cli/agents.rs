use super::Status;
use super::print::{exactly, row};
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Agents {
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Agents {
    pub async fn run(self) -> anyhow::Result<Status> {
        let client = self.target.connect().await?;
        let agents = client.agents();
        if self.json {
            let rows: Vec<_> = agents
                .iter()
                .map(|agent| {
                    serde_json::json!({ "name": agent.name, "versions": agent.versions,
                        "default": agent.default_version })
                })
                .collect();
            exactly(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        } else {
            row(&format!("{:<24} {:<12} VERSIONS", "NAME", "DEFAULT"))?;
            for agent in agents {
                let versions = agent.versions.join(", ");
                row(&format!(
                    "{:<24} {:<12} {versions}",
                    agent.name, agent.default_version
                ))?;
            }
        }
        client.close().await;
        Ok(Status::Success)
    }
}
