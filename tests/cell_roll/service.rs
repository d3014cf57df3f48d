//! A Service of Kubernetes: gives each connection to the next of the pods that are ready.
//! A pod leaves it when its readiness probe fails or its deletion begins, and the
//! connections that it has stay.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::support::Runtime;

/// Between two probes; the chart's are rarer, and only cost time here.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A pod's address, and whether its last probe succeeded.
struct Entry {
    address: String,
    ready: bool,
}

type Entries = Arc<Mutex<Vec<Entry>>>;

pub struct Service {
    pub address: String,
    entries: Entries,
}

/// A pod's place in the Service; given up when dropped, which is when its deletion begins.
pub struct Endpoint {
    address: String,
    entries: Entries,
    ready: watch::Receiver<bool>,
    _probes: AbortOnDropHandle<()>,
}

impl Service {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let entries = Entries::default();
        tokio::spawn(balance(listener, entries.clone()));
        Self { address, entries }
    }

    /// Probes a pod from now on.
    pub fn select(&self, pod: &Runtime) -> Endpoint {
        let address = pod.address.clone();
        let entry = Entry {
            address: address.clone(),
            ready: false,
        };
        self.entries.lock().unwrap().push(entry);
        let (ready_tx, ready) = watch::channel(false);
        let probing = probe(
            pod.admin.clone(),
            address.clone(),
            self.entries.clone(),
            ready_tx,
        );
        Endpoint {
            address,
            entries: self.entries.clone(),
            ready,
            _probes: AbortOnDropHandle::new(tokio::spawn(probing)),
        }
    }
}

impl Endpoint {
    pub async fn until_ready(&mut self) {
        let ready = self.ready.wait_for(|ready| *ready).await.is_ok();
        assert!(ready, "a pod is probed until it is deleted");
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let mut entries = self.entries.lock().unwrap();
        entries.retain(|entry| entry.address != self.address);
    }
}

async fn probe(admin: String, address: String, entries: Entries, ready_tx: watch::Sender<bool>) {
    let mut probes = tokio::time::interval(PROBE_INTERVAL);
    loop {
        probes.tick().await;
        let ready = is_ready(&admin).await;
        let mut entries = entries.lock().unwrap();
        // A pod that is being deleted has none, whatever its probe says.
        if let Some(entry) = entries.iter_mut().find(|entry| entry.address == address) {
            entry.ready = ready;
            ready_tx.send_replace(ready);
        }
    }
}

async fn is_ready(admin: &str) -> bool {
    let asked = async {
        let mut socket = TcpStream::connect(admin).await?;
        let request = "GET /readyz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asked.await.is_ok_and(|answer| answer.contains(" 200 "))
}

async fn balance(listener: TcpListener, entries: Entries) {
    while let Ok((near, _)) = listener.accept().await {
        // Without one that is ready, the connection is refused.
        if let Some(address) = next(&entries) {
            tokio::spawn(pass(near, address));
        }
    }
}

/// Each in turn, those that are not ready left out.
fn next(entries: &Entries) -> Option<String> {
    let mut entries = entries.lock().unwrap();
    let at = entries.iter().position(|entry| entry.ready)?;
    entries.rotate_left(at + 1);
    entries.last().map(|entry| entry.address.clone())
}

async fn pass(mut near: TcpStream, address: String) {
    if let Ok(mut far) = TcpStream::connect(address).await {
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        // Whichever fails takes the other with it.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}
