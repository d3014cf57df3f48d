//! The two provisioners, each against what it talks to: a gateway on a socket, a
//! program.

mod support;

use std::time::Duration;

use arcpd::credential::litellm::{LiteLlm, Options};
use arcpd::credential::{Budget, IssueError, Provisioner, Request, command::CommandProvisioner};
use arcpd::protocol::Timestamp;
use secrecy::ExposeSecret;
use support::gateway::*;

/// What is left of a minute is counted when the gateway is asked.
fn in_ms(ms: i64) -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond() + ms)
}

fn request(handle: &str) -> Request {
    Request {
        handle: handle.into(),
        id: "cred_1".into(),
        job_id: "job_1".into(),
        principal: "alice".into(),
        agent: "a@1.0.0".into(),
        traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01".into(),
        asked_at: in_ms(-30_000),
        budget: vec![usd("5.10")],
        models: vec!["tier-fast/*".into()],
        expires_at: Some(in_ms(59_999)),
        ends_at: None,
        first_budget: Vec::new(),
        replaces: None,
        purse: None,
    }
}

fn usd(amount: &str) -> Budget {
    let (currency, amount) = ("USD".into(), amount.into());
    Budget { currency, amount }
}

fn options(gateway: &Gateway) -> Options {
    Options {
        url: format!("http://{}/", gateway.address),
        endpoint: Some("https://gateway.example/v1".into()),
        profile: "openai".into(),
        master_key: MASTER_KEY.to_owned().into(),
        currency: "USD".into(),
        models: vec!["tier-fast/a".into(), "tier-slow/b".into()],
        uncapped: false,
        timeout: Duration::from_secs(5),
    }
}

fn litellm(options: Options) -> LiteLlm {
    LiteLlm::new(options, None).unwrap()
}

#[tokio::test]
async fn a_key_has_the_leases_bounds_and_is_deleted_by_its_alias_alone() {
    let gateway = Gateway::start().await;
    let litellm = litellm(options(&gateway));
    let issued = litellm.issue(request("cred_1")).await.unwrap();
    let [key] = &gateway.keys()[..] else { panic!() };
    assert_eq!(issued.value.expose_secret(), key.value);
    assert_eq!(issued.terms.endpoint, "https://gateway.example/v1");
    assert_eq!(key.alias, "cred_1");
    assert_eq!(key.asked["models"], serde_json::json!(["tier-fast/a"]));
    assert_eq!(key.asked["max_budget"].to_string(), "5.1");
    assert_eq!(key.asked["duration"], "59s", "rounded down, from now");
    assert_eq!(key.asked["key_type"], "llm_api");
    assert_eq!(key.asked["metadata"]["arcp_job_id"], "job_1");
    assert_eq!(key.traceparent, request("").traceparent);
    assert_eq!(issued.terms.constraints.models, ["tier-fast/a"]);
    litellm.revoke("cred_1".into()).await.unwrap();
    assert!(gateway.live().is_empty());
    // What is gone stays gone, and what never was is as good.
    litellm.revoke("cred_1".into()).await.unwrap();
    litellm.revoke("cred_2".into()).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_the_gateway_cannot_hold_to_gets_no_key() {
    let gateway = Gateway::start().await;
    let litellm = litellm(options(&gateway));
    let unsuitable = |request: Request| {
        let asked = litellm.issue(request);
        async { matches!(asked.await, Err(IssueError::Unsuitable(_))) }
    };
    let eur = Budget {
        currency: "EUR".into(),
        ..usd("5")
    };
    for changed in [
        Request {
            models: vec!["all-proxy-models".into()],
            ..request("h")
        },
        Request {
            models: vec!["tier-*".into()],
            ..request("h")
        },
        Request {
            budget: vec![eur],
            ..request("h")
        },
        Request {
            budget: vec![],
            ..request("h")
        },
        Request {
            budget: vec![usd("NaN")],
            ..request("h")
        },
        Request {
            expires_at: Some(in_ms(-1)),
            ends_at: Some(in_ms(-1)),
            ..request("h")
        },
    ] {
        assert!(unsuitable(changed.clone()).await, "{changed:?}");
    }
    assert!(!litellm.applies(&Request {
        models: vec![],
        ..request("h")
    }));
    assert!(gateway.keys().is_empty());
}

#[tokio::test]
async fn a_key_in_the_place_of_another_has_what_that_one_left() {
    let gateway = Gateway::start().await;
    let litellm = litellm(options(&gateway));
    litellm.issue(request("cred_1")).await.unwrap();
    gateway.spend("cred_1", 1.1);
    let next = |handle: &str, replaces: &str| Request {
        replaces: Some(replaces.into()),
        ..request(handle)
    };
    litellm.issue(next("cred_1-2", "cred_1")).await.unwrap();
    assert_eq!(gateway.keys()[1].asked["max_budget"].as_f64(), Some(4.0));
    gateway.spend("cred_1-2", 4.0);
    let spent = litellm.issue(next("cred_1-3", "cred_1-2")).await;
    assert_eq!(spent.err(), Some(IssueError::BudgetExhausted));
    // The runtime's own count may be below what is left there, and below zero.
    litellm.issue(request("cred_2")).await.unwrap();
    for overspent in ["-0.5", "0"] {
        let overspent = Request {
            budget: vec![usd(overspent)],
            ..next("cred_2-2", "cred_2")
        };
        let spent = litellm.issue(overspent).await;
        assert_eq!(spent.err(), Some(IssueError::BudgetExhausted));
    }
    let unknown = litellm.issue(next("cred_1-3", "cred_9")).await;
    assert!(matches!(unknown.err(), Some(IssueError::Refused(_))));
    assert_eq!(gateway.keys().len(), 3);
}

#[tokio::test]
async fn what_the_gateway_says_is_told_apart_and_not_repeated() {
    let gateway = Gateway::start().await;
    let litellm_well = litellm(options(&gateway));
    gateway.set(Mood::BudgetExceeded);
    let error = litellm_well.issue(request("h")).await.err().unwrap();
    assert_eq!(error, IssueError::BudgetExhausted);
    assert_eq!(error.failure().code.as_str(), "BUDGET_EXHAUSTED");
    gateway.set(Mood::Down);
    let error = litellm_well.issue(request("h")).await.err().unwrap();
    assert!(error.may_exist(), "{error}");
    assert!(!litellm_well.revoke("h".into()).await.unwrap_err().permanent);
    gateway.set(Mood::RefusesToDelete);
    let error = litellm_well.revoke("h".into()).await.unwrap_err();
    assert!(error.permanent);
    assert_eq!(error.to_string(), "HTTP 403 auth_error");
    gateway.set(Mood::Redirects);
    assert!(litellm_well.issue(request("h")).await.is_err());
    gateway.set(Mood::Well);
    let wrong = Options {
        master_key: "sk-wrong-key".to_owned().into(),
        ..options(&gateway)
    };
    let error = litellm(wrong).issue(request("h")).await.err().unwrap();
    assert_eq!(error.to_string(), "refused: HTTP 401 auth_error");
    assert!(!error.may_exist());
    let nobody = Options {
        url: "http://127.0.0.1:1".into(),
        ..options(&gateway)
    };
    let error = litellm(nobody).issue(request("h")).await.err().unwrap();
    assert!(!error.may_exist(), "nothing was sent: {error}");
}

#[tokio::test]
async fn a_key_that_was_made_and_not_told_of_may_exist() {
    let gateway = Gateway::start().await;
    // Long enough to reach the gateway.
    let timeout = Duration::from_secs(3);
    let litellm = litellm(Options {
        timeout,
        ..options(&gateway)
    });
    gateway.set(Mood::MakesAndHangs);
    let error = litellm.issue(request("h")).await.err().unwrap();
    assert!(error.may_exist());
    assert_eq!(gateway.live().len(), 1);
    gateway.set(Mood::Well);
    litellm.revoke("h".into()).await.unwrap();
    assert!(gateway.live().is_empty());
}

#[test]
fn a_master_key_goes_over_tls_or_stays_on_this_machine() {
    for (url, good) in [
        ("https://gateway.example", true),
        ("http://127.0.0.1:4000", true),
        ("http://gateway.example", false),
        ("http://127.0.0.1.gateway.example", false),
        ("https://user:password@gateway.example", false),
        ("ftp://127.0.0.1", false),
        ("gateway", false),
    ] {
        let options = Options {
            url: url.into(),
            endpoint: None,
            profile: "openai".into(),
            master_key: MASTER_KEY.to_owned().into(),
            currency: "USD".into(),
            models: vec![],
            uncapped: false,
            timeout: Duration::from_secs(1),
        };
        assert_eq!(LiteLlm::new(options, None).is_ok(), good, "{url}");
    }
}

/// A program of a few lines of shell; `$DIR` is a folder of its own.
fn program(dir: &std::path::Path, script: &str) -> CommandProvisioner {
    let script = format!("DIR={}\n{script}", dir.display());
    CommandProvisioner {
        command: vec!["sh".into(), "-c".into(), script],
        working_dir: None,
        timeout: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn a_program_is_asked_on_its_stdin_and_its_answer_is_the_credential() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"cat > $DIR/asked
        echo '{"value":"s3cret","endpoint":"https://e.example","profile":"generic",
               "constraints":{"cost.budget":["USD:5.10"],"expires_at":"2027-01-15T08:00:59Z"}}'"#;
    let program = program(dir.path(), script);
    let issued = program.issue(request("cred_1-2")).await.unwrap();
    assert_eq!(issued.value.expose_secret(), "s3cret");
    assert_eq!(issued.terms.constraints.budget, [usd("5.10")]);
    assert_eq!(
        issued.terms.constraints.expires_at,
        Some(Timestamp(1_800_000_059_000))
    );
    let asked = || {
        let text = std::fs::read_to_string(dir.path().join("asked")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(asked()["op"], "issue");
    assert_eq!(asked()["budget"]["USD"], "5.10");
    assert_eq!(asked()["models"], serde_json::json!(["tier-fast/*"]));
    program.revoke("cred_1-2".into()).await.unwrap();
    assert_eq!(
        asked(),
        serde_json::json!({ "op": "revoke", "handle": "cred_1-2" })
    );
}

#[tokio::test]
async fn a_programs_status_is_its_verdict_and_its_words_are_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let issue = |script: &str| program(dir.path(), script).issue(request("h"));
    let error = issue("exit 3").await.err().unwrap();
    assert_eq!(error, IssueError::BudgetExhausted);
    let error = issue("echo s3cret >&2; exit 2").await.err().unwrap();
    assert!(matches!(error, IssueError::Refused(_)), "{error}");
    for unclear in [
        "exit 1",
        "kill -9 $$",
        "echo s3cret",
        "echo '{\"value\":\"s3cret\"}'",
        "true",
    ] {
        let error = issue(unclear).await.err().unwrap();
        assert!(error.may_exist(), "{unclear}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    let revoke = |script: &str| program(dir.path(), script).revoke("h".into());
    assert!(revoke("exit 2").await.unwrap_err().permanent);
    assert!(!revoke("exit 1").await.unwrap_err().permanent);
    let mut slow = program(dir.path(), "exec sleep 60");
    slow.timeout = Duration::from_millis(200);
    assert!(slow.issue(request("h")).await.err().unwrap().may_exist());
}
