//! The Helm chart: what it renders is what Kubernetes takes, what it configures is
//! what the runtime takes, and what it cannot do it refuses in words.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use support::buf::said;
use support::helm::*;
use support::matrix::matrix;
use support::*;

const VALUES: &str = include_str!("../helm/arcpd/values.yaml");
const SCHEMA: &str = include_str!("../helm/arcpd/values.schema.json");
/// Rendered with other values, most of them broken.
const FUZZ_CASES: usize = 150;

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn lint_has_nothing_to_say() {
    for args in matrix() {
        let mut helm = helm();
        let lint = helm.args(["lint", "--strict", CHART, "--kube-version", &newest()]);
        let output = lint.args(args).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn every_minor_of_kubernetes_takes_what_is_rendered() {
    for kubernetes in minors() {
        let mut all = String::new();
        for args in matrix() {
            let output = template(&kubernetes, &strs(&args));
            assert!(output.status.success(), "{args:?}: {}", said(&output));
            all += std::str::from_utf8(&output.stdout).unwrap();
        }
        let checked = conforms(&kubernetes, &all);
        assert!(checked.status.success(), "{kubernetes}: {}", said(&checked));
        let summary = String::from_utf8_lossy(&checked.stdout);
        assert!(summary.contains("Skipped: 0"), "{summary}");
    }
}

/// Or the test above would pass whatever it is given.
#[test]
fn a_field_that_kubernetes_does_not_know_is_found_out() {
    let everything = values("everything");
    let text = rendered(&["--values", &everything]);
    for (right, wrong) in [
        ("terminationGracePeriodSeconds:", "terminationGracePeriod:"),
        ("connectionIdleTimeout:", "connectionIdle:"),
        ("parentRefs:", "parents:"),
        ("rotationPolicy: Always", "rotationPolicy: Sometimes"),
        ("maxReplicaCount:", "maxReplicas:"),
    ] {
        assert!(text.contains(right), "{right}");
        let checked = conforms(&newest(), &text.replace(right, wrong));
        let summary = String::from_utf8_lossy(&checked.stdout);
        assert!(!summary.contains("Invalid: 0"), "{wrong}: {summary}");
        assert!(summary.contains("Errors: 0"), "{summary}");
    }
}

#[test]
fn a_kubernetes_that_is_too_old_is_refused() {
    let output = template("1.30.0", &[]);
    assert!(said(&output).contains("chart requires kubeVersion"));
}

#[test]
fn pods_meet_the_restricted_standard() {
    for args in matrix() {
        let all = objects(&rendered(&strs(&args)));
        let checked = pod_security(&all);
        assert!(checked.status.success(), "{args:?}: {}", said(&checked));
    }
    let all = objects(&rendered(&[
        "--set",
        "podSecurityContext.runAsNonRoot=false",
    ]));
    let checked = pod_security(&all);
    assert!(
        said(&checked).contains("runAsNonRoot"),
        "{}",
        said(&checked)
    );
}

#[test]
fn no_container_can_write_its_root_nor_speak_to_the_api_server() {
    for args in matrix() {
        let all = objects(&rendered(&strs(&args)));
        let mut pods = 0;
        for object in &all {
            let Some(spec) = pod(object) else {
                continue;
            };
            pods += 1;
            assert_eq!(spec["automountServiceAccountToken"], false, "{object}");
            let containers = ["initContainers", "containers"].map(|kind| spec[kind].as_array());
            for container in containers.into_iter().flatten().flatten() {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
                assert!(container["resources"]["limits"]["memory"].is_string());
            }
        }
        assert!(pods >= 2, "{args:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    for (set, words) in [
        ("replicas=2", "one process at a time writes the store"),
        (
            "drain.terminationGracePeriodSeconds=29",
            "the pod needs 30 s",
        ),
        ("tls.enabled=true", "needs tls.existingSecret"),
        ("tls.existingSecret=a", "tls.enabled is false"),
        (
            "tls.enabled=true,tls.certManager.enabled=true",
            "issuerRef is empty",
        ),
        (
            "serviceMonitor.enabled=true,podMonitor.enabled=true",
            "enable one",
        ),
        ("gateway.enabled=true", "gateway.parentRefs is empty"),
        ("gateway.envoyGateway.enabled=true", "needs gateway.enabled"),
        (
            "persistence.enabled=false,persistence.existingClaim=a",
            "existingClaim",
        ),
        // The schema's own words.
        (
            "config.limits.heartbeat_interval=1",
            "'heartbeat_interval' not allowed",
        ),
        ("persistance.size=1Gi", "'persistance' not allowed"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("persistence.size=much", "at '/persistence/size'"),
        ("config.durability=none", "at '/config/durability'"),
    ] {
        let output = template(&newest(), &["--set", set]);
        assert!(!output.status.success(), "{set} was taken");
        assert!(said(&output).contains(words), "{set}: {}", said(&output));
    }
}

#[test]
fn the_pod_has_the_time_that_its_drain_takes() {
    let grace = |set: &str| {
        let all = objects(&rendered(&["--set", set]));
        let pod = object(&all, "StatefulSet", "arcpd")["spec"]["template"]["spec"].clone();
        let stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].clone();
        (pod["terminationGracePeriodSeconds"].clone(), stop)
    };
    assert_eq!(grace("replicas=1"), (json!(30), Value::Null));
    let longer = "drain.preStopSec=7,config.drain_deadline_sec=60,drain.marginSec=3";
    assert_eq!(grace(longer), (json!(70), json!(7)));
    let more = "drain.terminationGracePeriodSeconds=300";
    assert_eq!(grace(more), (json!(300), Value::Null));
}

/// The TOML in the ConfigMap, given to the runtime itself.
fn configured(args: &[&str]) -> String {
    let all = objects(&rendered(args));
    let toml = configuration(&all);
    // But for what the pod has and this machine has not.
    let other = |line: &&str| {
        let key = line.split(' ').next().unwrap_or_default();
        !key.ends_with("_file") && !key.starts_with("tls_") && !key.ends_with("listen")
    };
    let lines: Vec<_> = toml.lines().filter(other).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("arcpd.toml");
    let store = dir.path().join("store").display().to_string();
    std::fs::write(
        &file,
        lines.join("\n").replace("/var/lib/arcpd/store", &store),
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .arg("--config")
        .arg(&file)
        .env_remove("ARCPD_CHART_SEED")
        .env("ARCPD_TOKENS", format!("alice={ALICE}"));
    let runtime = Runtime::spawn(&mut command);
    let started: Value = serde_json::from_str(runtime.log().lines().next().unwrap()).unwrap();
    started["fields"]["configuration"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn the_runtime_takes_the_file_that_the_chart_writes() {
    let shown = configured(&[]);
    for part in [
        r#""durability":"power""#,
        r#""heartbeat_interval_sec":20"#,
        r#""drain_deadline_sec":20"#,
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let shown: Value =
        serde_json::from_str(&configured(&["--values", &values("hostile")])).unwrap();
    let said: Value = objects(&std::fs::read_to_string(values("hostile")).unwrap()).remove(0);
    let (shown, said) = (&shown["agent"][0], &said["config"]["agent"][0]);
    for key in ["name", "version", "command", "working_dir"] {
        assert_eq!(shown[key], said[key]);
    }
    let names = |map: &Value| map.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&shown["env"]), names(&said["env"]));
}

/// What the pod sets by itself is not in the values.
const THE_POD_S: [&str; 10] = [
    "listen",
    "admin_listen",
    "data_dir",
    "tokens_file",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "policy_file",
    "dev",
    "telemetry",
];
const OF_SECRETS: [&str; 2] = ["master_key_file", "encryption_key_file"];

#[test]
fn the_schema_knows_the_settings_of_the_runtime_and_no_others() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let schema = &schema["properties"]["config"]["properties"];
    let shown: Value = serde_json::from_str(&configured(&[])).unwrap();
    let keys = |map: &Value, without: &[&str]| -> BTreeSet<String> {
        let map = map.as_object().unwrap();
        map.keys()
            .filter(|key| !without.contains(&&***key))
            .cloned()
            .collect()
    };
    assert_eq!(keys(schema, &[]), keys(&shown, &THE_POD_S));
    for section in [
        "cluster",
        "limits",
        "retention",
        "hosts",
        "cors",
        "credentials",
    ] {
        let known = keys(&schema[section]["properties"], &[]);
        assert_eq!(known, keys(&shown[section], &OF_SECRETS), "{section}");
    }
}

#[test]
fn every_value_has_a_schema_and_the_other_way_round() {
    fn compare(at: &str, values: &Value, schema: &Value) {
        let (Some(values), Some(known)) = (values.as_object(), schema["properties"].as_object())
        else {
            return;
        };
        assert_eq!(schema["additionalProperties"], false, "{at} is open");
        // In the file's sections is what is set, not what may be.
        if !at.starts_with("/config/") {
            let names = |map: &serde_json::Map<String, Value>| -> BTreeSet<_> {
                map.keys().filter(|key| *key != "global").cloned().collect()
            };
            assert_eq!(names(values), names(known), "{at}");
        }
        for (key, value) in values {
            compare(&format!("{at}/{key}"), value, &known[key]);
        }
    }
    let schema = serde_json::from_str(SCHEMA).unwrap();
    compare("", &objects(VALUES)[0], &schema);
}

/// To write it anew: `tests/chart/readme.py`, with the Python that the failure names.
#[test]
fn the_readme_has_every_value_as_it_is() {
    let path = Path::new(CHART).join("values.yaml");
    let mut script = python("readme.py");
    let output = script.arg(path).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let readme = std::fs::read_to_string(Path::new(CHART).join("README.md")).unwrap();
    assert!(
        readme.as_bytes() == output.stdout,
        "helm/arcpd/README.md is not what this prints: {script:?}"
    );
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .count();
    assert_eq!(rows, VALUES.matches("# -- ").count());
}

/// `helm test`, without a cluster: its pod's arguments and environment, from the same
/// binary to a runtime that has what the chart gives it.
#[test]
fn the_pod_of_helm_test_does_what_it_should() {
    let all = objects(&rendered(&["--set", "config.demo_agents=true"]));
    let secret = &object(&all, "Secret", "arcpd-tokens")["stringData"];
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, secret["tokens"].as_str().unwrap()).unwrap();
    let mut command = serve(dir.path());
    command
        .env_remove("ARCPD_TOKENS")
        .arg("--tokens-file")
        .arg(&tokens);
    let runtime = Runtime::spawn(&mut command);
    let pod = &object(&all, "Pod", "arcpd-test")["spec"];
    let services = [
        ("arcpd-admin.agents.svc:7778", &*runtime.admin),
        ("arcpd.agents.svc:7777", &runtime.address),
    ];
    let run = |container: &Value, token: &str| contained(container, &services, token);
    let token = secret["token"].as_str().unwrap();
    let ready = run(&pod["initContainers"][0], token);
    assert!(ready.status.success(), "{}", said(&ready));
    let submitted = run(&pod["containers"][0], token);
    assert!(submitted.status.success(), "{}", said(&submitted));
    assert_eq!(submitted.stdout, b"\"a job from helm test\"\n");
    let refused = run(&pod["containers"][0], "somebody else's token");
    assert!(!refused.status.success());
}

/// Random values in random places: each is rendered into what Kubernetes takes or
/// refused by the schema or the chart; a template never breaks on one.
#[test]
fn no_value_breaks_a_template() {
    let seed: u64 = std::env::var("ARCPD_CHART_SEED").map_or(7, |seed| seed.parse().unwrap());
    println!("ARCPD_CHART_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let everything = std::fs::read_to_string(values("everything")).unwrap();
    let cluster = std::fs::read_to_string(values("cluster")).unwrap();
    let bases = [VALUES, &everything, &cluster].map(|base| objects(base).remove(0));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("values.json");
    let (mut taken, mut refused) = (0, 0);
    for case in 0..FUZZ_CASES {
        let mut values = bases.choose(&mut rng).unwrap().clone();
        for _ in 0..rng.random_range(1..=2) {
            let section = values.as_object().unwrap().keys().choose(&mut rng).cloned();
            disturb(&mut rng, &mut values[section.unwrap()]);
        }
        std::fs::write(&file, values.to_string()).unwrap();
        let output = template(&newest(), &["--values", file.to_str().unwrap()]);
        if output.status.success() {
            taken += 1;
            let text = String::from_utf8(output.stdout).unwrap();
            objects(&text);
            continue;
        }
        refused += 1;
        let why = said(&output);
        let clear = why.contains("values don't meet the specifications")
            || why.contains("execution error at")
            // Objects of the caller's own.
            || why.contains("arcpd/templates/extra.yaml");
        assert!(clear, "case {case}: {why}\n{values}");
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > FUZZ_CASES / 10 && refused > FUZZ_CASES / 10);
}

/// Replaces what is at a random place.
fn disturb(rng: &mut StdRng, values: &mut Value) {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e18),
        json!(0.5),
        json!(""),
        json!("{{ .Values }}"),
        json!("a: b\n- c #"),
        json!("\u{1}é\"'\\"),
        json!([]),
        json!([{}]),
        json!(["x"]),
        json!({}),
        json!({ "a": { "b": [null] } }),
    ];
    let keys: Vec<_> = values.as_object().into_iter().flatten().collect();
    if let Some((key, _)) = keys.choose(rng)
        && rng.random_bool(0.9)
    {
        let key = (*key).clone();
        return disturb(rng, &mut values[key]);
    }
    // Mostly of the kind that belongs there.
    let kind = std::mem::discriminant(&*values);
    let mut like = odd
        .iter()
        .filter(|odd| std::mem::discriminant(*odd) == kind);
    *values = match rng.random_bool(0.7) {
        true => like.nth(rng.random_range(0..3)).unwrap_or(&odd[0]).clone(),
        false => odd.choose(rng).unwrap().clone(),
    };
}
