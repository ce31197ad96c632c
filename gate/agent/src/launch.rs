//! The service's process: stopped before its first instruction, let go, watched, ended.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use memgate_evidence::{
    error::{Error, Result, Stage},
    plan::Plan,
};
use nix::{
    sys::{
        prctl, ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use procfs::process::Process;

use super::cgroup::Cgroup;

/// A service that has executed nothing yet. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Stopped(Service);

/// A running service. Dropping it kills it and every process in its cgroup.
#[derive(Debug)]
pub(super) struct Service {
    pid: Pid,
    cgroup: Cgroup,
    ended: Option<Exit>,
}

/// How the service's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(Signal),
}

/// Starts the plan's executable in `cgroup`, its output appended to `log`, and stops it before its first instruction.
///
/// The thread that calls this must be the one that calls [`Stopped::resume`], and must live as long as the service: the
/// kernel kills the service when that thread ends.
///
/// # Errors
/// When the executable cannot be started.
pub(super) fn spawn(plan: &Plan, cgroup: Cgroup, log: &Path) -> Result<Stopped> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let message = format!("{}: {what}: {error}", plan.executable.display());
        Error::infrastructure(
            Stage::Launch,
            message,
            "run the executable by hand to see why; memgate needs ptrace access to it",
        )
    };
    let entries = cgroup.entries().map_err(|error| failed("its cgroup cannot be entered", &error))?;
    let output = File::options().create(true).append(true).open(log);
    let output = output.map_err(|error| failed(&format!("its output cannot go to {}", log.display()), &error))?;
    let pid = command(plan, entries, output).and_then(|mut command| command.spawn());
    // From here on waiting for the process is `Service`'s business, not the standard library's.
    let pid = pid.map(|child| Pid::from_raw(child.id().cast_signed()));
    let service = Service { pid: pid.map_err(|error| failed("it cannot be started", &error))?, cgroup, ended: None };
    match waitpid(service.pid, None) {
        Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
        other => return Err(failed("it did not stop at its start", &format!("{other:?}"))),
    }
    make_expendable(service.pid).map_err(|error| failed("its oom_score_adj cannot be set", &error))?;
    // Should memgate die before it lets the service go, the service dies too.
    ptrace::setoptions(service.pid, ptrace::Options::PTRACE_O_EXITKILL)
        .map_err(|error| failed("it cannot be traced", &error))?;
    Ok(Stopped(service))
}

/// Where memory runs out, the service goes before its watcher: whatever keeps the kernel from killing this process is not
/// handed on.
fn make_expendable(service: Pid) -> io::Result<()> {
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0);
    if own < 0 { fs::write(format!("/proc/{service}/oom_score_adj"), "0") } else { Ok(()) }
}

fn command(plan: &Plan, entries: Vec<OwnedFd>, output: File) -> io::Result<Command> {
    let mut command = Command::new(&plan.executable);
    command.args(&plan.args).current_dir(&plan.directory).env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(&plan.env).stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
    // A group of its own, so that Ctrl-C reaches memgate alone, which then ends the service in order.
    command.process_group(0);
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            for entry in &entries {
                enter(entry)?;
            }
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            ptrace::traceme()?;
            Ok(())
        });
    }
    Ok(command)
}

/// Puts the calling process into the cgroup whose `cgroup.procs` this is.
fn enter(entry: &OwnedFd) -> io::Result<()> {
    match nix::unistd::write(entry, b"0") {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from_raw_os_error(error as i32)),
    }
}

impl Stopped {
    /// The service's process id.
    pub(super) const fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Lets it execute its first instruction.
    ///
    /// # Errors
    /// When it has been killed meanwhile.
    pub(super) fn resume(self) -> Result<Service> {
        match ptrace::detach(self.0.pid, None) {
            Ok(()) => Ok(self.0),
            Err(error) => {
                let message = format!("the service (process {}) cannot be let go: {error}", self.0.pid);
                Err(Error::infrastructure(Stage::Launch, message, "something else killed it; try again"))
            }
        }
    }
}

impl Service {
    /// Its process id.
    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Its cgroup.
    pub(super) const fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The processes of its cgroup; where there is none, its children.
    pub(super) fn processes(&self) -> Vec<Pid> {
        self.cgroup.processes().unwrap_or_else(|| children(self.pid).unwrap_or_default())
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<Exit> {
        if self.ended.is_none() {
            self.ended = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal)),
                // Somebody else reaped it: it is gone, and its exit code with it.
                Err(nix::Error::ECHILD) => Some(Exit::Code(-1)),
                _ => None,
            };
        }
        self.ended
    }

    /// Waits until it has ended.
    pub(super) async fn end(&mut self) -> Exit {
        loop {
            if let Some(exit) = self.ended() {
                return exit;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to end with SIGTERM; false when it did not within `timeout` and was killed.
    pub(super) async fn stop(&mut self, timeout: Duration) -> bool {
        if self.ended().is_some() {
            return true;
        }
        let _ = kill(self.pid, Signal::SIGTERM);
        let in_time = tokio::time::timeout(timeout, self.end()).await.is_ok();
        self.kill();
        in_time
    }

    fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            if let Ok(WaitStatus::Stopped(..)) = waitpid(self.pid, None) {
                // Killed at its exec stop: the next wait sees the end.
                let _ = waitpid(self.pid, None);
            }
            self.ended = Some(Exit::Signal(Signal::SIGKILL));
        }
        self.cgroup.kill();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The processes whose parent this one is.
fn children(pid: Pid) -> procfs::ProcResult<Vec<Pid>> {
    let mut children = Vec::new();
    for task in Process::new(pid.as_raw())?.tasks()? {
        children.extend(task?.children()?.into_iter().map(|child| Pid::from_raw(child.cast_signed())));
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_without_a_cgroup() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let found = children(Pid::this()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&Pid::from_raw(child.id().cast_signed())), "{found:?}");
    }

    #[test]
    fn a_closed_entry_is_an_error_and_not_a_panic() {
        let (_, write) = nix::unistd::pipe().unwrap();
        assert!(enter(&write).is_err(), "the reading end is closed");
    }
}
