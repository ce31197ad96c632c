//! A running memgate, for tests that act when it prints a line.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longer than memgate takes from one line to the next, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running memgate. Dropping this kills it.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// Its exit status, and everything that it printed on stderr.
pub struct Ended {
    pub status: ExitStatus,
    pub said: String,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (say, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, lines, said: Vec::new() }
    }

    pub fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits until it prints these words.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said.last().is_some_and(|line| line.contains(words)) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("it has not printed `{words}` but {:#?}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before it printed `{words}`: {:#?}", self.said),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ends(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        let mut said = std::mem::take(&mut self.said);
        said.extend(self.lines.iter());
        Ended { status, said: said.join("\n") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // This cleans up after a failed test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
