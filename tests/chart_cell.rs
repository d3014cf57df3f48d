//! The chart with several replicas: what three values make of it, and what does not go
//! together.

mod support;

use serde_json::{Value, json};
use support::buf::said;
use support::helm::*;
use support::mounted::stateful_set;

/// A release of three replicas, and no more said than is needed.
const THREE: &str =
    "replicas=3,cluster.nats.url=nats://nats:4222,cluster.nats.existingSecret=arcpd-nats";
const NATS_VALUES: &str = include_str!("../helm/arcpd/examples/nats-values.yaml");
const DOCUMENTED: &str = include_str!("../docs/cluster.md");

fn set(values: &str) -> Vec<Value> {
    objects(&rendered(&["--set", values]))
}

/// What is said instead of rendering.
fn refused(values: &str) -> String {
    let output = template(&newest(), &["--set", values]);
    assert!(!output.status.success(), "{values} was taken");
    said(&output)
}

fn has(objects: &[Value], kind: &str) -> bool {
    objects.iter().any(|object| object["kind"] == kind)
}

#[test]
fn three_values_make_a_cell_that_is_drained_and_upgraded_one_by_one() {
    let all = set(THREE);
    let spec = stateful_set(&all);
    assert_eq!(spec["replicas"], 3);
    assert_eq!(spec["podManagementPolicy"], "Parallel");
    assert_eq!(spec["minReadySeconds"], 10);
    assert_eq!(spec["updateStrategy"], json!({ "type": "RollingUpdate" }));
    assert_eq!(spec["volumeClaimTemplates"][0]["metadata"]["name"], "data");
    let kept = json!({ "whenDeleted": "Retain", "whenScaled": "Retain" });
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], kept);

    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(pod["terminationGracePeriodSeconds"], 5 + 20 + 10);
    let probe = &container["startupProbe"];
    let starts = probe["failureThreshold"].as_u64().unwrap() * 5;
    assert_eq!(
        (starts, &probe["grpc"]["service"]),
        (1800, &json!("readiness"))
    );

    let over: Vec<_> = pod["topologySpreadConstraints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|over| (&over["topologyKey"], &over["whenUnsatisfiable"]))
        .collect();
    let soft = json!("ScheduleAnyway");
    let keys = ["topology.kubernetes.io/zone", "kubernetes.io/hostname"].map(|key| json!(key));
    assert_eq!(over, [(&keys[0], &soft), (&keys[1], &soft)]);
    let apart = &pod["affinity"]["podAntiAffinity"];
    let soft = &apart["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(
        soft["podAffinityTerm"]["topologyKey"],
        "kubernetes.io/hostname"
    );
    let mine = &spec["selector"];
    assert_eq!(&soft["podAffinityTerm"]["labelSelector"], mine);

    let budget = &object(&all, "PodDisruptionBudget", "arcpd")["spec"];
    assert_eq!(
        (&budget["maxUnavailable"], &budget["selector"]),
        (&json!(1), mine)
    );
}

#[test]
fn one_pod_has_nothing_of_a_cell() {
    let all = set("replicas=1");
    let spec = stateful_set(&all);
    for absent in ["podManagementPolicy", "minReadySeconds"] {
        assert_eq!(spec[absent], Value::Null, "{absent}");
    }
    let pod = &spec["template"]["spec"];
    for absent in ["affinity", "topologySpreadConstraints"] {
        assert_eq!(pod[absent], Value::Null, "{absent}");
    }
    assert!(!has(&all, "PodDisruptionBudget"));
    assert!(!configuration(&all).contains("[cluster]"));
}

#[test]
fn what_a_cell_has_by_itself_gives_way_to_what_is_said() {
    let more = "drain.preStopSec=0,probes.startupSec=60,podDisruptionBudget.enabled=false,\
                topologySpreadConstraints[0].maxSkew=2";
    let more = format!("{THREE},{more}");
    let none = r#"affinity={"podAntiAffinity":{}}"#;
    let all = objects(&rendered(&["--set", &more, "--set-json", none]));
    let pod = &stateful_set(&all)["template"]["spec"];
    assert_eq!(pod["containers"][0]["lifecycle"], Value::Null);
    assert_eq!(pod["containers"][0]["startupProbe"]["failureThreshold"], 12);
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(pod["affinity"], json!({ "podAntiAffinity": {} }));
    assert_eq!(pod["topologySpreadConstraints"], json!([{ "maxSkew": 2 }]));
    assert!(!has(&all, "PodDisruptionBudget"));
    let short = format!("{THREE},drain.terminationGracePeriodSeconds=34");
    let why = said(&template(&newest(), &["--set", &short]));
    assert!(why.contains("the pod needs 35 s"), "{why}");
}

#[test]
fn what_does_not_go_together_in_a_cell_is_refused_with_what_to_set() {
    const CELL: &str = "cluster.nats.url=nats://a";
    for (set, words) in [
        ("replicas=2", "set cluster.nats.url"),
        (
            "replicas=2,config.cluster.servers=a",
            "set cluster.nats.url",
        ),
        (
            "cluster.nats.existingSecret=a",
            "cluster.nats.url is empty: set it",
        ),
        (
            "cluster.nats.tls.ca.existingSecret=a",
            "cluster.nats.url is empty: set it",
        ),
        ("cluster.nats.url=a:4222", "give nats://host:port or tls://"),
        (
            "cluster.nats.url=http://a",
            "give nats://host:port or tls://",
        ),
        (
            "cluster.nats.url=nats://a:0",
            "give nats://host:port or tls://",
        ),
        (
            "cluster.nats.url=nats://a\\,",
            "give nats://host:port or tls://",
        ),
        (
            "cluster.nats.url=nats://a\\,tls://b",
            "tls:// for all servers or for none",
        ),
        (
            "cluster.nats.url=nats://u:s3cret@a",
            "give cluster.nats.existingSecret",
        ),
        (
            &format!("{CELL},config.cluster.servers=nats://b"),
            "config.cluster.servers: cluster.nats.url makes this a cell",
        ),
        (
            &format!("{CELL},config.cluster.replication=1"),
            "config.cluster.replication: cluster.nats.url",
        ),
        (
            &format!("{CELL},cluster.nats.existingSecret=a,cluster.nats.user="),
            "cluster.nats.user is empty",
        ),
        (
            &format!("{CELL},config.credentials.provisioner=litellm"),
            "needs secrets.encryptionKey.existingSecret",
        ),
        (
            &format!("{CELL},persistence.existingClaim=a"),
            "each replica has a volume of its own",
        ),
        ("autoscaling.hpa.enabled=true", "Set cluster.nats.url"),
        ("autoscaling.keda.enabled=true", "Set cluster.nats.url"),
        (
            &format!("{CELL},autoscaling.hpa.enabled=true,autoscaling.keda.enabled=true"),
            "enable one of them",
        ),
        (
            &format!("{CELL},autoscaling.hpa.enabled=true,autoscaling.minReplicas=10"),
            "the first may not be more",
        ),
        (
            &format!(
                "{CELL},autoscaling.hpa.enabled=true,autoscaling.hpa.cpuPercent=null,autoscaling.hpa.memoryPercent=null"
            ),
            "set cpuPercent, memoryPercent or metrics",
        ),
        (
            &format!("{CELL},autoscaling.hpa.enabled=true,resources.requests.cpu=null"),
            "is of resources.requests.cpu, which is not set",
        ),
        (
            &format!("{CELL},autoscaling.keda.enabled=true"),
            "set serverAddress to a Prometheus",
        ),
        // The schema's own words.
        ("cluster.replication=2", "at '/cluster/replication'"),
        ("cluster.name=a.b", "at '/cluster/name'"),
        ("cluster.nats.login=nkey", "at '/cluster/nats/login'"),
        ("cluster.servers=nats://a", "'servers' not allowed"),
    ] {
        let output = template(&newest(), &["--set", set]);
        assert!(!output.status.success(), "{set} was taken");
        let why = said(&output);
        assert!(why.contains(words), "{set}: {why}");
        assert!(!why.contains("s3cret"), "{why}");
    }
}

/// Or a replica that comes back has nobody: clients dial once, and stay where they are.
#[test]
fn connections_of_a_cell_have_an_age_unless_another_is_said() {
    let age = |more: &str| {
        let all = set(&format!("{THREE}{more}"));
        let file = configuration(&all).to_owned();
        let line = file
            .lines()
            .find_map(|line| line.strip_prefix("connection_age_max_sec = "));
        line.map(str::to_owned)
    };
    assert_eq!(age("").as_deref(), Some("3600"));
    assert_eq!(age(",config.limits=null").as_deref(), Some("3600"));
    let own = ",config.limits.connection_age_max_sec=0";
    assert_eq!(age(own).as_deref(), Some("0"));
    assert_eq!(
        age(",replicas=1,cluster.nats.url=,cluster.nats.existingSecret="),
        None
    );
}

#[test]
fn a_cell_is_backed_up_to_a_volume_that_outlives_it() {
    let all = set(&format!(
        "{THREE},backup.enabled=true,backup.keep=3,networkPolicy.nats[0].podSelector.matchLabels.a=b"
    ));
    let job = &object(&all, "CronJob", "arcpd-backup")["spec"];
    assert_eq!(job["concurrencyPolicy"], "Forbid");
    // One that hangs does not keep all later ones from beginning.
    assert_eq!(job["jobTemplate"]["spec"]["activeDeadlineSeconds"], 21600);
    let template = &job["jobTemplate"]["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap();
    assert!(args.contains(&json!("--keep=3")), "{args:?}");
    // As many pods as files, of the same names.
    assert_eq!(job["successfulJobsHistoryLimit"], 3);
    assert!(args.contains(&json!("/backup/$(POD_NAME).arcpd")));
    // What it shows to the servers is what a replica shows.
    let replica = &stateful_set(&all)["template"]["spec"]["volumes"];
    let login = |volumes: &Value| {
        let volumes = volumes.as_array().unwrap();
        let found = volumes.iter().find(|volume| volume["name"] == "nats-login");
        found.expect("a login").clone()
    };
    assert_eq!(login(&template["spec"]["volumes"]), login(replica));

    let claim = object(&all, "PersistentVolumeClaim", "arcpd-backup");
    let policy = &claim["metadata"]["annotations"]["helm.sh/resource-policy"];
    assert_eq!(policy, "keep");
    // Not one of those that are removed with the replicas' own, nor a pod of the Services.
    let labels = &claim["metadata"]["labels"];
    let mine = &stateful_set(&all)["selector"]["matchLabels"];
    let component = "app.kubernetes.io/component";
    assert_ne!(labels[component], mine[component]);
    assert_ne!(template["metadata"]["labels"][component], mine[component]);

    let of = |name: &str| object(&all, "NetworkPolicy", name)["spec"].clone();
    let (policy, replicas) = (of("arcpd-backup"), of("arcpd"));
    assert_eq!(policy["egress"], replicas["egress"]);
    for (key, value) in policy["podSelector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][key], value, "{key}");
    }
    let own = set(&format!(
        "{THREE},backup.enabled=true,backup.existingClaim=a,config.cluster.tls_ca_file=/ca/ca.crt,\
         extraVolumes[0].name=ca,extraVolumes[0].configMap.name=ca,\
         extraVolumeMounts[0].name=ca,extraVolumeMounts[0].mountPath=/ca"
    ));
    assert!(!has(&own, "PersistentVolumeClaim"));
    // The files that its configuration names.
    let pod = pod(object(&own, "CronJob", "arcpd-backup")).unwrap();
    for list in [&pod["volumes"], &pod["containers"][0]["volumeMounts"]] {
        assert!(
            list.as_array()
                .unwrap()
                .iter()
                .any(|item| item["name"] == "ca")
        );
    }
    let one = refused("backup.enabled=true");
    assert!(one.contains("take snapshots of its volume"), "{one}");
}

/// An upgrade would else go back to what the values say, and the autoscaler away from it.
#[test]
fn who_scales_alone_says_how_many_replicas_there_are() {
    let by_hpa = set(&format!("{THREE},autoscaling.hpa.enabled=true"));
    assert_eq!(stateful_set(&by_hpa)["replicas"], Value::Null);
    let stopped = set(&format!("{THREE},autoscaling.hpa.enabled=true,replicas=0"));
    assert_eq!(stateful_set(&stopped)["replicas"], 0);
    let hpa = &object(&by_hpa, "HorizontalPodAutoscaler", "arcpd")["spec"];
    assert_eq!(hpa["scaleTargetRef"]["kind"], "StatefulSet");
    let of = |metric: &Value| metric["resource"]["name"].clone();
    let metrics: Vec<_> = hpa["metrics"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(metrics, ["cpu", "memory"]);

    let prometheus = "autoscaling.keda.enabled=true,autoscaling.keda.serverAddress=http://p:9090";
    let by_keda = set(&format!("{THREE},{prometheus}"));
    assert_eq!(stateful_set(&by_keda)["replicas"], Value::Null);
    let keda = &object(&by_keda, "ScaledObject", "arcpd")["spec"];
    let trigger = &keda["triggers"][0]["metadata"];
    let query = r#"sum(arcpd_sessions_attached{namespace="agents",pod=~"arcpd-[0-9]+"})"#;
    assert_eq!(trigger["query"], query);
    assert_eq!(trigger["threshold"], "10000");
    // A Prometheus without figures is not a cell without sessions.
    assert_eq!(trigger["ignoreNullValues"], "false");

    // One replica goes at a time, and not for a lull.
    let behavior = &keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"];
    assert_eq!(behavior, &hpa["behavior"]);
    let down = &behavior["scaleDown"];
    assert_eq!(down["stabilizationWindowSeconds"], 600);
    let one = json!([{ "type": "Pods", "value": 1, "periodSeconds": 300 }]);
    assert_eq!(down["policies"], one);
    assert_eq!(
        (&hpa["minReplicas"], &keda["minReplicaCount"]),
        (&json!(3), &json!(3))
    );
}

#[test]
fn the_pods_may_go_out_to_the_servers_and_not_to_each_other() {
    let two = format!("{THREE},cluster.nats.url=nats://a\\,nats://[fd00::1]:4333/");
    let all = set(&two);
    let policy = &object(&all, "NetworkPolicy", "arcpd")["spec"];
    let out = policy["egress"].as_array().unwrap();
    let ports = |rule: &Value| -> Vec<Value> {
        let ports = rule["ports"].as_array().unwrap();
        ports.iter().map(|port| port["port"].clone()).collect()
    };
    let ports: Vec<_> = out.iter().map(ports).collect();
    assert_eq!(ports, [[json!(53), json!(53)], [json!(4222), json!(4333)]]);
    let none = set("replicas=1");
    let policy = &object(&none, "NetworkPolicy", "arcpd")["spec"];
    assert_eq!(policy["egress"].as_array().unwrap().len(), 1);
}

/// Two lists of the same rights; `cluster_secure.rs` runs the one, `chart_cell_run.rs` the other.
#[test]
fn the_rights_of_the_example_are_those_that_are_documented() {
    let values = objects(NATS_VALUES).remove(0);
    let merged = &values["config"]["merge"];
    assert_eq!(merged["max_payload"], "<< 8MB >>");
    let user = &merged["authorization"]["users"][0];
    assert_eq!(user["user"], "arcpd");
    let (_, block) = DOCUMENTED.split_once("permissions: {").unwrap();
    for kind in ["publish", "subscribe"] {
        let (_, listed) = block.split_once(kind).unwrap();
        let (listed, _) = listed.split_once(']').unwrap();
        let documented: Vec<_> = listed.split('"').skip(1).step_by(2).collect();
        assert!(documented.len() > 1, "{kind}: {listed}");
        assert_eq!(user["permissions"][kind], json!(documented), "{kind}");
    }
}

/// Two releases on the same servers are two cells, whatever their names are made of.
#[test]
fn a_cell_has_the_name_of_its_release() {
    let name = |args: &[&str]| {
        let all = objects(&rendered(args));
        let file = configuration(&all).to_owned();
        let line = file.lines().find(|line| line.starts_with("name = "));
        line.unwrap().to_owned()
    };
    assert_eq!(name(&["--set", THREE]), r#"name = "arcpd""#);
    let other = ["--set", THREE, "--set", "nameOverride=blue"];
    assert_eq!(name(&other), r#"name = "arcpd-blue""#);
    let said = ["--set", THREE, "--set", "cluster.name=green"];
    assert_eq!(name(&said), r#"name = "green""#);
}
