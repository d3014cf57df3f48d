//! A replica that is started again whenever it ends, as an orchestrator does.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::serve;

/// Between an end and the next start: one that cannot start is not started all the time.
const BACK_OFF: Duration = Duration::from_millis(300);
/// For one that is paused takes connections and says nothing.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// In its directory.
const FILE: &str = "arcpd.db";

pub struct Replica {
    shared: Arc<Shared>,
    /// Dropped to end it.
    stop: Option<Sender<()>>,
    supervisor: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    /// Taken before it is waited for: a signal never goes to another process.
    child: Mutex<Option<Child>>,
    /// Where it serves, while it does.
    serves: watch::Sender<Option<Serves>>,
    ends: watch::Sender<Vec<ExitStatus>>,
    /// Lines that no replica should ever write, and ends that none should have.
    faults: Mutex<Vec<String>>,
    log: PathBuf,
    /// What is run the next time.
    program: Mutex<PathBuf>,
    /// Its file, and whether it is without it then.
    file: PathBuf,
    loses_file: AtomicBool,
}

#[derive(Clone)]
struct Serves {
    address: String,
    admin: String,
}

impl Replica {
    pub fn start(number: usize, urls: &[SocketAddr], toml: &str, logs: &Path) -> Self {
        let dir = logs.join(format!("replica-{number}"));
        std::fs::create_dir(&dir).unwrap();
        let config = dir.join("arcpd.toml");
        std::fs::write(&config, toml).unwrap();
        let urls: Vec<_> = urls.iter().map(|at| format!("nats://{at}")).collect();
        let mut command = serve(&dir);
        command.arg("--config").arg(config);
        command.args(["--cluster", &urls.join(","), "--cluster-replication", "3"]);
        let shared = Arc::new(Shared {
            child: Mutex::default(),
            serves: watch::Sender::new(None),
            ends: watch::Sender::default(),
            faults: Mutex::default(),
            log: logs.join(format!("replica-{number}.log")),
            program: Mutex::new(command.get_program().into()),
            file: dir.join(FILE),
            loses_file: AtomicBool::new(false),
        });
        let (stop, stopped) = channel();
        let supervised = shared.clone();
        let supervisor = std::thread::spawn(move || {
            loop {
                supervised.live(&command);
                match stopped.recv_timeout(BACK_OFF) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
        });
        Self {
            shared,
            stop: Some(stop),
            supervisor: Some(supervisor),
        }
    }

    /// Where it serves now.
    pub fn address(&self) -> Option<String> {
        let serves = self.shared.serves.borrow();
        serves.as_ref().map(|serves| serves.address.clone())
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) -> String {
        let mut serves = self.shared.serves.subscribe();
        loop {
            let now = serves.wait_for(Option::is_some).await.unwrap().clone();
            let now = now.expect("waited for");
            let asked = tokio::time::timeout(ASK_TIMEOUT, says_ready(&now.admin)).await;
            if let Ok(Some(())) = asked {
                return now.address;
            }
            tokio::task::yield_now().await;
        }
    }

    /// How its present life ends.
    pub fn next_end(&self) -> impl Future<Output = ExitStatus> + use<> {
        let mut ends = self.shared.ends.subscribe();
        let before = ends.borrow().len();
        async move {
            let ends = ends.wait_for(|ends| ends.len() > before).await.unwrap();
            ends[before]
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &*self.shared.child.lock() {
            // Not waited for, so it is this one, alive or dead.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    pub fn file(&self) -> &Path {
        &self.shared.file
    }

    /// At its next start it begins with an empty directory.
    pub fn lose_file(&self) {
        self.shared.loses_file.store(true, Ordering::Relaxed);
    }

    /// What it is run with from its next start on; whether that is another program.
    pub fn exchange(&self, program: &Path) -> bool {
        let before = std::mem::replace(&mut *self.shared.program.lock(), program.to_owned());
        before != program
    }

    pub fn ends(&self) -> usize {
        self.shared.ends.borrow().len()
    }

    pub fn faults(&self) -> Vec<String> {
        self.shared.faults.lock().clone()
    }
}

/// A command with another program.
fn run_by(program: &Path, like: &Command) -> Command {
    let mut command = Command::new(program);
    command.args(like.get_args());
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

async fn says_ready(admin: &str) -> Option<()> {
    let mut socket = TcpStream::connect(admin).await.ok()?;
    let request = b"GET /readyz HTTP/1.0\r\nhost: admin\r\n\r\n";
    socket.write_all(request).await.ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.ok()?;
    (answer.split(' ').nth(1) == Some("200")).then_some(())
}

impl Shared {
    /// From its start to its end.
    fn live(&self, command: &Command) {
        if self.loses_file.swap(false, Ordering::Relaxed) {
            for more in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{more}", self.file.display()));
            }
        }
        let mut command = run_by(&self.program.lock(), command);
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("arcpd starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        *self.child.lock() = Some(child);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log);
        let mut log = log.expect("a file for its log");
        let mut last = String::new();
        for line in lines.map_while(Result::ok) {
            use std::io::Write;
            writeln!(log, "{line}").expect("room for its log");
            self.hear(&line);
            last = line;
        }
        let child = self.child.lock().take();
        let served = self.serves.send_replace(None).is_some();
        let ended = child.expect("started above").wait().expect("an end");
        let _ = std::io::Write::write_all(&mut log, format!("--- {ended}\n").as_bytes());
        self.ends.send_modify(|ends| ends.push(ended));
        // A panic of the main thread; a refusal is 1, a kill has no code, nor has who was
        // drained before it was ready.
        let harmless = |signal: i32| signal == 9 || (signal == 15 && !served);
        if ended.code() == Some(101) || ended.signal().is_some_and(|signal| !harmless(signal)) {
            let mut faults = self.faults.lock();
            faults.push(format!("ended with {ended}: {last}"));
        }
    }

    fn hear(&self, line: &str) {
        if line.contains("panicked") {
            self.faults.lock().push(line.to_owned());
        }
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let fields = &line["fields"];
        if fields["message"] == "ready" {
            let field = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
            let serves = Serves {
                address: field("listen"),
                admin: field("admin_listen"),
            };
            self.serves.send_replace(Some(serves));
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.signal(Signal::KILL);
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}
