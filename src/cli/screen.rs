//! The terminal while `top` has it: another screen, no cursor, and keys that need no
//! Enter and are not shown. A shell gets it back as it was, however `top` ends.

use std::io::{IsTerminal, Read, Write, stdin, stdout};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Given back when dropped.
pub(super) struct Screen {
    /// As the keys were; none where they come from no terminal.
    keys: Option<Termios>,
}

impl Screen {
    pub fn enter() -> std::io::Result<Self> {
        let keys = match stdin().is_terminal() {
            true => Some(tcgetattr(stdin())?),
            false => None,
        };
        let screen = Self { keys };
        if let Some(mut keys) = screen.keys.clone() {
            keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(stdin(), OptionalActions::Now, &keys)?;
        }
        write(ENTER)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Whoever took the terminal away needs nothing of it back.
        let _ = write(LEAVE);
        if let Some(keys) = &self.keys {
            let _ = tcsetattr(stdin(), OptionalActions::Now, keys);
        }
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Resolves with the first `q`; never where nobody can press one.
pub(super) async fn quit_key() {
    let (pressed_tx, pressed) = oneshot::channel();
    // A thread of its own, which the end of the process does not wait for.
    std::thread::spawn(move || {
        let mut keys = stdin().lock().bytes().map_while(Result::ok);
        if keys.any(|key| matches!(key, b'q' | b'Q')) {
            // Gone when `top` ends for another reason.
            let _ = pressed_tx.send(());
        }
    });
    if pressed.await.is_err() {
        std::future::pending().await
    }
}

/// Resolves with the first signal that would end the process.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut stop = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    Ok(async move {
        let all = stop.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(all).await;
    })
}
