//! A memgate that runs, to which something happens when it says something.

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

/// Longer than memgate takes from one line to the next, whoever has the processors.
const PATIENCE: Duration = Duration::from_secs(300);

/// A memgate that runs. It is killed when this is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// How it ended, and all that it said on stderr.
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

    /// Waits until it says this.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said.last().is_some_and(|line| line.contains(words)) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("`{words}` has not been said, but {:#?}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before it said `{words}`: {:#?}", self.said),
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
        // Of a test that has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
