//! A real runtime on port 0 and a scripted gRPC client.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod apt;
pub mod both;
pub mod buf;
pub mod cell;
pub mod chromium;
pub mod collector;
pub mod cpu;
pub mod credentials;
pub mod front;
pub mod gateway;
pub mod helm;
pub mod host;
pub mod jaeger;
pub mod jobs;
pub mod link;
pub mod matrix;
pub mod mounted;
pub mod nats;
pub mod pki;
pub mod plane;
pub mod previous;
pub mod process;
pub mod promtool;
pub mod proxy;
pub mod python;
pub mod replicas;
pub mod routes;
pub mod scrape;
pub mod waterfall;
pub mod ws;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::runtime_service_client::RuntimeServiceClient;
use arcpd::wire::proto::{self, Envelope, SessionRequest};
use tokio::sync::mpsc;
use tonic::Streaming;

use process::Process;

pub const ALICE: &str = "alice-token-0123456789";
pub const BOB: &str = "bob-token-0123456789ab";

/// What is documented as the most a runtime sends at once.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// Between two looks at what is waited for, so that waiting takes no processor from it.
pub const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

pub async fn look_again() {
    tokio::time::sleep(LOOK_AGAIN).await;
}

/// `arcpd serve`: a process, or the three of a cell where that is how a test runs; killed
/// with SIGKILL when dropped.
pub struct Runtime {
    processes: Vec<Process>,
    pub address: String,
    /// Of the first.
    pub admin: String,
    /// What listens at its address, where those that serve are several.
    balancer: Option<cell::Balancer>,
}

/// A command that serves alice and bob with the demonstration agents on free ports.
pub fn serve(data_dir: &Path) -> Command {
    serve_at(data_dir, "127.0.0.1:0")
}

pub fn serve_at(data_dir: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command
        .args(["serve", "--demo-agents", "--listen", listen])
        .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        // For the tests themselves; a runtime refuses what it does not know.
        .env_remove("ARCPD_CHART_SEED")
        .env_remove("ARCPD_MODEL_SEED")
        .env_remove("ARCPD_NEMESIS_FAULTS")
        .env_remove("ARCPD_NEMESIS_SEC")
        .env_remove("ARCPD_NEMESIS_SEED")
        .env_remove("ARCPD_SOAK_SEC")
        .env_remove("ARCPD_SOAK_SEED")
        .env(
            "ARCPD_TOKENS",
            format!("alice={ALICE},bob={BOB},workers={}", host::WORKERS),
        );
    command
}

impl Runtime {
    pub fn start(data_dir: &Path) -> Self {
        Self::spawn(&mut serve(data_dir))
    }

    /// At a given address: where a killed one was.
    pub fn start_at(data_dir: &Path, listen: &str) -> Self {
        Self::spawn(&mut serve_at(data_dir, listen))
    }

    pub fn start_with(data_dir: &Path, toml: &str) -> Self {
        let path = data_dir.join("arcpd.toml");
        std::fs::write(&path, toml).expect("a file in the test's folder");
        Self::spawn(serve(data_dir).arg("--config").arg(path))
    }

    /// Starts a command and waits until it is ready.
    pub fn spawn(command: &mut Command) -> Self {
        let (processes, balancer) = match cell::nats() {
            None => (vec![Process::start(command)], None),
            Some(nats) => {
                let (replicas, balancer) = cell::start(command, &nats);
                (replicas, Some(balancer))
            }
        };
        let first = &processes[0];
        let address = balancer.as_ref().map_or(&first.listen, |b| &b.address);
        Self {
            address: address.clone(),
            admin: first.admin.clone(),
            processes,
            balancer,
        }
    }

    pub fn log(&self) -> String {
        let logs: Vec<_> = self.processes.iter().map(Process::log).collect();
        logs.join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.processes[0].pid()
    }

    /// The status and body of a plain request to the admin port.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        get(&self.admin, path)
    }

    /// The same with a body.
    pub fn admin_post(&self, path: &str, body: &str) -> (u16, String) {
        self.admin_post_with(path, "", body)
    }

    /// With more lines of the head, each with its end.
    pub fn admin_post_with(&self, path: &str, head: &str, body: &str) -> (u16, String) {
        let mut socket = std::net::TcpStream::connect(&self.admin).expect("the admin port");
        let len = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{head}content-length: {len}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.expect("a status"), body.to_owned())
    }

    /// A number of the admin ports' metrics, of all processes.
    pub fn metric(&self, name: &str) -> u64 {
        let of = |process: &Process| {
            let (_, text) = get(&process.admin, "/metrics");
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            let value: Option<u64> = text.lines().find_map(value);
            value.unwrap_or_else(|| panic!("{name} in {text}"))
        };
        self.processes.iter().map(of).sum()
    }

    /// Waits until a metric is as wanted; beside the clients, which take part in it.
    pub async fn until_metric(&self, name: &str, wanted: impl Fn(u64) -> bool) -> u64 {
        let started = std::time::Instant::now();
        loop {
            let value = self.metric(name);
            if wanted(value) {
                return value;
            }
            assert!(started.elapsed().as_secs() < 30, "{name} stays {value}");
            look_again().await;
        }
    }

    /// Waits until a line of its log has the text: a pipe is behind what was written.
    pub async fn until_logged(&self, text: &str) {
        let started = std::time::Instant::now();
        while !self.log().contains(text) {
            assert!(started.elapsed().as_secs() < 30, "no {text:?} in the log");
            look_again().await;
        }
    }

    pub fn signal(&self, name: &str) {
        self.processes
            .iter()
            .for_each(|process| process.signal(name));
    }

    pub fn kill(mut self) {
        // Nobody gets through to one while another is killed.
        self.balancer = None;
        self.processes.iter_mut().for_each(Process::kill);
    }

    /// SIGTERM, then the exit status.
    pub async fn terminate(self) -> std::process::ExitStatus {
        self.signal("-TERM");
        self.exited().await
    }

    /// Waits for the exit on this thread; of several that which is no success.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let exits: Vec<_> = self.processes.iter_mut().map(Process::wait).collect();
        let failed = exits.iter().find(|exit| !exit.success());
        *failed.unwrap_or(&exits[0])
    }

    /// Waits for the exit beside the clients, which take part in it.
    pub async fn exited(mut self) -> std::process::ExitStatus {
        let waited = tokio::task::spawn_blocking(move || self.wait());
        waited.await.expect("no panic")
    }
}

fn get(admin: &str, path: &str) -> (u16, String) {
    let mut socket = std::net::TcpStream::connect(admin).expect("the admin port");
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.expect("a status"), body.to_owned())
}

/// One gRPC connection of a client.
pub struct Peer {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<proto::SessionResponse>,
    ready: VecDeque<Envelope>,
    pub session_id: String,
    pub resume_token: String,
    next_id: u32,
}

/// With all features but heartbeats: a script says only what it says, and is not given
/// up where it takes long to read.
pub fn hello(token: &str) -> proto::SessionHello {
    let features = arcpd::protocol::feature::SUPPORTED.into_iter();
    let features = features.filter(|feature| *feature != "heartbeat");
    proto::SessionHello {
        client_name: "test".into(),
        client_version: "1".into(),
        auth_scheme: "bearer".into(),
        auth_token: token.into(),
        features: features.map(String::from).collect(),
        ..Default::default()
    }
}

/// Of a client that answers pings.
pub fn hello_with_heartbeat(token: &str) -> proto::SessionHello {
    let mut hello = hello(token);
    hello.features.push("heartbeat".into());
    hello
}

impl Peer {
    pub async fn open(address: &str, hello: proto::SessionHello) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.expect("an address").connect().await;
        Self::on(channel.expect("connects"), hello).await
    }

    /// On a connection that others share.
    pub async fn on(channel: tonic::transport::Channel, hello: proto::SessionHello) -> Self {
        Self::try_on(channel, hello).await.expect("a stream")
    }

    pub async fn try_on(
        channel: tonic::transport::Channel,
        hello: proto::SessionHello,
    ) -> Result<Self, tonic::Status> {
        let client = RuntimeServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, rx) = mpsc::channel(64);
        let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
        let mut peer_requests = Self::request(1, "", "", Payload::SessionHello(hello));
        peer_requests.envelope.as_mut().unwrap().arcp = "1.1".into();
        requests.send(peer_requests).await.expect("open");
        let responses = client.session(stream).await?.into_inner();
        Ok(Self {
            requests,
            responses,
            ready: VecDeque::new(),
            session_id: String::new(),
            resume_token: String::new(),
            next_id: 2,
        })
    }

    pub async fn connect(address: &str, token: &str) -> Self {
        Self::open(address, hello(token)).await.welcomed().await
    }

    pub async fn resume(
        address: &str,
        token: &str,
        session_id: &str,
        resume_token: &str,
        last_event_seq: u64,
    ) -> Self {
        let mut hello = hello(token);
        hello.resume = Some(proto::Resume {
            session_id: session_id.into(),
            resume_token: resume_token.into(),
            last_event_seq,
        });
        Self::open(address, hello).await
    }

    pub async fn welcomed(mut self) -> Self {
        let envelope = self.next().await;
        let Some(Payload::SessionWelcome(welcome)) = envelope.payload else {
            panic!("expected a welcome, got {envelope:?}");
        };
        self.session_id = envelope.session_id;
        self.resume_token = welcome.resume_token;
        self
    }

    fn request(id: u32, session_id: &str, job_id: &str, payload: Payload) -> SessionRequest {
        let envelope = Envelope {
            arcp: "1.1".into(),
            id: format!("m{id}"),
            session_id: session_id.into(),
            job_id: job_id.into(),
            payload: Some(payload),
            ..Default::default()
        };
        SessionRequest {
            envelope: Some(envelope),
        }
    }

    /// Returns the id of what was sent.
    pub async fn send(&mut self, job_id: &str, payload: Payload) -> String {
        self.try_send(job_id, payload)
            .await
            .expect("an open stream")
    }

    /// The same where the stream may have ended.
    pub async fn try_send(&mut self, job_id: &str, payload: Payload) -> Option<String> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Self::request(id, &self.session_id, job_id, payload);
        let sent = self.requests.send(request).await;
        sent.is_ok().then(|| format!("m{id}"))
    }

    pub async fn try_next(&mut self) -> Option<Envelope> {
        while self.ready.is_empty() {
            let response = self.responses.message().await.ok()??;
            self.ready.extend(response.envelopes);
        }
        self.ready.pop_front()
    }

    /// The status its stream ends with; what comes before is dropped.
    pub async fn end(&mut self) -> tonic::Status {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok("the end"),
                Err(status) => return status,
            }
        }
    }

    pub async fn next(&mut self) -> Envelope {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), self.try_next());
        next.await
            .expect("an answer within 30 s")
            .expect("an open stream")
    }

    pub async fn submit(&mut self, agent: &str, input: serde_json::Value) -> String {
        self.submit_keyed(agent, input, "").await
    }

    pub async fn submit_keyed(
        &mut self,
        agent: &str,
        input: serde_json::Value,
        key: &str,
    ) -> String {
        let submit = proto::JobSubmit {
            agent: agent.into(),
            input_json: input.to_string(),
            idempotency_key: key.into(),
            ..Default::default()
        };
        self.send("", Payload::JobSubmit(submit)).await;
        let mut before = VecDeque::new();
        loop {
            let envelope = self.next().await;
            match envelope.payload {
                Some(Payload::JobAccepted(_)) => {
                    before.append(&mut self.ready);
                    self.ready = before;
                    return envelope.job_id;
                }
                Some(Payload::SessionError(error)) => panic!("refused: {error:?}"),
                _ => before.push_back(envelope),
            }
        }
    }

    /// Says something and waits for its answer; returns what came before it.
    pub async fn ping_collect(&mut self) -> Vec<Envelope> {
        self.ping().await;
        // What was kept came before the pong, but for the rest of its message.
        self.ready.drain(..).collect()
    }

    /// What came before the acceptance, and the job.
    pub async fn submit_collect(
        &mut self,
        agent: &str,
        input: serde_json::Value,
    ) -> (Vec<Envelope>, String) {
        let submit = proto::JobSubmit {
            agent: agent.into(),
            input_json: input.to_string(),
            ..Default::default()
        };
        let id = self.send("", Payload::JobSubmit(submit)).await;
        let mut before = Vec::new();
        loop {
            let envelope = self.next().await;
            match &envelope.payload {
                Some(Payload::JobAccepted(accepted)) if accepted.request_id == id => {
                    return (before, envelope.job_id);
                }
                Some(Payload::SessionError(error)) if error.request_id == id => {
                    panic!("refused: {error:?}")
                }
                _ => before.push(envelope),
            }
        }
    }

    /// Jobs of this principal that run now.
    pub async fn running(&mut self) -> usize {
        let list = proto::SessionListJobs {
            statuses: vec!["running".into()],
            ..Default::default()
        };
        self.send("", Payload::SessionListJobs(list)).await;
        loop {
            if let Some(Payload::SessionJobs(jobs)) = self.next().await.payload {
                return jobs.jobs.len();
            }
        }
    }

    /// Says something and waits for its answer; events before it are kept.
    pub async fn ping(&mut self) {
        let nonce = format!("n{}", self.next_id);
        let ping = proto::SessionPing {
            nonce: nonce.clone(),
            ..Default::default()
        };
        self.send("", Payload::SessionPing(ping)).await;
        let mut before = VecDeque::new();
        loop {
            let envelope = self.next().await;
            match &envelope.payload {
                Some(Payload::SessionPong(pong)) if pong.ping_nonce == nonce => break,
                _ => before.push_back(envelope),
            }
        }
        before.append(&mut self.ready);
        self.ready = before;
    }

    /// The next session.error.
    pub async fn error(&mut self) -> proto::SessionError {
        match self.next().await.payload {
            Some(Payload::SessionError(error)) => error,
            other => panic!("expected session.error, got {other:?}"),
        }
    }

    /// Numbered envelopes up to and including a terminal.
    pub async fn until_terminal(&mut self) -> Vec<Envelope> {
        let mut seen = Vec::new();
        loop {
            let envelope = self.next().await;
            if envelope.event_seq == 0 {
                continue;
            }
            let terminal = matches!(
                envelope.payload,
                Some(Payload::JobResult(_) | Payload::JobError(_))
            );
            seen.push(envelope);
            if terminal {
                return seen;
            }
        }
    }
}

/// The numbers of a stream.
pub fn seqs(envelopes: &[Envelope]) -> Vec<u64> {
    envelopes
        .iter()
        .map(|envelope| envelope.event_seq)
        .collect()
}
