//! Three NATS servers, three replicas, and a link from each of both to each server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arcpd::wire::proto::job_service_client::JobServiceClient;
use serde_json::json;
use tonic::transport::Endpoint;

use crate::replica::Replica;
use crate::support::ALICE;
use crate::support::gateway::{Gateway, secret_file};
use crate::support::host::HOSTING;
use crate::support::jobs::{Bearer, of};
use crate::support::link::{Link, State};
use crate::support::nats::{Cluster, Nats};
use crate::support::routes::Routes;

/// For three replicas to be ready after whatever happened.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Cell {
    pub replicas: [Replica; 3],
    /// Of each replica, to each server.
    pub links: [[Link; 3]; 3],
    /// Among the servers.
    pub routes: Routes,
    /// That jobs have keys of.
    pub gateway: Gateway,
    /// Kept when the test fails.
    pub logs: PathBuf,
}

/// A job of a few seconds outlives its key.
const KEYS: &str = "issue_timeout_sec = 2\nttl_sec = 4\nrotate_before_sec = 2\n";

/// Sessions and records are kept for longer than any run; a host that is lost is lost
/// soon enough for it to matter.
fn config(gateway: &Gateway, dir: &Path) -> String {
    let hosting = HOSTING
        .replace("lost_after_sec = 600", "lost_after_sec = 8")
        .replace("accept_within_sec = 600", "accept_within_sec = 4");
    let seal = secret_file(dir, "seal.key", &"0f".repeat(32));
    format!(
        "{}encryption_key_file = {seal:?}\n{KEYS}\n{hosting}\n[limits]\nresume_window_sec = 7200\n",
        gateway.toml(dir)
    )
}

impl Cell {
    pub async fn start(logs: &Path) -> (Self, Cluster) {
        let (nats, routes) = Nats::cluster_with_routes().await;
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
        let gateway = Gateway::start().await;
        let config = config(&gateway, logs);
        let replicas = [0, 1, 2].map(|number| {
            let urls = links[number].each_ref().map(|link| link.address);
            Replica::start(number, &urls, &config, logs)
        });
        let cell = Self {
            replicas,
            links,
            routes,
            gateway,
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
        self.routes.heal();
        self.links
            .iter()
            .flatten()
            .for_each(|link| link.set(State::Whole));
    }
}
