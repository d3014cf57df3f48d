//! A job's authority in the replies that tell of it.

use serde_json::{Map, Number, Value, json};

use super::json_out::rfc3339;
use crate::protocol::message::Granted;

/// `cost.budget` of a lease, each currency with its amount as decimal text.
pub(super) fn budget(lease_json: &str) -> impl Iterator<Item = (String, String)> {
    let lease: Value = serde_json::from_str(lease_json).unwrap_or_default();
    let amounts = lease["cost.budget"].as_array().cloned().unwrap_or_default();
    amounts.into_iter().filter_map(|amount| {
        let (currency, amount) = amount.as_str()?.split_once(':')?;
        Some((currency.to_owned(), amount.to_owned()))
    })
}

/// The members a lease is told with: `lease` always, the others where there are any.
pub(super) fn granted_json(grant: &Granted, payload: &mut Value) {
    payload["lease"] = serde_json::from_str(&grant.lease_json).unwrap_or_else(|_| json!({}));
    if let Some(at) = grant.expires_at {
        payload["lease_constraints"] = json!({ "expires_at": rfc3339(at) });
    }
    let budget: Map<_, _> = budget(&grant.lease_json)
        .filter_map(|(currency, amount)| Some((currency, amount.parse::<Number>().ok()?.into())))
        .collect();
    if !budget.is_empty() {
        payload["budget"] = budget.into();
    }
}

/// As the Python SDK reads `budget` in `job.accepted`, whose session a number ends:
/// `{"USD": "USD:5"}`.
pub(super) fn budget_as_texts(grant: &Granted, payload: &mut Value) {
    let texts = budget(&grant.lease_json);
    let texts: Map<_, _> = texts
        .map(|(currency, amount)| (currency.clone(), format!("{currency}:{amount}").into()))
        .collect();
    if !texts.is_empty() {
        payload["budget"] = texts.into();
    }
}
