//! `proto/` as others rely on it: named by the rules of `buf lint`, and no
//! change since the last commit breaks who was built with it.
//!
//! The last commit is `HEAD`; what is compared with it is the working tree. One
//! commit is enough, so a shallow clone will do. Where there is none (an unpacked
//! archive, an empty repository) the comparison fails and says so.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::buf::{bin, run, said};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn buf(args: &[&str]) -> Output {
    let mut buf = Command::new(bin().join("buf"));
    buf.current_dir(ROOT).args(args).output().unwrap()
}

/// What `buf breaking` says of a folder, compared with the last commit.
fn breaking(input: &Path) -> Output {
    let mut head = Command::new("git");
    head.args(["-C", ROOT, "rev-parse", "--verify", "HEAD"]);
    let head = head.output().expect("git, to compare with the last commit");
    assert!(
        head.status.success(),
        "buf breaking compares with the last commit, and there is none: {}",
        said(&head)
    );
    let before = tempfile::tempdir().unwrap();
    let archive = before.path().join("head.tar");
    run(Command::new("git")
        .args(["-C", ROOT, "archive", "--output"])
        .arg(&archive)
        .args(["HEAD", "buf.yaml", "proto"]));
    let input = input.to_str().unwrap();
    buf(&["breaking", input, "--against", archive.to_str().unwrap()])
}

/// A copy of the schema with one text in one file replaced.
fn changed(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    run(Command::new("cp")
        .arg("-r")
        .args(["buf.yaml", "proto"].map(|part| Path::new(ROOT).join(part)))
        .arg(copy.path()));
    let path = copy.path().join("proto/arcp/v1").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has {from:?}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    copy
}

#[test]
fn the_schema_keeps_the_rules_of_buf() {
    let output = buf(&["lint"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_name_against_the_rules_is_found() {
    let copy = changed("event.proto", "string phase = 1", "string Phase = 1");
    let output = buf(&["lint", copy.path().to_str().unwrap()]);
    assert!(!output.status.success() && said(&output).contains("lower_snake_case"));
}

#[test]
fn nothing_since_the_last_commit_breaks_a_peer() {
    let output = breaking(Path::new(ROOT));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_field_with_another_number_is_found() {
    let copy = changed("event.proto", "string phase = 1", "string phase = 9");
    let output = breaking(copy.path());
    assert!(!output.status.success() && said(&output).contains("\"phase\""));
}
