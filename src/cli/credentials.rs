//! Credentials that upstreams have made for jobs, for whoever runs the runtime.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Status;
use super::print::{plain_lines, row};

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct Credentials {
    /// The runtime's admin port; it answers to its own machine only.
    #[arg(long, env = "ARCPD_ADMIN", default_value = "127.0.0.1:7778")]
    admin: SocketAddr,
    /// Have the upstream asked to revoke this one again, now.
    #[arg(long, value_name = "CREDENTIAL")]
    retry: Option<String>,
}

#[derive(Deserialize)]
struct Shown {
    credential: String,
    job_id: String,
    state: String,
    attempts: u32,
    expires_at: Option<String>,
    error: String,
}

impl Credentials {
    pub async fn run(self) -> anyhow::Result<Status> {
        match &self.retry {
            Some(handle) => {
                let safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if !handle.chars().all(safe) {
                    bail!("--retry: {handle:?} is not the name of a credential");
                }
                let said = self
                    .ask("POST", &format!("/credentials/{handle}/retry"))
                    .await?;
                eprint!("{}", plain_lines(&said));
            }
            None => {
                let list = self.ask("GET", "/credentials").await?;
                let list: Vec<Shown> = serde_json::from_str(&list).context("the answer")?;
                for shown in list {
                    let Shown {
                        credential,
                        job_id,
                        state,
                        attempts,
                        expires_at,
                        error,
                    } = shown;
                    let expires_at = expires_at.unwrap_or_else(|| "-".into());
                    row(&format!(
                        "{credential}  {job_id}  {state}  {attempts}  {expires_at}  {error}"
                    ))?;
                }
            }
        }
        Ok(Status::Success)
    }

    /// HTTP/1.0, so that the answer ends where the connection does.
    async fn ask(&self, method: &str, path: &str) -> anyhow::Result<String> {
        let answer = async {
            let mut socket = tokio::net::TcpStream::connect(self.admin).await?;
            let request = format!("{method} {path} HTTP/1.0\r\nhost: {}\r\n\r\n", self.admin);
            socket.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(TIMEOUT, answer).await;
        let answer = answer
            .context("not answered in time")?
            .with_context(|| format!("the admin port {}", self.admin))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        match status.starts_with('2') {
            true => Ok(body.to_owned()),
            false => bail!("HTTP {status}: {}", body.trim()),
        }
    }
}
