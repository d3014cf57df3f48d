//! What became of a client, or of one that watches.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub struct Told {
    heard: watch::Sender<u64>,
    heard_at: Instant,
    /// From one thing it heard to the next, at most.
    pub silence: Duration,
    /// How often it went on elsewhere.
    pub moves: usize,
    /// Dials that came to nothing.
    pub refused: Vec<String>,
}

impl Told {
    pub fn new() -> Self {
        Self {
            heard: watch::Sender::new(0),
            heard_at: Instant::now(),
            silence: Duration::ZERO,
            moves: 0,
            refused: Vec::new(),
        }
    }

    /// How much it has heard.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    pub fn hear(&mut self) {
        self.silence = self.silence.max(self.heard_at.elapsed());
        self.heard_at = Instant::now();
        self.heard.send_modify(|heard| *heard += 1);
    }
}
