//! A real runtime on port 0 and a scripted gRPC client.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use arcpd::wire::proto::envelope::Payload;
use arcpd::wire::proto::runtime_service_client::RuntimeServiceClient;
use arcpd::wire::proto::{self, Envelope, SessionRequest};
use tokio::sync::mpsc;
use tonic::Streaming;

pub const ALICE: &str = "alice-token-0123456789";
pub const BOB: &str = "bob-token-0123456789ab";

/// An `arcpd serve` process; killed with SIGKILL when dropped.
pub struct Runtime {
    child: Child,
    pub address: String,
    pub admin: String,
}

impl Runtime {
    pub fn start(data_dir: &Path) -> Self {
        Self::start_at(data_dir, "127.0.0.1:0")
    }

    /// At a given address: where a killed one was.
    pub fn start_at(data_dir: &Path, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_arcpd"))
            .args(["serve", "--listen", listen, "--admin-listen", "127.0.0.1:0"])
            .arg("--demo-agents")
            .arg("--data-dir")
            .arg(data_dir)
            .env("ARCPD_TOKENS", format!("alice={ALICE},bob={BOB}"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("arcpd starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready = loop {
            let line = lines
                .next()
                .expect("a ready line before the end")
                .expect("text");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON log lines");
            if line["fields"]["message"] == "ready" {
                break line;
            }
        };
        // Keep reading, or the runtime would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let field = |name: &str| {
            ready["fields"][name]
                .as_str()
                .expect("an address")
                .to_owned()
        };
        Self {
            child,
            address: field("listen"),
            admin: field("admin_listen"),
        }
    }

    pub fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("a dead child");
    }

    /// SIGTERM, then the exit status.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().expect("an exit")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

pub fn hello(token: &str) -> proto::SessionHello {
    proto::SessionHello {
        client_name: "test".into(),
        client_version: "1".into(),
        auth_scheme: "bearer".into(),
        auth_token: token.into(),
        features: arcpd::protocol::feature::SUPPORTED
            .map(String::from)
            .to_vec(),
        ..Default::default()
    }
}

impl Peer {
    pub async fn open(address: &str, hello: proto::SessionHello) -> Self {
        let mut client = RuntimeServiceClient::connect(format!("http://{address}"))
            .await
            .expect("connects");
        let (requests, rx) = mpsc::channel(64);
        let stream = tokio_stream::wrappers::ReceiverStream::new(rx);
        let mut peer_requests = Self::request(1, "", "", Payload::SessionHello(hello));
        peer_requests.envelope.as_mut().unwrap().arcp = "1.1".into();
        requests.send(peer_requests).await.expect("open");
        let responses = client.session(stream).await.expect("a stream").into_inner();
        Self {
            requests,
            responses,
            ready: VecDeque::new(),
            session_id: String::new(),
            resume_token: String::new(),
            next_id: 2,
        }
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
        let id = self.next_id;
        self.next_id += 1;
        let request = Self::request(id, &self.session_id, job_id, payload);
        self.requests.send(request).await.expect("an open stream");
        format!("m{id}")
    }

    pub async fn try_next(&mut self) -> Option<Envelope> {
        while self.ready.is_empty() {
            let response = self.responses.message().await.ok()??;
            self.ready.extend(response.envelopes);
        }
        self.ready.pop_front()
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
        loop {
            let envelope = self.next().await;
            match envelope.payload {
                Some(Payload::JobAccepted(_)) => return envelope.job_id,
                Some(Payload::SessionError(error)) => panic!("refused: {error:?}"),
                _ => self.ready.push_back(envelope),
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
