//! Three servers of the bench's own, on loopback, one cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{AGREE_TIMEOUT, LOOK};
use crate::bench::process::cpu_of;

const NODES: usize = 3;

pub struct Nodes {
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    /// What starts it, again and again.
    command: Command,
    child: Child,
    client: Port,
    monitor: Port,
    _route: Port,
    _dir: tempfile::TempDir,
}

/// A port that nobody else is given while it is held. It is bound and never listens; a
/// server may listen beside it, as both set SO_REUSEADDR.
struct Port {
    number: u16,
    _held: Socket,
}

// === impl Nodes ===

impl Nodes {
    /// Resolves once they agree on who leads and who follows.
    pub async fn start(program: &Path) -> anyhow::Result<Self> {
        let routes = (0..NODES).map(|_| Port::pick());
        let routes = routes.collect::<anyhow::Result<Vec<_>>>()?;
        let urls = routes
            .iter()
            .map(|port| format!("nats-route://127.0.0.1:{}", port.number));
        let urls = urls.collect::<Vec<_>>().join(", ");
        let nodes = routes.into_iter().enumerate();
        let nodes = nodes.map(|(index, route)| Node::start(program, index, route, &urls));
        let mut nodes = Self {
            nodes: nodes.collect::<anyhow::Result<_>>()?,
        };
        nodes.until_agreed().await?;
        Ok(nodes)
    }

    pub fn urls(&self) -> String {
        let urls = self.nodes.iter();
        let urls = urls.map(|node| format!("nats://127.0.0.1:{}", node.client.number));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Seconds of processor time so far, of all.
    pub fn cpu(&self) -> f64 {
        self.nodes.iter().map(|node| cpu_of(node.child.id())).sum()
    }

    /// SIGKILL to the one of that name; returns once it is dead.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        let node = node.with_context(|| format!("no server {name}"))?;
        node.child.kill()?;
        node.child.wait()?;
        Ok(())
    }

    /// Starts those that are dead, with what they had.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if node.child.try_wait()?.is_some() {
                node.child = node.command.spawn()?;
            }
        }
        self.until_agreed().await
    }

    async fn until_agreed(&mut self) -> anyhow::Result<()> {
        let agreed = async {
            while !self.agreed().await {
                for node in &mut self.nodes {
                    if let Some(status) = node.child.try_wait()? {
                        bail!("{} ended: {status}", node.name);
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let agreed = tokio::time::timeout(AGREE_TIMEOUT, agreed).await;
        agreed.context("the servers do not become one cluster")?
    }

    /// Each is healthy, and the leader is followed by the rest: only it knows.
    async fn agreed(&self) -> bool {
        let mut followed = false;
        for node in &self.nodes {
            if node.monitored("/healthz").await["status"] != "ok" {
                return false;
            }
            let jsz = node.monitored("/jsz").await;
            let peers = jsz["meta_cluster"]["replicas"].as_array();
            let current = |peer: &&Value| peer["current"] == true && peer["offline"] != true;
            let current = peers.map_or(0, |peers| peers.iter().filter(current).count());
            followed |= current == NODES - 1;
        }
        followed
    }
}

// === impl Node ===

impl Node {
    fn start(program: &Path, index: usize, route: Port, routes: &str) -> anyhow::Result<Self> {
        let (client, monitor) = (Port::pick()?, Port::pick()?);
        let dir = tempfile::tempdir()?;
        let (name, at) = (format!("n{index}"), dir.path().join("nats.conf"));
        let store = dir.path().join("store");
        let config = format!(
            "server_name: {name}\nlisten: '127.0.0.1:{}'\nhttp: '127.0.0.1:{}'\n\
             max_payload: 8MB\njetstream {{ store_dir: '{}' }}\n\
             cluster {{ name: bench, listen: '127.0.0.1:{}', routes: [{routes}] }}\n",
            client.number,
            monitor.number,
            store.display(),
            route.number,
        );
        std::fs::write(&at, config)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&at);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.with_context(|| format!("{}; see --nats-server", program.display()))?;
        Ok(Self {
            name,
            command,
            child,
            client,
            monitor,
            _route: route,
            _dir: dir,
        })
    }

    /// What its monitor answers; null from one that does not yet.
    async fn monitored(&self, path: &str) -> Value {
        let asked = async {
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.monitor.number)).await?;
            let request = format!("GET {path} HTTP/1.0\r\nhost: nats\r\n\r\n");
            socket.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            anyhow::Ok(serde_json::from_str(body)?)
        };
        asked.await.unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Port ===

impl Port {
    fn pick() -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into())?;
        let bound = socket.local_addr()?.as_socket();
        Ok(Self {
            number: bound.context("an address of IPv4")?.port(),
            _held: socket,
        })
    }
}
