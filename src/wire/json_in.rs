//! A client's JSON text as a checked request. Missing, null and extra members
//! are read as `protocol/wire` of the draft allows: unknown ones are ignored.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::extensions::Extensions;
use super::proto_in::{ID_BYTES_MAX, KEY_BYTES_MAX};
use super::{Invalid, JSON_DEPTH_MAX, check_json, depth};
use crate::protocol::message::{Hello, ListJobs, Profile, Request, RequestBody, Resume, Submit};
use crate::protocol::{Timestamp, VERSION};

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    arcp: Option<String>,
    id: Option<String>,
    #[serde(rename = "type")]
    type_name: Option<String>,
    session_id: Option<String>,
    job_id: Option<String>,
    trace_id: Option<String>,
    #[serde(borrow)]
    extensions: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct IdOnly {
    id: Option<String>,
}

pub fn parse_json(text: &str) -> Result<Request, Invalid> {
    if depth(text.as_bytes()) > JSON_DEPTH_MAX {
        return Err(Invalid::new(format!(
            "frame: JSON nested deeper than {JSON_DEPTH_MAX}"
        )));
    }
    let raw: RawEnvelope = object("frame", text).map_err(|invalid| Invalid {
        request_id: serde_json::from_str::<IdOnly>(text)
            .ok()
            .and_then(|only| only.id)
            .filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX),
        ..invalid
    })?;
    let named = |message: String| Invalid {
        request_id: raw
            .id
            .clone()
            .filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX),
        message,
        of_submit: raw.type_name.as_deref() == Some("job.submit"),
    };
    if raw.arcp.as_deref() != Some(VERSION) {
        return Err(named(format!("arcp: must be \"{VERSION}\"")));
    }
    let id = raw
        .id
        .clone()
        .filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
    let Some(id) = id else {
        return Err(Invalid::new(format!(
            "id: must be a string of 1 to {ID_BYTES_MAX} bytes"
        )));
    };
    let Some(type_name) = raw.type_name.as_deref().filter(|name| !name.is_empty()) else {
        return Err(named("type: missing".into()));
    };
    if type_name.len() > ID_BYTES_MAX {
        return Err(named(format!("type: longer than {ID_BYTES_MAX} bytes")));
    }
    let payload = raw.payload.map_or("{}", RawValue::get);
    let (mut body, payload_job_id) =
        body(type_name, payload).map_err(|invalid| named(invalid.message))?;
    if let RequestBody::Hello(hello) = &mut body {
        hello.profile = profile(&id, hello.profile);
        hello.named_by_envelope(raw.session_id.as_deref());
    }
    // All SDKs name a job to cancel in the envelope, one to subscribe in the payload.
    let job_id = raw
        .job_id
        .clone()
        .or(payload_job_id)
        .filter(|id| !id.is_empty());
    if job_id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX) {
        return Err(named(format!("job_id: longer than {ID_BYTES_MAX} bytes")));
    }
    let extensions = Extensions::read(raw.extensions.map_or("", RawValue::get));
    let trace = extensions.trace(raw.trace_id.as_deref()).map_err(named)?;
    Ok(Request {
        id,
        session_id: raw.session_id.clone().filter(|id| !id.is_empty()),
        job_id,
        trace,
        optional: extensions.optional,
        body,
    })
}

/// The published SDKs are told apart by the form of their envelope ids; `hint`
/// is Python where the hello lists agents, as that SDK alone does.
fn profile(id: &str, hint: Profile) -> Profile {
    let bare_ulid = id.len() == 26 && id.parse::<ulid::Ulid>().is_ok();
    match hint {
        Profile::Python if bare_ulid => Profile::Python,
        _ if id.starts_with("msg_") => Profile::TypeScript,
        _ => Profile::Draft,
    }
}

fn payload<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Invalid> {
    object("payload", text)
}

/// A JSON object; what is wrong is named by its path, or by `whole`.
fn object<'a, T: Deserialize<'a>>(whole: &str, text: &'a str) -> Result<T, Invalid> {
    // An array would be read as the members in their order.
    if text.trim_start().starts_with('[') {
        return Err(Invalid::new(format!("{whole}: must be an object")));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path();
        match path.iter().next() {
            Some(_) if error.inner().is_data() => {
                Invalid::new(format!("{path}: {}", error.inner()))
            }
            _ => Invalid::new(format!("{whole}: {}", error.inner())),
        }
    })?;
    json.end()
        .map_err(|error| Invalid::new(format!("{whole}: {error}")))?;
    Ok(read)
}

fn body(type_name: &str, text: &str) -> Result<(RequestBody, Option<String>), Invalid> {
    let plain = |body| Ok((body, None));
    match type_name {
        "session.hello" => plain(RequestBody::Hello(payload::<HelloPayload>(text)?.into())),
        "session.resume" => plain(RequestBody::Hello(payload::<ResumePayload>(text)?.into())),
        "session.ping" => {
            #[derive(Deserialize)]
            struct Ping {
                nonce: String,
            }
            let Ping { nonce } = payload(text)?;
            if nonce.len() > KEY_BYTES_MAX {
                return Err(Invalid::new(format!(
                    "nonce: longer than {KEY_BYTES_MAX} bytes"
                )));
            }
            plain(RequestBody::Ping { nonce })
        }
        "session.pong" => {
            #[derive(Deserialize)]
            struct Pong {
                ping_nonce: String,
            }
            plain(RequestBody::Pong {
                nonce: payload::<Pong>(text)?.ping_nonce,
            })
        }
        "session.ack" => {
            #[derive(Deserialize)]
            struct Ack {
                last_processed_seq: u64,
            }
            let Ack { last_processed_seq } = payload(text)?;
            plain(RequestBody::Ack { last_processed_seq })
        }
        "session.list_jobs" => plain(RequestBody::ListJobs(
            payload::<ListPayload>(text)?.try_into()?,
        )),
        "session.close" => plain(RequestBody::Close),
        "session.bye" => plain(RequestBody::Bye),
        "job.submit" => plain(RequestBody::Submit(submit(text)?)),
        "job.cancel" => {
            #[derive(Deserialize)]
            struct Cancel {
                job_id: Option<String>,
                reason: Option<String>,
            }
            let Cancel { job_id, reason } = payload(text)?;
            Ok((RequestBody::Cancel { reason }, job_id))
        }
        "job.subscribe" => {
            #[derive(Deserialize)]
            struct Subscribe {
                job_id: Option<String>,
                from_event_seq: Option<u64>,
                history: Option<bool>,
            }
            let Subscribe {
                job_id,
                from_event_seq,
                history,
            } = payload(text)?;
            let body = RequestBody::Subscribe {
                history: history.unwrap_or(false),
                from_event_seq: from_event_seq.unwrap_or(0),
                from_job_seq: 0,
            };
            Ok((body, job_id))
        }
        "job.unsubscribe" => {
            #[derive(Deserialize)]
            struct Unsubscribe {
                job_id: Option<String>,
            }
            Ok((
                RequestBody::Unsubscribe,
                payload::<Unsubscribe>(text)?.job_id,
            ))
        }
        other => plain(RequestBody::Other {
            type_name: other.into(),
        }),
    }
}

#[derive(Deserialize)]
struct HelloPayload {
    client: Option<Client>,
    auth: Option<Auth>,
    capabilities: Option<Capabilities>,
    resume: Option<ResumePart>,
}

#[derive(Deserialize)]
struct Client {
    name: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    scheme: Option<String>,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Capabilities {
    features: Option<Vec<String>>,
    agents: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct ResumePart {
    session_id: String,
    resume_token: String,
    last_event_seq: u64,
}

/// Draft §6.3 shows neither `session_id` nor `auth`; both are read when given.
#[derive(Deserialize)]
struct ResumePayload {
    session_id: Option<String>,
    resume_token: String,
    last_event_seq: u64,
    auth: Option<Auth>,
}

impl From<HelloPayload> for Hello {
    fn from(hello: HelloPayload) -> Self {
        let client = hello.client.map_or_else(String::new, |client| {
            format!(
                "{} {}",
                client.name.unwrap_or_default(),
                client.version.unwrap_or_default()
            )
        });
        let (auth_scheme, auth_token) = auth(hello.auth);
        let lists_agents = hello
            .capabilities
            .as_ref()
            .is_some_and(|capabilities| capabilities.agents.is_some());
        Self {
            profile: if lists_agents {
                Profile::Python
            } else {
                Profile::Draft
            },
            client,
            auth_scheme,
            auth_token,
            features: hello
                .capabilities
                .and_then(|c| c.features)
                .unwrap_or_default(),
            resume: hello.resume.map(|resume| Resume {
                session_id: resume.session_id,
                resume_token: resume.resume_token,
                last_event_seq: resume.last_event_seq,
            }),
        }
    }
}

impl From<ResumePayload> for Hello {
    fn from(resume: ResumePayload) -> Self {
        let (auth_scheme, auth_token) = auth(resume.auth);
        Self {
            profile: Profile::Draft,
            client: String::new(),
            auth_scheme,
            auth_token,
            features: Vec::new(),
            resume: Some(Resume {
                session_id: resume.session_id.unwrap_or_default(),
                resume_token: resume.resume_token,
                last_event_seq: resume.last_event_seq,
            }),
        }
    }
}

fn auth(auth: Option<Auth>) -> (String, String) {
    auth.map_or_else(Default::default, |auth| {
        (
            auth.scheme.unwrap_or_default(),
            auth.token.unwrap_or_default(),
        )
    })
}

#[derive(Deserialize)]
struct ListPayload {
    filter: Option<Filter>,
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Deserialize, Default)]
struct Filter {
    status: Option<Vec<String>>,
    agent: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
}

impl TryFrom<ListPayload> for ListJobs {
    type Error = Invalid;

    fn try_from(list: ListPayload) -> Result<Self, Invalid> {
        let filter = list.filter.unwrap_or_default();
        Ok(Self {
            statuses: filter.status.unwrap_or_default(),
            agent: filter.agent,
            created_after: instant("filter.created_after", filter.created_after)?,
            created_before: instant("filter.created_before", filter.created_before)?,
            limit: list.limit.unwrap_or(0),
            cursor: list.cursor,
        })
    }
}

fn instant(field: &str, text: Option<String>) -> Result<Option<Timestamp>, Invalid> {
    text.map(|text| {
        text.parse::<jiff::Timestamp>()
            .map(|instant| Timestamp(instant.as_millisecond()))
            .map_err(|e| Invalid::new(format!("{field}: not an RFC 3339 instant: {e}")))
    })
    .transpose()
}

fn submit(text: &str) -> Result<Submit, Invalid> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        agent: Option<String>,
        #[serde(borrow)]
        input: Option<&'a RawValue>,
        #[serde(borrow)]
        lease_request: Option<&'a RawValue>,
        lease_constraints: Option<Constraints>,
        idempotency_key: Option<String>,
        max_runtime_sec: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Constraints {
        expires_at: Option<String>,
    }
    let raw: Raw = payload(text)?;
    let input_json = raw.input.map_or("null", RawValue::get).to_owned();
    check_json("input", &input_json)?;
    let lease_request_json = raw.lease_request.map_or("{}", RawValue::get).to_owned();
    check_json("lease_request", &lease_request_json)?;
    if raw
        .idempotency_key
        .as_ref()
        .is_some_and(|key| key.len() > KEY_BYTES_MAX)
    {
        return Err(Invalid::new(format!(
            "idempotency_key: longer than {KEY_BYTES_MAX} bytes"
        )));
    }
    Ok(Submit {
        agent: raw.agent.ok_or_else(|| Invalid::new("agent: missing"))?,
        input_json,
        lease_request_json,
        lease_expires_at: instant(
            "lease_constraints.expires_at",
            raw.lease_constraints
                .and_then(|constraints| constraints.expires_at),
        )?,
        idempotency_key: raw.idempotency_key.filter(|key| !key.is_empty()),
        max_runtime_sec: raw.max_runtime_sec.unwrap_or(0),
    })
}
