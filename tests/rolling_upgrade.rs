//! Three replicas of an earlier commit become three of this one, one after the other,
//! while clients and a host are at work: whatever the mix, no stream has a gap or a double.

mod support;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef};
use futures_util::SinkExt;
use serde_json::{Value, json};
use support::host::*;
use support::nats::Nats;
use support::ws::{Ws, hello, seqs};
use support::*;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

const CLIENTS: usize = 3;
/// Jobs of each client, in each mix of versions.
const JOBS: usize = 5;

/// An offer on a connection that breaks is in nobody's hands: it is not waited for long.
const HOSTING: &str = r#"
[[hosting]]
principal = "workers"
agents = ["*"]
[hosts]
heartbeat_interval_sec = 1
lost_after_sec = 5
accept_within_sec = 2
"#;

/// Where replicas are that are to be used.
type Addresses = Arc<Mutex<Vec<String>>>;

fn replica(binary: &Path, nats: &Nats, dir: &Path) -> Runtime {
    let path = dir.join("arcpd.toml");
    std::fs::write(&path, HOSTING).unwrap();
    let like = serve(dir);
    let mut command = Command::new(binary);
    command.args(like.get_args());
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let cluster = ["--cluster", &nats.url(), "--cluster-replication", "1"];
    Runtime::spawn(command.arg("--config").arg(path).args(cluster))
}

/// One that is not about to go; another one each time, where there is one.
fn next(addresses: &Addresses) -> String {
    let mut addresses = addresses.lock().unwrap();
    addresses.rotate_left(1);
    addresses[0].clone()
}

/// A session at whichever replica takes it: one that is just going does not.
async fn open(addresses: &Addresses, more: Value) -> Ws {
    loop {
        let url = format!("ws://{}/arcp", next(addresses));
        let Ok((socket, _)) = tokio_tungstenite::connect_async(url).await else {
            continue;
        };
        let mut ws = Ws::on(socket);
        let hello = hello("h", ALICE, more.clone()).to_string();
        if ws.socket.send(Message::text(hello)).await.is_err() {
            continue;
        }
        let Some(welcome) = ws.try_hear().await else {
            continue;
        };
        if welcome["type"] == "session.welcome" {
            ws.session_id = welcome["session_id"].as_str().unwrap().into();
            ws.resume_token = welcome["payload"]["resume_token"].as_str().unwrap().into();
            return ws;
        }
        assert_eq!(welcome["payload"]["retryable"], true, "{welcome}");
    }
}

/// A client that submits one job after the other and goes where its replicas are.
struct Client {
    ws: Ws,
    addresses: Addresses,
    seen: Vec<Value>,
    /// Jobs that have ended.
    over: HashSet<String>,
    done: watch::Sender<usize>,
}

impl Client {
    async fn start(addresses: &Addresses) -> Self {
        Self {
            ws: open(addresses, json!({})).await,
            addresses: addresses.clone(),
            seen: Vec::new(),
            over: HashSet::new(),
            done: watch::Sender::new(0),
        }
    }

    async fn run(mut self, name: usize, mut stop: watch::Receiver<bool>) -> Self {
        for number in 0.. {
            if *stop.borrow_and_update() {
                break;
            }
            // Every other job is a host's.
            let agent = ["echo", "a"][number % 2];
            let key = format!("{name}-{number}");
            self.submit(json!({ "agent": agent, "input": number, "idempotency_key": key }))
                .await;
            self.done.send_modify(|done| *done += 1);
        }
        self
    }

    /// Until the job is over. Said again where the answer was lost: the key makes it one.
    async fn submit(&mut self, submit: Value) {
        let (mut job, mut said) = (Value::Null, false);
        loop {
            if job.is_null() && !said {
                let text = self.ws.envelope("job.submit", submit.clone()).to_string();
                said = self.ws.socket.send(Message::text(text)).await.is_ok();
            }
            let Some(frame) = self.ws.try_hear().await else {
                self.resume().await;
                said = false;
                continue;
            };
            match frame["type"].as_str().unwrap() {
                "job.accepted" => job = frame["job_id"].clone(),
                // A replica that goes, or has lost its leader, says so.
                "session.error" => {
                    assert_eq!(frame["payload"]["retryable"], true, "{frame}");
                    said = false;
                }
                _ => {}
            }
            if frame["event_seq"].is_u64() {
                if frame["type"] != "job.event" {
                    self.over.insert(frame["job_id"].to_string());
                }
                self.seen.push(frame);
            }
            // In a session that is taken up the end may come before the answer.
            if self.over.contains(&job.to_string()) {
                return;
            }
        }
    }

    async fn resume(&mut self) {
        let last = self
            .seen
            .last()
            .map_or(0, |frame| frame["event_seq"].as_u64().unwrap());
        let resume = json!({ "session_id": self.ws.session_id,
            "resume_token": self.ws.resume_token, "last_event_seq": last });
        self.ws = open(&self.addresses, json!({ "resume": resume })).await;
    }

    /// What it has seen, and what a whole replay says that it was.
    async fn check(mut self) {
        let count = self.seen.len() as u64;
        assert_eq!(seqs(&self.seen), (1..=count).collect::<Vec<_>>());
        let live = std::mem::take(&mut self.seen);
        self.resume().await;
        let mut again = Vec::new();
        while again.len() < live.len() {
            let frame = self.ws.hear().await;
            if frame["event_seq"].is_u64() {
                again.push(frame);
            }
        }
        for (seen, again) in live.iter().zip(&again) {
            for key in ["id", "event_seq", "job_id", "type", "payload"] {
                assert_eq!(seen[key], again[key], "{seen}\n{again}");
            }
        }
        // What is asked for again may be told again, and is the same.
        let mut ends = HashMap::new();
        for end in live.iter().filter(|frame| frame["type"] != "job.event") {
            let first = ends.entry(end["job_id"].to_string()).or_insert(end);
            assert_eq!(first["payload"], end["payload"], "a job that ended twice");
        }
        assert!(ends.len() >= 4 * JOBS, "{} jobs", ends.len());
    }
}

/// A host that answers each job with its input, and goes on with what it has wherever
/// its connection leads next.
struct Host {
    addresses: Addresses,
    /// What no replica has acknowledged whole.
    held: HashMap<String, (AssignmentRef, String)>,
    registered: watch::Sender<bool>,
}

impl Host {
    async fn run(mut self) {
        loop {
            let agents = vec![with_policy("a", proto::LossPolicy::Retry)];
            let mut register = register("h", agents, 16);
            register.resume = self.held.values().map(|(of, _)| held(of)).collect();
            // One that is just going takes none.
            if let Ok((host, registered)) =
                HostPeer::connect(&next(&self.addresses), register).await
            {
                self.registered.send_replace(true);
                self.serve(host, registered).await;
            }
        }
    }

    /// Until the connection ends.
    async fn serve(&mut self, mut host: HostPeer, registered: proto::Registered) {
        let kept: HashMap<_, _> = registered.keep.into_iter().map(kept).collect();
        self.held.retain(|job, _| kept.contains_key(job));
        for (job, (of, input)) in &self.held {
            report(&mut host, of, input, kept[job]).await;
        }
        while let Ok(heard) = host.hear().await {
            match heard {
                Hear::Assign(assign) => {
                    let of = assign.r#ref.clone().expect("a ref");
                    host.accept(&of).await;
                    report(&mut host, &of, &assign.input_json, 0).await;
                    self.held.insert(of.job_id.clone(), (of, assign.input_json));
                }
                Hear::Ack(ack) if ack.seq == 2 => {
                    self.held.remove(&ack.r#ref.expect("a ref").job_id);
                }
                Hear::Revoked(revoked) => {
                    self.held.remove(&revoked.r#ref.expect("a ref").job_id);
                }
                _ => {}
            }
        }
    }
}

/// A job that goes on, and up to where its reports are durable.
fn kept(keep: proto::KeptAssignment) -> (String, u64) {
    (keep.r#ref.expect("a ref").job_id, keep.acked_seq)
}

async fn report(host: &mut HostPeer, of: &AssignmentRef, input: &str, acked: u64) {
    let all = [log(1, "begun"), result(2, input)];
    let left = all.into_iter().filter(|report| report.seq > acked);
    host.report(of, left.collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_upgraded_one_by_one_under_load_and_no_stream_has_a_gap() {
    let Some(previous) = support::previous::arcpd(support::previous::RELEASED) else {
        return;
    };
    let (nats, dirs) = (
        Nats::single(),
        [(); 3].map(|()| tempfile::tempdir().unwrap()),
    );
    let mut replicas = Vec::new();
    for dir in &dirs {
        replicas.push(replica(&previous, &nats, dir.path()));
    }
    let all = replicas.iter().map(|replica| replica.address.clone());
    let addresses: Addresses = Arc::new(Mutex::new(all.collect()));
    let registered = watch::Sender::new(false);
    let mut is_registered = registered.subscribe();
    let host = Host {
        addresses: addresses.clone(),
        held: HashMap::new(),
        registered,
    };
    let hosting = tokio::spawn(host.run());
    is_registered.wait_for(|is| *is).await.expect("a host");
    let (stop, stopped) = watch::channel(false);
    let (mut clients, mut progress) = (Vec::new(), Vec::new());
    for name in 0..CLIENTS {
        let client = Client::start(&addresses).await;
        progress.push(client.done.subscribe());
        clients.push(tokio::spawn(client.run(name, stopped.clone())));
    }
    for upgraded in 0..=dirs.len() {
        // Each mix is at work before the next.
        for done in &mut progress {
            let wanted = *done.borrow_and_update() + JOBS;
            let enough = done.wait_for(|done| *done >= wanted);
            enough.await.expect("a client that has not failed");
        }
        if upgraded == dirs.len() {
            break;
        }
        let mut old = replicas.remove(0);
        addresses
            .lock()
            .unwrap()
            .retain(|address| *address != old.address);
        old.signal("-TERM");
        let status = tokio::task::block_in_place(|| old.wait());
        assert!(status.success(), "{status}:\n{}", old.log());
        let new = Path::new(env!("CARGO_BIN_EXE_arcpd"));
        let new = replica(new, &nats, dirs[upgraded].path());
        addresses.lock().unwrap().push(new.address.clone());
        replicas.push(new);
    }
    stop.send_replace(true);
    for client in clients {
        client.await.expect("no panic").check().await;
    }
    hosting.abort();
}
