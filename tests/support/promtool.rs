//! `promtool` of Debian's `prometheus`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::apt;

const PROMTOOL: &str = "/usr/bin/promtool";

pub fn promtool(dir: &Path, arguments: &[&str], stdin: &str) -> Output {
    apt::install("prometheus", PROMTOOL);
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
