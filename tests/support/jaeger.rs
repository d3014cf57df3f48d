//! A real Jaeger: built from its module with Go, once, and kept outside the checkout.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::helm::cache;

const MODULE: &str = "github.com/jaegertracing/jaeger";
const VERSION: &str = "v1.76.0";

/// On free ports, in memory; killed when dropped.
pub struct Jaeger {
    child: Child,
    otlp: String,
    query: String,
    _dir: tempfile::TempDir,
}

fn place() -> PathBuf {
    cache().join(format!("jaeger-{VERSION}"))
}

/// Builds what is not in the cache.
pub fn install() -> PathBuf {
    let place = place();
    if !place.exists() {
        build(&place);
    }
    place
}

/// None, and a word about it, where it was not installed.
fn installed() -> Option<PathBuf> {
    let place = place();
    // Not by a macro of the test harness, which keeps what passes to itself.
    let mut stderr = std::io::stderr();
    if place.exists() {
        let _ = writeln!(stderr, "Jaeger {VERSION} is in the cache and is asked");
        return Some(place);
    }
    let _ = writeln!(
        stderr,
        "NOT RUN: Jaeger {VERSION} is not in the cache; `cargo test --test jaeger -- --ignored` builds it, which takes minutes"
    );
    None
}

/// `go install` refuses it: its go.mod has a replace.
fn build(binary: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "set -e; from=$(cd / && go mod download -json {MODULE}@{VERSION} | sed -n 's/.*\"Dir\": \"\\(.*\\)\".*/\\1/p'); \
         cp -r \"$from\"/. .; chmod -R u+w .; \
         nice -n 19 go build -buildvcs=false -o \"$1.new\" ./cmd/jaeger; mv \"$1.new\" \"$1\""
    );
    let built = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(binary)
        .current_dir(&dir)
        .output()
        .expect("sh");
    assert!(built.status.success(), "{built:?}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Jaeger {
    pub fn start() -> Option<Self> {
        let binary = installed()?;
        let dir = tempfile::tempdir().unwrap();
        // It does not say which port it got, so it is told.
        let [otlp, query, grpc] = [free_port(), free_port(), free_port()];
        let config = format!(
            "service:\n  extensions: [jaeger_storage, jaeger_query]\n  \
             telemetry: {{ metrics: {{ level: none }} }}\n  \
             pipelines:\n    traces: {{ receivers: [otlp], exporters: [jaeger_storage_exporter] }}\n\
             extensions:\n  jaeger_query:\n    storage: {{ traces: memory }}\n    \
             http: {{ endpoint: '127.0.0.1:{query}' }}\n    grpc: {{ endpoint: '127.0.0.1:{grpc}' }}\n  \
             jaeger_storage: {{ backends: {{ memory: {{ memory: {{ max_traces: 1000 }} }} }} }}\n\
             receivers:\n  otlp: {{ protocols: {{ grpc: {{ endpoint: '127.0.0.1:{otlp}' }} }} }}\n\
             exporters:\n  jaeger_storage_exporter: {{ trace_storage: memory }}\n"
        );
        let path = dir.path().join("jaeger.yaml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(binary)
            .arg("--config")
            .arg(path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("Jaeger starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("it ended: {said}"))
                .unwrap();
            if line.contains("Everything is ready") {
                break;
            }
            said += &line;
        }
        // Keep reading, or it would block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self {
            child,
            otlp: format!("http://127.0.0.1:{otlp}"),
            query: format!("127.0.0.1:{query}"),
            _dir: dir,
        })
    }

    /// The variables that have a runtime export here.
    pub fn env(&self) -> [(&'static str, &str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.otlp),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]
    }

    /// The answer of its query API.
    pub fn get(&self, path: &str) -> Value {
        let mut socket = std::net::TcpStream::connect(&self.query).expect("the query port");
        let request = format!("GET {path} HTTP/1.0\r\nhost: jaeger\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
