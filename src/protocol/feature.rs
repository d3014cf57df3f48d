//! Negotiated features (§6.2): in force is what both sides named.

/// What this runtime implements.
pub const SUPPORTED: [&str; 10] = [
    "heartbeat",
    "ack",
    "list_jobs",
    "subscribe",
    "progress",
    "result_chunk",
    "agent_versions",
    "lease_expires_at",
    "cost.budget",
    "model.use",
];

/// Only where there is somebody to ask for credentials (§14).
pub const CREDENTIALS: &str = "provisioned_credentials";

/// The features in force, in the runtime's order.
pub fn intersect(offered: &[String], credentials: bool) -> Vec<String> {
    SUPPORTED
        .iter()
        .chain(credentials.then_some(&CREDENTIALS))
        .filter(|feature| offered.iter().any(|f| f == *feature))
        .map(|f| (*f).to_owned())
        .collect()
}
