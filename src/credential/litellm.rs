//! Virtual keys of a LiteLLM proxy.
//!
//! The key's alias is the credential's handle, so a key can be deleted though
//! its value was never seen. A key is made with everything that the gateway can
//! enforce: the spend cap, the models, the time. A lease that it cannot hold
//! anybody to gets no key:
//!
//! - without `model.use` no key is made: one without models is one for all;
//! - with it there must be a budget in the gateway's currency, or the key would
//!   have no cap, unless the operator allows that (`uncapped`).
//!
//! A key that takes the place of another gets what that one has not spent. A purse is
//! a team, whose `max_budget` the gateway holds all of its keys to together.

mod call;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Client, RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::purse::is_purse;
use super::{
    Asked, Budget, Constraints, IssueError, Issued, Opened, Provisioner, Request, RevokeError,
    Revoked, Terms, models, roots,
};
use crate::clock::now;
use crate::protocol::Timestamp;
use call::{CallError, NO_DATABASE, NONE_FOUND};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What an operator says of the gateway.
pub struct Options {
    /// Its management API.
    pub url: String,
    /// Where agents find it; `url` if none.
    pub endpoint: Option<String>,
    pub profile: String,
    pub master_key: SecretString,
    /// What its budgets are in.
    pub currency: String,
    /// The models that keys are for, by the gateway's names.
    pub models: Vec<String>,
    /// Whether a lease without a budget gets a key without a cap.
    pub uncapped: bool,
    /// For one call.
    pub timeout: Duration,
}

pub struct LiteLlm(Arc<Gateway>);

struct Gateway {
    client: Client,
    url: Url,
    options: Options,
}

#[derive(Serialize)]
struct Generate<'a> {
    key_alias: &'a str,
    /// No access to the gateway's management.
    key_type: &'a str,
    models: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    max_budget: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<&'a str>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    arcp_credential_id: &'a str,
    arcp_job_id: &'a str,
    arcp_agent: &'a str,
    arcp_principal: &'a str,
}

#[derive(Deserialize)]
struct Generated {
    key: String,
}

#[derive(Deserialize)]
struct KeyList {
    keys: Vec<KeyInfo>,
}

#[derive(Deserialize)]
struct KeyInfo {
    #[serde(default)]
    spend: f64,
    max_budget: Option<f64>,
}

// === impl LiteLlm ===

impl LiteLlm {
    /// `ca_file` is trusted instead of the machine's authorities.
    pub fn new(options: Options, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let url = Url::parse(&options.url).context("credentials.url")?;
        let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        ensure!(
            url.scheme() == "https" || (url.scheme() == "http" && local),
            "credentials.url: must be https, or http on this machine"
        );
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "credentials.url: must not hold a password; there is master_key_file"
        );
        let client = Client::builder()
            .tls_backend_preconfigured(roots::client_config(ca_file)?)
            // The master key goes to this address and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(options.timeout)
            .build()
            .context("credentials: the HTTP client cannot be made")?;
        Ok(Self(Arc::new(Gateway {
            client,
            url,
            options,
        })))
    }
}

impl Provisioner for LiteLlm {
    fn name(&self) -> &'static str {
        "litellm"
    }

    fn applies(&self, request: &Request) -> bool {
        !request.models.is_empty()
    }

    fn issue(&self, request: Request) -> Asked {
        let gateway = self.0.clone();
        Box::pin(async move { gateway.issue(request).await })
    }

    /// Without a budget there is nothing to share.
    fn has_purses(&self, granted: &[Budget]) -> bool {
        let currency = &self.0.options.currency;
        granted.iter().any(|of| of.currency == *currency)
    }

    fn open_purse(&self, root: Request) -> Opened {
        let gateway = self.0.clone();
        Box::pin(async move { gateway.open_purse(root).await })
    }

    fn revoke(&self, handle: String) -> Revoked {
        let gateway = self.0.clone();
        Box::pin(async move { gateway.revoke(&handle).await })
    }
}

// === impl Gateway ===

impl Gateway {
    async fn issue(&self, request: Request) -> Result<Issued, IssueError> {
        let models = models::allowed(&request.models, &self.options.models)?;
        let budget = self.budget(&request).await?;
        let seconds = request
            .expires_at
            .map(|at| seconds_until(at, request.ends_at, now()))
            .transpose()?;
        let max_budget = budget
            .as_ref()
            .map(|budget| number(&budget.amount))
            .transpose()?;
        let generate = Generate {
            key_alias: &request.handle,
            key_type: "llm_api",
            models: &models,
            max_budget: max_budget.as_deref(),
            duration: seconds.map(|seconds| format!("{seconds}s")),
            team_id: request.purse.as_deref(),
            metadata: Metadata {
                arcp_credential_id: &request.id,
                arcp_job_id: &request.job_id,
                arcp_agent: &request.agent,
                arcp_principal: &request.principal,
            },
        };
        let call = self
            .post("key/generate")
            .header("traceparent", &request.traceparent);
        let body = self
            .call(call.json(&generate))
            .await
            .map_err(IssueError::from)?;
        let generated: Generated = serde_json::from_slice(&body)
            .map_err(|_| IssueError::Unknown("an answer without a key".into()))?;
        let options = &self.options;
        Ok(Issued {
            value: generated.key.into(),
            terms: Terms {
                endpoint: options
                    .endpoint
                    .clone()
                    .unwrap_or_else(|| options.url.clone()),
                profile: Some(options.profile.clone()),
                constraints: Constraints {
                    budget: budget.into_iter().collect(),
                    models,
                    expires_at: seconds.and(request.expires_at),
                },
            },
        })
    }

    async fn open_purse(&self, root: Request) -> Result<(), IssueError> {
        let budget = self.budget(&root).await?;
        let max_budget = budget.map(|budget| number(&budget.amount)).transpose()?;
        let team = json!({
            "team_id": root.handle, "team_alias": root.handle, "max_budget": max_budget,
            "metadata": { "arcp_job_id": root.job_id, "arcp_principal": root.principal },
        });
        let call = self
            .post("team/new")
            .header("traceparent", &root.traceparent);
        self.call(call.json(&team)).await?;
        Ok(())
    }

    async fn revoke(&self, handle: &str) -> Result<(), RevokeError> {
        let call = match is_purse(handle) {
            // Its keys go with it, if there are any left.
            true => (self.post("team/delete")).json(&json!({ "team_ids": [handle] })),
            false => (self.post("key/delete")).json(&json!({ "key_aliases": [handle] })),
        };
        match self.call(call).await {
            Ok(_) => Ok(()),
            // There is none of that name: gone, or never made.
            Err(CallError::Refused { status: 404, kind }) if kind == NONE_FOUND => Ok(()),
            Err(CallError::Refused { kind, .. }) if kind == NO_DATABASE => {
                Err(RevokeError::transient("the gateway has no database now"))
            }
            Err(CallError::Refused {
                status: status @ (400 | 401 | 403 | 404 | 422),
                kind,
            }) => Err(RevokeError::permanent(format!("HTTP {status} {kind}"))),
            Err(error) => Err(RevokeError::transient(error.to_string())),
        }
    }

    /// The cap of a new key; none where there is to be none.
    async fn budget(&self, request: &Request) -> Result<Option<Budget>, IssueError> {
        let currency = &self.options.currency;
        let of_gateway = |budget: &&Budget| budget.currency == *currency;
        let Some(budget) = request.budget.iter().find(of_gateway) else {
            return match self.options.uncapped && request.budget.is_empty() {
                true => Ok(None),
                false => Err(IssueError::Unsuitable(format!(
                    "lease_request: cost.budget must have an amount in {currency}, \
                     which credentials of this runtime are capped in"
                ))),
            };
        };
        // Of an overspent job nothing is left, whatever the gateway has counted.
        let asked = budget.amount.parse::<f64>();
        if asked.is_ok_and(|amount| amount <= 0.0) {
            return Err(IssueError::BudgetExhausted);
        }
        let Some(replaced) = &request.replaces else {
            return Ok(Some(budget.clone()));
        };
        let left = self.left_of(replaced).await?;
        let amount = match (left, budget.amount.parse::<f64>()) {
            (Some(left), Ok(amount)) if left < amount => format!("{left:.9}"),
            _ => budget.amount.clone(),
        };
        let currency = currency.clone();
        Ok(Some(Budget { currency, amount }))
    }

    /// What a key has not spent; none if it has no cap. One that is not there
    /// cannot be replaced: nobody knows what it spent.
    async fn left_of(&self, handle: &str) -> Result<Option<f64>, IssueError> {
        let query = format!("key/list?return_full_object=true&key_alias={handle}");
        let call = self.client.get(self.endpoint(&query));
        let body = self
            .call(call)
            .await
            .map_err(|error| IssueError::Refused(error.to_string()))?;
        let unreadable = || IssueError::Refused("a list of keys that cannot be read".into());
        let list: KeyList = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let [key] = &list.keys[..] else {
            return Err(IssueError::Refused(
                "the key to replace is not there".into(),
            ));
        };
        match key.max_budget.map(|cap| cap - key.spend) {
            Some(left) if left <= 0.0 => Err(IssueError::BudgetExhausted),
            left => Ok(left),
        }
    }

    fn endpoint(&self, path: &str) -> String {
        format!("{}/{path}", self.url.as_str().trim_end_matches('/'))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.endpoint(path))
    }

    async fn call(&self, request: RequestBuilder) -> Result<Vec<u8>, CallError> {
        let key = self.options.master_key.expose_secret();
        call::answer(request.bearer_auth(key)).await
    }
}

/// Rounded down, since a key must not outlive its lease; but a gateway knows nothing
/// shorter than a second. A process that stood still may ask after the time that it chose,
/// which is no fault of a lease that goes on.
fn seconds_until(
    at: Timestamp,
    lease_ends_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<i64, IssueError> {
    match at.0 - now.0 {
        ms @ 1.. => Ok((ms / 1_000).max(1)),
        _ if lease_ends_at.is_none_or(|end| end > now) => Err(IssueError::Refused(
            "its time was over before it was asked for".into(),
        )),
        _ => Err(IssueError::Unsuitable(
            "lease_constraints.expires_at: too soon for a credential".into(),
        )),
    }
}

/// Decimal text as it is, not by way of a float.
fn number(amount: &str) -> Result<Box<RawValue>, IssueError> {
    let unsuitable = || IssueError::Unsuitable("lease_request: cost.budget: not a number".into());
    let is_number = amount.parse::<serde_json::Number>().is_ok();
    let raw = is_number.then(|| RawValue::from_string(amount.to_owned()));
    raw.and_then(Result::ok).ok_or_else(unsuitable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job without an end was refused for its `expires_at`, once the process had stood still.
    #[test]
    fn a_time_that_is_over_before_it_is_asked_for_is_tried_again_unless_the_lease_is_over() {
        let at = Timestamp;
        assert_eq!(seconds_until(at(2_500), None, at(0)), Ok(2));
        assert_eq!(seconds_until(at(1), None, at(0)), Ok(1));
        for goes_on in [None, Some(at(9))] {
            let asked = seconds_until(at(1), goes_on, at(1));
            assert!(matches!(asked, Err(IssueError::Refused(_))), "{asked:?}");
        }
        let asked = seconds_until(at(1), Some(at(1)), at(1));
        assert!(matches!(asked, Err(IssueError::Unsuitable(_))), "{asked:?}");
    }
}
