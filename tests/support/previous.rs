//! An arcpd as it was at an earlier commit of this repository.
//!
//! Built once, into the cache of the other tools. Its dependencies are mostly those of
//! this build, which cargo takes as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::buf::run;
use super::helm::cached;

/// Replicas of it and of this build share a stream. Raised with each release, so that what
/// was built once serves until then.
pub const RELEASED: &str = "313e822";

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Its binary; none in a checkout without the history, which is said.
pub fn arcpd(commit: &str) -> Option<PathBuf> {
    let binary = |place: &Path| place.join("arcpd");
    let name = format!("arcpd-{commit}");
    let place = super::helm::cache().join(&name);
    if !place.exists() && !has_commit(commit) {
        println!("NOT RUN: this checkout has no commit {commit} to build");
        return None;
    }
    Some(binary(&cached(&name, |into| build(commit, into))))
}

fn has_commit(commit: &str) -> bool {
    let commit = format!("{commit}^{{commit}}");
    let mut git = Command::new("git");
    git.args(["-C", ROOT, "cat-file", "-e", &commit]);
    let asked = git.stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

fn build(commit: &str, into: &Path) {
    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    let mut git = Command::new("git");
    git.args(["-C", ROOT, "archive", commit]);
    let mut archive = git.stdout(Stdio::piped()).spawn().expect("git");
    let mut tar = Command::new("tar");
    tar.args(["-x", "-C"]).arg(&source);
    run(tar.stdin(archive.stdout.take().expect("piped")));
    assert!(archive.wait().unwrap().success(), "git archive");
    take_dependencies(&target);
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
    cargo
        .args(["build", "--locked", "--bin", "arcpd"])
        .current_dir(&source)
        // What cargo says to a test it says of this build.
        .env_remove("CARGO_MANIFEST_DIR")
        .env("CARGO_TARGET_DIR", &target);
    run(&mut cargo);
    std::fs::copy(target.join("debug/arcpd"), into.join("arcpd")).unwrap();
    println!("arcpd of {commit} built in {:?}", started.elapsed());
}

/// What this build has of libraries; what does not fit is built anew.
fn take_dependencies(target: &Path) {
    let debug = Path::new(env!("CARGO_BIN_EXE_arcpd")).parent().unwrap();
    for part in ["build", ".fingerprint", "deps"] {
        let to = target.join("debug").join(part);
        std::fs::create_dir_all(&to).unwrap();
        let found = std::fs::read_dir(debug.join(part)).unwrap();
        for entry in found.map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            // Tests, which are large, have no ending.
            let is_library = part != "deps" || name.contains('.');
            if is_library && !name.contains("arcpd") {
                let mut cp = Command::new("cp");
                run(cp.arg("-a").arg(entry.path()).arg(&to));
            }
        }
    }
}
