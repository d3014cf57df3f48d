//! A table of escapes: what an agent might name, or a client ask for, to get more
//! than it was given. Each row says where the rule stands: a section of
//! draft-arcp-1.1, or of the wire reference (§4.8-4.12 there, "wire").

use arcpd::authority::{Capability, Pattern, Target};

fn capability(name: &str) -> Capability {
    Capability::parse(name).unwrap()
}

fn pattern(name: &str, text: &str) -> Pattern {
    Pattern::parse(&capability(name), text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn target(name: &str, text: &str) -> Target {
    Target::parse(&capability(name), text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

/// What `text` would touch, and whether a lease of `granted` lets it.
fn allowed(name: &str, granted: &str, text: &str) -> bool {
    let granted = pattern(name, granted);
    Target::parse(&capability(name), text).is_ok_and(|target| granted.matches(&target))
}

#[track_caller]
fn allows(name: &str, granted: &str, texts: &[&str]) {
    for text in texts {
        assert!(granted_is_canonical(name, granted));
        assert!(allowed(name, granted, text), "{granted} must allow {text}");
    }
}

#[track_caller]
fn denies(name: &str, granted: &str, texts: &[&str]) {
    for text in texts {
        assert!(!allowed(name, granted, text), "{granted} must deny {text}");
    }
}

fn granted_is_canonical(name: &str, granted: &str) -> bool {
    let once = pattern(name, granted);
    pattern(name, once.as_str()) == once
}

/// Refused before any lease is looked at, with a reason that says `why`.
#[track_caller]
fn no_target(name: &str, texts: &[&str], why: &str) {
    for text in texts {
        let error = Target::parse(&capability(name), text).expect_err(text);
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[track_caller]
fn no_pattern(name: &str, texts: &[&str], why: &str) {
    for text in texts {
        let error = Pattern::parse(&capability(name), text).expect_err(text);
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn paths_do_not_climb() {
    // wire 4.9, Py: `/w/**` allowed `/w/../etc/passwd`.
    no_target(
        "fs.read",
        &["/w/../etc/passwd", "/..", "/w/a/..", "/../w"],
        "`..`",
    );
    // §9.2: a path is absolute, and what is no path is none.
    no_target(
        "fs.read",
        &["", "w/a", "./w", "~/w", "C:\\w", "file:///w"],
        "absolute",
    );
    no_target(
        "fs.read",
        &["/w\0/a", "/w/a\n", "/w/\u{7f}", "/w\\..\\etc"],
        "control",
    );
    denies(
        "fs.read",
        "/w/**",
        &["/", "/w2", "/W/a", "/etc/passwd", "/x/w/a"],
    );
}

#[test]
fn paths_have_one_form() {
    // wire 4.9, TS and Go: `//`, `.` and a trailing slash mean nothing.
    for same in ["/w/a", "//w//a", "/w/./a/", "/w/a/.", "/./w/a//"] {
        assert_eq!(target("fs.read", same).as_str(), "/w/a");
    }
    assert_eq!(target("fs.read", "//.//").as_str(), "/");
    // A percent sign is a character of a name: nothing decodes it on the way to
    // the file system, so it leads nowhere else.
    denies("fs.read", "/w/a", &["/w/%61", "/w%2Fa"]);
    allows(
        "fs.read",
        "/w/*",
        &["/w/%2e%2e", "/w/..a", "/w/a..", "/w/...", "/w/*"],
    );
}

#[test]
fn a_name_that_looks_like_a_link_is_only_a_name() {
    // wire 4.9: the lease sees names. What `..` behind a link would mean it does
    // not know, so the way over a link and back is refused.
    no_target(
        "fs.write",
        &["/w/link/../../etc/passwd", "/w/link/.."],
        "`..`",
    );
    allows("fs.write", "/w/*", &["/w/etc -> passwd", "/w/link"]);
    denies("fs.write", "/w/*", &["/w/link/passwd"]);
}

#[test]
fn urls_do_not_climb() {
    // wire 4.9, TS: `https://ex.com/pub/../admin` passed `https://ex.com/pub/**`.
    let climbing = [
        "https://ex.com/pub/../admin",
        "https://ex.com/pub/%2e%2e/admin",
        "https://ex.com/pub/%2E./admin",
        "https://ex.com/pub/.%2e/admin",
        "https://ex.com/pub/..",
        // Servers that cut parameters off see `..`.
        "https://ex.com/pub/..;x/admin",
        "https://ex.com/pub/..%3bx/admin",
        "https://ex.com/pub/%2e%2e%3Bx/admin",
        // Windows cuts spaces and dots off the end of a name.
        "https://ex.com/pub/..%20/admin",
        "https://ex.com/pub/.%20./admin",
        "https://ex.com/pub/.%20",
        "https://ex.com/pub/...",
        "https://ex.com/pub/%2e%2e%20%3Bx/admin",
    ];
    no_target("net.fetch", &climbing, "`..`");
    // wire 4.9: percent-encoding is normalised before anything is compared.
    no_target(
        "net.fetch",
        &[
            "https://ex.com/pub%2Fa",
            "https://ex.com/pub/..%2fadmin",
            "https://ex.com/a%5Cb",
        ],
        "encoded / or \\",
    );
    no_target(
        "net.fetch",
        &["https://ex.com/a%00", "https://ex.com/a%0d%0aX:1"],
        "control",
    );
    no_target(
        "net.fetch",
        &[
            "https://ex.com/%252e%252e/admin",
            "https://ex.com/a%252Fb",
            "https://ex.com/%25252e",
        ],
        "twice",
    );
    // wire 4.9: to an old decoder an overlong form is the dot or the slash.
    no_target(
        "net.fetch",
        &[
            "https://ex.com/pub/%c0%ae%c0%ae/admin",
            "https://ex.com/pub/..%c0%af",
            "https://ex.com/%c0%afpub/x",
            "https://ex.com/a%ff",
            "https://ex.com/a%e2%82",
        ],
        "UTF-8",
    );
    no_target(
        "net.fetch",
        &[
            "https://ex.com/%",
            "https://ex.com/%2",
            "https://ex.com/%zz",
            "https://ex.com/a?%u1",
        ],
        "hex",
    );
    no_target(
        "net.fetch",
        &[
            "https://ex.com//admin",
            "https://ex.com/pub//x",
            "https://ex.com//",
        ],
        "empty segment",
    );
    no_target(
        "net.fetch",
        &[
            "https://ex.com/pub\\..\\admin",
            "https:\\\\ex.com/",
            "https://ex.com/a\t",
            "https://ex.com/ a",
        ],
        "backslash",
    );
    // A full stop of another script is no dot in a path.
    allows(
        "net.fetch",
        "https://ex.com/pub/**",
        &["https://ex.com/pub/\u{ff0e}\u{ff0e}/x"],
    );
}

#[test]
fn urls_have_one_form() {
    // wire 4.9: scheme and host case, default port, fragment, percent-encoding.
    for same in [
        "https://ex.com/a~b",
        "HTTPS://EX.COM/a~b",
        "https://ex.com:443/a~b",
        "https://ex.com:0443/a~b",
        "https://ex.com./a~b",
        "https://ex.com/a%7Eb",
        "https://ex.com/%61%7eb/",
        "https://ex.com/./a~b#part",
        "https://ex.com/a~b?",
    ] {
        assert_eq!(target("net.fetch", same).as_str(), "https://ex.com/a~b");
    }
    for root in [
        "https://ex.com",
        "https://ex.com/",
        "https://ex.com/.",
        "https://ex.com#x",
    ] {
        assert_eq!(target("net.fetch", root).as_str(), "https://ex.com/");
    }
    assert_eq!(
        target("net.fetch", "https://ex.com/caf\u{e9}?q=%e9 ".trim()).as_str(),
        "https://ex.com/caf%C3%A9?q=%E9"
    );
    // A path's case is its own.
    denies(
        "net.fetch",
        "https://ex.com/pub",
        &["https://ex.com/PUB", "https://ex.com/pub/x"],
    );
}

#[test]
fn a_host_is_only_itself() {
    no_target(
        "net.fetch",
        &[
            "https://ex.com@evil.com/",
            "https://u:p@ex.com/",
            "https://@ex.com/",
            "https://ex.com%40evil.com@x/",
        ],
        "user name",
    );
    no_target(
        "net.fetch",
        &["https:///etc", "https://", "https://:443/", "https://?q"],
        "empty",
    );
    no_target(
        "net.fetch",
        &[
            "https://.",
            "https://a..b/",
            "https://.ex.com/",
            "https://ex.com../",
        ],
        "host",
    );
    no_target(
        "net.fetch",
        &[
            "https://ex%2ecom/",
            "https://e x.com/".replace(' ', "!").as_str(),
            "https://*.ex.com/",
            "https://ex.com|evil.com/",
        ],
        "character",
    );
    no_target(
        "net.fetch",
        &[
            "ftp://ex.com/",
            "file:///etc/passwd",
            "javascript://ex.com/",
            "httpss://ex.com/",
            "h*://ex.com/",
        ],
        "scheme",
    );
    no_target(
        "net.fetch",
        &[
            "ex.com/a",
            "//ex.com/a",
            "https:/ex.com/",
            "https:ex.com",
            "",
        ],
        "scheme",
    );
    let granted = "https://ex.com/**";
    denies(
        "net.fetch",
        granted,
        &[
            "http://ex.com/",
            "https://ex.com:8443/",
            "https://evil.com/ex.com/",
            "https://ex.com.evil.com/",
            "https://notex.com/",
            "https://a.ex.com/",
            "https://evil.com/?https://ex.com/",
            "https://evil.com#@ex.com/",
        ],
    );
    allows(
        "net.fetch",
        "https://ex.com:8443/*",
        &["https://ex.com:8443/x"],
    );
    denies("net.fetch", "https://ex.com:8443/*", &["https://ex.com/x"]);
    no_target(
        "net.fetch",
        &[
            "https://ex.com:/",
            "https://ex.com:0/",
            "https://ex.com:65536/",
            "https://ex.com:+443/",
            "https://ex.com:443:443/",
            "https://[::1]x/",
        ],
        "",
    );
}

#[test]
fn hosts_of_other_scripts_are_compared_as_ascii() {
    // wire 4.9 and issue: IDN. Both spellings are one host.
    allows(
        "net.fetch",
        "https://b\u{fc}cher.example/**",
        &[
            "https://xn--bcher-kva.example/",
            "https://B\u{dc}CHER.example/",
        ],
    );
    // Full-width letters and the ideographic full stop are the ASCII ones.
    allows(
        "net.fetch",
        "https://ex.com/**",
        &["https://\u{ff45}x.com/", "https://ex\u{3002}com/"],
    );
    // Homoglyphs are not: Cyrillic `е`, Greek `ο`, Latin `ı`.
    denies(
        "net.fetch",
        "https://ex.com/**",
        &["https://\u{435}x.com/", "https://ex.c\u{3bf}m/"],
    );
    no_target(
        "net.fetch",
        &["https://fa\u{df}.de/", "https://ex\u{200d}.com/"],
        "xn--",
    );
    no_target(
        "net.fetch",
        &["https://xn--zzzzzz99999.com/", "https://xn--/"],
        "host",
    );
    let long = format!("https://{}.com/", "a".repeat(64));
    no_target("net.fetch", &[&long], "label");
}

#[test]
fn addresses_have_one_spelling() {
    let odd = [
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://2130706433/",
        "http://127.1/",
        "http://127.0.0.01/",
        "http://0x7f000001/",
        "http://\u{ff11}27.0.0.1/",
        "http://127\u{3002}0.0.1/",
    ];
    no_target("net.fetch", &odd, "odd form");
    no_target(
        "net.fetch",
        &[
            "http://256.0.0.1/",
            "http://1.2.3.4.5/",
            "http://1.2.3.09/",
            "http://a.1/",
        ],
        "not valid",
    );
    assert_eq!(
        target("net.fetch", "http://127.0.0.1./x").as_str(),
        "http://127.0.0.1/x"
    );
    for same in [
        "http://[::1]/",
        "http://[0:0::1]:80/",
        "http://[0000::0001]/",
    ] {
        assert_eq!(target("net.fetch", same).as_str(), "http://[::1]/");
    }
    no_target(
        "net.fetch",
        &[
            "http://[::1/",
            "http://::1/",
            "http://[fe80::1%25eth0]/",
            "http://[v1.x]/",
        ],
        "",
    );
    // An IPv4 address in IPv6 is another name: granted only where written so.
    denies(
        "net.fetch",
        "http://127.0.0.1/**",
        &["http://[::ffff:127.0.0.1]/", "http://localhost/"],
    );
    no_pattern(
        "net.fetch",
        &[
            "http://*.0.0.1/",
            "http://**.1/",
            "http://*.[::1]/",
            "http://127.0.0.*/",
        ],
        "",
    );
}

#[test]
fn a_wildcard_in_a_host_is_its_first_labels() {
    allows(
        "net.fetch",
        "https://*.ex.com/**",
        &["https://a.ex.com/x", "https://A.EX.COM./"],
    );
    denies(
        "net.fetch",
        "https://*.ex.com/**",
        &[
            "https://ex.com/",
            "https://a.b.ex.com/",
            "https://aex.com/",
            "https://a.ex.com.evil.com/",
        ],
    );
    allows(
        "net.fetch",
        "https://**.ex.com/",
        &["https://ex.com", "https://a.ex.com", "https://a.b.ex.com/"],
    );
    denies(
        "net.fetch",
        "https://**.ex.com/",
        &[
            "https://evil.com/ex.com",
            "https://a.ex.com/x",
            "https://notex.com/",
        ],
    );
    // Any host, or any of a top level: the cloud's metadata service among them.
    no_pattern(
        "net.fetch",
        &[
            "https://*/**",
            "https://**",
            "https://**/**",
            "https://*:8080/",
        ],
        "wildcard",
    );
    no_pattern(
        "net.fetch",
        &["https://*.com/", "https://**.internal/**"],
        "two labels",
    );
    no_pattern(
        "net.fetch",
        &[
            "https://a*.ex.com/",
            "https://*a.ex.com/",
            "https://a.*.com/",
            "https://*.*.ex.com/",
            "https://ex.*/",
            "https://***.ex.com/",
        ],
        "wildcard",
    );
    no_pattern(
        "net.fetch",
        &["*://ex.com/", "http*://ex.com/", "**"],
        "scheme",
    );
    no_pattern(
        "net.fetch",
        &["https://ex.com:*/", "https://ex.com:80*/"],
        "port",
    );
    no_pattern(
        "net.fetch",
        &["https://*@ex.com/", "https://u@ex.com/**"],
        "user name",
    );
}

#[test]
fn a_query_is_compared_whole_or_not_at_all() {
    // wire 4.9: strip or separately match the query.
    allows(
        "net.fetch",
        "https://ex.com/s",
        &["https://ex.com/s", "https://ex.com/s?q=1&x=/../y"],
    );
    allows(
        "net.fetch",
        "https://ex.com/s?q=1",
        &["https://ex.com/s?q=1", "https://ex.com/s?%71=1#f"],
    );
    denies(
        "net.fetch",
        "https://ex.com/s?q=1",
        &[
            "https://ex.com/s",
            "https://ex.com/s?q=1&admin=1",
            "https://ex.com/s?q=%31%26",
        ],
    );
    let (none, any) = (
        pattern("net.fetch", "https://ex.com/s?"),
        pattern("net.fetch", "https://ex.com/s"),
    );
    assert!(
        none.matches(&target("net.fetch", "https://ex.com/s?"))
            && !none.matches(&target("net.fetch", "https://ex.com/s?a"))
    );
    assert!(any.covers(&none) && !none.covers(&any));
    no_pattern(
        "net.fetch",
        &["https://ex.com/s?q=*", "https://ex.com/s?**"],
        "query",
    );
    no_pattern("net.fetch", &["https://ex.com/s#a"], "fragment");
    // A `?` cannot be smuggled into the path, nor a path into the query.
    denies(
        "net.fetch",
        "https://ex.com/s/*",
        &["https://ex.com/?/s/x", "https://ex.com?/s/x"],
    );
    allows("net.fetch", "https://ex.com/s/*", &["https://ex.com/s/%3F"]);
}

#[test]
fn globs_at_their_corners() {
    // wire 4.9: `*` within a segment, `**` whole segments, also none.
    allows("fs.read", "/w/**", &["/w", "/w/a", "/w/a/b/c"]);
    allows(
        "fs.read",
        "/w/**/z",
        &["/w/z", "/w/a/z", "/w/z/z", "/w/a/b/z"],
    );
    allows("fs.read", "/**", &["/", "/a/b"]);
    allows("fs.read", "/", &["/", "//", "/."]);
    denies("fs.read", "/", &["/a"]);
    denies("fs.read", "/w/*", &["/w", "/w/a/b", "/w/"]);
    denies("fs.read", "/w/**/z", &["/w/a", "/w/z/a", "/z"]);
    denies("fs.read", "/**/a/**/b/**", &["/b/a", "/a", "/b", "/a/c"]);
    allows(
        "fs.read",
        "/**/a/**/b/**",
        &["/a/b", "/x/a/y/b/z", "/a/a/b/b"],
    );
    // wire 4.9: `?` and `[` are themselves (Py: wildcards).
    denies("fs.read", "/w/[ab]?", &["/w/ac", "/w/b"]);
    allows("fs.read", "/w/[ab]?", &["/w/[ab]?"]);
    no_pattern(
        "fs.read",
        &["/w/a**b", "/w/**b", "/a**", "/w/***", "/w/****"],
        "whole segment",
    );
    no_pattern("fs.read", &["/w/../x", "/..", "/w/**/.."], "`..`");
    no_pattern(
        "fs.read",
        &["/w//x", "/w/", "//", "/w/./x", "/."],
        "empty or `.`",
    );
    no_pattern("fs.read", &["", "w/**", "**", "*"], "absolute");
    no_pattern(
        "net.fetch",
        &[
            "https://ex.com/a//b",
            "https://ex.com/a/",
            "https://ex.com/./a",
            "https://ex.com//",
        ],
        "segment",
    );
    no_pattern(
        "net.fetch",
        &[
            "https://ex.com/%2e%2e/*",
            "https://ex.com/a/..",
            "https://ex.com/..;*",
        ],
        "`..`",
    );
    no_pattern(
        "tool.call",
        &["", "a//b", "/a", "a/", "../a", "a b", "\u{430}"],
        "name",
    );
    no_pattern(
        "fs.read",
        &["/*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b"],
        "wildcards",
    );
    no_pattern("fs.read", &[&format!("/{}", "a".repeat(1024))], "bytes");
    no_pattern("fs.read", &[&"/a".repeat(65)], "segments");
}

#[test]
fn names_are_compared_to_the_letter() {
    allows("tool.call", "search.*", &["search.web", "search."]);
    denies(
        "tool.call",
        "search.*",
        &[
            "Search.web",
            "search",
            "xsearch.web",
            "search.web/admin",
            "search/web",
        ],
    );
    // §9.7: the draft's own patterns.
    allows(
        "model.use",
        "anthropic/claude-3-opus-*",
        &["anthropic/claude-3-opus-20240229"],
    );
    denies(
        "model.use",
        "anthropic/claude-3-opus-*",
        &[
            "evil/anthropic/claude-3-opus-1",
            "anthropic/claude-3-haiku-1",
            "claude-3-opus-1",
        ],
    );
    allows("model.use", "tier-fast/*", &["tier-fast/a"]);
    denies("model.use", "tier-fast/*", &["tier-fast", "tier-slow/a"]);
    no_target(
        "tool.call",
        &[
            "a/../b",
            "./a",
            "a//b",
            "/a",
            "",
            "a b",
            "a\u{a0}b",
            "t\u{43e}ol",
            "a\0",
        ],
        "name",
    );
    no_target("tool.call", &["*", "search.*"], "wildcard");
    no_target("model.use", &[&"a".repeat(257)], "256");
    // The vendor knows what an empty segment of its targets means.
    allows("x-vendor.acme.db", "db://main/*", &["db://main/users"]);
    denies(
        "x-vendor.acme.db",
        "db://main/*",
        &["db://other/users", "db:/main/users", "db://main/a/b"],
    );
    no_target("x-vendor.acme.db", &["db://main/../x"], "..");
}

#[test]
fn an_agents_version_is_part_of_its_name() {
    // wire 4.11.
    for every in ["report", "report@*"] {
        allows("agent.delegate", every, &["report", "report@1.0.0"]);
        assert_eq!(pattern("agent.delegate", every).as_str(), "report");
    }
    allows("agent.delegate", "report@1.*", &["report@1.0.0"]);
    // The version a bare name would get is not known here.
    denies(
        "agent.delegate",
        "report@1.*",
        &["report", "report@2.0.0", "report2@1.0"],
    );
    denies(
        "agent.delegate",
        "report",
        &["report2", "xreport@1", "report-admin"],
    );
    allows("agent.delegate", "**", &["a", "a@1"]);
    allows("agent.delegate", "*", &["a", "a@1"]);
    no_target(
        "agent.delegate",
        &["", "Report", "report@", "a@1@2", "a/b", "report@*", "*"],
        "agent",
    );
    no_pattern(
        "agent.delegate",
        &["", "Report", "a/b", "report@", "a@1@2", "@1"],
        "agent",
    );
    no_pattern("agent.delegate", &["report@**", "**@1", "a**"], "alone");
}

#[test]
fn a_pattern_is_of_one_kind() {
    assert!(!pattern("model.use", "a/b").matches(&target("fs.read", "/a/b")));
    assert!(!pattern("model.use", "**").covers(&pattern("fs.read", "/**")));
}

#[test]
fn what_covers_what() {
    // wire 4.9: TS saw no cover in the first, Py one in `/w/*` over `/w/**`.
    for (name, parent, child) in [
        ("tool.call", "search.*", "search.web"),
        ("tool.call", "*", "search.*"),
        ("tool.call", "**", "a/b"),
        ("fs.read", "/w/**", "/w/a/**"),
        ("fs.read", "/w/**", "/w"),
        ("fs.read", "/w/**", "/w/*"),
        ("fs.read", "/**/x", "/w/**/x"),
        ("fs.read", "/w/*/x", "/w/a*/x"),
        ("net.fetch", "https://*.ex.com/**", "https://a.ex.com/x/*"),
        ("net.fetch", "https://**.ex.com/**", "https://*.ex.com/x"),
        ("net.fetch", "https://ex.com/x", "https://ex.com/x?q=1"),
        ("agent.delegate", "report", "report@1.*"),
    ] {
        assert!(
            pattern(name, parent).covers(&pattern(name, parent)),
            "{parent}"
        );
        assert!(
            pattern(name, parent).covers(&pattern(name, child)),
            "{parent} {child}"
        );
        assert!(
            !pattern(name, child).covers(&pattern(name, parent)),
            "{child} {parent}"
        );
    }
    for (name, parent, child) in [
        ("fs.read", "/w/*", "/w/**"),
        ("fs.read", "/w/*", "/w/a/b"),
        ("fs.read", "/w/a*", "/w/*"),
        ("tool.call", "*", "**"),
        ("net.fetch", "https://*.ex.com/", "https://**.ex.com/"),
        ("net.fetch", "https://ex.com/**", "http://ex.com/a"),
        ("net.fetch", "https://ex.com/**", "https://ex.com:8443/a"),
        ("agent.delegate", "report@1.*", "report"),
    ] {
        assert!(
            !pattern(name, parent).covers(&pattern(name, child)),
            "{parent} {child}"
        );
    }
}
