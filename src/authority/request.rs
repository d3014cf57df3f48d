//! A `lease_request` as a client or an agent wrote it, read with its faults named.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use super::grants::Grants;
use super::lease::BUDGET;
use super::{Amount, Capability, Currency, Lease, Pattern, cost};
use crate::protocol::Timestamp;

const BYTES_MAX: usize = 64 * 1024;
const PATTERNS_MAX: usize = 1_000;
const CURRENCIES_MAX: usize = 32;

/// Which bounds an object is held to, beside those of each pattern and amount.
#[derive(Clone, Copy, PartialEq)]
enum Limits {
    Request,
    /// It was held to those of its time.
    None,
}

impl Lease {
    /// What was granted before, as it was stored: what a request may hold and cost
    /// today has no say in that.
    pub fn stored(lease_json: &str) -> Result<Self, String> {
        Self::read(read_entries(lease_json)?, "lease", Limits::None)
    }

    /// A JSON object of arrays of strings; empty text asks for nothing. The error
    /// begins with the field: `lease_request.net.fetch[2]: …`.
    pub fn parse(
        lease_request_json: &str,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, String> {
        if lease_request_json.len() > BYTES_MAX {
            return Err(format!("lease_request: longer than {BYTES_MAX} bytes"));
        }
        if expires_at.is_some_and(|at| at <= now) {
            return Err("lease_constraints.expires_at: must be in the future".into());
        }
        let asked = read_entries(lease_request_json)?;
        let mut lease = Self::from_entries(asked, "lease_request")?;
        lease.expires_at = expires_at;
        Ok(lease)
    }

    /// `field` is where the entries stand, for the error.
    pub(super) fn from_entries(
        entries: impl IntoIterator<Item = (String, Vec<String>)>,
        field: &str,
    ) -> Result<Self, String> {
        Self::read(entries, field, Limits::Request)
    }

    fn read(
        entries: impl IntoIterator<Item = (String, Vec<String>)>,
        field: &str,
        limits: Limits,
    ) -> Result<Self, String> {
        let mut lease = Self::default();
        let mut seen = Vec::new();
        for (namespace, texts) in entries {
            let field = format!("{field}.{}", shown(&namespace));
            if limits == Limits::Request && texts.len() > PATTERNS_MAX {
                return Err(format!("{field}: more than {PATTERNS_MAX} patterns"));
            }
            if seen.contains(&namespace) {
                return Err(format!("{field}: given twice"));
            }
            if namespace == BUDGET {
                lease.budget = parse_budget(&texts, &field, limits)?;
            } else {
                let capability =
                    Capability::parse(&namespace).map_err(|why| format!("{field}: {why}"))?;
                let mut patterns = Vec::new();
                for (at, text) in texts.iter().enumerate() {
                    let pattern = Pattern::parse(&capability, text);
                    patterns.push(pattern.map_err(|why| format!("{field}[{at}]: {why}"))?);
                }
                // An empty list means something for models only.
                if !patterns.is_empty() || capability == Capability::ModelUse {
                    let grants: Grants = patterns.into_iter().collect();
                    if limits == Limits::Request {
                        check_cost(&grants).map_err(|why| format!("{field}: {why}"))?;
                    }
                    lease.grants.insert(capability, grants);
                }
            }
            seen.push(namespace);
        }
        Ok(lease)
    }
}

/// The namespaces of a JSON object in order, with their texts.
fn read_entries(json: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let entries = match json.trim_ascii() {
        "" => Vec::new(),
        text => {
            let entries = serde_json::from_str::<Entries>(text);
            entries
                .map_err(|error| format!("lease_request: {error}"))?
                .0
        }
    };
    let mut asked = Vec::new();
    for (namespace, list) in entries {
        let field = format!("lease_request.{}", shown(&namespace));
        let Value::Array(list) = list else {
            return Err(format!("{field}: must be an array of strings"));
        };
        let mut texts = Vec::new();
        for (at, text) in list.into_iter().enumerate() {
            match text {
                Value::String(text) => texts.push(text),
                _ => return Err(format!("{field}[{at}]: must be a string")),
            }
        }
        asked.push((namespace, texts));
    }
    Ok(asked)
}

fn check_cost(grants: &Grants) -> Result<(), String> {
    match grants.cost() {
        cost if cost <= cost::NS_MAX => Ok(()),
        cost => Err(format!(
            "one question may take {} us to answer, at most {}: use fewer patterns that \
             begin alike and have a segment with several `*`, or a segment between two `**`",
            cost.div_ceil(1_000),
            cost::NS_MAX / 1_000,
        )),
    }
}

/// `currency:decimal`; what names a currency twice adds up (wire §4.10).
fn parse_budget(
    texts: &[String],
    field: &str,
    limits: Limits,
) -> Result<BTreeMap<Currency, Amount>, String> {
    let mut budget: BTreeMap<Currency, Amount> = BTreeMap::new();
    for (at, text) in texts.iter().enumerate() {
        let fault = |why: String| format!("{field}[{at}]: {why}");
        let (currency, amount) = text
            .split_once(':')
            .ok_or_else(|| fault("must be currency:amount".into()))?;
        let currency = Currency::parse(currency).map_err(fault)?;
        let amount = Amount::parse(amount).map_err(fault)?;
        let sum = budget.entry(currency).or_default();
        *sum = sum
            .checked_add(amount)
            .ok_or_else(|| fault("the amounts of the currency add up to too much".into()))?;
    }
    match limits == Limits::None || budget.len() <= CURRENCIES_MAX {
        true => Ok(budget),
        false => Err(format!("{field}: more than {CURRENCIES_MAX} currencies")),
    }
}

/// A name that may be anything, short and on one line.
fn shown(namespace: &str) -> String {
    namespace.escape_debug().take(128).collect()
}

/// The members in order, so that one given twice is seen: which of the two would
/// win is for no reader to guess.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries: Vec<(String, Value)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                    if entries.len() > PATTERNS_MAX {
                        return Err(A::Error::custom("too many namespaces"));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
