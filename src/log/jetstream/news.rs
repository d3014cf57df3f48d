//! What a replica hears of the others, in the order of the log.

use super::entry::Entry;
use crate::log::{Command, HostedAgentRow, Outcome, ReplicaNumber, StreamId};

#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Joined {
        replica: ReplicaNumber,
        own: bool,
    },
    /// It writes nothing any more, and nobody has its work yet.
    Left(ReplicaNumber),
    /// This replica has the work of that one now.
    Inherited(ReplicaNumber),
    /// Another has declared this replica gone: it is to stop.
    Fenced,
    /// The log cannot be followed any further: why.
    Lost(String),
    /// A session was taken up at another replica.
    SessionTaken(String),
    /// A job was delegated in a session, at another replica.
    Delegated {
        session_id: String,
        stream: StreamId,
    },
    /// A job is for a replica that did not make it, or does not have it yet.
    Moved {
        to: ReplicaNumber,
        job_id: String,
    },
    /// For the replica that has the job.
    CancelAsked {
        job_id: String,
    },
    Agents(Vec<HostedAgentRow>),
}

pub(super) fn of(
    entry: &Entry,
    replica: ReplicaNumber,
    own: bool,
    me: Option<ReplicaNumber>,
    outcomes: &[Outcome],
) -> Vec<News> {
    let done = entry.commands.iter().zip(outcomes);
    let done = done.filter(|(_, outcome)| matches!(outcome, Outcome::Done | Outcome::Dialled(_)));
    done.filter_map(|(command, _)| match command {
        // A replica that has nothing to say would not find it out.
        Command::Inherit { replica: of, .. } if Some(*of) == me => Some(News::Fenced),
        Command::Join { .. } => Some(News::Joined { replica, own }),
        Command::Leave if !own => Some(News::Left(replica)),
        Command::Inherit { replica: of, .. } if own => Some(News::Inherited(*of)),
        Command::ClaimSession { id, .. } if !own => Some(News::SessionTaken(id.clone())),
        Command::CreateJob {
            job,
            owner: Some(to),
            ..
        } => Some(News::Moved {
            to: *to,
            job_id: job.id.clone(),
        }),
        Command::MoveJob { to, job_id, .. } => Some(News::Moved {
            to: *to,
            job_id: job_id.clone(),
        }),
        Command::CreateJob { job, .. } if !own && job.grant.parent_id.is_some() => {
            let (session_id, stream) = (job.session_id.clone(), job.stream);
            Some(News::Delegated { session_id, stream })
        }
        Command::AskCancel { job_id, .. } => {
            let job_id = job_id.clone();
            Some(News::CancelAsked { job_id })
        }
        Command::KeepAgents(agents) if !own => Some(News::Agents(agents.clone())),
        _ => None,
    })
    .collect()
}
