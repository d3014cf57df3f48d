//! Three NATS servers, three replicas, and a link from each replica to each server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arcpd::wire::proto::job_service_client::JobServiceClient;
use serde_json::json;
use tonic::transport::Endpoint;

use crate::replica::Replica;
use crate::support::ALICE;
use crate::support::host::HOSTING;
use crate::support::jobs::{Bearer, of};
use crate::support::link::{Link, State};
use crate::support::nats::{Cluster, Nats};

/// For three replicas to be ready after whatever happened.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Cell {
    pub replicas: [Replica; 3],
    /// Of each replica, to each server.
    pub links: [[Link; 3]; 3],
    /// Kept when the test fails.
    pub logs: PathBuf,
}

/// Sessions and records are kept for longer than any run; a host that is lost is lost
/// soon enough for it to matter.
fn config() -> String {
    let hosting = HOSTING
        .replace("lost_after_sec = 600", "lost_after_sec = 8")
        .replace("accept_within_sec = 600", "accept_within_sec = 4");
    format!("{hosting}\n[limits]\nresume_window_sec = 7200\n")
}

impl Cell {
    pub async fn start(logs: &Path) -> (Self, Cluster) {
        let nats = Nats::cluster();
        let mut links = Vec::new();
        for _ in 0..3 {
            let mut to = Vec::new();
            for node in &nats.nodes {
                let target = node.url().trim_start_matches("nats://").to_owned();
                to.push(Link::start(target).await);
            }
            links.push(<[Link; 3]>::try_from(to).ok().expect("three"));
        }
        let links = <[[Link; 3]; 3]>::try_from(links).ok().expect("three");
        let config = config();
        let replicas = [0, 1, 2].map(|number| {
            let urls = links[number].each_ref().map(|link| link.address);
            Replica::start(number, &urls, &config, logs)
        });
        let cell = Self {
            replicas,
            links,
            logs: logs.to_owned(),
        };
        cell.ready().await;
        (cell, nats)
    }

    /// Waits until all three serve.
    pub async fn ready(&self) {
        for (number, replica) in self.replicas.iter().enumerate() {
            let ready = tokio::time::timeout(READY_WITHIN, replica.ready()).await;
            assert!(
                ready.is_ok(),
                "replica {number} is not ready: {}",
                self.logs.display()
            );
        }
    }

    /// Waits until an agent is known everywhere.
    pub async fn knows(&self, agent: &str) {
        let asked = async {
            for replica in &self.replicas {
                let endpoint = Endpoint::from_shared(format!("http://{}", replica.ready().await));
                let channel = endpoint.unwrap().connect().await.expect("connects");
                let mut jobs = JobServiceClient::with_interceptor(channel, Bearer(ALICE));
                // The host that names it has registered there, or elsewhere.
                while jobs
                    .submit_job(of(agent, json!({ "steps": 1 })))
                    .await
                    .is_err()
                {}
            }
        };
        let known = tokio::time::timeout(READY_WITHIN, asked).await;
        assert!(
            known.is_ok(),
            "{agent} is not known: {}",
            self.logs.display()
        );
    }

    pub async fn all_ready(&self) {
        for replica in &self.replicas {
            replica.ready().await;
        }
    }

    pub fn heal_links(&self) {
        self.links
            .iter()
            .flatten()
            .for_each(|link| link.set(State::Whole));
    }

    /// A path of a replica's file.
    pub fn file(&self, replica: usize) -> PathBuf {
        self.replicas[replica].dir.join("arcpd.db")
    }
}
