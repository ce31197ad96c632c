//! A process beside the service, such as a load command. It leads its own process group, in a cgroup of its own where
//! there are cgroups.

use std::{
    ffi::OsString,
    io::{self, PipeWriter},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use memgate_evidence::{plan::Account, secrets::Secrets};
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use crate::{cgroup::Cgroup, child, launch::Exit, output::Output};

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
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(match waitid(Id::Pid(self.pid()), flags)? {
            WaitStatus::Exited(_, code) => Some(Exit::Code(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Exit::Signal(signal)),
            _ => None,
        })
    }

    /// Sends the signal to its group.
    pub(crate) fn signal(&self, signal: Signal) {
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
