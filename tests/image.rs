//! The last stage of the Dockerfile, built and run: by Debian's buildah, which needs no
//! daemon, on a base made of this machine's C library in place of the published one.
//!
//! The first stage and the base come from a registry; they are not tried here.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::apt;
use support::buf::said;

const DOCKERFILE: &str = include_str!("../Dockerfile");
const BASE: &str = "FROM gcr.io/distroless/cc-debian12:nonroot AS image\n";
const ARCPD: &str = env!("CARGO_BIN_EXE_arcpd");

/// Images and containers of its own, gone with the folder.
struct Buildah(tempfile::TempDir);

impl Buildah {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command
            .env("BUILDAH_ISOLATION", "chroot")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(self.0.path().join("storage"))
            .arg("--runroot")
            .arg(self.0.path().join("run"))
            .args(args);
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn run(&self, container: &str, args: &[&str]) -> Output {
        let mut command = self.command(&["run", container, "--"]);
        command.args(args).output().unwrap()
    }
}

/// What the published base has and the binary needs: its libraries, a user, a /tmp.
fn lay_base(root: &Path) {
    let listed = Command::new("ldd").arg(ARCPD).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for library in libraries {
        let place = root.join(&library[1..]);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(library, place).unwrap();
    }
    std::fs::create_dir_all(root.join("etc")).unwrap();
    let users =
        "root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n";
    std::fs::write(root.join("etc/passwd"), users).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nnonroot:x:65532:\n").unwrap();
    std::fs::create_dir(root.join("tmp")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(root.join("tmp"), open).unwrap();
}

#[test]
#[ignore = "installs buildah, and needs root"]
fn the_image_runs_as_nobody_without_a_shell() {
    apt::install("buildah", "/usr/bin/buildah");
    let buildah = Buildah(tempfile::tempdir().unwrap());
    let base = buildah.ok(&["from", "scratch"]);
    lay_base(Path::new(&buildah.ok(&["mount", &base])));
    buildah.ok(&["umount", &base]);
    buildah.ok(&["commit", &base, "base"]);

    let (_, stage) = DOCKERFILE.split_once(BASE).expect("the last stage");
    let stage = format!("FROM base\n{}", stage.replace("--from=build ", ""));
    let context = buildah.0.path().join("context");
    let out = context.join("out");
    std::fs::create_dir_all(out.join("data")).unwrap();
    std::fs::copy(ARCPD, out.join("arcpd")).unwrap();
    std::fs::write(out.join("sbom.cdx.json"), "{}").unwrap();
    std::fs::write(out.join("LICENSE"), "").unwrap();
    std::fs::write(context.join("Dockerfile"), stage).unwrap();
    let folder = context.to_str().unwrap();
    // Docker's format: the other has no HEALTHCHECK.
    buildah.ok(&[
        "bud",
        "--format",
        "docker",
        "--pull-never",
        "-t",
        "arcpd",
        folder,
    ]);

    let shown = buildah.ok(&["inspect", "--type", "image", "arcpd"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let config = &shown["Docker"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/arcpd"]));
    let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "Apache-2.0");

    let container = buildah.ok(&["from", "--pull-never", "arcpd"]);
    let demo = buildah.run(&container, &["/usr/local/bin/arcpd", "demo"]);
    let demo = said(&demo);
    assert!(demo.contains("events lost 0, doubled 0"), "{demo}");
    // Its own folder, which a volume takes the place of, is all it can write.
    let serve = |store: &'static str| {
        let bind = "127.0.0.1:0";
        let dev = ["/usr/local/bin/arcpd", "serve", "--dev", "--listen", bind];
        let rest = ["--admin-listen", bind, "--data-dir", store];
        said(&buildah.run(&container, &[&dev[..], &rest[..]].concat()))
    };
    let rooted = serve("/store");
    assert!(rooted.contains("ermission denied"), "{rooted}");
    let shell = buildah.run(&container, &["/bin/sh", "-c", "true"]);
    assert!(!shell.status.success(), "there is a shell");
}

/// A version that the Dockerfile does not follow would be on every image.
#[test]
fn the_dockerfile_has_the_version_of_the_crate() {
    let version = format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"));
    assert!(DOCKERFILE.contains(&version));
    let chart = include_str!("../helm/arcpd/Chart.yaml");
    for key in ["version: ", "appVersion: "] {
        let line = chart.lines().find(|line| line.starts_with(key)).unwrap();
        let said = line[key.len()..].trim_matches('"');
        assert_eq!(said, env!("CARGO_PKG_VERSION"), "{line}");
    }
}
