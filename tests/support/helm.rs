//! Helm, and what a rendered chart is held against: Kubernetes' schemas, those of the
//! custom resources, and the Pod Security Standard.
//!
//! Pinned, built or unpacked once into a cache outside the checkout.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::buf::{run, said};

const HELM: (&str, &str) = ("helm.sh/helm/v3/cmd/helm", "v3.22.0");
const KUBECONFORM: (&str, &str) = ("github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0");
/// Has the strict schemas of every minor; its dependencies read YAML.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";
/// Modules, and the definitions in them that the chart has objects of.
const CRDS: [(&str, &[&str]); 5] = [
    (
        "sigs.k8s.io/gateway-api@v1.6.3",
        &[
            "config/crd/standard/gateway.networking.k8s.io_backendtlspolicies.yaml",
            "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
            "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
        ],
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        &[
            "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ],
    ),
    (
        "github.com/cert-manager/cert-manager@v1.21.2",
        &["deploy/crds/cert-manager.io_certificates.yaml"],
    ),
    (
        "github.com/envoyproxy/gateway@v1.9.1",
        &[
            "charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_backendtrafficpolicies.yaml",
        ],
    ),
    (
        "github.com/kedacore/keda/v2@v2.21.0",
        &["config/crd/bases/keda.sh_scaledobjects.yaml"],
    ),
];
const OLDEST_MINOR: u32 = 31;
const NEWEST_MINOR: u32 = 37;

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/helm/arcpd");
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart");

/// The minors of Kubernetes that the chart supports.
pub fn minors() -> impl Iterator<Item = String> {
    (OLDEST_MINOR..=NEWEST_MINOR).map(|minor| format!("1.{minor}.0"))
}

pub fn newest() -> String {
    format!("1.{NEWEST_MINOR}.0")
}

/// Outside the checkout: a clean one finds what another built.
pub fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").expect("a home");
    let cache = Path::new(&home).join(".cache/arcpd-tests");
    std::fs::create_dir_all(&cache).unwrap();
    cache
}

/// A place in the cache, filled in one step by whoever comes first.
pub fn cached(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let place = cache().join(name);
    if !place.exists() {
        let next = tempfile::tempdir_in(cache()).unwrap();
        fill(next.path());
        let _ = std::fs::rename(next.keep(), &place);
    }
    place
}

fn go_tool((package, version): (&str, &str)) -> PathBuf {
    let (_, name) = package.rsplit_once('/').unwrap();
    // Helm takes itself for a client of Kubernetes 1.20 unless it is told, and refuses the chart.
    let own = "helm.sh/helm/v3/pkg/chartutil.k8sVersion";
    let flags = format!("-ldflags=-s -w -X {own}Major=1 -X {own}Minor={NEWEST_MINOR}");
    let bin = cached(&format!("{name}-{version}-1.{NEWEST_MINOR}"), |into| {
        let at = format!("{package}@{version}");
        let mut go = Command::new("go");
        go.args(["install", &flags, &at]);
        run(go.env("GOBIN", into));
    });
    bin.join(name)
}

static HELM_BIN: LazyLock<PathBuf> = LazyLock::new(|| go_tool(HELM));
static KUBECONFORM_BIN: LazyLock<PathBuf> = LazyLock::new(|| go_tool(KUBECONFORM));
static VENV: LazyLock<PathBuf> = LazyLock::new(|| {
    cached(&SCHEMAS.replace("==", "-"), |into| {
        run(Command::new("python3").args(["-m", "venv"]).arg(into));
        // By path: the folder is not yet where its scripts will look for it.
        let mut pip = Command::new(into.join("bin/python"));
        run(pip.args(["-m", "pip", "install", "--quiet", SCHEMAS, "PyYAML==6.0.3"]));
    })
});
static ALL_SCHEMAS: LazyLock<PathBuf> = LazyLock::new(|| {
    let of = CRDS.iter().map(|(module, files)| {
        let (_, version) = module.rsplit_once('@').expect("a version");
        format!("-{version}x{}", files.len())
    });
    let (_, kubernetes) = SCHEMAS.split_once("==").unwrap();
    let name = format!("schemas-{kubernetes}{}", of.collect::<String>());
    cached(&name, |into| {
        run(python("schemas.py").arg(into).args(custom_resources()));
    })
});
static POD_SECURITY: LazyLock<PathBuf> = LazyLock::new(|| {
    let sources = Path::new(SOURCES).join("podsecurity");
    let modules = std::fs::read_to_string(sources.join("go.mod")).unwrap();
    let version = modules
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/pod-security-admission "));
    let name = format!("podsecurity-{}", version.expect("a version"));
    let bin = cached(&name, |into| {
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(into.join("podsecurity"));
        run(go.arg(".").current_dir(&sources));
    });
    bin.join("podsecurity")
});

/// The files with the definitions of custom resources, in Go's own cache.
pub fn custom_resources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (module, paths) in CRDS {
        let mut go = Command::new("go");
        let output = go.args(["mod", "download", "-json", module]).output();
        let output = output.expect("go is on the PATH");
        assert!(output.status.success(), "{module}: {}", said(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let dir = Path::new(answer["Dir"].as_str().expect("a folder"));
        files.extend(paths.iter().map(|path| dir.join(path)));
    }
    files
}

/// A script of `tests/chart`.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(VENV.join("bin/python"));
    command.arg(Path::new(SOURCES).join(script));
    command
}

pub fn helm() -> Command {
    let mut command = Command::new(&*HELM_BIN);
    // Whatever cluster this machine knows is none of the tests' business.
    command.env("KUBECONFIG", "/dev/null");
    command
}

/// `helm template` for one version of Kubernetes.
pub fn template(kubernetes: &str, args: &[&str]) -> Output {
    let mut helm = helm();
    helm.args(["template", "arcpd", CHART, "--namespace", "agents"])
        .args(["--kube-version", kubernetes])
        .args(args);
    helm.output().unwrap()
}

/// What it rendered, or fails with what it said.
pub fn rendered(args: &[&str]) -> String {
    let output = template(&newest(), args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn values(name: &str) -> String {
    format!("{SOURCES}/values/{name}.yaml")
}

/// Feeds a text to a command and waits for its end.
pub fn piped(command: &mut Command, text: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_owned();
    // Beside the reading: both pipes may be full.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}

pub fn objects(rendered: &str) -> Vec<Value> {
    let output = piped(&mut python("yaml2json.py"), rendered);
    assert!(output.status.success(), "{}\n{rendered}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects
        .iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The configuration file in the ConfigMap.
pub fn configuration(objects: &[Value]) -> &str {
    let maps = objects.iter().filter(|o| o["kind"] == "ConfigMap");
    let mut files = maps.filter_map(|map| map["data"]["arcpd.toml"].as_str());
    files.next().expect("a configuration")
}

/// What a container of a pod says to a runtime: its arguments and environment to the same
/// binary, with the addresses of Services replaced, and a token for what is in a secret.
pub fn contained(container: &Value, services: &[(&str, &str)], token: &str) -> Output {
    let args = container["args"].as_array().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
    command.args(args.iter().map(|arg| arg.as_str().unwrap()));
    for variable in container["env"].as_array().unwrap() {
        let value = match variable["value"].as_str() {
            Some(url) => services
                .iter()
                .fold(url.to_owned(), |url, (service, address)| {
                    url.replace(service, address)
                }),
            None => token.to_owned(),
        };
        command.env(variable["name"].as_str().unwrap(), value);
    }
    command.output().unwrap()
}

/// Against the strict schemas of one version of Kubernetes and of the custom resources.
pub fn conforms(kubernetes: &str, rendered: &str) -> Output {
    let file = "{{.ResourceKind}}{{.KindSuffix}}.json";
    let version = "{{.NormalizedKubernetesVersion}}-local-strict";
    let mut command = Command::new(&*KUBECONFORM_BIN);
    command
        .args(["-strict", "-summary", "-kubernetes-version", kubernetes])
        .arg("-schema-location")
        .arg(format!("{}/{version}/{file}", ALL_SCHEMAS.display()))
        .arg("-schema-location")
        .arg(format!("{}/{file}", ALL_SCHEMAS.display()))
        .arg("-");
    piped(&mut command, rendered)
}

/// The pod in an object that makes some.
pub fn pod(object: &Value) -> Option<&Value> {
    let places = [
        "/spec/jobTemplate/spec/template/spec",
        "/spec/template/spec",
        "/spec",
    ];
    let spec = places.iter().find_map(|place| object.pointer(place))?;
    spec["containers"].is_array().then_some(spec)
}

/// What the Pod Security Standard `restricted` has against the pods.
pub fn pod_security(objects: &[Value]) -> Output {
    let pods = objects.iter().filter_map(|object| {
        let spec = pod(object)?;
        Some(json!({ "kind": "Pod", "metadata": object["metadata"], "spec": spec }))
    });
    let text = serde_json::to_string(&pods.collect::<Vec<_>>()).unwrap();
    piped(&mut Command::new(&*POD_SECURITY), &text)
}
