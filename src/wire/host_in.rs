//! A host's protobuf message as a checked request. What concerns one report is
//! said of that report; the rest is refused whole.

use std::time::Duration;

use super::convert::{event_from_proto, filled};
use super::job_service::time;
use super::{Invalid, check_json, proto};
use crate::protocol::host::{
    AssignmentRef, Completion, HostRequest, HostedAgent, LossPolicy, Register, Report, ReportBody,
};
use crate::protocol::{AgentRef, ErrorCode, Failure, Outcome};

const NAME_BYTES_MAX: usize = 128;
const AGENTS_MAX: usize = 256;
const LABELS_MAX: usize = 32;
const RESUME_MAX: usize = 100_000;
const TEXT_BYTES_MAX: usize = 64 * 1024;
const CHECKPOINT_BYTES_MAX: usize = 256 * 1024;
/// Largest inline result: it goes out twice, in a frame below 1,000,000 bytes.
const RESULT_BYTES_MAX: usize = 400_000;

pub fn host_request_from_proto(request: proto::ServeRequest) -> Result<HostRequest, Invalid> {
    use proto::serve_request::Message as M;
    let message = request
        .message
        .ok_or_else(|| Invalid::new("message: missing, or of a kind this runtime does not know"))?;
    Ok(match message {
        M::Register(m) => HostRequest::Register(register(m)?),
        M::Heartbeat(m) => HostRequest::Heartbeat { nonce: m.nonce },
        M::Accept(m) => HostRequest::Accept(assignment("accept.ref", m.r#ref)?),
        M::Decline(m) => HostRequest::Decline {
            of: assignment("decline.ref", m.r#ref)?,
            reason: bounded("decline.reason", m.reason, TEXT_BYTES_MAX)?,
        },
        M::Reports(m) => HostRequest::Reports {
            of: assignment("reports.ref", m.r#ref)?,
            reports: m.reports.into_iter().map(report).collect(),
        },
        M::Authorize(m) => HostRequest::Authorize {
            of: assignment("authorize.ref", m.r#ref)?,
            // What is too long of these is answered as the question it is.
            call_id: m.call_id,
            capability: m.capability,
            target: m.target,
        },
        M::Delegate(m) => HostRequest::Delegate {
            of: assignment("delegate.ref", m.r#ref)?,
            delegate_id: m.delegate_id,
            agent: m.agent,
            input_json: m.input_json,
            lease_request_json: m.lease_request_json,
            expires_at: time("delegate.lease_expires_at", m.lease_expires_at)?,
        },
        M::Capacity(m) => HostRequest::Capacity {
            max_in_flight: m.max_in_flight,
        },
        M::Draining(m) => HostRequest::Draining {
            deadline: duration("draining.deadline", m.deadline)?,
        },
        M::RefreshAuth(m) => HostRequest::RefreshAuth {
            bearer_token: m.bearer_token,
        },
    })
}

fn bounded(field: &str, text: String, bytes_max: usize) -> Result<String, Invalid> {
    match text.len() <= bytes_max {
        true => Ok(text),
        false => Err(Invalid::new(format!(
            "{field}: longer than {bytes_max} bytes"
        ))),
    }
}

fn assignment(field: &str, of: Option<proto::AssignmentRef>) -> Result<AssignmentRef, Invalid> {
    let of = of.ok_or_else(|| Invalid::new(format!("{field}: missing")))?;
    Ok(AssignmentRef {
        job_id: bounded(&format!("{field}.job_id"), of.job_id, NAME_BYTES_MAX)?,
        lease_token: bounded(
            &format!("{field}.lease_token"),
            of.lease_token,
            NAME_BYTES_MAX,
        )?,
    })
}

fn duration(field: &str, value: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let value = value.ok_or_else(|| Invalid::new(format!("{field}: missing")))?;
    Duration::try_from(value).map_err(|_| Invalid::new(format!("{field}: must not be negative")))
}

fn register(m: proto::Register) -> Result<Register, Invalid> {
    let instance_id = bounded(
        "register.host_instance_id",
        m.host_instance_id,
        NAME_BYTES_MAX,
    )?;
    if instance_id.is_empty() {
        return Err(Invalid::new("register.host_instance_id: missing"));
    }
    if m.agents.is_empty() || m.agents.len() > AGENTS_MAX {
        return Err(Invalid::new(format!(
            "register.agents: there are {}, must be 1 to {AGENTS_MAX}",
            m.agents.len()
        )));
    }
    if m.labels.len() > LABELS_MAX {
        return Err(Invalid::new(format!(
            "register.labels: more than {LABELS_MAX}"
        )));
    }
    for (key, value) in &m.labels {
        if key.len() > NAME_BYTES_MAX || value.len() > NAME_BYTES_MAX {
            return Err(Invalid::new(format!(
                "register.labels: a key or value is longer than {NAME_BYTES_MAX} bytes"
            )));
        }
    }
    if m.resume.len() > RESUME_MAX {
        return Err(Invalid::new(format!(
            "register.resume: more than {RESUME_MAX}"
        )));
    }
    let resume = m.resume.into_iter();
    Ok(Register {
        host_name: bounded("register.host_name", m.host_name, NAME_BYTES_MAX)?,
        instance_id,
        agents: m.agents.into_iter().map(agent).collect::<Result<_, _>>()?,
        max_in_flight: m.max_in_flight.max(1),
        labels: m.labels.into_iter().collect(),
        resume: resume
            .map(|held| assignment("register.resume.ref", held.r#ref))
            .collect::<Result<_, _>>()?,
        sdk: bounded(
            "register.sdk_name",
            format!("{} {}", m.sdk_name, m.sdk_version),
            2 * NAME_BYTES_MAX,
        )?,
    })
}

fn agent(m: proto::HostedAgent) -> Result<HostedAgent, Invalid> {
    let loss_policy = match m.loss_policy() {
        proto::LossPolicy::Unspecified | proto::LossPolicy::Fail => LossPolicy::Fail,
        proto::LossPolicy::Retry => LossPolicy::Retry,
        proto::LossPolicy::Checkpoint => LossPolicy::Checkpoint,
    };
    let text = format!("{}@{}", m.name, m.version);
    AgentRef::parse(&text).map_err(|why| Invalid::new(format!("register.agents: {why}")))?;
    if !m.input_schema_json.is_empty() {
        check_json("register.agents.input_schema_json", &m.input_schema_json)?;
    }
    Ok(HostedAgent {
        name: m.name,
        version: m.version,
        max_in_flight: m.max_in_flight,
        loss_policy,
        description: bounded("register.agents.description", m.description, TEXT_BYTES_MAX)?,
        input_schema_json: bounded(
            "register.agents.input_schema_json",
            m.input_schema_json,
            TEXT_BYTES_MAX,
        )?,
    })
}

fn report(m: proto::Report) -> Report {
    Report {
        seq: m.seq,
        body: body(m.report),
    }
}

fn body(report: Option<proto::report::Report>) -> Result<ReportBody, String> {
    use proto::report::Report as R;
    Ok(match report.ok_or("report: missing")? {
        R::Event(m) => {
            let (ts, body) = event_from_proto(m)?;
            ReportBody::Event { ts, body }
        }
        R::ResultPart(m) => match m.part.ok_or("result_part: missing")? {
            proto::result_part::Part::Text(text) => ReportBody::Text(text),
            proto::result_part::Part::Data(data) => ReportBody::Data(data),
        },
        R::Checkpoint(m) => match m.state.len() {
            0..=CHECKPOINT_BYTES_MAX => ReportBody::Checkpoint(m.state),
            bytes => {
                return Err(format!(
                    "checkpoint.state: {bytes} bytes, the limit is {CHECKPOINT_BYTES_MAX}"
                ));
            }
        },
        R::Complete(m) => ReportBody::Complete(completion(m)),
    })
}

/// A job must end: an outcome that cannot be used is a failure that says so.
fn completion(m: proto::Complete) -> Completion {
    use proto::complete::Outcome as O;
    let invalid = |message: String| Completion::Outcome(Outcome::Failed(Failure::invalid(message)));
    match m.outcome {
        None => invalid("complete.outcome: missing".into()),
        Some(O::ResultJson(json)) if json.len() > RESULT_BYTES_MAX => invalid(format!(
            "complete.result_json: {} bytes, the limit is {RESULT_BYTES_MAX}; report result_part",
            json.len()
        )),
        Some(O::ResultJson(result_json)) => {
            match check_json("complete.result_json", &result_json) {
                Ok(()) => Completion::Outcome(Outcome::Inline { result_json }),
                Err(why) => invalid(why.message),
            }
        }
        Some(O::Parts(m)) => Completion::Parts {
            summary: filled(m.summary),
        },
        Some(O::Cancelled(_)) => Completion::Outcome(Outcome::Cancelled {
            message: "cancelled by the agent".into(),
        }),
        Some(O::Failure(m)) => match failure(m) {
            Ok(failure) => Completion::Outcome(Outcome::Failed(failure)),
            Err(why) => invalid(why),
        },
    }
}

fn failure(m: proto::Failure) -> Result<Failure, String> {
    let code = ErrorCode::ALL
        .into_iter()
        .find(|code| code.as_str() == m.code)
        .ok_or_else(|| format!("complete.failure.code: {:?} is not one of §12", m.code))?;
    let mut failure = Failure::new(code, m.message);
    failure.retryable = m.retryable;
    if !m.details_json.is_empty() {
        check_json("complete.failure.details_json", &m.details_json).map_err(|e| e.message)?;
        failure = failure.with_details(m.details_json);
    }
    Ok(failure)
}
