//! A person's terminal, joined to a guest's console.

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

/// This process's terminal, which hands every key on as it is typed, Ctrl-C among them. As it was when this is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

/// Whether a person is there: standard input and output both are a terminal.
#[expect(clippy::disallowed_methods, reason = "it writes nothing")]
pub fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Raw {
    /// Has it hand on each key.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }

    /// What a program on it should know.
    pub fn described(&self) -> Terminal {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes a `winsize` (tty_ioctl(2)), which lives through the call.
        let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
        let (rows, columns) = if known { (size.ws_row, size.ws_col) } else { (0, 0) };
        let kind = std::env::var("TERM").ok().filter(|kind| !kind.is_empty());
        Terminal { kind: kind.unwrap_or_else(|| "dumb".to_owned()), rows, columns }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Hands what is typed on to the guest's console until either is gone. What is not read any more ends with the process.
pub(crate) fn hand_on(mut console: OwnedWriteHalf) -> io::Result<()> {
    let (typed, mut keys) = mpsc::channel::<Vec<u8>>(16);
    // A thread, since a read of a terminal cannot be given up.
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
        // Dropped it would be shut down, and QEMU would close the console.
        console.forget();
    });
    Ok(())
}

/// Shows what the guest has put on its console. A terminal that is gone shows nothing, and ends memgate by SIGHUP.
#[expect(clippy::disallowed_methods, reason = "a guest's console is what the person asked for")]
pub(crate) fn show(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
