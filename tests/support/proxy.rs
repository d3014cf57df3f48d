//! A TCP proxy that cuts a connection after a given number of bytes.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes everything on until a cut is due; connections after it are whole.
pub struct Proxy {
    pub address: String,
    requests: Direction,
    answers: Direction,
    dialled: watch::Receiver<bool>,
}

/// What one side says, over all connections; the cut that is due in it.
#[derive(Clone, Default)]
struct Direction(Arc<Mutex<Option<(usize, Cut)>>>);

/// Whether a cut has been made.
#[derive(Clone, Default)]
pub struct Cut(Arc<AtomicBool>);

impl Cut {
    pub fn is_done(&self) -> bool {
        self.0.load(SeqCst)
    }
}

impl Proxy {
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dialled_tx, dialled) = watch::channel(false);
        let proxy = Self {
            address: listener.local_addr().unwrap().to_string(),
            requests: Direction::default(),
            answers: Direction::default(),
            dialled,
        };
        let (requests, answers) = (proxy.requests.clone(), proxy.answers.clone());
        let target = target.to_owned();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                dialled_tx.send_replace(true);
                let far = TcpStream::connect(&target).await.unwrap();
                let (requests, answers) = (requests.clone(), answers.clone());
                tokio::spawn(async move {
                    let ((near_rx, near_tx), (far_rx, far_tx)) =
                        (near.into_split(), far.into_split());
                    // Whichever ends takes the other, and both sockets, with it.
                    tokio::select! {
                        () = requests.pass(near_rx, far_tx) => {}
                        () = answers.pass(far_rx, near_tx) => {}
                    }
                });
            }
        });
        proxy
    }

    /// Cuts when the side that dials has said so much from now on.
    pub fn cut_after_requests(&self, bytes: usize) -> Cut {
        self.requests.arm(bytes)
    }

    /// Cuts when it has been told so much from now on.
    pub fn cut_after_answers(&self, bytes: usize) -> Cut {
        self.answers.arm(bytes)
    }

    /// Waits for the first connection.
    pub async fn dialled(&self) {
        let dialled = self.dialled.clone().wait_for(|yes| *yes).await.is_ok();
        assert!(dialled, "the proxy listens");
    }
}

impl Direction {
    fn arm(&self, bytes: usize) -> Cut {
        let cut = Cut::default();
        *self.0.lock().unwrap() = Some((bytes, cut.clone()));
        cut
    }

    async fn pass(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = [0; 4096];
        while let Ok(read) = from.read(&mut buffer).await
            && read > 0
        {
            let (passed, due) = self.take(read);
            if to.write_all(&buffer[..passed]).await.is_err() {
                return;
            }
            if let Some(cut) = due {
                return cut.0.store(true, SeqCst);
            }
        }
    }

    /// How much of what was read goes on, and the cut that is due behind it.
    fn take(&self, read: usize) -> (usize, Option<Cut>) {
        let mut plan = self.0.lock().unwrap();
        match plan.as_mut() {
            Some((left, _)) if *left > read => {
                *left -= read;
                (read, None)
            }
            Some(_) => {
                let (left, cut) = plan.take().expect("matched");
                (left, Some(cut))
            }
            None => (read, None),
        }
    }
}
