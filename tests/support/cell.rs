//! Three replicas where a test starts a runtime, behind a proxy that takes turns.
//!
//! So does every test whose process has [`NATS`] in its environment: the replicas share
//! the log of a cell of their own on that server. `tests/cell.rs` runs the clients' tests
//! in this way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::process::{Process, Starting};

/// Not `ARCPD_…`: a runtime refuses what it does not know.
pub const NATS: &str = "CELL_NATS";

const REPLICAS: usize = 3;

/// The URL of the server that cells of this process use, where tests are to start cells.
pub fn nats() -> Option<String> {
    std::env::var(NATS).ok()
}

/// Starts three of a command, each with a folder in its data directory.
pub fn start(command: &Command, nats: &str) -> (Vec<Process>, Balancer) {
    let given: Vec<OsString> = command.get_args().map(Into::into).collect();
    let dir = PathBuf::from(&given[index(&given, "--data-dir")]);
    let listen = given[index(&given, "--listen")]
        .to_string_lossy()
        .into_owned();
    let starting: Vec<_> = (0..REPLICAS)
        .map(|number| {
            let mut args = given.clone();
            let own = dir.join(format!("replica-{number}"));
            let at = index(&args, "--data-dir");
            args[at] = own.into();
            let at = index(&args, "--listen");
            args[at] = "127.0.0.1:0".into();
            let mut replica = like(command, &args);
            replica.args(["--cluster", nats, "--cluster-name", &name(&dir)]);
            replica.args(["--cluster-replication", "1"]);
            Starting::spawn(&mut replica)
        })
        .collect();
    let replicas: Vec<_> = starting.into_iter().map(Starting::ready).collect();
    let targets = replicas.iter().map(|replica| replica.listen.clone());
    let balancer = Balancer::start(&listen, targets.collect());
    (replicas, balancer)
}

/// Where the value of an option is.
fn index(args: &[OsString], option: &str) -> usize {
    let at = args.iter().position(|arg| arg == option);
    at.unwrap_or_else(|| panic!("{option} is not given")) + 1
}

/// The same program in the same environment.
fn like(command: &Command, args: &[OsString]) -> Command {
    let mut like = Command::new(command.get_program());
    like.args(args);
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => like.env(key, value),
            None => like.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        like.current_dir(dir);
    }
    like
}

/// Of the cell in a folder: the same for whoever starts there again.
fn name(dir: &Path) -> String {
    let text = dir.to_string_lossy();
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Gives connections to its targets in turn, passing over those that take none. It is a
/// thread, as a runtime may outlive the scheduler of who started it.
pub struct Balancer {
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    fn start(listen: &str, targets: Vec<String>) -> Self {
        let listener = std::net::TcpListener::bind(listen).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let mut scheduler = tokio::runtime::Builder::new_current_thread();
            let scheduler = scheduler.enable_all().build().unwrap();
            scheduler.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = balance(listener, targets) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

async fn balance(listener: TcpListener, mut targets: Vec<String>) {
    while let Ok((mut near, _)) = listener.accept().await {
        targets.rotate_left(1);
        let targets = targets.clone();
        tokio::spawn(async move {
            for target in &targets {
                if let Ok(mut far) = TcpStream::connect(target).await {
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    // Whichever fails takes the other with it.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                    return;
                }
            }
        });
    }
}

/// Every connection ends, and the port is free.
impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
