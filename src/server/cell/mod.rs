//! One of several replicas that share a log: see `docs/cluster.md`.
//!
//! The log decides who has what; here is what goes beside it, over subjects of its own:
//! that a replica [is there](presence), what it [knows of the others](peers), what hosts
//! [ask of them](elsewhere), who has still to [read](readers) what is to be trimmed. The
//! [`Membership`] hears the log's news and puts them together.

mod elsewhere;
mod membership;
mod peers;
mod presence;
mod readers;

pub(super) use membership::Membership;
pub(super) use peers::Peers;
pub(super) use readers::Readers;
