//! The processes that are measured, and what the system says of them.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use super::client::{Dialler, Wire};

/// Killed when dropped.
pub struct Process {
    child: Child,
    pub address: String,
    /// Where it shows its metrics; empty for the floor.
    admin: String,
    /// What it logs goes to a file: a reader would have to be woken for each line.
    _log: NamedTempFile,
}

impl Process {
    /// One that exports nothing, whatever the environment says.
    pub fn runtime(data_dir: &Path) -> anyhow::Result<Self> {
        Self::start(Self::serve(data_dir)?.env("OTEL_SDK_DISABLED", "true"))
    }

    /// One of several that share a log in NATS.
    pub fn replica(
        data_dir: &Path,
        servers: &str,
        cell: &str,
        copies: usize,
    ) -> anyhow::Result<Self> {
        let mut command = Self::serve(data_dir)?;
        command
            .env("OTEL_SDK_DISABLED", "true")
            .args(["--cluster", servers, "--cluster-name", cell])
            .args(["--cluster-replication", &copies.to_string()]);
        Self::start(&mut command)
    }

    /// One that exports all of its spans.
    pub fn exporting(data_dir: &Path, url: &str) -> anyhow::Result<Self> {
        let mut command = Self::serve(data_dir)?;
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("OTEL_TRACES_SAMPLER", "always_on")
            .env("OTEL_METRICS_EXPORTER", "none");
        Self::start(&mut command)
    }

    fn serve(data_dir: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--dev", "--demo-agents", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            // A measured connection is not to be pinged in between, nor one that waits for
            // its turn, however long a slow machine takes, to be given up for its silence.
            .env("ARCPD_LIMITS__HEARTBEAT_INTERVAL_SEC", "3600")
            .env("ARCPD_LIMITS__RUNNING_JOBS_PER_PRINCIPAL_MAX", "100000");
        Ok(command)
    }

    pub fn floor() -> anyhow::Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).arg("bench-floor"))
    }

    /// One that reads a stream of NATS, as a replica does, and no more.
    pub fn reader(servers: &str, stream: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench-floor", "--reads", servers, "--stream", stream]);
        Self::start(&mut command)
    }

    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let log = NamedTempFile::new()?;
        let mut child = command.stderr(log.as_file().try_clone()?).spawn()?;
        let mut lines = BufReader::new(log.reopen()?);
        let (address, admin) = loop {
            let line = next_line(&mut child, &mut lines)?;
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = line["fields"]["listen"].as_str() {
                let admin = line["fields"]["admin_listen"].as_str();
                break (address.to_owned(), admin.unwrap_or_default().to_owned());
            }
        };
        Ok(Self {
            child,
            address,
            admin,
            _log: log,
        })
    }

    /// Opens clients with a connection each.
    pub fn dial(&self, wire: Wire) -> Dialler {
        self.dial_sharing(wire, 1)
    }

    /// Opens clients that share connections, where the wire can.
    pub fn dial_sharing(&self, wire: Wire, per_connection: u64) -> Dialler {
        Dialler::sharing(wire, &self.address, per_connection)
    }

    /// SIGTERM: it is to end by itself.
    pub fn terminate(&self) -> anyhow::Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// SIGKILL; returns once it is dead.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Seconds of processor time so far.
    pub fn cpu(&self) -> f64 {
        cpu_of(self.child.id())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(&self.admin).await?;
        let request = b"GET /metrics HTTP/1.0\r\nhost: admin\r\n\r\n";
        socket.write_all(request).await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.context("no such metric")?.trim();
        Ok(value.parse()?)
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) * 1024.0
    }
}

/// Waits for a line to be whole: nothing tells of a file that it has grown.
fn next_line(child: &mut Child, log: &mut BufReader<impl Read>) -> anyhow::Result<String> {
    let mut line = String::new();
    loop {
        log.read_line(&mut line)?;
        if line.ends_with('\n') {
            return Ok(line);
        }
        if child.try_wait()?.is_some() {
            bail!("it ended before it was ready");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn cpu_of(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    let stat = stat.unwrap_or_default();
    // The name before may hold spaces; the fields after it do not.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |index: usize| -> f64 {
        let field = after.split_whitespace().nth(index);
        field.and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
}

/// Ten thousand connections need more descriptors than a shell gives.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}
