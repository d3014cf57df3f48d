//! `promtool` of Debian's `prometheus`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const PROMTOOL: &str = "/usr/bin/promtool";

/// Installs Debian's package if it is not there and this user may.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if Path::new(PROMTOOL).exists() {
            return;
        }
        assert!(
            rustix::process::geteuid().is_root(),
            "{PROMTOOL} is missing; as root: apt-get update && apt-get install -y prometheus"
        );
        let apt = "apt-get update && apt-get install -y --no-install-recommends prometheus";
        let output = Command::new("sh")
            .args(["-c", apt])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
        let output = output.expect("sh");
        assert!(output.status.success(), "{apt}: {output:?}");
    });
}

pub fn promtool(dir: &Path, arguments: &[&str], stdin: &str) -> Output {
    install();
    let mut child = Command::new(PROMTOOL)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut pipe = child.stdin.take().expect("piped");
    pipe.write_all(stdin.as_bytes()).expect("read to its end");
    drop(pipe);
    child.wait_with_output().expect("an end")
}
