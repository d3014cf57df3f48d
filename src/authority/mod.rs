//! What a job may do: leases, and the rules by which one is asked for, cut
//! down, handed on and checked (§9). Pure: `now` is an argument, nothing waits.
//!
//! ```text
//!  lease_request ─parse─▶ Lease ─policy─▶ effective Lease ─allows(target)─▶ Rule | Denied
//!                                            └─ subset_of ◀─ a child's Lease (then inherit)
//! ```
//! Both sides of a comparison are brought to one canonical form by their kind
//! (path, URL, name, agent) when they are read; after that, matching knows only
//! segments. What cannot be brought to a form that means one thing is refused.
//!
//! A lease says what was granted, never what is left of it: that is the
//! [`Ledger`]'s, one for a job and all that was delegated below it.

mod amount;
mod capability;
mod cost;
mod currency;
mod glob;
mod grants;
mod host;
mod intersect;
mod lease;
mod ledger;
mod name;
mod path;
mod pattern;
mod policy;
mod request;
mod segments;
mod subset;
mod target;
mod web;

pub use amount::Amount;
pub use capability::Capability;
pub use currency::Currency;
use segments::Segment;

pub use lease::{Denied, Lease, ModelDefault, Rule};
pub use ledger::{Amounts, Ledger, Member, amounts_from_json, amounts_to_json};
pub use pattern::Pattern;
pub use policy::Policy;
pub use target::Target;
