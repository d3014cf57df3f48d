//! Replicas that share a stream, each a process with a folder of its own.

use super::Ground;
use crate::bench::client::Wire;
use crate::bench::process::Process;

/// The processes are killed when it is dropped; [`Cell::end`] removes the stream too.
pub struct Cell {
    pub replicas: Vec<Process>,
    pub stream: String,
    _dirs: tempfile::TempDir,
}

impl Cell {
    pub async fn start(ground: &Ground, replicas: usize) -> anyhow::Result<Self> {
        let dirs = tempfile::tempdir()?;
        let name = ground.name();
        let started = (0..replicas).map(|index| {
            let dir = dirs.path().join(index.to_string());
            Process::replica(&dir, &ground.servers, &name, ground.copies)
        });
        Ok(Self {
            replicas: started.collect::<anyhow::Result<_>>()?,
            stream: format!("ARCP_LOG_{name}"),
            _dirs: dirs,
        })
    }

    pub async fn end(self, ground: &Ground) -> anyhow::Result<()> {
        drop(self.replicas);
        ground.remove(&self.stream).await
    }

    /// Resolves once each replica has applied all that was written before: a session is
    /// opened at each, which comes behind it in the log.
    pub async fn settled(&self) -> anyhow::Result<()> {
        for replica in &self.replicas {
            replica.dial(Wire::Grpc).session().await?;
        }
        Ok(())
    }

    pub fn addresses(&self) -> Vec<String> {
        let all = self.replicas.iter();
        all.map(|replica| replica.address.clone()).collect()
    }
}
