//! The clients' tests again, against three replicas behind a proxy that gives each
//! connection to the next one: what a test starts as a runtime is a cell.
//!
//! Each suite is the test binary of its name, run once more. What is left out of it is
//! about one process, and says why. Of whole files left out: `durability`, `retention`,
//! `log` and `fuzz` open the file or the parts of one process; `drain`, `connections`,
//! `metrics*`, `traces*`, `logs`, `operator` and `serve` are what one process says of
//! itself; `cluster*` have what is special to a cell.

mod support;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use support::cell::NATS;
use support::nats::Nats;

/// Tests of a suite that are not for a cell.
type LeftOut = &'static [&'static str];

macro_rules! suites {
    ($($suite:ident $left_out:expr;)*) => {
        const SUITES: &[&str] = &[$(stringify!($suite)),*];
        $(
            #[test]
            fn $suite() {
                run(stringify!($suite), &$left_out);
            }
        )*
    };
}

suites! {
    bad_input [
        // What a principal may have is bounded at each replica.
        "more_sessions_than_a_principal_may_have_are_refused_and_the_rest_go_on",
    ];
    command_agent [];
    defects [];
    delegation [];
    divergences [];
    hosts [
        // A replica knows what the others have room for but for what is on its way.
        "two_hosts_share_the_work_of_one_agent",
        // Another replica lists an agent within a second of its first host, not at once.
        "a_known_agent_without_a_place_waits_and_an_unknown_one_is_refused",
    ];
    hosts_bad_input [];
    hosts_lost [];
    job_service [];
    leases [];
    model [];
    policy [];
    python [
        // In a cell they need a key that this one's configuration has not: see
        // `cluster_credentials`.
        "sdk_credentials",
    ];
    recordings [];
    session [];
    watch_job [
        // What is ended is kept for those who read it at the replica that looks.
        "a_job_stays_until_its_slowest_watcher_has_read_it",
    ];
    websocket [];
}

/// Built as this one was; it is there already when all tests are run.
static BINARIES: LazyLock<HashMap<String, PathBuf>> = LazyLock::new(|| {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["test", "--locked", "--no-run", "--message-format", "json"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    SUITES.iter().for_each(|suite| {
        build.args(["--test", suite]);
    });
    // What cargo tells a test of its package would make it build dependencies anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"];
        if of_package.iter().any(|start| text.starts_with(start)) {
            build.env_remove(&name);
        }
    }
    let built = build.stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "the suites are not built");
    let lines = built.stdout.split(|byte| *byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let binaries = messages.filter_map(|message| {
        let path = message["executable"].as_str()?.into();
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, path))
    });
    binaries.collect()
});

fn run(suite: &str, left_out: LeftOut) {
    let nats = Nats::single();
    let mut tests = Command::new(&BINARIES[suite]);
    tests.env(NATS, nats.url()).arg("--exact");
    for name in left_out {
        tests.args(["--skip", name]);
    }
    let ran = tests.output().unwrap();
    let (said, logged) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{said}\n{logged}");
    // Each name is one of a test.
    let filtered = format!("; {} filtered out", left_out.len());
    assert!(said.contains(&filtered), "{said}");
}
