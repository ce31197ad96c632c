//! A process beside the service, such as a load command. It leads its own process group, in a cgroup of its own where
//! there are cgroups.

use std::{
    ffi::OsString,
    io::{self, PipeWriter},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use memgate_evidence::{plan::Account, secrets::Secrets};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::{
    cgroup::Cgroup,
    child,
    family::group_lives,
    output::Output,
    wait::{self, Exit},
};

/// The time between two looks at processes that are about to end.
const LOOK: Duration = Duration::from_millis(10);

/// What a process is, and what it becomes.
#[derive(Debug, Clone, Copy)]
pub struct CommandLine<'a> {
    /// The program, which is searched for in the `PATH` of `env`, and its arguments.
    pub words: &'a [String],
    /// The working directory.
    pub directory: &'a Path,
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    /// The user that it runs as, or `None` for memgate's own.
    pub account: Option<&'a Account>,
    /// What must not be in its log.
    pub secrets: &'a Secrets,
}

/// A running process. Dropping it kills its whole group, and everything in its cgroup.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    reaped: bool,
    /// Dropped after everything that is read or changed before.
    cgroup: Cgroup,
    /// Dropped last, so that it has all that was printed.
    output: Output,
}

impl Process {
    /// Starts the process in this cgroup. Its stdout and stderr go to `pipe`, which is the writers' end of `output`.
    ///
    /// The kernel kills the process when the calling thread ends (`PR_SET_PDEATHSIG`), so call this from a thread that
    /// lives as long.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn start(
        line: &CommandLine<'_>,
        cgroup: Cgroup,
        (output, pipe): (Output, PipeWriter),
    ) -> io::Result<Self> {
        let [program, arguments @ ..] = line.words else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program"));
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(line.env.iter().map(|(name, value)| (name, value)));
        command.process_group(0).stdin(Stdio::null()).stdout(pipe.try_clone()?).stderr(pipe);
        output.hide(line.secrets);
        child::Child::new(&cgroup, line.account, line.directory)?.apply(&mut command);
        Ok(Self { child: command.spawn()?, reaped: false, cgroup, output })
    }

    /// Its process id, which nothing else gets before it is killed.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Its cgroup.
    pub(crate) const fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What it prints.
    pub(crate) const fn output(&self) -> &Output {
        &self.output
    }

    /// How it has ended, if it has. It is not reaped, so no other process can get its id.
    ///
    /// # Errors
    /// Fails if something else has waited for it.
    pub(crate) fn ended(&self) -> nix::Result<Option<Exit>> {
        wait::ended(self.pid())
    }

    /// Waits until it has ended, and looks at this interval.
    ///
    /// # Errors
    /// Like [`Self::ended`].
    pub(crate) async fn end(&self, interval: Duration) -> nix::Result<Exit> {
        loop {
            if let Some(exit) = self.ended()? {
                return Ok(exit);
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Asks its group to end with SIGTERM, and kills what is left of the group and in its cgroup when all of the group has
    /// ended or `timeout` is over. Returns whether all of it ended in time.
    ///
    /// # Errors
    /// Like [`Self::ended`]. It is killed then too.
    pub(crate) async fn stop(&mut self, timeout: Duration) -> nix::Result<bool> {
        self.signal(Signal::SIGTERM);
        // A shell ends at once, and what it has started needs a while to end well.
        let ended = async {
            self.end(LOOK).await?;
            while group_lives(self.cgroup.files(), self.pid()) {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let ended = tokio::time::timeout(timeout, ended).await;
        self.kill();
        ended.map_or(Ok(false), |ended| ended.map(|()| true))
    }

    /// Sends the signal to its group.
    fn signal(&self, signal: Signal) {
        // The group exists until its leader is reaped. Without a group there is nothing to signal.
        let _: nix::Result<()> = killpg(self.pid(), signal);
    }

    /// Kills the rest of its group and everything in its cgroup, and reaps it.
    pub(crate) fn kill(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            // Another process may have the id by now.
            return;
        }
        self.signal(Signal::SIGKILL);
        // It may have left its group.
        let _: nix::Result<()> = kill(self.pid(), Signal::SIGKILL);
        // Waiting fails only if the process is not a child or has been reaped. It has ended then too.
        let _: io::Result<ExitStatus> = self.child.wait();
        self.cgroup.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
