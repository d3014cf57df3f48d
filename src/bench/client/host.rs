//! An agent host of the bench: plain stubs. What is said again after a cut is up to
//! whoever has it.

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::wire::proto::agent_host_service_client::AgentHostServiceClient;
use crate::wire::proto::serve_request::Message as Say;
use crate::wire::proto::serve_response::Message as Hear;
use crate::wire::proto::{
    self, AssignmentRef, HeldAssignment, HostedAgent, Register, Registered, Report, ServeRequest,
    ServeResponse,
};

pub struct Host {
    requests: mpsc::Sender<ServeRequest>,
    responses: tonic::Streaming<ServeResponse>,
}

impl Host {
    pub async fn serving(
        channel: Channel,
        instance: &str,
        agent: &str,
        max_in_flight: u32,
    ) -> anyhow::Result<Self> {
        let register = register(instance, agent, max_in_flight, Vec::new());
        Ok(Self::registered(channel, register).await?.0)
    }

    /// With what the runtime says of the assignments that the host still holds.
    pub async fn registered(
        channel: Channel,
        register: Register,
    ) -> anyhow::Result<(Self, Registered)> {
        let (requests, rx) = mpsc::channel(256);
        let message = Some(Say::Register(register));
        requests.send(ServeRequest { message }).await?;
        let mut client = AgentHostServiceClient::new(channel);
        let responses = client.serve(ReceiverStream::new(rx)).await?.into_inner();
        let mut host = Self {
            requests,
            responses,
        };
        match host.hear().await? {
            Hear::Registered(registered) => Ok((host, registered)),
            other => bail!("not registered: {other:?}"),
        }
    }

    pub async fn say(&self, message: Say) -> anyhow::Result<()> {
        let message = Some(message);
        Ok(self.requests.send(ServeRequest { message }).await?)
    }

    pub async fn accept(&self, of: &AssignmentRef) -> anyhow::Result<()> {
        let r#ref = Some(of.clone());
        self.say(Say::Accept(proto::Accept { r#ref })).await
    }

    pub async fn report(&self, of: &AssignmentRef, reports: Vec<Report>) -> anyhow::Result<()> {
        let r#ref = Some(of.clone());
        self.say(Say::Reports(proto::Reports { r#ref, reports }))
            .await
    }

    pub async fn hear(&mut self) -> anyhow::Result<Hear> {
        let response = self.responses.message().await?;
        let response = response.context("the runtime hung up")?;
        response.message.context("an empty message")
    }

    /// The next assignment; acks on the way are passed over.
    pub async fn assigned(&mut self) -> anyhow::Result<AssignmentRef> {
        loop {
            match self.hear().await? {
                Hear::Assign(assign) => return assign.r#ref.context("no ref"),
                Hear::Ack(_) | Hear::HeartbeatAck(_) => {}
                other => bail!("not an assignment: {other:?}"),
            }
        }
    }

    /// Waits until a report is durable.
    pub async fn acked(&mut self, seq: u64) -> anyhow::Result<()> {
        loop {
            match self.hear().await? {
                Hear::Ack(ack) if ack.seq >= seq => return Ok(()),
                Hear::Ack(_) | Hear::HeartbeatAck(_) => {}
                other => bail!("not an ack: {other:?}"),
            }
        }
    }

    /// Completes every job at once, with its input as the result.
    pub async fn echo(&mut self) -> anyhow::Result<()> {
        loop {
            let of = self.assigned().await?;
            self.accept(&of).await?;
            self.report(&of, vec![result(1)]).await?;
        }
    }
}

pub fn register(
    instance: &str,
    agent: &str,
    max_in_flight: u32,
    held: Vec<AssignmentRef>,
) -> Register {
    let held = held
        .into_iter()
        .map(|of| HeldAssignment { r#ref: Some(of) });
    Register {
        host_name: instance.into(),
        host_instance_id: instance.into(),
        agents: vec![HostedAgent {
            name: agent.into(),
            version: "1.0.0".into(),
            ..Default::default()
        }],
        max_in_flight,
        resume: held.collect(),
        ..Default::default()
    }
}

/// A report like the events of a firehose.
pub fn sample(seq: u64, ts: prost_types::Timestamp) -> Report {
    let log = proto::Log {
        level: "info".into(),
        // Counted from 0, as a firehose does: the client checks it.
        message: format!("{:.<128}", format!("{:08}", seq - 1)),
        attributes_json: String::new(),
    };
    let event = proto::JobEvent {
        ts: Some(ts),
        body: Some(proto::job_event::Body::Log(log)),
    };
    Report {
        seq,
        report: Some(proto::report::Report::Event(event)),
    }
}

pub fn result(seq: u64) -> Report {
    let outcome = Some(proto::complete::Outcome::ResultJson("1".into()));
    Report {
        seq,
        report: Some(proto::report::Report::Complete(proto::Complete { outcome })),
    }
}
