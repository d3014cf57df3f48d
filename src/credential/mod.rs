//! Credentials that a job is given for services that cost money (§9.8, §14).
//!
//! A [`Provisioner`] has an upstream make and void them; [`litellm`] asks a
//! gateway over HTTP, [`command`] a program. What a job may do is in the
//! credential itself, so that an agent which reports nothing is held to it too.
//!
//! Every credential has a handle that this runtime chooses before it asks for
//! it. The handle is stored first and is all that a revocation needs: whatever
//! happens between asking and answering, it can be taken back. It is no secret.
//!
//! Secrets are [`SecretString`]s, which print as nothing and are wiped; the one
//! place that turns them into text for a peer is [`Credential::to_json`].

mod agents;
pub mod command;
mod held;
mod issue;
mod keeper;
pub mod litellm;
mod models;
mod provisioner;
mod purse;
mod roots;
mod rotation;
mod seal;
mod secret_file;

pub use held::{Held, Holding};
pub use issue::{Ask, Credentials, Fresh, Options, Tree};
pub use keeper::Holder;
pub use provisioner::{
    Asked, Budget, Constraints, Credential, IssueError, Issued, Opened, Provisioner, Request,
    RevokeError, Revoked, Terms,
};
pub use seal::Sealer;
pub use secrecy::SecretString;
pub use secret_file::{others_can_read, read_secret};
