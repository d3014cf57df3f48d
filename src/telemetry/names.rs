//! Every name a span or an attribute has, so that one can be changed in one place.
//!
//! `gen_ai.*` and `rpc.*` are OpenTelemetry's (generative AI and RPC conventions),
//! `arcp.*` the protocol's and our own. None of these may carry a token, an input,
//! a result, arguments of a tool or the text of a message: an agent's failure is
//! told by its code.

pub const SCOPE: &str = "arcpd";

/// Spans.
pub const SUBMIT: &str = "arcp.job submit";
pub const CANCEL: &str = "arcp.job cancel";
pub const SUBSCRIBE: &str = "arcp.job subscribe";
pub const OPEN: &str = "arcp.session open";
pub const RESUME: &str = "arcp.session resume";
pub const AUTHORIZE: &str = "arcp.job authorize";
pub const HOST_LOST: &str = "arcp.host lost";
pub const ISSUE: &str = "arcp.credential issue";
pub const RETRY: &str = "arcp.job retry";
pub const INVOKE_AGENT: &str = "invoke_agent";
pub const EXECUTE_TOOL: &str = "execute_tool";

/// Attributes.
pub const JOB_ID: &str = "arcp.job.id";
pub const JOB_STATUS: &str = "arcp.job.status";
pub const JOB_EVENTS: &str = "arcp.job.events";
pub const SESSION_ID: &str = "arcp.session.id";
pub const PARENT_JOB_ID: &str = "arcp.job.parent_id";
pub const CHILD_JOB_ID: &str = "arcp.job.child_id";
pub const QUEUE_SECONDS: &str = "arcp.job.queue_seconds";
pub const ATTEMPT: &str = "arcp.job.attempt";
pub const DUPLICATE: &str = "arcp.job.duplicate";
pub const HOST_NAME: &str = "arcp.host.name";
pub const LOSS_POLICY: &str = "arcp.host.loss_policy";
pub const TRACE_ID_IGNORED: &str = "arcp.trace_id.ignored";
pub const LAST_EVENT_SEQ: &str = "arcp.session.last_event_seq";
pub const HISTORY: &str = "arcp.subscribe.history";
pub const COST: &str = "arcp.cost.";
/// The first two are the draft's (§11); a currency comes behind all but the first.
pub const LEASE_EXPIRES_AT: &str = "arcp.lease.expires_at";
pub const BUDGET_REMAINING: &str = "arcp.budget.remaining.";
pub const BUDGET_GRANTED: &str = "arcp.budget.granted.";
pub const LEASE_CAPABILITY: &str = "arcp.lease.capability";
pub const TOOL_UNFINISHED: &str = "arcp.tool.unfinished";
pub const PHASE: &str = "arcp.job.phase";

pub const OPERATION: &str = "gen_ai.operation.name";
pub const AGENT_NAME: &str = "gen_ai.agent.name";
pub const AGENT_VERSION: &str = "gen_ai.agent.version";
/// An ARCP session is a conversation.
pub const CONVERSATION: &str = "gen_ai.conversation.id";
pub const TOOL_NAME: &str = "gen_ai.tool.name";
pub const TOOL_CALL_ID: &str = "gen_ai.tool.call.id";

pub const RPC_SYSTEM: &str = "rpc.system.name";
pub const RPC_METHOD: &str = "rpc.method";
pub const ERROR_TYPE: &str = "error.type";
