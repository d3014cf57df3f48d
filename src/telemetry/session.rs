//! What sessions do: short spans, in the peer's trace or one of their own. A session
//! is no parent of its jobs: it may be open for days, and they belong to whoever
//! submitted them. It names them in links.

use super::jobs::{run_of, via};
use super::{Telemetry, Via, names};
use crate::log::JobRow;
use crate::protocol::{ErrorCode, TraceContext};

/// Links of one span; of more jobs the newest are named.
pub const LINKS_MAX: usize = 32;

/// A request of a peer.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub context: &'a TraceContext,
    pub via: Via,
    pub start_ns: u64,
}

impl Telemetry {
    /// A hello that opened a session, or was refused one. None of a peer that nobody knows:
    /// whoever reaches the port would write into traces of its choice, past the sampler.
    pub fn opened(&self, asked: Asked<'_>, opened: Result<&str, ErrorCode>) {
        if opened == Err(ErrorCode::Unauthenticated) {
            return;
        }
        let Some(mut span) = self.asked(names::OPEN, asked.context, asked.start_ns) else {
            return;
        };
        via(&mut span, asked.via, "session.hello");
        match opened {
            Ok(session_id) => span.set(names::SESSION_ID, session_id),
            Err(code) => span.fail(code.as_str()),
        }
        self.span(span);
    }

    /// A hello that took a session up again, with the jobs it watches, newest last; as
    /// [`Self::opened`].
    pub fn resumed(
        &self,
        asked: Asked<'_>,
        session_id: &str,
        last_event_seq: u64,
        ended: Result<&[JobRow], ErrorCode>,
    ) {
        if matches!(ended, Err(ErrorCode::Unauthenticated)) {
            return;
        }
        let Some(mut span) = self.asked(names::RESUME, asked.context, asked.start_ns) else {
            return;
        };
        via(&mut span, asked.via, "session.resume");
        span.set(names::SESSION_ID, session_id);
        span.set(names::LAST_EVENT_SEQ, last_event_seq);
        match ended {
            Ok(jobs) => span.links.extend(jobs.iter().map(run_of)),
            Err(code) => span.fail(code.as_str()),
        }
        self.span(span);
    }

    pub fn subscribed(
        &self,
        asked: Asked<'_>,
        session_id: &str,
        history: bool,
        ended: Result<&JobRow, ErrorCode>,
    ) {
        let Some(mut span) = self.asked(names::SUBSCRIBE, asked.context, asked.start_ns) else {
            return;
        };
        via(&mut span, asked.via, "job.subscribe");
        span.set(names::SESSION_ID, session_id);
        span.set(names::HISTORY, history);
        match ended {
            Ok(job) => {
                span.set(names::JOB_ID, &*job.id);
                span.links.push(run_of(job));
            }
            Err(code) => span.fail(code.as_str()),
        }
        self.span(span);
    }
}
