//! A release as its pods would have it: what is rendered, and secrets on volumes, in a
//! folder in place of the pods' own paths.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::helm::{configuration, object, objects, rendered};
use super::{ALICE, Runtime};

/// Where volumes are mounted that hold no secret of the chart's.
const VOLUMES: [&str; 4] = ["/backup", "/move", "/new", "/old"];

pub struct Mounted {
    dir: tempfile::TempDir,
    pub objects: Vec<Value>,
}

pub fn stateful_set(objects: &[Value]) -> &Value {
    &object(objects, "StatefulSet", "arcpd")["spec"]
}

impl Mounted {
    /// Renders, and lays out secrets: by their volume, the file in it, and its text.
    pub fn new(args: &[&str], secrets: &[(&str, &str, &str)]) -> Self {
        let objects = objects(&rendered(args));
        let dir = tempfile::tempdir().unwrap();
        let mounted = Self { dir, objects };
        let tokens = format!("alice = {ALICE}\n");
        for (volume, file, text) in [("tokens", "tokens", &*tokens)].iter().chain(secrets) {
            assert!(mounted.mounts(volume, file), "{volume}/{file}");
            let at = mounted.path(volume);
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join(file), text).unwrap();
            std::fs::set_permissions(at.join(file), PermissionsExt::from_mode(0o600)).unwrap();
        }
        for volume in VOLUMES {
            std::fs::create_dir(mounted.path(&volume[1..])).unwrap();
        }
        let config = mounted.local(configuration(&mounted.objects));
        std::fs::write(mounted.path("arcpd.toml"), config).unwrap();
        mounted
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A text with paths of a pod, with those of the folder.
    fn local(&self, text: &str) -> String {
        let dir = self.dir.path().to_str().unwrap();
        let text = text.replace("/etc/arcpd", dir);
        VOLUMES.iter().fold(text, |text, volume| {
            text.replace(&format!("{volume}/"), &format!("{dir}{volume}/"))
        })
    }

    /// Whether the pod has a file on a volume; a secret without a list has its own names.
    fn mounts(&self, volume: &str, file: &str) -> bool {
        let pod = &stateful_set(&self.objects)["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        let found = volumes.iter().find(|v| v["name"] == *volume);
        let secret = &found.expect("a volume")["secret"];
        assert_eq!(secret["defaultMode"], 0o440);
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let at = mounts.iter().find(|mount| mount["name"] == *volume);
        let path = format!("/etc/arcpd/{volume}");
        assert_eq!(at.expect("a mount")["mountPath"], path);
        let items = secret["items"].as_array();
        items.is_none_or(|items| items.iter().any(|item| item["path"] == *file))
    }

    /// The replica of a pod, with the file as it was rendered but for where things are.
    pub fn replica(&self, pod: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--config"])
            .arg(self.path("arcpd.toml"))
            .arg("--data-dir")
            .arg(self.path(pod))
            .env("HOSTNAME", pod);
        command
    }

    /// Starts two, which find each other.
    pub async fn two(&self) -> [Runtime; 2] {
        let replicas = ["arcpd-0", "arcpd-1"].map(|pod| Runtime::spawn(&mut self.replica(pod)));
        for replica in &replicas {
            let both = |count: u64| count == 2;
            replica.until_metric("arcpd_cluster_replicas", both).await;
        }
        replicas
    }

    /// Runs a container to its end, in a pod of a name.
    pub fn run(&self, container: &Value, pod: &str) -> Output {
        let args = container["args"].as_array().unwrap();
        let args = args.iter().map(|arg| arg.as_str().unwrap());
        let args = args.map(|arg| self.local(arg).replace("$(POD_NAME)", pod));
        let mut command = Command::new(env!("CARGO_BIN_EXE_arcpd"));
        command.args(args).output().unwrap()
    }
}
