//! A load from a command, such as `k6 run load.js`.

use std::{
    ffi::OsString,
    io::{self, PipeWriter},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use memgate_evidence::{error::Result, plan::Account};
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use super::LoadError;
use crate::{
    child::{self, Pen},
    output::Output,
};

/// How long the command may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval at which an ending command is checked.
const POLL: Duration = Duration::from_millis(10);

/// A running load command. It leads its own process group, in a cgroup of its own where there are cgroups.
///
/// Dropping it kills the whole group, and everything in the cgroup.
#[derive(Debug)]
pub struct LoadCommand {
    name: String,
    child: Child,
    reaped: bool,
    /// Dropped after everything that is read or changed before.
    _pen: Pen,
    /// Dropped last, so that it has all that was printed.
    output: Output,
}

/// What a load command is, and what it becomes.
#[derive(Debug)]
pub struct CommandLine<'a> {
    /// The program, which is searched for in the `PATH` of `env`, and its arguments.
    pub words: &'a [String],
    /// The working directory.
    pub directory: &'a Path,
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    /// The user that it runs as, or `None` for memgate's own.
    pub account: Option<&'a Account>,
}

/// Starts a load command in its own process group and keeps its stdout and stderr in the file `log`.
///
/// The kernel kills the command when the calling thread ends (`PR_SET_PDEATHSIG`), so call this from a thread that lives
/// as long as the load.
///
/// # Errors
/// Fails with [`LoadError`] if the log cannot be made or the command cannot be started.
pub fn command(line: &CommandLine<'_>, log: &Path) -> Result<LoadCommand> {
    let Some((name, args)) = line.words.split_first() else {
        return Err(LoadError::NoCommand.into());
    };
    let made = Output::to(log, line.account);
    let (output, pipe) = made.map_err(|source| LoadError::Log { log: log.to_owned(), source })?;
    let pen = Pen::make();
    let child = spawn(name, args, line, pipe, &pen).map_err(|source| LoadError::CommandNotStarted {
        name: name.clone(),
        directory: line.directory.to_owned(),
        source,
    })?;
    Ok(LoadCommand { name: name.clone(), child, reaped: false, _pen: pen, output })
}

fn spawn(name: &str, args: &[String], line: &CommandLine<'_>, pipe: PipeWriter, pen: &Pen) -> io::Result<Child> {
    let mut command = Command::new(name);
    command.args(args).env_clear().envs(line.env.iter().map(|(name, value)| (name, value)));
    command.process_group(0).stdin(Stdio::null()).stdout(pipe.try_clone()?).stderr(pipe);
    child::confine(&mut command, pen, line.account, line.directory)?;
    command.spawn()
}

impl LoadCommand {
    /// Checks that the command still runs. Call it from time to time under load.
    ///
    /// # Errors
    /// Fails with [`LoadError::CommandEnded`] if it has ended, even with exit code 0, because then the service is not
    /// under load. The message contains the end of its output.
    pub fn check(&self) -> Result<()> {
        self.ended_as()?.map_or(Ok(()), |how| Err(self.ended_early(how).into()))
    }

    /// Ends the command, unless it has ended. It sends SIGTERM to the group, and SIGKILL to the rest of the group when
    /// the command has ended or after 5 s.
    ///
    /// # Errors
    /// Fails with [`LoadError`] if the command cannot be watched.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if self.ended_as()?.is_some() {
                break;
            }
            std::thread::sleep(POLL);
        }
        self.kill();
        Ok(())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// How the command ended; `None` while it runs. It is not reaped, so no other process can get its id.
    fn ended_as(&self) -> Result<Option<String>, LoadError> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(self.pid()), flags);
        Ok(match status.map_err(|source| LoadError::Unwatchable { name: self.name.clone(), source })? {
            WaitStatus::Exited(_, code) => Some(format!("with exit code {code}")),
            WaitStatus::Signaled(_, signal, _) => Some(format!("by {signal}")),
            _ => None,
        })
    }

    fn signal(&self, signal: Signal) {
        // The group exists until its leader is reaped. Without a group there is nothing to signal.
        let _: nix::Result<()> = killpg(self.pid(), signal);
    }

    /// Kills the rest of the group and reaps its leader.
    fn kill(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            // Another process may have the id by now.
            return;
        }
        self.signal(Signal::SIGKILL);
        // The command may have left its group.
        let _: nix::Result<()> = kill(self.pid(), Signal::SIGKILL);
        // Waiting fails only if the process is not a child or has been reaped. It has ended then too.
        let _: io::Result<std::process::ExitStatus> = self.child.wait();
    }

    fn ended_early(&self, how: String) -> LoadError {
        let (output, log) = (self.output.end(), self.output.log().to_owned());
        LoadError::CommandEnded { name: self.name.clone(), how, output, log }
    }
}

impl Drop for LoadCommand {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell as the load command, with the directory of its log.
    fn shell(script: &str) -> (LoadCommand, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let command = run(&["sh", "-c", script], directory.path()).unwrap();
        (command, directory)
    }

    fn run(words: &[&str], directory: &Path) -> Result<LoadCommand> {
        let words: Vec<String> = words.iter().copied().map(str::to_owned).collect();
        let env = [("PATH".into(), std::env::var_os("PATH").unwrap()), ("GREETING".into(), "hello".into())];
        let line = CommandLine { words: &words, directory, env: &env, account: None };
        command(&line, &directory.join("load.log"))
    }

    fn log_of(directory: &tempfile::TempDir) -> String {
        std::fs::read_to_string(directory.path().join("load.log")).unwrap()
    }

    #[test]
    fn a_command_that_leaves_its_group_ends_too() {
        let script =
            "import os, time; os.setpgid(0, os.getpgid(os.getppid())); print('up', flush=True); time.sleep(1000)";
        let directory = tempfile::tempdir().unwrap();
        let command = run(&["python3", "-c", script], directory.path()).unwrap();
        eventually("the start", || log_of(&directory).contains("up"));
        let pid = command.pid().to_string();
        assert!(runs(&pid));
        drop(command);
        assert!(!runs(&pid));
    }

    #[test]
    fn what_the_command_starts_in_a_session_of_its_own_ends_with_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: making a cgroup needs root");
            return;
        }
        let (command, directory) = shell("setsid sleep 600 & echo $!; wait");
        eventually("the child is started", || log_of(&directory).ends_with('\n'));
        let log = log_of(&directory);
        assert!(runs(log.trim()));
        drop(command);
        eventually("the end of the child", || !runs(log.trim()));
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(100), "{what} has not happened");
            std::thread::sleep(POLL);
        }
    }

    /// Whether a process runs. One that has ended and is not reaped yet does not.
    fn runs(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
    }

    #[test]
    fn it_runs_in_its_directory_with_its_environment_until_it_is_stopped() {
        let (command, directory) =
            shell("trap 'echo got TERM; exit 0' TERM; pwd; echo $GREETING; echo up >&2; while :; do sleep 0.01; done");
        eventually("the start", || log_of(&directory).contains("up"));
        command.check().unwrap();
        command.stop().unwrap();
        let log = log_of(&directory);
        let expected = format!("{}\nhello\nup\n", directory.path().canonicalize().unwrap().display());
        // The shell may also report the end of its `sleep`.
        assert!(log.starts_with(&expected) && log.ends_with("got TERM\n"), "{log}");
    }

    #[test]
    fn an_early_end_is_a_failure_of_the_load_whatever_the_exit_code() {
        for (script, how) in [
            ("echo first; echo no such script; exit 3", "with exit code 3"),
            ("echo done; exit 0", "with exit code 0"),
            ("kill -SEGV $$", "by SIGSEGV"),
        ] {
            let (command, directory) = shell(script);
            eventually("the end", || command.check().is_err());
            let error = command.check().unwrap_err();
            command.stop().unwrap();
            assert!(matches!(error.kind(), Some(LoadError::CommandEnded { .. })));
            let message = error.to_string();
            assert!(message.contains(how), "{message}");
            assert!(log_of(&directory).lines().all(|line| message.contains(&format!("| {line}"))), "{message}");
        }
    }

    #[test]
    fn nothing_of_the_group_is_left_after_a_stop_or_a_drop() {
        let stop: fn(LoadCommand) = |command| command.stop().unwrap();
        for end in [stop, drop] {
            let (command, directory) = shell("sleep 1000 & echo $! $$ up; wait");
            eventually("the start", || log_of(&directory).contains("up"));
            let log = log_of(&directory);
            let pids: Vec<&str> = log.split_whitespace().take(2).collect();
            assert!(pids.iter().all(|pid| runs(pid)));
            end(command);
            eventually("the end of the group", || !pids.iter().any(|pid| runs(pid)));
        }
    }

    #[test]
    fn processes_of_an_ended_leader_are_killed() {
        let (command, directory) = shell("sleep 1000 & echo $! up");
        eventually("the end of the leader", || command.check().is_err());
        let log = log_of(&directory);
        let pid = log.split_whitespace().next().unwrap();
        assert!(runs(pid));
        drop(command);
        eventually("the end of the group", || !runs(pid));
    }

    #[test]
    fn it_dies_with_the_thread_that_started_it() {
        let (command, _directory) = std::thread::spawn(|| shell("exec sleep 1000")).join().unwrap();
        eventually("the end", || command.check().is_err());
        assert!(command.check().unwrap_err().to_string().contains("by SIGKILL"));
    }

    #[test]
    fn only_the_commands_own_output_is_in_the_message() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("load.log");
        std::fs::write(&log, "of an earlier run\n").unwrap();
        let command = run(&["false"], directory.path()).unwrap();
        eventually("the end", || command.check().is_err());
        assert!(!command.check().unwrap_err().to_string().contains("earlier"));
        assert_eq!(log_of(&directory), "");
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = run(&["no-such-load-generator"], directory.path()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("no-such-load-generator"), "{error}");
        assert!(run(&[], directory.path()).is_err());
    }
}
