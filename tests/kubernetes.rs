//! The chart in a real Kubernetes API server: installed, upgraded, rolled back, removed.
//!
//! There is no kubelet: what the API server takes is seen, that it runs is not.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::buf::said;
use support::helm::{CHART, object};
use support::matrix::matrix;
use support::plane::Plane;

fn ok(plane: &Plane, args: &[&str]) -> String {
    let output = plane.helm(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    let said = said(&output);
    assert!(!said.contains("would violate PodSecurity"), "{said}");
    assert!(!said.contains("unknown field"), "{said}");
    said
}

/// The objects of the release, as the API server has them.
fn live(plane: &Plane) -> Vec<Value> {
    let output = plane
        .helm(&["status", "arcpd", "--show-resources", "-o", "json"])
        .output();
    let status: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let kinds = status["info"]["resources"].as_object().unwrap();
    let all = kinds.values().flat_map(|all| all.as_array().unwrap());
    all.cloned().collect()
}

fn field(objects: &[Value], kind: &str, name: &str, path: &str) -> Value {
    let found = objects
        .iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no {kind} {name}"));
    found.pointer(path).cloned().unwrap_or_default()
}

const GRACE: &str = "/spec/template/spec/terminationGracePeriodSeconds";

#[test]
#[ignore = "builds etcd and the API server with Go where they are not in the cache: minutes"]
fn a_release_is_installed_upgraded_rolled_back_and_removed() {
    let plane = Plane::start();
    let installed = ok(&plane, &["install", "arcpd", CHART, "--create-namespace"]);
    assert!(installed.contains("STATUS: deployed"), "{installed}");
    let first = live(&plane);
    assert_eq!(field(&first, "StatefulSet", "arcpd", GRACE), json!(30));
    let token = field(&first, "Secret", "arcpd-tokens", "/data/token");
    assert!(token.is_string());

    let more = "config.demo_agents=true,drain.preStopSec=5";
    ok(&plane, &["upgrade", "arcpd", CHART, "--set", more]);
    let second = live(&plane);
    assert_eq!(field(&second, "StatefulSet", "arcpd", GRACE), json!(35));
    assert_eq!(
        field(&second, "Secret", "arcpd-tokens", "/data/token"),
        token
    );
    // Another configuration is another pod.
    let checksum = "/spec/template/metadata/annotations/checksum~1config";
    assert_ne!(
        field(&first, "StatefulSet", "arcpd", checksum),
        field(&second, "StatefulSet", "arcpd", checksum)
    );

    // What a StatefulSet cannot change is not in it: a new version of the chart, and of
    // everything that people set, goes over the old one.
    let everything_else = "commonLabels.team=a,image.tag=9.9.9,podLabels.a=b,replicas=0,tls.enabled=true,tls.existingSecret=t";
    ok(
        &plane,
        &["upgrade", "arcpd", CHART, "--set", everything_else],
    );
    for example in ["agent-host", "jaeger"] {
        let values = format!("{CHART}/examples/{example}.yaml");
        ok(&plane, &["upgrade", "arcpd", CHART, "--values", &values]);
    }
    ok(&plane, &["rollback", "arcpd", "1"]);
    let back = live(&plane);
    assert_eq!(field(&back, "StatefulSet", "arcpd", GRACE), json!(30));
    assert_eq!(field(&back, "Secret", "arcpd-tokens", "/data/token"), token);

    // It would go with the upgrade, under pods that go on looking for it.
    let own = [
        "upgrade",
        "arcpd",
        CHART,
        "--set",
        "auth.existingSecret=arcpd-tokens",
    ];
    let refused = said(&plane.helm(&own).output().unwrap());
    assert!(refused.contains("which this release made"), "{refused}");

    // Its pod is made, and never runs.
    let test = plane.helm(&["test", "arcpd", "--timeout", "1s"]).output();
    let said_by_test = said(&test.unwrap());
    assert!(said_by_test.contains("timed out"), "{said_by_test}");

    ok(&plane, &["uninstall", "arcpd"]);
    assert_eq!(ok(&plane, &["list", "--short"]).trim(), "");
}

/// What a StatefulSet cannot change separates the two kinds of a release, and the chart
/// says so before the API server does.
#[test]
#[ignore = "builds etcd and the API server with Go where they are not in the cache: minutes"]
fn a_cell_is_installed_upgraded_rolled_back_and_removed_and_no_pod_turns_into_one() {
    let plane = Plane::start();
    let cell = "replicas=3,cluster.nats.url=nats://nats:4222,cluster.nats.existingSecret=nats";
    ok(&plane, &["install", "arcpd", CHART, "--create-namespace"]);
    let upgrade = ["upgrade", "arcpd", CHART, "--set", cell];
    let refused = said(&plane.helm(&upgrade).output().unwrap());
    assert!(
        refused.contains("Install the cell as another release"),
        "{refused}"
    );
    ok(&plane, &["uninstall", "arcpd"]);

    let installed = ok(&plane, &["install", "arcpd", CHART, "--set", cell]);
    assert!(
        installed.contains("share the stream ARCP_LOG_arcpd"),
        "{installed}"
    );
    let first = live(&plane);
    let of = |objects: &[Value], path: &str| field(objects, "StatefulSet", "arcpd", path);
    assert_eq!(of(&first, "/spec/replicas"), json!(3));
    assert_eq!(of(&first, "/spec/minReadySeconds"), json!(10));
    assert_eq!(of(&first, GRACE), json!(35));
    let sleep = "/spec/template/spec/containers/0/lifecycle/preStop/sleep/seconds";
    assert_eq!(of(&first, sleep), json!(5));
    let away = "/spec/maxUnavailable";
    assert_eq!(
        field(&first, "PodDisruptionBudget", "arcpd", away),
        json!(1)
    );

    // All that may be said later goes over it, and who scales keeps the number there is.
    let more = "cluster.minReadySec=0,cluster.nats.login=token,persistence.whenScaled=Delete,\
                drain.preStopSec=20,autoscaling.hpa.enabled=true";
    let more = format!("{cell},{more}");
    ok(&plane, &["upgrade", "arcpd", CHART, "--set", &more]);
    let second = live(&plane);
    assert_eq!(of(&second, GRACE), json!(50));
    // A field that is left out becomes 1: two replicas would go before the autoscaler looks.
    assert_eq!(of(&second, "/spec/replicas"), json!(3));
    let scaled = "/spec/scaleTargetRef/name";
    let hpa = field(&second, "HorizontalPodAutoscaler", "arcpd", scaled);
    assert_eq!(hpa, json!("arcpd"));
    let backup = format!("{CHART}/examples/backup.yaml");
    ok(&plane, &["upgrade", "arcpd", CHART, "--values", &backup]);
    // Nobody has told this server of KEDA: nothing is done by half.
    let keda =
        format!("{cell},autoscaling.keda.enabled=true,autoscaling.keda.serverAddress=http://p");
    let without = plane
        .helm(&["upgrade", "arcpd", CHART, "--set", &keda])
        .output();
    let why = said(&without.unwrap());
    assert!(
        why.contains(r#"no matches for kind "ScaledObject""#),
        "{why}"
    );
    object(&live(&plane), "PersistentVolumeClaim", "arcpd-backup");
    // With nothing said at all Helm takes what was said before.
    let defaults = ["upgrade", "arcpd", CHART, "--reset-values"];
    let refused = said(&plane.helm(&defaults).output().unwrap());
    assert!(refused.contains("This release is a cell"), "{refused}");

    ok(&plane, &["rollback", "arcpd", "1"]);
    assert_eq!(of(&live(&plane), GRACE), json!(35));
    ok(&plane, &["uninstall", "arcpd"]);
    // The backups have outlived it, and the next one goes on with them.
    ok(&plane, &["install", "arcpd", CHART, "--values", &backup]);
    let left = ok(&plane, &["uninstall", "arcpd"]);
    assert!(
        left.contains("[PersistentVolumeClaim] arcpd-backup"),
        "{left}"
    );
    assert_eq!(ok(&plane, &["list", "--short"]).trim(), "");
}

/// It began anew without a word: with another stream, and volumes that its replicas refuse.
#[test]
#[ignore = "builds etcd and the API server with Go where they are not in the cache: minutes"]
fn an_upgrade_that_would_leave_the_cell_is_refused_unless_it_says_which() {
    let plane = Plane::start();
    let cell = "replicas=3,cluster.nats.url=nats://nats:4222";
    ok(
        &plane,
        &[
            "install",
            "arcpd",
            CHART,
            "--set",
            cell,
            "--create-namespace",
        ],
    );
    let upgrade = |more: &str| {
        let values = format!("{cell},{more}");
        let args = ["upgrade", "arcpd", CHART, "--set", &values];
        plane.helm(&args).output().unwrap()
    };
    for more in [
        "cluster.name=green",
        "cluster.name=green,cluster.replaces=blue",
    ] {
        let refused = upgrade(more);
        assert!(!refused.status.success(), "{more}");
        let why = said(&refused);
        let words = "this release is the cell arcpd, and as green it would have another stream";
        assert!(why.contains(words), "{why}");
        assert!(why.contains("Set cluster.name to arcpd"), "{why}");
    }
    let name = || {
        let file = field(&live(&plane), "ConfigMap", "arcpd", "/data/arcpd.toml");
        let file = file.as_str().unwrap().to_owned();
        let line = file.lines().find(|line| line.starts_with("name = "));
        line.unwrap().to_owned()
    };
    assert_eq!(name(), r#"name = "arcpd""#);
    // The same name, said or not.
    ok(
        &plane,
        &[
            "upgrade",
            "arcpd",
            CHART,
            "--set",
            &format!("{cell},cluster.name=arcpd"),
        ],
    );
    let knowingly = upgrade("cluster.name=green,cluster.replaces=arcpd");
    assert!(knowingly.status.success(), "{}", said(&knowingly));
    assert_eq!(name(), r#"name = "green""#);
    // What was said for that upgrade is no leave for the next.
    let back = upgrade("cluster.replaces=arcpd");
    assert!(
        said(&back).contains("this release is the cell green"),
        "{}",
        said(&back)
    );
}

/// Or the server would not have been asked.
#[test]
#[ignore = "builds etcd and the API server with Go where they are not in the cache: minutes"]
fn the_server_refuses_a_pod_that_is_less_than_restricted() {
    let plane = Plane::start();
    let worse = "podSecurityContext.runAsNonRoot=false";
    let install = [
        "install",
        "arcpd",
        CHART,
        "--create-namespace",
        "--set",
        worse,
    ];
    let installed = plane.helm(&install).output().unwrap();
    assert!(said(&installed).contains("would violate PodSecurity"));
    let tested = plane.helm(&["test", "arcpd", "--timeout", "1s"]).output();
    let tested = said(&tested.unwrap());
    assert!(tested.contains("violates PodSecurity"), "{tested}");
}

/// What it would default, and refuse by rules that no schema has, in objects of its own and in
/// those of the operators and gateways whose definitions it is given.
#[test]
#[ignore = "builds etcd and the API server with Go where they are not in the cache: minutes"]
fn the_server_takes_every_object_of_every_set_of_values() {
    let plane = Plane::start();
    plane.define_custom_resources();
    let mut kinds = BTreeSet::new();
    for values in matrix() {
        let args = ["install", "arcpd", CHART].map(str::to_owned);
        let args = args.iter().chain(&values).map(String::as_str);
        ok(&plane, &args.collect::<Vec<_>>());
        let objects = live(&plane);
        let kind = |object: &Value| object["kind"].as_str().unwrap_or_default().to_owned();
        kinds.extend(objects.iter().map(kind));
        ok(&plane, &["uninstall", "arcpd"]);
    }
    println!("{kinds:?}");
    for kind in ["BackendTrafficPolicy", "Certificate", "ScaledObject"] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
}
