//! The service's process: starts it, stops it before its first instruction, resumes it, watches it, and ends it.

use std::{
    ffi::OsString,
    fs,
    io::{self, PipeWriter},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use memgate_evidence::{
    error::{Error, FailureKind, Result, Stage},
    plan::{Plan, Stdin},
};
use memgate_goexe::FileIdentity;
use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use procfs::process::Process;

use super::{
    cgroup::{Cgroup, CgroupError},
    child::{self, Child},
    follow::{FollowError, follow},
    log::LogEnd,
    output::Output,
    process::CommandLine,
    ready::{self, Signs, Waiting, notify::NotifySocket},
};

/// The time between two looks at a process that is about to end.
const POLL: Duration = Duration::from_millis(10);

/// The variable that tells `run.command` the path of the executable.
const EXECUTABLE: &str = "MEMGATE_SERVICE";

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
        | StartError::OomScore(_)
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
    #[error("it did not stop at its start: {}", outcome(.0))]
    NotStopped(WaitStatus),
    /// memgate cannot wait for that stop.
    #[error("it cannot be waited for")]
    Wait(#[source] nix::Error),
    /// memgate cannot make the kernel kill the service first if memory runs out.
    #[error("its oom_score_adj cannot be set")]
    OomScore(#[source] io::Error),
    /// memgate cannot see the process that is measured.
    #[error("the process that executes it cannot be seen")]
    Unseen(#[source] procfs::ProcError),
    /// memgate cannot make the kernel kill the service if memgate dies.
    #[error("it cannot be traced")]
    Trace(#[source] nix::Error),
}

/// What happened to a process that did not stop at its start.
fn outcome(status: &WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => Exit::Code(*code).to_string(),
        WaitStatus::Signaled(_, signal, _) => Exit::Signal(*signal).to_string(),
        WaitStatus::Stopped(_, signal) => format!("it was stopped by {}", signal.as_str()),
        _ => "its status is unexpected".to_owned(),
    }
}

/// A service that has not executed anything yet. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Stopped(ServiceProcess);

/// A running service. Dropping it kills it and every process in its cgroup.
#[derive(Debug)]
pub(super) struct ServiceProcess {
    /// The process that is measured.
    pid: Pid,
    /// What memgate started, if that is another process.
    launcher: Option<Launcher>,
    cgroup: Cgroup,
    ended: Option<Exit>,
    env: Vec<(OsString, OsString)>,
    /// Keeps its standard input open.
    _stdin: Option<PipeWriter>,
    /// Where it tells that it is ready, if it is to do that.
    notify: Option<NotifySocket>,
    /// Dropped last, so that it has all that was printed.
    output: Arc<Output>,
}

/// A process that memgate started and that started the measured one.
#[derive(Debug)]
struct Launcher {
    pid: Pid,
    has_ended: bool,
    /// When the measured process was started, in clock ticks since the machine booted (`starttime` of /proc/PID/stat).
    /// A later process with its number is another one.
    since: u64,
}

/// How the service's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(Signal),
    /// In a way that only another process knows, which started it.
    Unknown,
}

impl Exit {
    /// The end that a process reports; `None` if this is no end.
    pub(super) const fn of(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => Some(Self::Code(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Self::Signal(signal)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it exited with code {code}"),
            Self::Signal(signal) => write!(f, "it was ended by {}", signal.as_str()),
            Self::Unknown => f.write_str("it ended"),
        }
    }
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
                service.output.settle();
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
    let pid = command(plan, &env, becomes, stdin, pipe).and_then(|mut command| command.spawn());
    // From here on `ServiceProcess` waits for the process, not the standard library.
    let pid = pid.map(|child| Pid::from_raw(child.id().cast_signed())).map_err(|error| not_executed(plan, error))?;
    let output = Arc::new(output);
    let service = ServiceProcess { pid, launcher: None, cgroup, ended: None, env, notify, _stdin: held, output };
    match waitpid(service.pid, None).map_err(StartError::Wait)? {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
        other => return Err(StartError::NotStopped(other)),
    }
    // Its children inherit this.
    make_expendable(service.pid).map_err(StartError::OomScore)?;
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

/// Makes the kernel kill the service before memgate if memory runs out. The service does not inherit memgate's own
/// protection.
pub(crate) fn make_expendable(service: Pid) -> io::Result<()> {
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0);
    if own < 0 { fs::write(format!("/proc/{service}/oom_score_adj"), "0") } else { Ok(()) }
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
    if launcher.is_some() {
        command.env(EXECUTABLE, &plan.executable);
    }
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
        if measured != self.pid {
            let since = Process::new(measured.as_raw()).and_then(|process| process.stat());
            let since = since.map_err(StartError::Unseen)?.starttime;
            self.launcher = Some(Launcher { pid: self.pid, has_ended: false, since });
            self.pid = measured;
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
            self.ended = match &mut self.launcher {
                None => end_of_a_child(self.pid),
                Some(launcher) => {
                    launcher.has_ended |= end_of_a_child(launcher.pid).is_some();
                    // Whoever started the process learns how it ended.
                    (!lives_since(self.pid, launcher.since)).then_some(Exit::Unknown)
                }
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

    /// Asks the service to end with SIGTERM: what memgate started, and the measured process if that lives longer. If the
    /// measured process does not end within `timeout`, this kills it and returns false.
    pub(super) async fn stop(&mut self, timeout: Duration) -> bool {
        if self.ended().is_some() {
            return true;
        }
        let in_time = tokio::time::timeout(timeout, self.ask_to_end()).await.is_ok();
        self.kill();
        in_time
    }

    async fn ask_to_end(&mut self) {
        if let Some(launcher) =
            self.launcher.as_ref().filter(|launcher| !launcher.has_ended).map(|launcher| launcher.pid)
        {
            let _ = kill(launcher, Signal::SIGTERM);
            while self.ended().is_none() && self.launcher.as_ref().is_some_and(|launcher| !launcher.has_ended) {
                tokio::time::sleep(POLL).await;
            }
        }
        // A shell ends by the signal and leaves what it has started.
        if self.ended().is_none() {
            let _ = kill(self.pid, Signal::SIGTERM);
            self.end().await;
        }
    }

    fn kill(&mut self) {
        if self.ended().is_none() {
            kill_and_wait(self.pid);
            self.ended = Some(Exit::Signal(Signal::SIGKILL));
        }
        if let Some(launcher) = self.launcher.as_mut().filter(|launcher| !launcher.has_ended) {
            kill_and_wait(launcher.pid);
            launcher.has_ended = true;
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
fn end_of_a_child(pid: Pid) -> Option<Exit> {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => Exit::of(status),
        // Something else reaped the process.
        Err(nix::Error::ECHILD) => Some(Exit::Unknown),
        Err(_) => None,
    }
}

/// Whether the process that was started then still runs.
fn lives_since(pid: Pid, since: u64) -> bool {
    let stat = Process::new(pid.as_raw()).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.starttime == since && !matches!(stat.state, 'Z' | 'X'))
}

/// Kills a process and waits for its end, as far as memgate may.
fn kill_and_wait(pid: Pid) {
    let _ = kill(pid, Signal::SIGKILL);
    // A process that was killed at its exec stop reports that stop first.
    while matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(status) if Exit::of(status).is_none()) {}
}

#[cfg(test)]
mod tests {
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
        let (message, help) = ended(Exit::Signal(Signal::SIGSEGV), "");
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
