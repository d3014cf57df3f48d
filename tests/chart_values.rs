//! What a chart's values may be: names that YAML takes for something else, lists that are
//! taken away, ranges that are the runtime's, and sentences in place of what the API server,
//! cert-manager or a gateway would say later.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::buf::said;
use support::helm::*;

const SCHEMA: &str = include_str!("../helm/arcpd/values.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

fn set(values: &str) -> Vec<Value> {
    objects(&rendered(&["--set", values]))
}

/// `helm template` as somebody's own command line has it, from the checkout's folder.
fn as_typed(args: &[&str]) -> std::process::Output {
    let mut helm = helm();
    helm.args(args)
        .args(["--kube-version", &newest()])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    helm.output().unwrap()
}

#[test]
fn a_name_that_yaml_takes_for_a_number_stays_a_name() {
    let scalars = values("scalars");
    let typed = [
        "template",
        "true",
        CHART,
        "--namespace",
        "123",
        "--values",
        &scalars,
    ];
    let claim = [
        "template",
        "null",
        CHART,
        "--namespace",
        "1e3",
        "--set-string",
        "persistence.existingClaim=1,fullnameOverride=y",
    ];
    for args in [&typed[..], &claim] {
        let output = as_typed(args);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let checked = conforms(&newest(), &text);
        assert!(checked.status.success(), "{}", said(&checked));
        for object in objects(&text) {
            let instance = &object["metadata"]["labels"]["app.kubernetes.io/instance"];
            assert_eq!(instance, args[1], "{object}");
            assert_eq!(object["metadata"]["namespace"], args[4], "{object}");
        }
    }
}

#[test]
fn a_release_is_called_what_a_service_may_be_called() {
    let output = as_typed(&["template", "a.b", CHART]);
    let all = objects(&String::from_utf8(output.stdout).unwrap());
    object(&all, "Service", "a-b-arcpd-headless");
    let refused = said(&as_typed(&["template", "1a", CHART]));
    assert!(refused.contains("would be called 1a-arcpd"), "{refused}");
    assert!(refused.contains("set fullnameOverride"), "{refused}");
}

/// Was the other way round: Prometheus found nothing, and the policy kept `helm test` out.
#[test]
fn labels_for_all_objects_go_after_those_that_an_object_needs() {
    let all = set(
        "commonLabels.app\\.kubernetes\\.io/component=x,commonLabels.release=y,\
         serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus,\
         networkPolicy.scrapers[0].podSelector.matchLabels.a=b",
    );
    let labels = |kind: &str, name: &str| object(&all, kind, name)["metadata"]["labels"].clone();
    let component = "app.kubernetes.io/component";
    let wanted = &object(&all, "ServiceMonitor", "arcpd")["spec"]["selector"]["matchLabels"];
    assert_eq!(
        labels("Service", "arcpd-admin")[component],
        wanted[component]
    );
    assert_eq!(labels("ServiceMonitor", "arcpd")["release"], "prometheus");
    assert_eq!(labels("Service", "arcpd")["release"], "y");
    let policy = &object(&all, "NetworkPolicy", "arcpd")["spec"]["ingress"][1]["from"][1];
    let test = labels("Pod", "arcpd-test");
    for (key, value) in policy["podSelector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&test[key], value, "{key}");
    }
}

/// Paths of lists and of maps that are open.
fn open_values(at: &str, schema: &Value, into: &mut Vec<String>) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}{key}");
        let is = |kind: &str| value["type"] == kind || value["type"] == json!([kind, "null"]);
        match value["properties"].is_object() {
            true => open_values(&format!("{at}."), value, into),
            false if is("array") || is("object") => into.push(at),
            false => {}
        }
    }
}

/// Null is how Helm takes a default away, and with `--reuse-values` what is new is missing.
#[test]
fn a_list_or_map_that_is_taken_away_is_an_empty_one() {
    // What a switch needs is refused when it is missing, in a sentence of its own.
    const NEEDED: [&str; 7] = [
        "config.credentials",
        "config.credentials.models",
        "gateway.backendTLS.caCertificateRefs",
        "gateway.parentRefs",
        "persistence.accessModes",
        "resources",
        "tls.certManager.issuerRef",
    ];
    let mut paths = Vec::new();
    open_values("", &schema(), &mut paths);
    let sections = ["cluster", "limits", "retention", "hosts", "cors"];
    paths.extend(sections.map(|key| format!("config.{key}")));
    paths.retain(|path| path != "global");
    assert!(paths.len() > 50, "{paths:?}");
    let nulls = |without: &[&str]| -> String {
        let paths = paths.iter().filter(|path| !without.contains(&&***path));
        paths.map(|path| format!("{path}=null,")).collect()
    };
    let (everything, cell) = (values("everything"), values("cluster"));
    let some = nulls(&NEEDED);
    rendered(&["--values", &everything, "--set", some.trim_end_matches(',')]);
    rendered(&["--values", &cell, "--set", some.trim_end_matches(',')]);
    let all = nulls(&["persistence.accessModes"]) + "config.credentials=null";
    rendered(&["--set", &all]);
    rendered(&["--set", &format!("{all},cluster.nats.url=nats://a")]);
}

/// The last step of the move was none of a chart's values.
#[test]
fn every_helm_command_that_is_documented_renders() {
    let texts = [
        include_str!("../docs/kubernetes.md"),
        include_str!("../docs/cluster.md"),
        include_str!("../helm/arcpd/README.md"),
        include_str!("../helm/arcpd/examples/agent-host.yaml"),
        include_str!("../helm/arcpd/examples/backup.yaml"),
        include_str!("../helm/arcpd/examples/jaeger.yaml"),
        include_str!("../helm/arcpd/examples/move.yaml"),
        include_str!("../helm/arcpd/examples/restore.yaml"),
    ];
    let mut commands = 0;
    for text in texts {
        let text = text.replace("\\\n", " ");
        for line in text.lines() {
            let line = line.trim_start_matches(['#', ' ']);
            let mut words = line.split_whitespace();
            let verb = (words.next() == Some("helm")).then(|| words.next());
            let (Some(Some("install" | "upgrade")), true) = (verb, line.contains("./helm/arcpd"))
            else {
                continue;
            };
            // What only says how to go about it.
            let about = ["--create-namespace", "--wait", "--reset-then-reuse-values"];
            let words = words.filter(|word| !about.contains(word));
            let args: Vec<_> = ["template"].into_iter().chain(words).collect();
            let output = as_typed(&args);
            assert!(output.status.success(), "{line}: {}", said(&output));
            commands += 1;
        }
    }
    assert!(commands >= 7, "{commands}");
}

/// The gRPC services of `proto` and those of every server.
fn services() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/arcp/v1");
    let mut services: BTreeSet<_> = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ]
    .map(|name| format!("/{name}"))
    .into();
    for file in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("service "));
        services.extend(names.map(|name| format!("/arcp.v1.{}", name.trim_end_matches(" {"))));
    }
    assert!(services.contains("/arcp.v1.AdminService"));
    services
}

#[test]
fn each_service_is_reached_through_the_ingress_and_the_gateway() {
    let all = set(
        "ingress.enabled=true,gateway.enabled=true,gateway.parentRefs[0].name=a,\
         gateway.hostnames[0]=b.example,gateway.grpcHostnames[0]=c.example",
    );
    let ingress = &object(&all, "Ingress", "arcpd-grpc")["spec"]["rules"][0]["http"]["paths"];
    let route = &object(&all, "HTTPRoute", "arcpd-web")["spec"]["rules"];
    let paths = |list: &Value, at: &str| -> BTreeSet<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|item| item.pointer(at).unwrap().as_str().unwrap().to_owned())
            .collect()
    };
    let led = [
        paths(ingress, "/path"),
        paths(&route[0]["matches"], "/path/value"),
    ];
    for service in services() {
        for led in &led {
            assert!(led.contains(&service), "{service} not in {led:?}");
        }
    }
    // gRPC-Web beside gRPC, and a WebSocket to the port that says HTTP/1.1.
    let backend = |rule: &Value| {
        object(
            &all,
            "Service",
            rule["backendRefs"][0]["name"].as_str().unwrap(),
        )
    };
    let protocol = |rule: &Value| backend(rule)["spec"]["ports"][0]["appProtocol"].clone();
    assert_eq!(protocol(&route[0]), "kubernetes.io/h2c");
    assert_eq!(route[1]["matches"][0]["path"]["value"], "/arcp");
    assert_eq!(protocol(&route[1]), "http");
    let grpc = &object(&all, "GRPCRoute", "arcpd")["spec"]["rules"][0];
    assert_eq!(protocol(grpc), "kubernetes.io/h2c");
}

/// A gateway must refuse one of an HTTPRoute and a GRPCRoute whose names meet at a listener.
#[test]
fn no_host_name_has_two_routes() {
    const GATEWAY: &str =
        "gateway.enabled=true,gateway.parentRefs[0].name=a,gateway.envoyGateway.enabled=true";
    let kinds = |more: &str| {
        let all = set(&format!("{GATEWAY}{more}"));
        let policy = object(&all, "BackendTrafficPolicy", "arcpd");
        let refs = policy["spec"]["targetRefs"].as_array().unwrap().clone();
        for target in &refs {
            let (kind, name) = (&target["kind"], &target["name"]);
            object(&all, kind.as_str().unwrap(), name.as_str().unwrap());
        }
        let routes = all.iter().filter_map(|object| object["kind"].as_str());
        let routes: Vec<_> = routes
            .filter(|kind| kind.ends_with("Route"))
            .map(str::to_owned)
            .collect();
        assert_eq!(refs.len(), routes.len());
        routes
    };
    assert_eq!(kinds(""), ["HTTPRoute"]);
    assert_eq!(kinds(",gateway.hostnames={a.example}"), ["HTTPRoute"]);
    assert_eq!(kinds(",gateway.grpcHostnames={a.example}"), ["GRPCRoute"]);
    let apart = ",gateway.hostnames={*.a.example},gateway.grpcHostnames={a.example,b.example}";
    assert_eq!(kinds(apart).len(), 2);
    for (http, grpc) in [
        ("a.example", "a.example"),
        ("*.example", "a.example"),
        ("x.a.example", "*.example"),
        ("*.a.example", "*.example"),
        ("*.example", "*.a.example"),
    ] {
        let both =
            format!("{GATEWAY},gateway.hostnames={{z.z,{http}}},gateway.grpcHostnames={{{grpc}}}");
        let why = said(&template(&newest(), &["--set", &both]));
        let words = format!("gateway.grpcHostnames has {grpc} and gateway.hostnames {http}");
        assert!(why.contains(&words), "{http} {grpc}: {why}");
    }
}

#[test]
fn what_would_be_refused_later_is_refused_in_words() {
    const CERT: &str =
        "tls.enabled=true,tls.certManager.enabled=true,tls.certManager.issuerRef.name=a";
    const KEYS: &str = "secrets.masterKey.existingSecret=a";
    const CELL: &str = "cluster.nats.url=nats://a";
    for (set, words) in [
        (
            "otlp.endpoint=http://a b:4317",
            "otlp.endpoint: give http://host:port",
        ),
        (
            "otlp.endpoint=http://%zz:1",
            "otlp.endpoint: give http://host:port",
        ),
        (
            "otlp.endpoint=collector:4317",
            "otlp.endpoint: give http://host:port",
        ),
        (
            "otlp.endpoint=http://a:99999",
            "otlp.endpoint: the port is more than 65535",
        ),
        (
            "otlp.endpoint=http://u:s3cret@a:4317",
            "no user name or password goes there",
        ),
        (&format!("{CELL}:65536"), "a port is more than 65535"),
        (
            &format!("{CELL},replicas=2,podDisruptionBudget.maxUnavailable=2"),
            "is 2 of 2 replicas",
        ),
        (
            "tls.enabled=true,tls.certManager.enabled=true,tls.certManager.issuerRef.kind=ClusterIssuer",
            "has no name",
        ),
        (
            &format!("{CERT},tls.certManager.duration=1h"),
            "duration is 1h and tls.certManager.renewBefore 720h",
        ),
        (
            &format!("{CERT},tls.certManager.duration=59m60s500ms,tls.certManager.renewBefore=4m"),
            "5m or more",
        ),
        (
            "tls.certManager.issuerRef.name=a",
            "but tls.certManager.enabled is false",
        ),
        (
            "config.credentials.provisioner=litellm",
            "secrets.masterKey.existingSecret",
        ),
        (
            &format!("{KEYS},config.credentials.provisioner=litellm"),
            "give config.credentials.url",
        ),
        (
            "config.credentials.provisioner=command",
            "give config.credentials.command",
        ),
        (
            &format!(
                "{KEYS},config.credentials.provisioner=command,config.credentials.command={{a}}"
            ),
            "it is command",
        ),
        ("config.credentials.url=https://a", "provisioner is missing"),
        (
            "config.cluster.servers=nats://u:s3cret@a",
            "config.cluster: cluster.nats.url is empty",
        ),
        (
            &format!("{KEYS},config.credentials.provisioner=litellm,config.credentials.url=a"),
            "config.credentials.url: give http://host:port",
        ),
        (
            &format!(
                "{KEYS},config.credentials.provisioner=litellm,config.credentials.url=http://a"
            ),
            "by https only",
        ),
        (
            "extraArgs={--drain-deadline-sec=300}",
            "extraArgs has --drain-deadline-sec",
        ),
        (
            "extraEnv[0].name=ARCPD_DRAIN_DEADLINE_SEC",
            "extraEnv has ARCPD_DRAIN_DEADLINE_SEC",
        ),
        ("extraEnv[0].name=ARCPD_TOKENS", "extraEnv has ARCPD_TOKENS"),
        ("extraEnv[0].name=RUST_LOG", "see logLevel"),
        ("image.repository=a:1", "in image.tag"),
        ("logLevel=warning", "logLevel has warning"),
        ("config.hosts.lost_after_sec=9", "lost_after_sec is 9"),
        ("config.credentials.ttl_sec=599", "ttl_sec is 599"),
        // The schema's own words.
        ("otlp.samplerArg=2", "at '/otlp/samplerArg'"),
        (
            "config.cors.allow_origins={*}",
            "at '/config/cors/allow_origins/0'",
        ),
        (
            "gateway.parentRefs[0].namespace=a",
            "missing property 'name'",
        ),
        ("fullnameOverride=1a", "at '/fullnameOverride'"),
        ("commonLabels.a=bad label!", "at '/commonLabels/a'"),
        ("podLabels.-a=b", "additional properties '-a' not allowed"),
        ("ingress.host=*.a..b", "at '/ingress/host'"),
        ("ingress.host=a-.b", "at '/ingress/host'"),
        ("gateway.hostnames={a_b}", "at '/gateway/hostnames/0'"),
        ("auth.existingSecret=a..b", "at '/auth/existingSecret'"),
        ("persistence.size=0", "at '/persistence/size'"),
        ("persistence.size=1K", "at '/persistence/size'"),
        ("replicas=2000000000000", "at '/replicas'"),
        ("probes.periodSec=3000000000", "at '/probes/periodSec'"),
        (
            "config.limits.heartbeat_interval_sec=0",
            "at '/config/limits/heartbeat_interval_sec'",
        ),
    ] {
        let output = template(&newest(), &["--set", set]);
        assert!(!output.status.success(), "{set} was taken");
        let why = said(&output);
        assert!(why.contains(words), "{set}: {why}");
        assert!(!why.contains("s3cret"), "{why}");
    }
    // What is near to it is taken.
    let near = format!("{CERT},tls.certManager.duration=1h,tls.certManager.renewBefore=5m");
    set(&format!(
        "{near},otlp.endpoint=http://[::1]:65535/v1?a=b,persistence.size=0.5Gi"
    ));
}

/// What the runtime says to a setting of a section.
fn refusal(section: &str, key: &str, value: u64) -> String {
    let dir = tempfile::tempdir().unwrap();
    let more = match section {
        "credentials" => "provisioner = \"command\"\ncommand = [\"a\"]\n",
        _ => "",
    };
    let file = dir.path().join("arcpd.toml");
    std::fs::write(&file, format!("[{section}]\n{more}{key} = {value}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command
        .args([
            "serve",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
        ])
        .arg("--data-dir")
        .arg(dir.path().join("store"))
        .arg("--config")
        .arg(&file)
        .env("ARCPD_TOKENS", "alice=a-token-of-alice");
    let output = command.output().unwrap();
    assert!(
        !output.status.success(),
        "{section}.{key} = {value} was taken"
    );
    said(&output)
}

/// Or a pod would start again and again with a setting that the chart has taken.
#[test]
fn the_ranges_of_the_schema_are_those_of_the_runtime() {
    let schema = schema();
    // Bounded here by what a number in JSON may be.
    let unbounded = ["retention.age_max_sec", "retention.bytes_max"];
    let mut compared = 0;
    for section in ["limits", "retention", "hosts", "credentials"] {
        let known = &schema["properties"]["config"]["properties"][section]["properties"];
        for (key, value) in known.as_object().unwrap() {
            let name = format!("{section}.{key}");
            let bounds = (value["minimum"].as_u64(), value["maximum"].as_u64());
            let (Some(low), Some(high)) = bounds else {
                assert!(!value["type"].to_string().contains("integer"), "{name}");
                continue;
            };
            if unbounded.contains(&&*name) {
                continue;
            }
            let why = refusal(section, key, high + 1);
            let words = match &*name {
                "credentials.ttl_sec" => format!("must be 0, or twice rotate_before_sec to {high}"),
                _ => format!("{name}: is {}, must be {low} to {high}", high + 1),
            };
            assert!(why.contains(&words), "{words}: {why}");
            compared += 1;
        }
    }
    assert!(compared >= 26, "{compared}");
    let why = refusal("retention", "age_max_sec", 0);
    assert!(
        why.contains("retention.age_max_sec: must be 1 or more"),
        "{why}"
    );
}

/// A ratio of 0 was taken for none said, and all was recorded.
#[test]
fn traces_are_sampled_and_named_as_the_values_say() {
    let more = "otlp.endpoint=http://collector,otlp.sampler=traceidratio,otlp.samplerArg=0";
    let attributes =
        r#"otlp.resourceAttributes={"team":"a,b=c 100%","build":12345678,"share":0.5,"on":true}"#;
    let all = objects(&rendered(&["--set", more, "--set-json", attributes]));
    let pod = pod(object(&all, "StatefulSet", "arcpd")).unwrap();
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let value = |name: &str| {
        let found = env.iter().find(|variable| variable["name"] == name);
        found.unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(value("OTEL_TRACES_SAMPLER_ARG"), "0");
    let shown = value("OTEL_RESOURCE_ATTRIBUTES");
    let own = ",build=12345678,on=true,share=0.5,team=a%2Cb%3Dc 100%25";
    assert!(shown.ends_with(own), "{shown}");
}

/// While NATS has no leader all replicas are unready, and a drain would take them all.
#[test]
fn an_unready_replica_is_evicted_only_if_the_others_are_ready() {
    let policy = |more: &str| {
        let all = set(&format!("podDisruptionBudget.enabled=true{more}"));
        let budget = &object(&all, "PodDisruptionBudget", "arcpd")["spec"];
        budget["unhealthyPodEvictionPolicy"].clone()
    };
    assert_eq!(
        policy(",replicas=3,cluster.nats.url=nats://a"),
        "IfHealthyBudget"
    );
    assert_eq!(policy(""), "AlwaysAllow");
}

#[test]
fn the_pod_may_go_out_to_the_gateway_that_issues_credentials() {
    let all = set(
        "secrets.masterKey.existingSecret=a,config.credentials.provisioner=litellm,\
         config.credentials.url=https://litellm.gateways.svc:4000/,config.credentials.models={a}",
    );
    let out = &object(&all, "NetworkPolicy", "arcpd")["spec"]["egress"];
    assert_eq!(
        out[1]["ports"],
        json!([{ "port": 4000, "protocol": "TCP" }])
    );
}

/// What an install prints, each line one that works.
#[test]
fn the_notes_say_only_what_there_is() {
    let notes = |more: &str| {
        let template =
            r#"extraObjects=["kind: Notes\ntext: {{ include \"arcpd.notes\" . | toJson }}"]"#;
        let all = objects(&rendered(&["--set", more, "--set-json", template]));
        let notes = all.iter().find(|object| object["kind"] == "Notes").unwrap();
        notes["text"].as_str().unwrap().to_owned()
    };
    let plain = notes("replicas=1");
    assert!(
        plain.contains("helm test --namespace agents arcpd"),
        "{plain}"
    );
    let cell = notes("replicas=3,cluster.nats.url=nats://a,containerPorts.admin=9090");
    assert!(
        cell.contains("port-forward --namespace agents pod/arcpd-0 9090:9090"),
        "{cell}"
    );
    assert!(!plain.contains("pod/arcpd-0"), "{plain}");
    assert!(!plain.contains("From outside"), "{plain}");
    let open = notes(
        "ingress.enabled=true,ingress.host=a.example,service.type=LoadBalancer,gateway.enabled=true,\
         gateway.parentRefs[0].name=public,gateway.hostnames={b.example},gateway.grpcHostnames={c.example}",
    );
    for line in [
        "gRPC       a.example:443",
        "WebSocket  wss://a.example/arcp",
        "gRPC       b.example, by the gateway public",
        "WebSocket  b.example/arcp",
        "gRPC       c.example, by the gateway public",
        "kubectl get service --namespace agents arcpd     # LoadBalancer",
    ] {
        assert!(
            open.lines().any(|found| found == format!("  {line}")),
            "{open}"
        );
    }
    let mutual = notes(
        "tls.enabled=true,tls.existingSecret=a,tls.clientCA.existingSecret=b,\
         auth.existingSecret=c,auth.tokenKey=admin.token",
    );
    assert!(!mutual.contains("helm test"), "{mutual}");
    assert!(
        mutual.contains("-cert client.crt -key client.key -H"),
        "{mutual}"
    );
    assert!(mutual.contains(r"{.data.admin\.token}"), "{mutual}");
}
