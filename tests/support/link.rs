//! A TCP link that can be cut, frozen and healed.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Whole,
    /// Connections end, and new ones at once.
    Cut,
    /// Connections stay and nothing goes through: what a network does that drops packets.
    Frozen,
    /// Only what the one that dials says goes through.
    OneWay,
    /// Only what the one that listens says goes through.
    OtherWay,
}

impl State {
    fn passes(self, way: Way) -> bool {
        match self {
            Self::Whole => true,
            Self::OneWay => way == Way::There,
            Self::OtherWay => way == Way::Back,
            Self::Cut | Self::Frozen => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    There,
    Back,
}

/// Between one that dials `address` and one that listens at the target.
pub struct Link {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    /// One for each connection, and one for itself.
    connections: Arc<()>,
}

impl Link {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::Whole);
        let connections = Arc::new(());
        let count = Arc::downgrade(&connections);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let counted = count.upgrade();
                let through = connection(near, target.clone(), seen.clone());
                tokio::spawn(async move {
                    through.await;
                    drop(counted);
                });
            }
        });
        Self {
            address,
            state,
            connections,
        }
    }

    /// Whether anybody is connected through it.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.connections) > 1
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn connection(near: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let mut until_whole = state.clone();
    let connect = async {
        // One that dials into a frozen network waits; one whose link is cut is told.
        until_whole
            .wait_for(|state| *state != State::Frozen)
            .await
            .ok()?;
        TcpStream::connect(target).await.ok()
    };
    let far = tokio::select! {
        far = connect => far,
        _ = state.wait_for(|state| *state == State::Cut) => None,
    };
    let Some(far) = far else { return };
    let ((near_rx, near_tx), (far_rx, far_tx)) = (near.into_split(), far.into_split());
    let (there, back) = (state.clone(), state.clone());
    // Whichever ends takes the other, and both sockets, with it.
    tokio::select! {
        () = pass(near_rx, far_tx, Way::There, there) => {}
        () = pass(far_rx, near_tx, Way::Back, back) => {}
        _ = state.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    way: Way,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await
        && read > 0
    {
        // Its end is seen by whoever waits for a cut.
        let open = state.wait_for(|state| state.passes(way)).await.is_ok();
        if !open || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
