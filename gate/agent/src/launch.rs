//! The service's process: starts it, stops it before its first instruction, resumes it, watches it, and ends it.

use std::{
    ffi::OsString,
    io::{self, PipeWriter},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use memgate_evidence::{
    error::{Error, FailureKind, Result, Stage},
    plan::{Plan, Stdin},
};
use memgate_goexe::FileIdentity;
use nix::{
    libc,
    sys::{
        ptrace,
        signal::{Signal, kill, killpg},
    },
    unistd::Pid,
};

use super::{
    cgroup::{Cgroup, CgroupError},
    child::{self, Child},
    follow::{FollowError, follow},
    log::LogEnd,
    output::Output,
    process::CommandLine,
    ready::{self, Signs, Waiting, notify::NotifySocket},
    wait::{self, Change, Exit, Handle, SignalNumber, kill_and_wait},
};

/// The time between two looks at a process that is about to end.
const POLL: Duration = Duration::from_millis(10);

/// The variable with the path of the service's executable.
pub(crate) const EXECUTABLE: &str = "MEMGATE_SERVICE";

/// Why a service cannot be launched, or ends before it is ready.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LaunchError {
    /// No cgroup can enforce the memory limit.
    #[error("the service's memory cannot be limited")]
    #[diagnostic(help(
        "remove `memory_max`, or run memgate where it gets a cgroup with the memory controller: as root, or below a \
         cgroup that is delegated to its user (docs/how-to/without-root.md)"
    ))]
    Limit(#[from] CgroupError),
    /// The executable cannot become a process that memgate watches.
    #[error("{executable} cannot be started")]
    #[diagnostic(help("{}", after_a_failed_start(.source)))]
    Start {
        /// The service's executable.
        executable: PathBuf,
        /// The step that failed.
        source: StartError,
    },
    /// No process executed what is to be measured.
    #[error("{service}: {source}{output}")]
    #[diagnostic(help("{}", after_no_execution(log, *.has_command)))]
    NotExecuted {
        /// The service's name.
        service: String,
        /// What happened instead.
        source: FollowError,
        /// Whether `run.command` says what memgate starts.
        has_command: bool,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// Something else killed it before its first instruction.
    #[error("the service (process {pid}) cannot be resumed")]
    #[diagnostic(help("something else killed it; try again"))]
    LetGo {
        /// Its process.
        pid: Pid,
        /// The kernel's reason.
        source: nix::Error,
    },
    /// The service has ended by itself.
    #[error("{service}: {exit} before {before}{}{output}", silently(.exit, *.stdin, .output))]
    #[diagnostic(help("{}", after_an_early_end(*exit, *stdin, output, log)))]
    EndedEarly {
        /// The service's name.
        service: String,
        /// How it ended.
        exit: Exit,
        /// What it did not live to see.
        before: Unseen,
        /// What it read at its standard input.
        stdin: Stdin,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
}

/// What a service did not live to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// Its first answer to the readiness check.
    Readiness,
    /// The start of the load.
    Load,
}

impl std::fmt::Display for Unseen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Readiness => "it was ready",
            Self::Load => "the load began",
        })
    }
}

/// What is special about the end of a service that gives no reason.
fn silently(exit: &Exit, stdin: Stdin, output: &LogEnd) -> &'static str {
    match (exit, output.is_empty()) {
        (Exit::Code(0), true) if stdin == Stdin::Empty => {
            " and printed nothing; its standard input is /dev/null, which is at its end at once"
        }
        (Exit::Code(_) | Exit::Signal(_) | Exit::Unknown, true) => " and printed nothing",
        (Exit::Code(_) | Exit::Signal(_) | Exit::Unknown, false) => "",
    }
}

fn after_an_early_end(exit: Exit, stdin: Stdin, output: &LogEnd, log: &Path) -> String {
    match (exit, output.is_empty()) {
        (Exit::Code(0), true) if stdin == Stdin::Empty => {
            "write `run: { stdin: open }`, or start the service with an argument with which it runs on when its standard \
             input ends"
                .to_owned()
        }
        (Exit::Code(_) | Exit::Signal(_) | Exit::Unknown, true) => {
            "run the executable by hand, with the same arguments and variables, to see why".to_owned()
        }
        (Exit::Code(_) | Exit::Signal(_) | Exit::Unknown, false) => {
            format!("see the service's output in {}", log.display())
        }
    }
}

fn after_no_execution(log: &Path, has_command: bool) -> String {
    let how = if has_command {
        "let `run.command` execute the file that the variable MEMGATE_SERVICE names, and no copy of it, or change \
         `run.watch`"
    } else {
        "change `run.watch`"
    };
    format!("{how}; the service's output is in {}", log.display())
}

fn after_a_failed_start(error: &StartError) -> &'static str {
    match error {
        StartError::Forbidden { .. } => {
            "let that user reach the executable and every directory above it, or name another user in `run.user`"
        }
        StartError::Cgroup(_)
        | StartError::Output { .. }
        | StartError::Execute(_)
        | StartError::NotStopped(_)
        | StartError::Wait(_)
        | StartError::Unseen(_)
        | StartError::Trace(_) => "run the executable by hand to see why; memgate needs ptrace access to the process",
    }
}

impl FailureKind for LaunchError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}

/// The step at which the start of a service failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// memgate cannot open the files of its cgroup.
    #[error("its cgroup cannot be entered")]
    Cgroup(#[source] io::Error),
    /// memgate cannot make the file or the pipe for its output.
    #[error("its output cannot go to {log}")]
    Output {
        /// The file.
        log: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The fork failed, or a step of the child before it executes the service.
    #[error("it cannot be executed")]
    Execute(#[source] io::Error),
    /// Another user than memgate's own may not execute it.
    #[error("the user {user} may not execute it")]
    Forbidden {
        /// The user.
        user: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It did not stop before its first instruction.
    #[error("it did not stop at its start: {0}")]
    NotStopped(Change),
    /// memgate cannot wait for that stop.
    #[error("it cannot be waited for")]
    Wait(#[source] nix::Error),
    /// memgate gets no handle of the process that is measured.
    #[error("the process that executes it cannot be watched")]
    Unseen(#[source] io::Error),
    /// memgate cannot make the kernel kill the service if memgate dies.
    #[error("it cannot be traced")]
    Trace(#[source] nix::Error),
}

/// A service that has not executed anything yet. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Stopped(ServiceProcess);

/// A running service. Dropping it kills it and every process in its cgroup.
#[derive(Debug)]
pub(super) struct ServiceProcess {
    /// The process that is measured.
    pid: Pid,
    /// What memgate started, which leads a process group. It is reaped only when it is killed, so that no other process
    /// gets its id.
    leader: Pid,
    /// The measured process, if it is another one.
    measured: Option<Handle>,
    cgroup: Cgroup,
    ended: Option<Exit>,
    is_killed: bool,
    env: Vec<(OsString, OsString)>,
    /// Keeps its standard input open.
    _stdin: Option<PipeWriter>,
    /// Where it tells that it is ready, if it is to do that.
    notify: Option<NotifySocket>,
    /// Dropped last, so that it has all that was printed.
    output: Arc<Output>,
}

/// Starts the plan's executable in `cgroup`, keeps its output in `log`, and stops it before its first instruction. If the
/// plan says which execution is measured, this waits for that one.
///
/// The same thread must call this and [`Stopped::resume`], and must live as long as the service. The kernel kills the
/// service when that thread ends.
///
/// # Errors
/// Fails if the executable cannot be started, or if no process executes it as the plan says before the time for its
/// readiness is over.
pub(super) async fn spawn(plan: &Plan, file: Option<FileIdentity>, cgroup: Cgroup, log: &Path) -> Result<Stopped> {
    let signs = Signs::of(&plan.ready.by)?;
    let program = plan.watch.as_ref().and_then(|watch| watch.command.first());
    let executable = program.map_or_else(|| plan.executable.clone(), PathBuf::from);
    let started =
        start(plan, cgroup, log, signs).map_err(|source| LaunchError::Start { executable: executable.clone(), source });
    let mut stopped = started?;
    if let Some(watch) = &plan.watch {
        let timeout = Duration::from_millis(plan.ready.timeout_ms);
        let service = &mut stopped.0;
        match follow(service.pid, watch, (&plan.executable, file), timeout).await {
            Ok(measured) => {
                service.is_measured_by(measured).map_err(|source| LaunchError::Start { executable, source })?;
            }
            Err(source) => {
                let (output, log) = (service.output.end(), service.output.log().to_owned());
                let (service, has_command) = (plan.service.clone(), !watch.command.is_empty());
                return Err(LaunchError::NotExecuted { service, source, has_command, output, log }.into());
            }
        }
    }
    Ok(stopped)
}

fn start(plan: &Plan, cgroup: Cgroup, log: &Path, signs: Signs) -> Result<Stopped, StartError> {
    let account = plan.account.as_ref();
    let becomes = Child::new(&cgroup, account, &plan.directory).map_err(StartError::Cgroup)?.traced();
    let (output, pipe) =
        Output::to(log, account).map_err(|source| StartError::Output { log: log.to_owned(), source })?;
    output.hide(&plan.secrets);
    let notify = signs.watch(&output);
    let (stdin, held) = standard_input(plan.stdin).map_err(StartError::Execute)?;
    let mut env = child::inherited(&["PATH", "HOME", "TMPDIR"], account);
    env.extend(plan.env.iter().map(|(name, value)| (name.into(), value.into())));
    env.extend(notify.as_ref().map(NotifySocket::variable));
    if plan.watch.as_ref().is_some_and(|watch| !watch.command.is_empty()) {
        env.push((EXECUTABLE.into(), plan.executable.clone().into()));
    }
    let pid = command(plan, &env, becomes, stdin, pipe).and_then(|mut command| command.spawn());
    // From here on `ServiceProcess` waits for the process, not the standard library.
    let pid = pid.map(|child| Pid::from_raw(child.id().cast_signed())).map_err(|error| not_executed(plan, error))?;
    let output = Arc::new(output);
    let (leader, measured, ended, is_killed) = (pid, None, None, false);
    let service = ServiceProcess { pid, leader, measured, cgroup, ended, is_killed, env, notify, _stdin: held, output };
    match wait::next_change(pid).map_err(StartError::Wait)? {
        Change::Stopped(SignalNumber(libc::SIGTRAP)) => {}
        other => return Err(StartError::NotStopped(other)),
    }
    // If memgate dies before it resumes the service, the service dies too.
    ptrace::setoptions(service.pid, ptrace::Options::PTRACE_O_EXITKILL).map_err(StartError::Trace)?;
    Ok(Stopped(service))
}

/// The standard input of a service, and what keeps it open.
fn standard_input(kind: Stdin) -> io::Result<(Stdio, Option<PipeWriter>)> {
    match kind {
        Stdin::Empty => Ok((Stdio::null(), None)),
        Stdin::Open => io::pipe().map(|(reader, writer)| (reader.into(), Some(writer))),
    }
}

/// That the service has ended by itself.
pub(super) fn ended_early(plan: &Plan, output: &Output, exit: Exit, before: Unseen) -> Error {
    let (output, log) = (output.end(), output.log().to_owned());
    let (service, stdin) = (plan.service.clone(), plan.stdin);
    LaunchError::EndedEarly { service, exit, before, stdin, output, log }.into()
}

fn not_executed(plan: &Plan, source: io::Error) -> StartError {
    match &plan.account {
        Some(account) if source.kind() == io::ErrorKind::PermissionDenied => {
            StartError::Forbidden { user: account.name.clone(), source }
        }
        Some(_) | None => StartError::Execute(source),
    }
}

fn command(
    plan: &Plan,
    env: &[(OsString, OsString)],
    becomes: Child,
    stdin: Stdio,
    output: PipeWriter,
) -> io::Result<Command> {
    let launcher = plan.watch.as_ref().and_then(|watch| watch.command.split_first());
    let mut command = Command::new(launcher.map_or(plan.executable.as_os_str(), |(program, _)| program.as_ref()));
    command.args(launcher.map_or(&plan.args[..], |(_, arguments)| arguments)).env_clear();
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(stdin).stderr(output.try_clone()?).stdout(output);
    // Ctrl-C must reach only memgate, which then ends the service properly. So the service gets its own process group.
    command.process_group(0);
    becomes.apply(&mut command);
    Ok(command)
}

impl Stopped {
    /// The service's process id.
    pub(super) const fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Its cgroup.
    pub(super) const fn cgroup(&self) -> &Cgroup {
        &self.0.cgroup
    }

    /// Lets the service execute its first instruction.
    ///
    /// # Errors
    /// Fails if something killed it meanwhile.
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

    /// What it prints.
    pub(super) const fn output(&self) -> &Arc<Output> {
        &self.output
    }

    /// Makes `measured` the process that is measured, if it is another one than memgate started.
    fn is_measured_by(&mut self, measured: Pid) -> Result<(), StartError> {
        if measured != self.leader {
            self.pid = measured;
            self.measured = Some(Handle::of(measured).map_err(StartError::Unseen)?);
        }
        Ok(())
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// Fails with [`ReadyError`] if it is not ready in time, and with [`LaunchError::EndedEarly`] if it ends before.
    pub(super) async fn wait_ready(&mut self, plan: &Plan) -> Result<()> {
        let (output, env) = (Arc::clone(&self.output), std::mem::take(&mut self.env));
        // Once it is ready, nobody reads the socket any more, and a full one would stop the service.
        let notify = self.notify.take();
        let account = plan.account.as_ref();
        let line = CommandLine { words: &[], directory: &plan.directory, env: &env, account, secrets: &plan.secrets };
        let cgroup = self.cgroup.files().clone();
        let waiting = Waiting {
            who: "the service".to_owned(),
            ready: &plan.ready,
            line,
            cgroup: &cgroup,
            pid: self.pid,
            output: &output,
            notify: notify.as_ref(),
        };
        tokio::select! {
            ready = ready::wait_ready(&waiting) => ready.map(drop),
            exit = self.end() => Err(ended_early(plan, &output, exit, Unseen::Readiness)),
        }
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<Exit> {
        if self.ended.is_none() {
            self.ended = match &self.measured {
                None => end_of(self.leader),
                // Whoever started the process learns how it ended.
                Some(measured) => measured.has_ended().then_some(Exit::Unknown),
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
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks the service to end with SIGTERM: what memgate started, and the measured process once that has ended or half
    /// of `timeout` is over. If the measured process does not end within `timeout`, this kills it and returns false.
    pub(super) async fn stop(&mut self, timeout: Duration) -> bool {
        if self.ended().is_some() {
            return true;
        }
        let in_time = tokio::time::timeout(timeout, self.ask_to_end(timeout / 2)).await.is_ok();
        self.kill();
        in_time
    }

    async fn ask_to_end(&mut self, patience: Duration) {
        if end_of(self.leader).is_none() {
            let _ = kill(self.leader, Signal::SIGTERM);
        }
        if self.measured.is_some() {
            // A shell ends by the signal and leaves what it has started, or handles it only when that has ended.
            let start = Instant::now();
            while self.ended().is_none() && end_of(self.leader).is_none() && start.elapsed() < patience {
                tokio::time::sleep(POLL).await;
            }
            if let Some(measured) = &self.measured {
                measured.signal(Signal::SIGTERM);
            }
        }
        self.end().await;
    }

    /// Kills all of it: its process group, the measured process if that has left the group, and what is in its cgroup.
    fn kill(&mut self) {
        if std::mem::replace(&mut self.is_killed, true) {
            return;
        }
        self.ended = self.ended().or(Some(Exit::Signal(Signal::SIGKILL.into())));
        // The group exists until its leader is reaped. One that is reaped already was killed with its group.
        if wait::ended(self.leader).is_ok() {
            let _: nix::Result<()> = killpg(self.leader, Signal::SIGKILL);
            kill_and_wait(self.leader);
        }
        if let Some(measured) = &self.measured {
            measured.kill_and_wait();
        }
        self.cgroup.kill();
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a child of memgate's has ended, if it has.
fn end_of(child: Pid) -> Option<Exit> {
    // Something else has reaped one for which memgate cannot wait.
    wait::ended(child).unwrap_or(Some(Exit::Unknown))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn ended(exit: Exit, printed: &str) -> (String, String) {
        ended_with(exit, Stdin::Empty, printed)
    }

    fn ended_with(exit: Exit, stdin: Stdin, printed: &str) -> (String, String) {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("service.log");
        fs::write(&log, printed).unwrap();
        let (before, output) = (Unseen::Readiness, LogEnd::of(&fs::File::open(&log).unwrap()));
        let error = LaunchError::EndedEarly { service: "s".to_owned(), exit, before, stdin, output, log };
        (error.to_string(), miette::Diagnostic::help(&error).unwrap().to_string())
    }

    #[test]
    fn an_early_end_shows_what_the_service_said() {
        let (message, help) = ended(Exit::Code(1), "This program can only be run on …\n");
        assert_eq!(
            message,
            "s: it exited with code 1 before it was ready; its output:\n| This program can only be run on …"
        );
        assert!(help.ends_with("service.log"), "{help}");
        let (message, help) = ended(Exit::Signal(Signal::SIGSEGV.into()), "");
        assert_eq!(message, "s: it was ended by SIGSEGV before it was ready and printed nothing");
        assert!(help.starts_with("run the executable by hand"), "{help}");
    }

    #[test]
    fn a_silent_success_may_be_about_the_standard_input() {
        let (message, help) = ended(Exit::Code(0), "");
        assert!(message.contains("code 0 before it was ready and printed nothing; its standard input is /dev/null"));
        assert!(help.starts_with("write `run: { stdin: open }`"), "{help}");
        let (message, help) = ended_with(Exit::Code(0), Stdin::Open, "");
        assert!(message.ends_with("and printed nothing") && help.starts_with("run the executable by hand"), "{help}");
        assert!(!ended(Exit::Code(0), "bye\n").0.contains("/dev/null"));
    }
}
