//! What must hold for every pattern and target, over random ones from a small
//! alphabet, so that they meet often; and for any text at all, that reading and
//! comparing it ends soon and without a panic (`ARCPD_FUZZ_SECONDS` for longer).

#[path = "support/cpu.rs"]
mod cpu;

use std::time::{Duration, Instant};

use arcpd::authority::{Amount, Capability, Lease, ModelDefault, Pattern, Target};
use arcpd::protocol::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const SECONDS: u64 = 3;

fn segment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "ab", "ba", "aab", "abab"])
}

fn glob() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a", "ab", "b", "*", "*", "a*", "*b", "a*b", "*a*", "a*a*", "**", "**",
    ])
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["fs.read", "net.fetch", "model.use", "agent.delegate"])
}

fn host(wild: bool) -> impl Strategy<Value = String> {
    let left = if wild {
        vec!["", "*.", "**."]
    } else {
        vec!["", "a.", "b.a."]
    };
    let labels = prop::sample::select(vec!["a.b", "b.a", "a.a.b", "a.b.a.b"]);
    (prop::sample::select(left), labels).prop_map(|(left, labels)| format!("{left}{labels}"))
}

/// A target's text in `namespace`, or with `wild` a pattern's.
fn text(namespace: &'static str, wild: bool) -> BoxedStrategy<String> {
    let segments = match wild {
        true => vec(glob(), 0..4).boxed(),
        false => vec(segment(), 0..5).boxed(),
    };
    match namespace {
        "fs.read" => segments
            .prop_map(|all| format!("/{}", all.join("/")))
            .boxed(),
        "model.use" => segments
            .prop_map(|all| {
                if all.is_empty() {
                    "a".into()
                } else {
                    all.join("/")
                }
            })
            .boxed(),
        "net.fetch" => {
            let query = prop::sample::select(vec!["", "", "?", "?a=b"]);
            (host(wild), segments, query)
                .prop_map(|(host, all, query)| format!("https://{host}/{}{query}", all.join("/")))
                .boxed()
        }
        _ if wild => prop::sample::select(vec![
            "a", "a*", "*", "*b", "**", "a@1.*", "a@*", "*@1.0", "ab@*0", "*@1*",
        ])
        .prop_map(Into::into)
        .boxed(),
        _ => prop::sample::select(vec!["a", "ab", "b", "a@1.0", "ab@1.0", "b@1.1", "ab@2.0"])
            .prop_map(Into::into)
            .boxed(),
    }
}

fn pattern_text() -> impl Strategy<Value = (&'static str, String)> {
    namespace().prop_flat_map(|name| (Just(name), text(name, true)))
}

/// Two patterns and a target of one namespace.
fn three() -> impl Strategy<Value = (Capability, Pattern, Pattern, Target)> {
    namespace().prop_flat_map(|name| {
        let capability = Capability::parse(name).unwrap();
        (text(name, true), text(name, true), text(name, false)).prop_map(move |(a, b, target)| {
            let pattern = |text: &str| Pattern::parse(&capability, text).unwrap();
            let target = Target::parse(&capability, &target).unwrap();
            (capability.clone(), pattern(&a), pattern(&b), target)
        })
    })
}

fn lease() -> impl Strategy<Value = Lease> {
    let amounts = vec(
        prop::sample::select(vec!["USD:1", "USD:2.5", "EUR:0.1"]),
        0..3,
    );
    let end = prop::option::of(1_i64..4);
    let parts = (vec(pattern_text(), 0..8), amounts, end);
    parts.prop_filter_map("slow to ask", |(patterns, amounts, end)| {
        let mut request = serde_json::Map::new();
        for (name, text) in patterns {
            let list = request.entry(name).or_insert_with(|| serde_json::json!([]));
            list.as_array_mut().unwrap().push(text.into());
        }
        request.insert("cost.budget".into(), amounts.into());
        let request = serde_json::Value::from(request).to_string();
        match Lease::parse(&request, end.map(|end| Timestamp(NOW.0 + end)), NOW) {
            Err(why) if why.contains("one question may take") => None,
            lease => Some(lease.unwrap()),
        }
    })
}

fn any_target() -> impl Strategy<Value = (Capability, Target)> {
    namespace()
        .prop_flat_map(|name| (Just(name), text(name, false)))
        .prop_map(|(name, text)| {
            let capability = Capability::parse(name).unwrap();
            let target = Target::parse(&capability, &text).unwrap();
            (capability, target)
        })
}

fn models() -> impl Strategy<Value = ModelDefault> {
    prop::sample::select(vec![ModelDefault::Deny, ModelDefault::Allow])
}

// === the reference: every way tried, on the texts ===

fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    match glob.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| glob_matches(rest, &text[at..])),
        Some((byte, rest)) => text.first() == Some(byte) && glob_matches(rest, &text[1..]),
    }
}

fn list_matches(globs: &[&str], texts: &[&str]) -> bool {
    match globs.split_first() {
        None => texts.is_empty(),
        Some((&"**", rest)) => (0..=texts.len()).any(|at| list_matches(rest, &texts[at..])),
        Some((glob, rest)) => {
            let first = texts.first();
            first.is_some_and(|text| glob_matches(glob.as_bytes(), text.as_bytes()))
                && list_matches(rest, &texts[1..])
        }
    }
}

fn pieces(text: &str, by: char) -> Vec<&str> {
    text.split(by).filter(|piece| !piece.is_empty()).collect()
}

fn reference(capability: &Capability, pattern: &str, target: &str) -> bool {
    match capability {
        Capability::NetFetch => {
            let cut = |text: &str| {
                let (rest, query) = match text.split_once('?') {
                    Some((rest, query)) => (rest.to_owned(), Some(query.to_owned())),
                    None => (text.to_owned(), None),
                };
                let rest = rest.strip_prefix("https://").unwrap().to_owned();
                let (host, path) = rest.split_once('/').unwrap();
                (host.to_owned(), path.to_owned(), query)
            };
            let (own, other) = (cut(pattern), cut(target));
            list_matches(&pieces(&own.0, '.'), &pieces(&other.0, '.'))
                && list_matches(&pieces(&own.1, '/'), &pieces(&other.1, '/'))
                && own
                    .2
                    .is_none_or(|query| query == other.2.unwrap_or_default())
        }
        Capability::AgentDelegate => {
            let (name, version) = pattern.split_once('@').unwrap_or((pattern, "*"));
            let (own_name, own_version) = target.split_once('@').unwrap_or((target, ""));
            glob_matches(name.as_bytes(), own_name.as_bytes())
                && glob_matches(version.as_bytes(), own_version.as_bytes())
        }
        _ => list_matches(&pieces(pattern, '/'), &pieces(target, '/')),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matching_is_what_trying_every_way_finds((capability, pattern, _, target) in three()) {
        let expected = reference(&capability, pattern.as_str(), target.as_str());
        prop_assert_eq!(pattern.matches(&target), expected);
    }

    #[test]
    fn what_is_covered_is_matched((_, parent, child, target) in three()) {
        prop_assert!(parent.covers(&parent));
        if parent.covers(&child) && child.matches(&target) {
            prop_assert!(parent.matches(&target), "{} {} {}", parent, child, target);
        }
    }

    #[test]
    fn patterns_and_targets_read_back_as_themselves((capability, pattern, _, target) in three()) {
        prop_assert_eq!(Pattern::parse(&capability, pattern.as_str()), Ok(pattern));
        prop_assert_eq!(Target::parse(&capability, target.as_str()), Ok(target));
    }

    #[test]
    fn a_lease_finds_what_its_patterns_match(lease in lease(), (capability, target) in any_target()) {
        let expected = lease.patterns(&capability).iter().any(|pattern| pattern.matches(&target));
        prop_assert_eq!(lease.allows(&capability, &target, ModelDefault::Deny).is_ok(), expected);
        let shown = Lease::parse(&lease.to_json(), lease.expires_at, NOW);
        prop_assert_eq!(shown, Ok(lease));
    }

    #[test]
    fn an_accepted_child_does_nothing_its_parent_may_not(
        asked in lease(), parent in lease(), models in models(), (capability, target) in any_target(),
    ) {
        // Most pairs are no parent and child, so one is made of them too.
        for child in [asked.intersect(&parent, models), asked] {
            if child.subset_of(&parent, models).is_ok() {
                let child = child.inherit(&parent);
                let (own, parents) = (
                    child.allows(&capability, &target, models),
                    parent.allows(&capability, &target, models),
                );
                prop_assert!(own.is_err() || parents.is_ok(), "{:?} {} {}", own, capability, target);
                prop_assert!(parent.expires_at.is_none_or(|end| child.expires_at.unwrap() <= end));
            }
        }
    }

    #[test]
    fn an_intersection_is_no_more_than_either(
        asked in lease(), bound in lease(), models in models(), (capability, target) in any_target(),
    ) {
        let both = asked.intersect(&bound, models);
        if both.allows(&capability, &target, models).is_ok() {
            prop_assert!(asked.allows(&capability, &target, models).is_ok());
            prop_assert!(bound.allows(&capability, &target, models).is_ok());
        }
        for one in [&asked, &bound] {
            for (currency, amount) in &one.budget {
                prop_assert!(both.budget[currency] <= *amount);
            }
            prop_assert!(one.expires_at.is_none_or(|end| both.expires_at.unwrap() <= end));
        }
        prop_assert_eq!(both.intersect(&bound, models), both);
    }

    #[test]
    fn urls_come_to_one_form(
        scheme in prop::sample::select(vec!["http", "HTTPS", "hTTp"]),
        host in "(([a-bA-B\u{fc}\u{3b1}]|xn--){1,6}\\.){0,3}[a-c]{1,3}\\.?|\\[::[0-9]\\]|127\\.0\\.0\\.1",
        port in "|:80|:443|:0?8443",
        path in "(/([a-z.;~!$&'()*+,=:@\u{e9}]|%[2-7][0-9a-fA-F]|%C3%A9){0,5}){0,4}",
        query in "(\\?([a-z/?&=]|%[2-7][0-9a-f]){0,6})?(#[a-z]{0,3})?",
    ) {
        let text = format!("{scheme}://{host}{port}{path}{query}");
        if let Ok(target) = Target::parse(&Capability::NetFetch, &text) {
            let again = Target::parse(&Capability::NetFetch, target.as_str());
            prop_assert_eq!(again.as_ref(), Ok(&target), "{}", text);
            let path = target.as_str().split_once('?').map_or(target.as_str(), |(path, _)| path);
            prop_assert!(!path.contains("/../") && !path.ends_with("/.."), "{}", target);
            // A strict URL is the same to the parser that clients have.
            let parsed = url::Url::parse(target.as_str()).unwrap();
            prop_assert_eq!(parsed.as_str(), target.as_str());
        }
    }

    #[test]
    fn amounts_add_up(whole in 0_u64..1_000_000, millionths in 0_u64..1_000_000, less in 0_u64..1_000) {
        let sum = Amount::parse(&format!("{whole}.{millionths:06}")).unwrap();
        let part = Amount::parse(&format!("{less}")).unwrap();
        prop_assert_eq!(Amount::parse(&sum.to_string()), Ok(sum));
        prop_assert_eq!(sum.checked_sub(part).unwrap().checked_add(part), Some(sum));
        let written: f64 = sum.to_string().parse().unwrap();
        prop_assert_eq!(Amount::from_metric(written), Ok(sum));
    }
}

// === anything at all ===

const CORPUS: [&str; 16] = [
    "/w/a/**/b*c/*",
    "/w/../etc/./passwd//",
    "https://*.example.com:8443/v1/**?q=1",
    "HTTPS://user@b\u{fc}cher.example./%2e%2E/%252f/a;b#c",
    "http://[::ffff:127.0.0.1]:80/",
    "http://0x7f.1/\u{ff0e}\u{ff0e}",
    "https://**.xn--bcher-kva.example/**/a*a*a*a*b/**",
    "search.*",
    "anthropic/claude-3-opus-*",
    "report@1.*",
    "db://main/*/**/x",
    "a*a*a*a*a*a*a*b",
    "/**/a/**/a/**/a/**/a/**/b",
    "/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a",
    "\0\u{202e}\u{7f}\\%",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn mutated(random: &mut StdRng) -> String {
    let mut text: Vec<char> = CORPUS[random.random_range(0..CORPUS.len())]
        .chars()
        .collect();
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(0..=text.len());
        let end = random.random_range(at..=text.len());
        match random.random_range(0..5) {
            0 => drop(text.drain(at..end)),
            1 => text.insert(at, random.random()),
            2 => {
                let marks = ['*', '/', '.', '%', ':', '@', '?', '#', '[', '2', 'e', 'a'];
                text.insert(at, marks[random.random_range(0..marks.len())]);
            }
            3 => {
                let other = CORPUS[random.random_range(0..CORPUS.len())];
                text.splice(at..end, other.chars());
            }
            _ => {
                let piece = text[at..end].to_vec();
                for _ in 0..random.random_range(1..8) {
                    text.splice(at..at, piece.iter().copied());
                }
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn any_text_is_read_or_refused_with_words() {
    let seconds = std::env::var("ARCPD_FUZZ_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let names = [
        "fs.write",
        "net.fetch",
        "tool.call",
        "agent.delegate",
        "x-vendor.acme.db",
    ];
    let capabilities = names.map(|name| Capability::parse(name).unwrap());
    let (mut inputs, mut read, mut matches, mut slowest) = (0, 0, 0, Duration::ZERO);
    let mut patterns: Vec<Pattern> = Vec::new();
    while Instant::now() < until {
        let text = mutated(&mut random);
        inputs += 1;
        for capability in &capabilities {
            let before = cpu::cpu_time("thread-self");
            match Pattern::parse(capability, &text) {
                Ok(pattern) => {
                    assert_eq!(
                        Pattern::parse(capability, pattern.as_str()).as_ref(),
                        Ok(&pattern)
                    );
                    assert!(pattern.covers(&pattern));
                    let place = random.random_range(0..64);
                    match patterns.get_mut(place) {
                        Some(kept) => *kept = pattern,
                        None => patterns.push(pattern),
                    }
                    read += 1;
                }
                Err(why) => assert!(!why.is_empty()),
            }
            match Target::parse(capability, &text) {
                Ok(target) => {
                    assert_eq!(
                        Target::parse(capability, target.as_str()).as_ref(),
                        Ok(&target)
                    );
                    matches += patterns.iter().filter(|own| own.matches(&target)).count();
                    read += 1;
                }
                Err(why) => assert!(!why.is_empty()),
            }
            slowest = slowest.max(cpu::cpu_time("thread-self") - before);
        }
    }
    println!("{inputs} inputs, {read} read, {matches} matches, slowest {slowest:?}");
    assert!(read > 0 && matches > 0);
    // A pattern that backtracks takes for ever.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
