//! The Dockerfile, built and run: by Debian's buildah, which needs no daemon, on bases made
//! of this machine's C library and its compilers in place of the published ones, which come
//! from a registry and are not tried here.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::apt;
use support::buf::{run, said};

const DOCKERFILE: &str = include_str!("../Dockerfile");
const COMPILER: &str = "FROM rust:1.95-bookworm AS build\n";
const BASE: &str = "FROM gcr.io/distroless/cc-debian12:nonroot AS image\n";
/// What the first stage copies, and says what that is.
const SOURCES: [&str; 8] = [
    ".dockerignore",
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "proto",
    "src",
    "README.md",
    "LICENSE",
];
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

    /// An image of whatever is laid in an empty one.
    fn commit(&self, name: &str, lay: impl Fn(&Path)) -> String {
        let container = self.ok(&["from", "scratch"]);
        lay(Path::new(&self.ok(&["mount", &container])));
        self.ok(&["umount", &container]);
        self.ok(&["commit", &container, name]);
        container
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
    buildah.commit("base", lay_base);

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

/// Places for what is mounted there: the machine's own compilers.
fn lay_compiler(root: &Path) {
    for dir in ["usr/local/cargo", "usr/local/rust", "etc", "root", "tmp"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    for dir in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), root.join(dir)).unwrap();
    }
}

/// Builds the stage that compiles, of the sources in a folder; returns what it leaves.
fn compiled(buildah: &Buildah, context: &Path) -> PathBuf {
    let rust = Command::new("rustc").args(["--print", "sysroot"]).output();
    let rust = String::from_utf8(rust.unwrap().stdout).unwrap();
    let mut bud = buildah.command(&["bud", "--layers", "--pull-never", "--target", "build"]);
    for place in [
        "/usr/bin",
        "/usr/lib",
        "/usr/lib64",
        "/usr/include",
        "/etc/ssl",
        "/etc/alternatives",
    ] {
        bud.arg("--volume").arg(format!("{place}:{place}:ro"));
    }
    let rust = format!("{}:/usr/local/rust:ro", rust.trim());
    bud.args(["--volume", &rust, "--build-arg", "SOURCE_DATE_EPOCH=1"]);
    let tag = context.file_name().unwrap().to_str().unwrap();
    bud.args(["-t", tag]).arg(context);
    let built = bud.output().unwrap();
    assert!(built.status.success(), "{}", said(&built));
    let container = buildah.ok(&["from", "--pull-never", tag]);
    Path::new(&buildah.ok(&["mount", &container])).join("out")
}

/// Not optimised, which takes several times as long.
#[test]
#[ignore = "installs buildah, needs root, and compiles everything twice"]
fn the_stage_that_compiles_makes_the_same_bytes_twice_and_says_what_they_are_made_of() {
    apt::install("buildah", "/usr/bin/buildah");
    let buildah = Buildah(tempfile::tempdir().unwrap());
    let rust = buildah.commit("bare", lay_compiler);
    let path = "PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/bin";
    for env in [
        path,
        "CARGO_HOME=/usr/local/cargo",
        "CARGO_PROFILE_RELEASE_OPT_LEVEL=0",
    ] {
        buildah.ok(&["config", "--env", env, &rust]);
    }
    buildah.ok(&["commit", &rust, "compiler"]);
    let dockerfile = DOCKERFILE.replace(COMPILER, "FROM compiler AS build\n");
    assert!(dockerfile != DOCKERFILE, "the first stage");
    let [first, second] = ["first", "second"].map(|name| {
        let context = buildah.0.path().join(name);
        std::fs::create_dir(&context).unwrap();
        for source in SOURCES {
            let mut cp = Command::new("cp");
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
            run(cp.arg("-r").arg(from).arg(&context));
        }
        std::fs::write(context.join("Dockerfile"), &dockerfile).unwrap();
        // Beside the binary and not in it: what was built before is not taken for it.
        std::fs::write(context.join("LICENSE"), name).unwrap();
        compiled(&buildah, &context)
    });
    assert_eq!(std::fs::read(first.join("LICENSE")).unwrap(), b"first");
    assert_eq!(std::fs::read(second.join("LICENSE")).unwrap(), b"second");
    let [binary, again] = [&first, &second].map(|out| std::fs::read(out.join("arcpd")).unwrap());
    assert!(
        binary == again,
        "{} and {} bytes",
        binary.len(),
        again.len()
    );

    let version = Command::new(first.join("arcpd")).arg("--version").output();
    assert!(said(&version.unwrap()).contains(env!("CARGO_PKG_VERSION")));
    // Where cargo-auditable puts what it is made of.
    let has = |text: &[u8]| binary.windows(text.len()).any(|bytes| bytes == text);
    assert!(
        has(b".dep-v0"),
        "the binary does not say what it is made of"
    );
    for place in ["/src/src", "/usr/local/cargo"] {
        assert!(!has(place.as_bytes()), "{place} is in the binary");
    }
    let bill = std::fs::read_to_string(first.join("sbom.cdx.json")).unwrap();
    let bill: Value = serde_json::from_str(&bill).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["metadata"]["component"]["name"], "arcpd");
    let parts = bill["components"].as_array().unwrap();
    assert!(parts.iter().any(|part| part["name"] == "tokio"));
}

/// A version that the Dockerfile does not follow would be on every image.
#[test]
fn the_dockerfile_has_the_version_of_the_crate() {
    let version = format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"));
    assert!(DOCKERFILE.contains(&version));
    let chart = include_str!("../helm/arcpd/Chart.yaml");
    // The chart has a version of its own.
    let key = "appVersion: ";
    let line = chart.lines().find(|line| line.starts_with(key)).unwrap();
    let said = line[key.len()..].trim_matches('"');
    assert_eq!(said, env!("CARGO_PKG_VERSION"), "{line}");
}
