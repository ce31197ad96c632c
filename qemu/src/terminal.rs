//! A user's terminal, joined to a guest's console.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::fd::AsFd as _,
};

use nix::{
    libc,
    sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
};
use tokio::{io::AsyncWriteExt as _, net::unix::OwnedWriteHalf, sync::mpsc};

use crate::channel::Terminal;

/// This process's terminal. It passes every key on as it is typed, including Ctrl-C. Dropping this restores the
/// terminal.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

/// Whether there is a user: standard input and output are both a terminal.
#[expect(clippy::disallowed_methods, reason = "it writes nothing")]
pub fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Raw {
    /// Makes the terminal pass on each key.
    ///
    /// # Errors
    /// When standard input is not a terminal.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }

    /// What a program on the terminal needs to know.
    pub fn described(&self) -> Terminal {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes a `winsize` (tty_ioctl(2)), which outlives the call.
        let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
        let (rows, columns) = if known { (size.ws_row, size.ws_col) } else { (0, 0) };
        let kind = std::env::var("TERM").ok().filter(|kind| !kind.is_empty());
        Terminal { kind: kind.unwrap_or_else(|| "dumb".to_owned()), rows, columns }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If the terminal is gone, nothing can be restored.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Passes typed keys to the guest's console until the terminal or the guest is gone. Unread input is lost when the
/// process ends.
pub(crate) fn hand_on(mut console: OwnedWriteHalf) -> io::Result<()> {
    let (typed, mut keys) = mpsc::channel::<Vec<u8>>(16);
    // This needs a thread, because a read of a terminal cannot be cancelled.
    std::thread::Builder::new().name("terminal".to_owned()).spawn(move || {
        let mut bytes = [0; 1024];
        loop {
            match io::stdin().read(&mut bytes) {
                Ok(read) if read > 0 && typed.blocking_send(bytes[..read].to_vec()).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    })?;
    tokio::spawn(async move {
        while let Some(bytes) = keys.recv().await {
            if console.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // Dropping the socket would shut it down, and QEMU would close the console.
        console.forget();
    });
    Ok(())
}

/// Shows what the guest writes to its console. A closed terminal shows nothing and ends memgate with SIGHUP.
#[expect(clippy::disallowed_methods, reason = "a guest's console is what the person asked for")]
pub(crate) fn show(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
