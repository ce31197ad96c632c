//! The service's process: stopped before its first instruction, let go, watched, ended.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use memgate_evidence::{
    error::{FailureKind, Result, Stage},
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

use super::cgroup::{Cgroup, CgroupError};

/// Why a service is not launched, or does not live until it is ready.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LaunchError {
    /// There is no cgroup that could hold the memory limit.
    #[error("the service's memory cannot be limited")]
    #[diagnostic(help("remove `memory_max`, or run where cgroups have a memory controller"))]
    Limit(#[from] CgroupError),
    /// The executable does not become a process that memgate can watch.
    #[error("{executable} cannot be started")]
    #[diagnostic(help("run the executable by hand to see why; memgate needs ptrace access to it"))]
    Start {
        /// The service's executable.
        executable: PathBuf,
        /// The step that failed.
        source: StartError,
    },
    /// Something else has killed it before its first instruction.
    #[error("the service (process {pid}) cannot be let go")]
    #[diagnostic(help("something else killed it; try again"))]
    LetGo {
        /// Its process.
        pid: Pid,
        /// What the kernel says.
        source: nix::Error,
    },
    /// It has ended by itself.
    #[error("{service}: {exit} before it was ready")]
    #[diagnostic(help("see what the service printed in {}", log.display()))]
    EndedEarly {
        /// The service's name.
        service: String,
        /// How it ended.
        exit: Exit,
        /// The file that has what it printed.
        log: PathBuf,
    },
}

impl FailureKind for LaunchError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}

/// The step at which a service cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Opening the files of its cgroup.
    #[error("its cgroup cannot be entered")]
    Cgroup(#[source] io::Error),
    /// Opening the file for what it prints.
    #[error("its output cannot go to {log}")]
    Output {
        /// That file.
        log: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Fork, or what the child does until it executes the service.
    #[error("it cannot be executed")]
    Execute(#[source] io::Error),
    /// The stop before its first instruction.
    #[error("it did not stop at its start: {0:?}")]
    NotStopped(WaitStatus),
    /// The wait for that stop.
    #[error("it cannot be waited for")]
    Wait(#[source] nix::Error),
    /// Making the kernel kill it before memgate where memory runs out.
    #[error("its oom_score_adj cannot be set")]
    OomScore(#[source] io::Error),
    /// Making the kernel kill it where memgate dies.
    #[error("it cannot be traced")]
    Trace(#[source] nix::Error),
}

/// A service that has executed nothing yet. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Stopped(ServiceProcess);

/// A running service. Dropping it kills it and every process in its cgroup.
#[derive(Debug)]
pub(super) struct ServiceProcess {
    pid: Pid,
    cgroup: Cgroup,
    ended: Option<Exit>,
}

/// How the service's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(Signal),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it exited with code {code}"),
            Self::Signal(signal) => write!(f, "it was ended by {}", signal.as_str()),
        }
    }
}

/// Starts the plan's executable in `cgroup`, its output appended to `log`, and stops it before its first instruction.
///
/// The thread that calls this must be the one that calls [`Stopped::resume`], and must live as long as the service: the
/// kernel kills the service when that thread ends.
///
/// # Errors
/// When the executable cannot be started.
pub(super) fn spawn(plan: &Plan, cgroup: Cgroup, log: &Path) -> Result<Stopped> {
    let started = start(plan, cgroup, log);
    started.map_err(|source| LaunchError::Start { executable: plan.executable.clone(), source }.into())
}

fn start(plan: &Plan, cgroup: Cgroup, log: &Path) -> Result<Stopped, StartError> {
    let entries = cgroup.entries().map_err(StartError::Cgroup)?;
    let output = File::options().create(true).append(true).open(log);
    let output = output.map_err(|source| StartError::Output { log: log.to_owned(), source })?;
    let pid = command(plan, entries, output).and_then(|mut command| command.spawn());
    // From here on waiting for the process is `ServiceProcess`'s business, not the standard library's.
    let pid = pid.map(|child| Pid::from_raw(child.id().cast_signed())).map_err(StartError::Execute)?;
    let service = ServiceProcess { pid, cgroup, ended: None };
    match waitpid(service.pid, None).map_err(StartError::Wait)? {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
        other => return Err(StartError::NotStopped(other)),
    }
    make_expendable(service.pid).map_err(StartError::OomScore)?;
    // Should memgate die before it lets the service go, the service dies too.
    ptrace::setoptions(service.pid, ptrace::Options::PTRACE_O_EXITKILL).map_err(StartError::Trace)?;
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
    pub(super) fn resume(self) -> Result<ServiceProcess> {
        let pid = self.0.pid;
        ptrace::detach(pid, None).map_err(|source| LaunchError::LetGo { pid, source })?;
        Ok(self.0)
    }
}

impl ServiceProcess {
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

impl Drop for ServiceProcess {
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
