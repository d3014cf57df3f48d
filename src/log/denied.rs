//! What the servers of a cell do not let this user do. They say so on the connection and give
//! whoever asked no answer, so that without this it looks like servers that are slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Error;

/// What is not answered for that reason is given up and asked for again within so long.
const LATELY: Duration = Duration::from_secs(10);
/// A replica has less than twenty kinds of subjects.
const KEPT_MAX: usize = 32;

/// By permission, when it was last missing.
#[derive(Clone, Debug, Default)]
pub struct Denied(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Denied {
    /// Of an error that the servers sent; says of each permission once that it is missing.
    pub(super) fn on_error(&self, said: &str) {
        if let Some(permission) = permission(said)
            && self.is_new(&permission)
        {
            tracing::warn!(
                permission,
                "the NATS servers do not allow this user what a replica needs; see \"Who may be \
                 a replica\" in docs/cluster.md"
            );
        }
    }

    fn is_new(&self, permission: &str) -> bool {
        let mut denied = self.0.lock();
        if let Some(at) = denied.get_mut(permission) {
            *at = Instant::now();
            return false;
        }
        let has_room = denied.len() < KEPT_MAX;
        if has_room {
            denied.insert(permission.into(), Instant::now());
        }
        has_room
    }

    /// What was missing within the last seconds, if anything was.
    pub fn lately(&self) -> Option<String> {
        let denied = self.0.lock();
        let lately = |at: &Instant| at.elapsed() < LATELY;
        let denied = denied.iter().filter(|(_, at)| lately(at));
        let denied: Vec<_> = denied.map(|(permission, _)| permission.as_str()).collect();
        match denied.is_empty() {
            true => None,
            false => Some(format!(
                "the NATS servers do not allow this user to {}",
                denied.join(" or to ")
            )),
        }
    }

    /// An error with what was missing, which may be why.
    pub fn named(&self, error: Error) -> Error {
        match (error, self.lately()) {
            (Error::Unavailable(why), Some(denied)) if !why.contains(&denied) => {
                Error::Unavailable(format!("{why}; {denied}"))
            }
            (error, _) => error,
        }
    }
}

/// As the configuration of the servers has it: without the name of a consumer, which is
/// another for each.
fn permission(said: &str) -> Option<String> {
    let (what, subject) = said.split_once(" to \"")?;
    let (subject, _) = subject.split_once('"')?;
    let what = match what {
        "Permissions Violation for Publish" => "publish to",
        "Permissions Violation for Subscription" => "subscribe to",
        _ => return None,
    };
    let tokens: Vec<_> = subject.split('.').collect();
    let named = match tokens[..] {
        ["$JS", "API", "CONSUMER", "MSG", "NEXT", stream, ..] => {
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.>")
        }
        ["$JS", "API", "CONSUMER", of, stream, _, ..] => {
            format!("$JS.API.CONSUMER.{of}.{stream}.>")
        }
        ["_INBOX", ..] => "_INBOX.>".into(),
        _ => subject.into(),
    };
    Some(format!("{what} {named}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_is_named_as_the_servers_configuration_has_it() {
        for (said, named) in [
            (
                r#"Permissions Violation for Publish to "$JS.API.CONSUMER.CREATE.ARCP_LOG_a""#,
                Some("publish to $JS.API.CONSUMER.CREATE.ARCP_LOG_a"),
            ),
            (
                r#"Permissions Violation for Publish to "$JS.API.CONSUMER.DELETE.ARCP_LOG_a.Xy""#,
                Some("publish to $JS.API.CONSUMER.DELETE.ARCP_LOG_a.>"),
            ),
            (
                r#"Permissions Violation for Publish to "$JS.API.CONSUMER.MSG.NEXT.ARCP_LOG_a.Xy""#,
                Some("publish to $JS.API.CONSUMER.MSG.NEXT.ARCP_LOG_a.>"),
            ),
            (
                r#"Permissions Violation for Subscription to "arcp.a.presence" using queue "q""#,
                Some("subscribe to arcp.a.presence"),
            ),
            ("Stale Connection", None),
        ] {
            assert_eq!(permission(said).as_deref(), named, "{said}");
        }
    }

    #[test]
    fn each_is_said_once_and_no_more_are_kept_than_there_is_room_for() {
        let denied = Denied::default();
        assert_eq!(denied.lately(), None);
        assert!(denied.is_new("publish to a"));
        assert!(!denied.is_new("publish to a"));
        assert!(denied.lately().unwrap().ends_with("publish to a"));
        let more = (0..2 * KEPT_MAX).filter(|n| denied.is_new(&n.to_string()));
        assert_eq!(more.count(), KEPT_MAX - 1);
    }
}
