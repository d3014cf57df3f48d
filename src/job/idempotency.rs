//! Whether two submits are one (§7.2): the same key, or the same name for a child, and
//! the same parameters.

use sha2::{Digest, Sha256};

use crate::log::JobRow;
use crate::protocol::message::Submit;
use crate::protocol::{ErrorCode, Failure};

/// A bare agent name means the version that it meant when the job was made.
pub(super) fn meant<'a>(agent: &'a str, earlier: &'a JobRow) -> &'a str {
    match earlier.agent.split_once('@') {
        Some((name, _)) if name == agent => &earlier.agent,
        _ => agent,
    }
}

/// The job of an earlier submit with the same key, if that said the same.
pub(super) fn same_or_conflict(field: &str, row: JobRow, said: &[u8]) -> Result<JobRow, Failure> {
    if row.fingerprint != said {
        return Err(Failure::new(
            ErrorCode::DuplicateKey,
            format!("{field}: used before with other parameters; choose a new one"),
        ));
    }
    Ok(row)
}

/// Of a submit with a key. Equal for equal parameters, however the JSON was written.
pub(super) fn fingerprint(agent: &str, submit: &Submit) -> Vec<u8> {
    // serde_json's map is ordered by key, so this is the canonical form.
    let parsed = |json| serde_json::from_str::<serde_json::Value>(json).unwrap_or_default();
    let (input, lease) = (
        parsed(&submit.input_json),
        parsed(&submit.lease_request_json),
    );
    let mut canonical = serde_json::json!([agent, input, submit.max_runtime_sec]);
    let expires_at = submit.lease_expires_at.map(|at| at.0);
    // Left out where nothing is asked for: keys of an earlier version stay good.
    if let (Some(said), true) = (
        canonical.as_array_mut(),
        expires_at.is_some() || lease.as_object().is_some_and(|lease| !lease.is_empty()),
    ) {
        said.extend([lease, expires_at.into()]);
    }
    Sha256::digest(canonical.to_string()).to_vec()
}
