//! A scripted agent host.

use std::time::Duration;

use arcpd::wire::proto::agent_host_service_client::AgentHostServiceClient;
use arcpd::wire::proto::serve_request::Message as Say;
use arcpd::wire::proto::serve_response::Message as Hear;
use arcpd::wire::proto::{self, AssignmentRef, ServeRequest};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

pub const WORKERS: &str = "workers-token-01234567";

/// A configuration that lets `workers` host everything. A scripted host says only what
/// its script says: where the script is about something else, no busy machine and no
/// long step of it may cost it an offer or its job.
pub const HOSTING: &str = r#"
[[hosting]]
principal = "workers"
agents = ["*"]
[hosts]
heartbeat_interval_sec = 1
lost_after_sec = 600
accept_within_sec = 600
pending_max_sec = 600
"#;

/// The same where a host is to be lost, in the time that a test waits for it.
pub const HOSTING_BRIEFLY: &str = r#"
[[hosting]]
principal = "workers"
agents = ["*"]
[hosts]
heartbeat_interval_sec = 1
lost_after_sec = 4
accept_within_sec = 600
pending_max_sec = 600
"#;

/// Of the beats that a host says by itself; the acks of these are passed over.
const OWN_BEAT: u64 = u64::MAX;

pub struct HostPeer {
    requests: mpsc::Sender<ServeRequest>,
    responses: Streaming<proto::ServeResponse>,
    beats: Option<AbortOnDropHandle<()>>,
}

pub fn agent(name: &str) -> proto::HostedAgent {
    proto::HostedAgent {
        name: name.into(),
        version: "1.0.0".into(),
        ..Default::default()
    }
}

pub fn with_policy(name: &str, policy: proto::LossPolicy) -> proto::HostedAgent {
    proto::HostedAgent {
        loss_policy: policy.into(),
        ..agent(name)
    }
}

pub fn register(instance: &str, agents: Vec<proto::HostedAgent>, max: u32) -> proto::Register {
    proto::Register {
        host_name: instance.into(),
        host_instance_id: instance.into(),
        agents,
        max_in_flight: max,
        ..Default::default()
    }
}

pub fn held(of: &AssignmentRef) -> proto::HeldAssignment {
    proto::HeldAssignment {
        r#ref: Some(of.clone()),
    }
}

pub fn log(seq: u64, message: &str) -> proto::Report {
    let body = proto::job_event::Body::Log(proto::Log {
        level: "info".into(),
        message: message.into(),
        attributes_json: String::new(),
    });
    event(seq, body)
}

pub fn event(seq: u64, body: proto::job_event::Body) -> proto::Report {
    let event = proto::JobEvent {
        ts: None,
        body: Some(body),
    };
    proto::Report {
        seq,
        report: Some(proto::report::Report::Event(event)),
    }
}

pub fn result(seq: u64, json: &str) -> proto::Report {
    complete(seq, proto::complete::Outcome::ResultJson(json.into()))
}

pub fn complete(seq: u64, outcome: proto::complete::Outcome) -> proto::Report {
    let complete = proto::Complete {
        outcome: Some(outcome),
    };
    proto::Report {
        seq,
        report: Some(proto::report::Report::Complete(complete)),
    }
}

async fn beats(requests: mpsc::Sender<ServeRequest>) {
    let mut beats = tokio::time::interval(Duration::from_millis(500));
    loop {
        beats.tick().await;
        let message = Some(Say::Heartbeat(proto::Heartbeat { nonce: OWN_BEAT }));
        if requests.send(ServeRequest { message }).await.is_err() {
            return;
        }
    }
}

impl HostPeer {
    /// A stream with a token, nothing said.
    pub async fn dial(address: &str, token: &str) -> Result<Self, Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.expect("an address").connect().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        Self::on(channel, token).await
    }

    pub async fn on(channel: tonic::transport::Channel, token: &str) -> Result<Self, Status> {
        let (requests, rx) = mpsc::channel(256);
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(rx));
        let bearer = format!("Bearer {token}").parse().expect("a token");
        request.metadata_mut().insert("authorization", bearer);
        let responses = AgentHostServiceClient::new(channel).serve(request).await?;
        Ok(Self {
            requests,
            responses: responses.into_inner(),
            beats: None,
        })
    }

    pub async fn connect(
        address: &str,
        register: proto::Register,
    ) -> Result<(Self, proto::Registered), Status> {
        Self::connect_as(WORKERS, address, register).await
    }

    pub async fn connect_as(
        token: &str,
        address: &str,
        register: proto::Register,
    ) -> Result<(Self, proto::Registered), Status> {
        let mut host = Self::dial(address, token).await?;
        host.say(Say::Register(register)).await;
        match host.hear().await? {
            Hear::Registered(registered) => {
                host.beats = Some(AbortOnDropHandle::new(tokio::spawn(beats(
                    host.requests.clone(),
                ))));
                Ok((host, registered))
            }
            other => panic!("expected registered, got {other:?}"),
        }
    }

    pub async fn serving(address: &str, instance: &str, name: &str, max: u32) -> Self {
        let register = register(instance, vec![agent(name)], max);
        Self::connect(address, register)
            .await
            .expect("registered")
            .0
    }

    /// From now on it says what its script says, and nothing else.
    pub fn stop_beating(&mut self) {
        self.beats = None;
    }

    pub async fn say(&mut self, message: Say) {
        let message = Some(message);
        // A stream that is over is seen by whoever listens.
        let _ = self.requests.send(ServeRequest { message }).await;
    }

    pub async fn accept(&mut self, of: &AssignmentRef) {
        let r#ref = Some(of.clone());
        self.say(Say::Accept(proto::Accept { r#ref })).await;
    }

    pub async fn report(&mut self, of: &AssignmentRef, reports: Vec<proto::Report>) {
        let r#ref = Some(of.clone());
        self.say(Say::Reports(proto::Reports { r#ref, reports }))
            .await;
    }

    pub async fn beat(&mut self) {
        self.say(Say::Heartbeat(proto::Heartbeat { nonce: 1 }))
            .await;
    }

    /// The next message, or why the stream ended.
    pub async fn hear(&mut self) -> Result<Hear, Status> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.hear_at_last());
        next.await.expect("a message within 30 s")
    }

    async fn hear_at_last(&mut self) -> Result<Hear, Status> {
        loop {
            let Some(response) = self.responses.message().await? else {
                return Err(Status::ok("the end"));
            };
            match response.message.expect("a message") {
                Hear::HeartbeatAck(ack) if ack.nonce == OWN_BEAT => {}
                message => return Ok(message),
            }
        }
    }

    /// The next message of interest; acks and heartbeats are passed over.
    pub async fn next(&mut self) -> Hear {
        loop {
            match self.hear().await.expect("an open stream") {
                Hear::Ack(_) | Hear::HeartbeatAck(_) => {}
                other => return other,
            }
        }
    }

    pub async fn assigned(&mut self) -> (proto::Assign, AssignmentRef) {
        match self.next().await {
            Hear::Assign(assign) => {
                let of = assign.r#ref.clone().expect("a ref");
                (assign, of)
            }
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    /// Waits until a report is durable.
    pub async fn acked(&mut self, seq: u64) {
        loop {
            match self.hear().await.expect("an open stream") {
                Hear::Ack(ack) if ack.seq >= seq => return,
                Hear::Ack(_) | Hear::HeartbeatAck(_) => {}
                other => panic!("expected an ack of {seq}, got {other:?}"),
            }
        }
    }

    pub async fn revoked(&mut self) -> String {
        match self.next().await {
            Hear::Revoked(revoked) => revoked.reason,
            other => panic!("expected revoked, got {other:?}"),
        }
    }

    pub async fn rejected(&mut self) -> String {
        match self.next().await {
            Hear::Rejected(rejected) => rejected.message,
            other => panic!("expected rejected, got {other:?}"),
        }
    }

    /// Why the stream ends.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}
