//! One `arcpd serve` process.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

/// A process that is ready; killed with SIGKILL when dropped.
pub struct Process {
    child: Child,
    pub listen: String,
    pub admin: String,
    /// What it has logged so far.
    logged: Arc<Mutex<Vec<String>>>,
}

/// One that is not ready yet; killed when dropped.
pub struct Starting {
    /// None once it is ready.
    child: Option<Child>,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Starting {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("arcpd starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let child = Some(child);
        Self { child, lines }
    }

    /// Waits for a line with the text.
    pub fn until_logged(&mut self, text: &str) {
        let mut before = Vec::new();
        loop {
            let Some(Ok(line)) = self.lines.next() else {
                panic!("no {text:?} before the end:\n{}", before.join("\n"));
            };
            if line.contains(text) {
                return;
            }
            before.push(line);
        }
    }

    /// SIGTERM; how it ends.
    pub fn stop(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("not ready before");
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::TERM).expect("SIGTERM");
        // A pipe that nobody reads would hold it up.
        self.lines.by_ref().for_each(drop);
        child.wait().expect("an exit")
    }

    pub fn ready(mut self) -> Process {
        let logged = Arc::new(Mutex::new(Vec::new()));
        let ready = loop {
            let line = self.lines.next();
            let line = line.expect("a ready line before the end").expect("text");
            logged.lock().unwrap().push(line.clone());
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
                panic!("not a line of JSON: {line}");
            };
            if line["fields"]["message"] == "ready" {
                break line;
            }
        };
        let child = self.child.take().expect("not ready before");
        let field = |name: &str| {
            let address = ready["fields"][name].as_str();
            address.expect("an address").to_owned()
        };
        let process = Process {
            child,
            listen: field("listen"),
            admin: field("admin_listen"),
            logged: logged.clone(),
        };
        // Keep reading, or the runtime would block on a full pipe.
        let keep = move || {
            while let Some(Ok(line)) = self.lines.next() {
                logged.lock().unwrap().push(line);
            }
        };
        std::thread::spawn(keep);
        process
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Starting::spawn(command).ready()
    }

    pub fn log(&self) -> String {
        self.logged.lock().unwrap().join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("a dead child");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("an exit")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
