//! Replicas of a cell on one server, with hosts' tokens.

use std::path::Path;

use super::host::HOSTING;
use super::nats::Nats;
use super::{Runtime, serve};

pub fn replica(nats: &Nats, dir: &Path) -> Runtime {
    replica_at(&nats.url(), dir)
}

pub fn replica_at(url: &str, dir: &Path) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, HOSTING).unwrap();
    Runtime::spawn(serve(dir).arg("--config").arg(path).args([
        "--cluster",
        url,
        "--cluster-replication",
        "1",
    ]))
}

/// Three replicas, with their folders.
pub struct Cell {
    pub nats: Nats,
    pub dirs: [tempfile::TempDir; 3],
}

impl Cell {
    pub fn start() -> (Self, [Runtime; 3]) {
        let nats = Nats::single();
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let replicas = dirs.each_ref().map(|dir| replica(&nats, dir.path()));
        (Self { nats, dirs }, replicas)
    }
}
