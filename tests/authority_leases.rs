//! What may be asked for, what of it a child or a bounded principal gets, and what
//! no spelling gets around. Sections are of draft-arcp-1.1; "wire" is the wire
//! reference.

use arcpd::authority::{Capability, Denied, Lease, ModelDefault, Policy, Rule, Target};
use arcpd::protocol::{AgentRef, Timestamp};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DENY: ModelDefault = ModelDefault::Deny;

fn lease(request: Value) -> Lease {
    Lease::parse(&request.to_string(), None, NOW).unwrap()
}

fn until(request: Value, expires_at: i64) -> Lease {
    Lease::parse(&request.to_string(), Some(Timestamp(expires_at)), NOW).unwrap()
}

fn shown(lease: &Lease) -> Value {
    serde_json::from_str(&lease.to_json()).unwrap()
}

fn allows(lease: &Lease, name: &str, text: &str, models: ModelDefault) -> Result<Rule, Denied> {
    let capability = Capability::parse(name).unwrap();
    let target = Target::parse(&capability, text).unwrap();
    lease.allows(&capability, &target, models)
}

#[track_caller]
fn refused(request: &str, error: &str) {
    let got = Lease::parse(request, None, NOW).expect_err(request);
    assert!(got.starts_with(error), "{request}: {got}");
}

#[test]
fn a_lease_is_read_and_shown() {
    for nothing in ["", "{}", " {} "] {
        assert_eq!(Lease::parse(nothing, None, NOW).unwrap(), Lease::default());
    }
    let lease = lease(json!({
        "net.fetch": ["HTTPS://API.example.com:443/v1/*", "https://api.example.com/v1/*"],
        "agent.delegate": ["b", "a@1.*"],
        "x-vendor.acme.db": ["main.*"],
        "fs.write": [],
        "cost.budget": ["USD:1.50", "credits:10", "USD:0.5"],
    }));
    // wire 4.10: the same currency twice sums.
    assert_eq!(
        lease.to_json(),
        r#"{"agent.delegate":["b","a@1.*"],"cost.budget":["USD:2","credits:10"],"net.fetch":["https://api.example.com/v1/*"],"x-vendor.acme.db":["main.*"]}"#
    );
    assert_eq!(Lease::parse(&lease.to_json(), None, NOW).unwrap(), lease);
    assert_eq!(lease.capabilities().count(), 3);
}

#[test]
fn a_refusal_names_the_field() {
    refused("[]", "lease_request: ");
    refused("{", "lease_request: ");
    refused(
        r#"{"fs.read":"/w"}"#,
        "lease_request.fs.read: must be an array",
    );
    refused(
        r#"{"fs.read":["/w",1]}"#,
        "lease_request.fs.read[1]: must be a string",
    );
    refused(
        r#"{"fs.read":["/w","/x","w"]}"#,
        "lease_request.fs.read[2]: ",
    );
    refused(
        r#"{"fs.raed":["/w"]}"#,
        "lease_request.fs.raed: must be a namespace",
    );
    refused(
        r#"{"a\u0000\n":[]}"#,
        r"lease_request.a\0\n: must be a namespace",
    );
    // Which of two would win is for no reader to guess.
    refused(
        r#"{"fs.read":["/w"],"fs.read":["/**"]}"#,
        "lease_request.fs.read: given twice",
    );
    let many = json!({ "tool.call": vec!["a"; 1_001] });
    refused(&many.to_string(), "lease_request.tool.call: more than 1000");
    let long = json!({ "tool.call": vec!["a".repeat(250); 300] });
    refused(&long.to_string(), "lease_request: longer than 65536 bytes");
}

/// Matching is linear, and a thousand patterns of which none begins with literal text
/// still took 284 us for one question.
#[test]
fn a_lease_that_is_slow_to_ask_is_refused() {
    let many = |capability: &str, count: usize, pattern: &str| {
        let patterns = (0..count).map(|n| pattern.replace("{}", &n.to_string()));
        json!({ capability: patterns.collect::<Vec<_>>() }).to_string()
    };
    for (capability, pattern, fit) in [
        ("tool.call", "*a*b*{}", 85),
        ("tool.call", "*a{}x*b*", 14),
        ("tool.call", "b*a{}x*b*", 14),
        ("tool.call", "search/{}/*a*b*", 1_000),
        ("fs.read", "/**/*{}*/**", 1),
        ("fs.read", "/w/**/*{}*/**", 1),
        ("fs.read", "/w/{}/**/*a*/**", 1_000),
        ("fs.read", "/**/{}/**", 19),
        ("net.fetch", "https://**.example.com/*{}*a", 32),
        ("x-vendor.acme.db", "**/{}", 1_000),
    ] {
        let lease = many(capability, fit, pattern);
        if let Err(why) = Lease::parse(&lease, None, NOW) {
            panic!("{fit} {pattern}: {why}");
        }
        if fit < 1_000 {
            let field = format!("lease_request.{capability}: one question may take ");
            refused(&many(capability, fit + 1, pattern), &field);
        }
    }
}

/// The bound left out what a searcher costs to make, how long the text is that it
/// looks for, and the worst of texts: each of these was granted, and one question took
/// 26 to 245 us.
#[test]
fn leases_that_were_slow_to_ask_in_ways_not_counted_are_refused() {
    let x = |count: usize| "x".repeat(count);
    let many = |count: usize, pattern: &dyn Fn(usize) -> String| (0..count).map(pattern).collect();
    let leases: [(&str, Vec<String>); 6] = [
        ("tool.call", many(112, &|n| format!("*{}e*{n}*", x(200)))),
        ("tool.call", many(112, &|n| format!("*{}e*{n}*", x(31)))),
        ("fs.read", many(3, &|n| format!("/**/*{}e{n}*/**", x(900)))),
        ("fs.read", many(15, &|n| format!("/*{0}e{0}*{n}*", x(15)))),
        ("tool.call", many(652, &|n| format!("{}*{n}", x(n % 200)))),
        ("fs.read", many(4, &|n| format!("/**/x*/x*/x*/{n}/**"))),
    ];
    for (capability, patterns) in leases {
        let lease = json!({ capability: patterns }).to_string();
        let field = format!("lease_request.{capability}: one question may take ");
        refused(&lease, &field);
    }
    // Nine of the fourth were slow only where a segment was longer than any name is.
    let long = format!("/{}", x(256));
    let why = Target::parse(&Capability::FsRead, &long).unwrap_err();
    assert_eq!(why, "a segment longer than 255 bytes");
    assert!(Target::parse(&Capability::FsRead, &long[..256]).is_ok());
}

#[test]
fn budgets_that_would_be_no_limit_are_refused() {
    // wire 4.10, Go: NaN, Inf, exponents and hex floats were accepted.
    for amount in [
        "NaN",
        "nan",
        "Inf",
        "Infinity",
        "1e3",
        "1E3",
        "0x1p3",
        "-1",
        "-0",
        "+1",
        "",
        ".5",
        "5.",
        "1_000",
        "1,5",
        " 1",
        "1 ",
        "1000000000000000000",
        "0.0000000001",
        "٣",
    ] {
        let request = json!({ "cost.budget": ["USD:1", format!("USD:{amount}")] });
        refused(
            &request.to_string(),
            "lease_request.cost.budget[1]: the amount",
        );
    }
    for currency in [
        "",
        "1USD",
        "U SD",
        "US$",
        "_USD",
        "\u{20ac}",
        "ABCDEFGHIJKLMNOPQ",
    ] {
        let request = json!({ "cost.budget": [format!("{currency}:1")] });
        refused(
            &request.to_string(),
            "lease_request.cost.budget[0]: the currency",
        );
    }
    refused(
        r#"{"cost.budget":["USD"]}"#,
        "lease_request.cost.budget[0]: must be currency:amount",
    );
    let most = "USD:999999999999999999";
    let request = json!({ "cost.budget": [most, most] });
    refused(
        &request.to_string(),
        "lease_request.cost.budget[1]: the amounts",
    );
}

#[test]
fn an_end_is_in_the_future() {
    // §9.5; and wire 4.7, TS: beyond 24.8 days the lease ended at once.
    for past in [i64::MIN, 0, NOW.0 - 1, NOW.0] {
        let error = Lease::parse("{}", Some(Timestamp(past)), NOW).unwrap_err();
        assert!(
            error.starts_with("lease_constraints.expires_at:"),
            "{error}"
        );
    }
    for future in [NOW.0 + 1, NOW.0 + 25 * 86_400_000, i64::MAX] {
        let lease = Lease::parse("{}", Some(Timestamp(future)), NOW).unwrap();
        assert_eq!(lease.expires_at, Some(Timestamp(future)));
    }
}

#[test]
fn the_rule_that_allowed_is_told() {
    let lease = lease(json!({ "tool.call": ["a", "search.*"], "model.use": ["m"] }));
    let rule = allows(&lease, "tool.call", "search.web", DENY).unwrap();
    assert_eq!(rule.to_string(), "search.*");
    let denied = allows(&lease, "tool.call", "b", DENY).unwrap_err();
    assert!(
        denied.to_string().contains("tool.call matches b"),
        "{denied}"
    );
    // A capability is not lent by another of the same kind of name.
    assert!(matches!(
        allows(&lease, "fs.read", "/w", DENY).unwrap_err(),
        Denied::NotGranted { .. }
    ));
    assert!(allows(&lease, "model.use", "a", DENY).is_err());
}

#[test]
fn silence_about_models_is_the_deployments_to_read() {
    // §9.7.
    let silent = lease(json!({}));
    assert!(allows(&silent, "model.use", "m", DENY).is_err());
    let allowed = allows(&silent, "model.use", "m", ModelDefault::Allow);
    assert_eq!(allowed, Ok(Rule::ModelDefault));
    assert!(allows(&silent, "tool.call", "m", ModelDefault::Allow).is_err());
    // An empty list is not silence.
    let none = lease(json!({ "model.use": [] }));
    assert!(allows(&none, "model.use", "m", ModelDefault::Allow).is_err());
    assert_eq!(none.to_json(), r#"{"model.use":[]}"#);
}

#[test]
fn a_child_has_no_more_than_its_parent() {
    // §9.4.
    let parent = until(
        json!({
            "fs.read": ["/w/**"],
            "net.fetch": ["https://*.ex.com/**"],
            "agent.delegate": ["report"],
            "model.use": ["tier-fast/*"],
            "tool.call": ["search.*"],
            "cost.budget": ["USD:5"],
        }),
        NOW.0 + 1_000,
    );
    assert_eq!(parent.subset_of(&parent, DENY), Ok(()));
    for fits in [
        json!({}),
        json!({ "fs.read": ["/w/a/**", "/w"], "tool.call": ["search.web"] }),
        json!({ "net.fetch": ["https://a.ex.com/x?q"], "agent.delegate": ["report@1"] }),
        json!({ "model.use": ["tier-fast/a"], "cost.budget": ["USD:3", "USD:2"] }),
        json!({ "model.use": [], "cost.budget": ["USD:0"] }),
    ] {
        assert_eq!(
            lease(fits.clone()).subset_of(&parent, DENY),
            Ok(()),
            "{fits}"
        );
    }
    for (more, field) in [
        (
            json!({ "fs.read": ["/w/a", "/**"] }),
            "lease_request.fs.read",
        ),
        (json!({ "fs.read": ["/w2"] }), "lease_request.fs.read"),
        (json!({ "fs.write": ["/w/a"] }), "lease_request.fs.write"),
        (
            json!({ "net.fetch": ["https://**.ex.com/"] }),
            "lease_request.net.fetch",
        ),
        (
            json!({ "net.fetch": ["http://a.ex.com/"] }),
            "lease_request.net.fetch",
        ),
        (json!({ "tool.call": ["*"] }), "lease_request.tool.call"),
        // wire 4.12, TS: `agent.delegate` was never looked at.
        (
            json!({ "agent.delegate": ["*"] }),
            "lease_request.agent.delegate",
        ),
        (
            json!({ "model.use": ["tier-slow/a"] }),
            "lease_request.model.use",
        ),
        (
            json!({ "x-vendor.acme.db": ["a"] }),
            "lease_request.x-vendor.acme.db",
        ),
        (
            json!({ "cost.budget": ["USD:5.01"] }),
            "lease_request.cost.budget",
        ),
        (
            json!({ "cost.budget": ["USD:3", "USD:3"] }),
            "lease_request.cost.budget",
        ),
        (
            json!({ "cost.budget": ["EUR:1"] }),
            "lease_request.cost.budget",
        ),
    ] {
        let error = lease(more.clone()).subset_of(&parent, DENY).unwrap_err();
        assert!(error.starts_with(field), "{more}: {error}");
    }
    let late = until(json!({}), NOW.0 + 1_001).subset_of(&parent, DENY);
    assert!(
        late.unwrap_err()
            .starts_with("lease_constraints.expires_at")
    );
}

#[test]
fn a_child_does_not_escape_by_omission() {
    // wire 4.9: `lease_constraints: {}` lost the parent's end; wire 4.10: a child
    // without models under a parent with them has none.
    let parent = until(
        json!({ "model.use": ["m"], "tool.call": ["*"] }),
        NOW.0 + 1_000,
    );
    let child = lease(json!({})).inherit(&parent);
    assert_eq!(child.expires_at, parent.expires_at);
    assert!(allows(&child, "model.use", "m", ModelDefault::Allow).is_err());
    assert!(allows(&child, "tool.call", "t", ModelDefault::Allow).is_err());
    let grandchild = lease(json!({ "model.use": ["m"] }));
    assert!(grandchild.subset_of(&child, ModelDefault::Allow).is_err());
    assert_eq!(lease(json!({})).inherit(&child), child);
    let sooner = until(json!({}), NOW.0 + 1).inherit(&parent);
    assert_eq!(sooner.expires_at, Some(Timestamp(NOW.0 + 1)));
}

#[test]
fn models_a_silent_parent_may_use_may_be_narrowed() {
    let (silent, child) = (lease(json!({})), lease(json!({ "model.use": ["m"] })));
    assert_eq!(child.subset_of(&silent, ModelDefault::Allow), Ok(()));
    assert!(child.subset_of(&silent, DENY).is_err());
}

fn policy(toml: &str) -> Policy {
    Policy::parse(toml).unwrap()
}

fn effective(
    policy: &Policy,
    principal: &str,
    agent: &str,
    asked: &Lease,
) -> Result<Lease, String> {
    policy.effective(principal, &AgentRef::parse(agent).unwrap(), asked, NOW)
}

const BOUNDS: &str = r#"
[[bound]]
principals = ["alice", "team-*"]
agents = ["report"]
max_lifetime_sec = 60
unbounded = ["tool.call"]
[bound.lease]
"net.fetch" = ["https://*.ex.com/**"]
"fs.read" = ["/w/**", "/**/x"]
"cost.budget" = ["USD:5", "EUR:1"]

[[bound]]
principals = ["alice"]
agents = ["word-*@1.*"]
"#;

#[test]
fn a_bound_cuts_what_is_asked_for() {
    let policy = policy(BOUNDS);
    let asked = lease(json!({
        "net.fetch": ["https://a.ex.com/v1", "https://evil.com/"],
        "fs.read": ["/**", "/w/a", "/etc/**"],
        "fs.write": ["/w/**"],
        "tool.call": ["rm"],
        "model.use": ["m"],
        "cost.budget": ["USD:9", "credits:1"],
    }));
    let cut = effective(&policy, "team-9", "report@2", &asked).unwrap();
    assert_eq!(
        shown(&cut),
        // `/etc/**` and `/**/x` share `/etc/**/x`, which neither is.
        json!({
            "net.fetch": ["https://a.ex.com/v1"],
            "fs.read": ["/w/**", "/**/x", "/w/a"],
            "tool.call": ["rm"],
            "model.use": [],
            "cost.budget": ["EUR:1", "USD:5", "credits:1"],
        })
    );
    assert_eq!(cut.expires_at, Some(Timestamp(NOW.0 + 60_000)));
    // Asking for nothing escapes no budget and no end.
    let silent = effective(&policy, "alice", "report", &lease(json!({}))).unwrap();
    assert_eq!(shown(&silent)["cost.budget"], json!(["EUR:1", "USD:5"]));
    assert!(silent.expires_at.is_some() && allows(&silent, "tool.call", "t", DENY).is_err());
    let sooner = until(json!({}), NOW.0 + 59_999);
    let sooner = effective(&policy, "alice", "report", &sooner).unwrap();
    assert_eq!(sooner.expires_at, Some(Timestamp(NOW.0 + 59_999)));
    // A bound without a lease lets the job run and do nothing.
    let nothing = effective(&policy, "alice", "word-count@1.0", &asked).unwrap();
    assert_eq!(nothing.capabilities().count(), 1, "no models");
}

#[test]
fn who_fits_no_bound_gets_what_the_default_says() {
    let asked = lease(json!({ "tool.call": ["rm"] }));
    let listed = policy(BOUNDS);
    for (principal, agent) in [
        ("bob", "report"),
        ("alice2", "report"),
        ("xteam-1", "report"),
        ("team-1", "word-count@1.0"),
        ("alice", "word-count@2.0"),
        ("alice", "word-count"),
    ] {
        let error = effective(&listed, principal, agent, &asked).unwrap_err();
        assert!(error.contains(principal), "{error}");
    }
    let open = policy(&format!("default = \"allow\"\n{BOUNDS}"));
    assert_eq!(effective(&open, "bob", "report", &asked), Ok(asked.clone()));
    assert_eq!(
        effective(&Policy::default(), "bob", "report", &asked),
        Ok(asked.clone())
    );
    assert!(effective(&policy(""), "bob", "report", &asked).is_err());
}

#[test]
fn a_bound_on_models_holds_where_models_are_allowed_by_default() {
    let text = "model_use_default = \"allow\"\n[[bound]]\nprincipals = [\"a\"]\n";
    let bounded = policy(&format!(
        "{text}[bound.lease]\n\"model.use\" = [\"tier-fast/*\"]"
    ));
    assert_eq!(bounded.model_use_default, ModelDefault::Allow);
    let cut = |asked: Value| shown(&effective(&bounded, "a", "x", &lease(asked)).unwrap());
    assert_eq!(cut(json!({})), json!({ "model.use": ["tier-fast/*"] }));
    assert_eq!(
        cut(json!({ "model.use": ["tier-slow/a"] })),
        json!({ "model.use": [] })
    );
    // A bound that says nothing about models bounds none.
    let silent = policy(text);
    let cut = effective(&silent, "a", "x", &lease(json!({ "model.use": ["m"] }))).unwrap();
    assert_eq!(shown(&cut), json!({ "model.use": ["m"] }));
    assert_eq!(Policy::default().model_use_default, DENY);
}

#[test]
fn a_policy_that_says_something_else_is_refused() {
    let bound = "[[bound]]\nprincipals = [\"a\"]\n";
    for (text, error) in [
        ("defualt = \"deny\"".into(), "defualt"),
        ("default = \"maybe\"".into(), "maybe"),
        ("[[bound]]\nagents = [\"a\"]".into(), "principals"),
        ("[[bound]]\nprincipals = []".into(), "bound[0].principals"),
        (format!("{bound}agents = []"), "bound[0].agents"),
        (format!("{bound}agents = [\"A\"]"), "bound[0].agents[0]"),
        (
            format!("{bound}{bound}max_lifetime_sec = 0"),
            "bound[1].max_lifetime_sec",
        ),
        (
            format!("{bound}max_lifetime_sec = 9223372036854775807"),
            "bound[0].max_lifetime_sec",
        ),
        (
            format!("{bound}unbounded = [\"cost.budget\"]"),
            "bound[0].unbounded[0]",
        ),
        (format!("{bound}lifetime = 1"), "lifetime"),
        (
            format!("{bound}[bound.lease]\n\"net.fetch\" = [\"https://*\"]"),
            "bound[0].lease.net.fetch[0]",
        ),
        (
            format!("{bound}[bound.lease]\n\"net.fetsch\" = []"),
            "bound[0].lease.net.fetsch",
        ),
        (
            format!("{bound}[bound.lease]\n\"cost.budget\" = [\"USD:NaN\"]"),
            "bound[0].lease.cost.budget[0]",
        ),
        (
            format!("{bound}unbounded = [\"fs.read\"]\n[bound.lease]\n\"fs.read\" = []"),
            "bound[0].unbounded[0]",
        ),
    ] {
        let got = Policy::parse(&text).expect_err(&text);
        assert!(got.contains(error), "{text}: {got}");
    }
}
