//! A Kubernetes API server and its etcd, built out of their Go modules into the cache.
//!
//! No controllers, no kubelet: objects are validated, defaulted, admitted and stored as
//! in any cluster, and nothing runs.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::buf::{run, said};
use super::helm::{cached, custom_resources, helm};

const VERSION: &str = "v1.37.2";
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/plane");
const TOKEN: &str = "a-token-of-the-tests";
/// The Pod Security Standard for every namespace, and a warning for what makes pods.
const ADMISSION: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: PodSecurity
    configuration:
      apiVersion: pod-security.admission.config.k8s.io/v1
      kind: PodSecurityConfiguration
      defaults: {enforce: restricted, enforce-version: latest, warn: restricted, warn-version: latest}
"#;

fn binaries() -> PathBuf {
    let (_, minor) = VERSION.rsplit_once("v1.").unwrap();
    let (minor, _) = minor.split_once('.').unwrap();
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion={VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    );
    cached(&format!("kubernetes-{VERSION}"), |into| {
        let mut go = Command::new("go");
        go.args(["build", "-ldflags", &flags, "-o"]).arg(into);
        run(go.args(["./apiserver", "./etcd"]).current_dir(SOURCES));
    })
}

/// Both are killed when dropped.
pub struct Plane {
    processes: Vec<Child>,
    dir: tempfile::TempDir,
}

impl Plane {
    pub fn start() -> Self {
        let bin = binaries();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let [etcd_port, peer_port, port] = free_ports();
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let mut etcd = Command::new(bin.join("etcd"));
        etcd.arg("--data-dir")
            .arg(path("etcd"))
            .args(["--listen-client-urls", &etcd_url])
            .args(["--advertise-client-urls", &etcd_url])
            .args([
                "--listen-peer-urls",
                &format!("http://127.0.0.1:{peer_port}"),
            ]);
        run(Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(path("sa.key"))
            .arg("2048"));
        std::fs::write(path("admission.yaml"), ADMISSION).unwrap();
        let tokens = format!("{TOKEN},admin,1,\"system:masters\"\n");
        std::fs::write(path("tokens.csv"), tokens).unwrap();
        let mut server = Command::new(bin.join("apiserver"));
        server
            .args(["--etcd-servers", &etcd_url, "--bind-address", "127.0.0.1"])
            .args([
                "--secure-port",
                &port.to_string(),
                "--authorization-mode",
                "RBAC",
            ])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-cluster-ip-range", "10.0.0.0/24,fd00::/112"])
            // Without a controller there are no accounts for pods to have.
            .args(["--disable-admission-plugins", "ServiceAccount"])
            .arg("--cert-dir")
            .arg(path("certs"))
            .arg("--service-account-key-file")
            .arg(path("sa.key"))
            .arg("--service-account-signing-key-file")
            .arg(path("sa.key"))
            .arg("--token-auth-file")
            .arg(path("tokens.csv"))
            .arg("--admission-control-config-file")
            .arg(path("admission.yaml"));
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {{token: {TOKEN}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(path("kubeconfig"), config).unwrap();
        let processes = [(etcd, "etcd.log"), (server, "apiserver.log")];
        let processes = processes.map(|(mut command, log)| {
            let log = std::fs::File::create(path(log)).unwrap();
            command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
        });
        let plane = Self {
            processes: processes.into(),
            dir,
        };
        plane.wait();
        plane
    }

    /// Asks until it is ready, as a client of a cluster that starts would.
    fn wait(&self) {
        let began = std::time::Instant::now();
        loop {
            let output = self.helm(&["list"]).output().unwrap();
            if output.status.success() {
                return;
            }
            let log = std::fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap();
            assert!(began.elapsed().as_secs() < 120, "{}\n{log}", said(&output));
            std::thread::sleep(super::LOOK_AGAIN);
        }
    }

    /// Makes the custom resources known that the chart has objects of, by a chart that has
    /// nothing else.
    pub fn define_custom_resources(&self) {
        let chart = self.dir.path().join("definitions");
        let into = chart.join("crds");
        std::fs::create_dir_all(&into).unwrap();
        let about = "apiVersion: v2\nname: definitions\nversion: 1.0.0\n";
        std::fs::write(chart.join("Chart.yaml"), about).unwrap();
        for file in custom_resources() {
            std::fs::copy(&file, into.join(file.file_name().unwrap())).unwrap();
        }
        let place = chart.to_str().unwrap();
        run(&mut self.helm(&["install", "definitions", place, "--create-namespace"]));
    }

    pub fn helm(&self, args: &[&str]) -> Command {
        let mut command = helm();
        command
            .env("KUBECONFIG", self.dir.path().join("kubeconfig"))
            .args(["--namespace", "agents"])
            .args(args);
        command
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Neither process says which port 0 became.
fn free_ports() -> [u16; 3] {
    let all = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    all.map(|listener| listener.local_addr().unwrap().port())
}
