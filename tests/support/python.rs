//! Python programs: the packages are pinned in `tests/python/agent-requirements.txt`
//! and installed into a virtual environment below the target folder.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::Runtime;
use super::host::WORKERS;

const REQUIREMENTS: &str = include_str!("../python/agent-requirements.txt");

pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs to its end or fails with what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The interpreter of an environment with the helper, and a folder with stubs.
pub fn python() -> &'static (PathBuf, PathBuf) {
    static READY: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    READY.get_or_init(|| {
        let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-agent");
        let (python, stubs) = (base.join("venv/bin/python"), base.join("stubs"));
        let stamp = base.join("requirements.txt");
        let pip = || {
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
            pip
        };
        if std::fs::read_to_string(&stamp).ok().as_deref() != Some(REQUIREMENTS) {
            let _ = std::fs::remove_dir_all(&base);
            std::fs::create_dir_all(&base).unwrap();
            let venv = base.join("venv");
            run(Command::new("python3").args(["-m", "venv"]).arg(venv));
            run(pip()
                .arg("-r")
                .arg(root("tests/python/agent-requirements.txt")));
            std::fs::write(&stamp, REQUIREMENTS).unwrap();
        }
        // Always anew: the helper and the schema may have changed.
        run(pip()
            .args(["--no-build-isolation", "--force-reinstall"])
            .arg(root("python")));
        std::fs::create_dir_all(&stubs).unwrap();
        let out = |flag: &str| format!("{flag}={}", stubs.display());
        run(Command::new(&python)
            .current_dir(root("proto"))
            .args(["-m", "grpc_tools.protoc", "-I."])
            .args([out("--python_out"), out("--grpc_python_out")])
            .args(
                [
                    "envelope",
                    "event",
                    "runtime_service",
                    "agent_host_service",
                    "job_service",
                ]
                .map(|file| format!("arcp/v1/{file}.proto")),
            ));
        (python, stubs)
    })
}

/// A Python program that talks to a runtime; killed with SIGKILL when dropped.
pub struct Program {
    pub child: Child,
    stderr: Receiver<String>,
}

impl Program {
    pub fn start(address: &str, token: &str, arguments: &[&str]) -> Self {
        Self::start_with(address, token, arguments, Vec::new())
    }

    pub fn start_with(
        address: &str,
        token: &str,
        arguments: &[&str],
        env: Vec<(&str, String)>,
    ) -> Self {
        let (python, stubs) = python();
        let mut child = Command::new(python)
            .args(arguments)
            .envs(env)
            .env("ARCPD_SERVER", format!("http://{address}"))
            .env("ARCPD_TOKEN", token)
            .env("PYTHONPATH", stubs)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tx, stderr) = channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| drop(tx.send(line)));
        });
        Self { child, stderr }
    }

    /// A host of `tests/python/host.py` that is registered.
    pub fn host(runtime: &Runtime, name: &str, policy: &str) -> Self {
        let script = root("tests/python/host.py");
        let arguments = [script.to_str().unwrap(), name, policy];
        let host = Self::start(&runtime.address, WORKERS, &arguments);
        host.until("registered with arcpd");
        host
    }

    /// Reads on until a line has the text.
    pub fn until(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.stderr.recv_timeout(Duration::from_secs(30)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error} before {text:?}: {seen:#?}"),
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        run(Command::new("kill").args([name, &pid]));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
