//! How memgate's work on the cache ends early: at a signal, within a moment, and with nothing half-made left.
//!
//! This work blocks its thread. It looks at a flag that a signal's handler sets.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Whether the user or the CI system wants memgate to end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl From<Arc<AtomicBool>> for Stop {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}

/// How often a wait looks at the flag.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

impl Stop {
    /// Whether memgate must end.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs a command without input and returns its output; `None` if memgate must end, when the command and everything
    /// in its process group has been killed.
    ///
    /// # Errors
    /// When the command cannot be started or waited for.
    pub(crate) fn output(&self, mut command: Command) -> io::Result<Option<Output>> {
        if self.is_asked() {
            return Ok(None);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            let [stdout, stderr] = [scope.spawn(move || everything(stdout)), scope.spawn(move || everything(stderr))];
            let status = loop {
                if self.is_asked() {
                    end(&mut child);
                    return Ok(None);
                }
                match child.try_wait() {
                    Ok(Some(status)) => break status,
                    Ok(None) => thread::sleep(PAUSE),
                    Err(error) => {
                        end(&mut child);
                        return Err(error);
                    }
                }
            };
            let joined = |reader: thread::ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
                reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader of a command panicked")))
            };
            Ok(Some(Output { status, stdout: joined(stdout)?, stderr: joined(stderr)? }))
        })
    }
}

fn everything(from: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.map_or(Ok(0), |mut from| from.read_to_end(&mut bytes))?;
    Ok(bytes)
}

/// Kills the process group of a command that has not been waited for.
fn end(child: &mut Child) {
    // It may have ended in this moment.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_gives_all_of_its_output() {
        let output = Stop::default().output(shell("seq 100000; echo bad >&2; exit 3")).unwrap().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(3), &b"bad\n"[..]));
        assert!(output.stdout.ends_with(b"\n100000\n"));
    }

    #[test]
    fn a_command_and_what_it_has_started_end_at_a_stop() {
        let (directory, stop) = (tempfile::tempdir().unwrap(), Stop::default());
        let file = directory.path().join("pid");
        let asked = stop.clone();
        let started = file.clone();
        let asking = thread::spawn(move || {
            while !std::fs::read_to_string(&started).is_ok_and(|text| text.ends_with('\n')) {
                thread::sleep(PAUSE);
            }
            asked.0.store(true, Ordering::Relaxed);
            Instant::now()
        });
        let script = format!("sleep 1000 & echo $! >{}; wait", file.display());
        assert_eq!(stop.output(shell(&script)).unwrap(), None);
        assert!(asking.join().unwrap().elapsed() < Duration::from_secs(10));
        let sleeper = std::fs::read_to_string(&file).unwrap();
        let line = std::fs::read(format!("/proc/{}/cmdline", sleeper.trim())).unwrap_or_default();
        assert_eq!(line, b"", "what the command has started still runs");
        assert_eq!(stop.output(shell("true")).unwrap(), None, "nothing begins after a stop");
    }
}
