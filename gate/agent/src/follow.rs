//! Follows a command until one of its processes executes the executable that is to be measured.
//!
//! memgate traces the command and all that it starts (ptrace(2)): each execution stops before its first instruction, so
//! that the collectors miss nothing of the one that is measured. Every other process is let go then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use memgate_evidence::plan::Watch;
use memgate_goexe::FileIdentity;
use nix::{
    libc,
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::launch::Exit;

/// The time between two looks at the traced processes.
const LOOK: Duration = Duration::from_millis(1);

/// The most time for a process that is let go to stop for that.
const LET_GO: Duration = Duration::from_secs(5);

/// The most executions that a message names.
const NAMED: usize = 8;

/// Why no process executes what is to be measured.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Time ran out.
    #[error("{wanted} was not executed within {} s; {}", .after.as_secs_f64(), executed(.seen))]
    TimedOut {
        /// What is to be measured.
        wanted: String,
        /// The time that there was.
        after: Duration,
        /// What was executed, in order.
        seen: Vec<String>,
    },
    /// Every process has ended.
    #[error("{wanted} was not executed: {exit}, and all that it started has ended too; {}", executed(.seen))]
    Ended {
        /// How the command ended.
        exit: Exit,
        /// What is to be measured.
        wanted: String,
        /// What was executed, in order.
        seen: Vec<String>,
    },
    /// The kernel refuses to trace.
    #[error("its processes cannot be traced")]
    Trace(#[source] nix::Error),
    /// A process cannot be let go.
    #[error("process {0} cannot be let go: it does not stop")]
    Held(Pid),
}

fn executed(seen: &[String]) -> String {
    let more = seen.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("executed were: {}{more}", seen[..seen.len().min(NAMED)].join(", "))
}

/// Follows the process `first`, which is stopped at its first execution, until a process executes `executable` as `watch`
/// says. Returns that process, stopped before its first instruction and traced, and lets all others run untraced.
///
/// The same thread must have started `first`, and must resume the process that this returns.
///
/// # Errors
/// When no process does so within `timeout`, or before all have ended. All are killed then.
pub(crate) async fn follow(
    first: Pid,
    watch: &Watch,
    (executable, file): (&Path, Option<FileIdentity>),
    timeout: Duration,
) -> Result<Pid, FollowError> {
    // The trace stops work on children and threads too, whichever of them executes.
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(first, options).map_err(FollowError::Trace)?;
    let mut following = Following {
        traced: Traced { threads: [(first, false)].into(), first, first_exit: None },
        watch,
        executable,
        file,
        found: 0,
        seen: Vec::new(),
    };
    if following.is_wanted(first) {
        return following.traced.let_go_all_but(first).await;
    }
    ptrace::cont(first, None).map_err(FollowError::Trace)?;
    let start = Instant::now();
    loop {
        if let Some(wanted) = following.look() {
            return following.traced.let_go_all_but(wanted).await;
        }
        let (wanted, seen) = (following.wanted(), std::mem::take(&mut following.seen));
        if following.traced.threads.is_empty() {
            return Err(FollowError::Ended {
                wanted,
                seen,
                exit: following.traced.first_exit.unwrap_or(Exit::Code(-1)),
            });
        }
        if start.elapsed() >= timeout {
            return Err(FollowError::TimedOut { wanted, after: timeout, seen });
        }
        following.seen = seen;
        tokio::time::sleep(LOOK).await;
    }
}

/// The traced threads. Dropping this kills them.
struct Traced {
    /// Each thread, and whether the stop with which a new one begins is still to come.
    threads: BTreeMap<Pid, bool>,
    /// The command's process.
    first: Pid,
    /// How that has ended, if it has.
    first_exit: Option<Exit>,
}

/// What is looked for, and what was seen.
struct Following<'a> {
    traced: Traced,
    watch: &'a Watch,
    executable: &'a Path,
    file: Option<FileIdentity>,
    /// The executions that were as wanted but for their number.
    found: u32,
    seen: Vec<String>,
}

impl Following<'_> {
    /// Handles the stops of all traced threads. Returns the process that executes what is wanted.
    fn look(&mut self) -> Option<Pid> {
        for thread in self.traced.threads.keys().copied().collect::<Vec<_>>() {
            match status(thread) {
                Some(WaitStatus::PtraceEvent(process, _, event)) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                    // Its other threads are gone, and the one that executes has the number of the process now.
                    if let Ok(former) = ptrace::getevent(process) {
                        self.traced.threads.remove(&as_pid(former));
                    }
                    self.traced.threads.insert(process, false);
                    if self.is_wanted(process) {
                        return Some(process);
                    }
                    resume(process, None);
                }
                Some(status) => self.traced.handle(thread, status),
                None => {}
            }
        }
        None
    }

    /// Whether the process, which is stopped at an execution, is the one to be measured.
    fn is_wanted(&mut self, process: Pid) -> bool {
        let entry = PathBuf::from(format!("/proc/{process}"));
        let words = fs::read(entry.join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let path = fs::read_link(entry.join("exe")).unwrap_or_default();
        self.seen.push(path.display().to_string());
        let runs = fs::metadata(entry.join("exe")).ok().map(|metadata| FileIdentity::of(&metadata));
        let has_argument =
            self.watch.argument.as_ref().is_none_or(|argument| words.iter().skip(1).any(|word| word == argument));
        if runs.is_none() || runs != self.file || !has_argument {
            return false;
        }
        self.found += 1;
        self.found == self.watch.execution
    }

    fn wanted(&self) -> String {
        let argument =
            self.watch.argument.as_ref().map(|word| format!(" with the argument `{word}`")).unwrap_or_default();
        let times = match self.watch.execution {
            1 => String::new(),
            times => format!(" for the {times}. time (it was executed {} times)", self.found),
        };
        format!("{}{argument}{times}", self.executable.display())
    }
}

impl Traced {
    /// Handles a stop that is no execution, and lets the thread go on.
    fn handle(&mut self, thread: Pid, status: WaitStatus) {
        match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                self.threads.remove(&thread);
                if thread == self.first {
                    self.first_exit = Exit::of(status);
                }
            }
            // The first stop of a new thread is not a signal that somebody sent.
            WaitStatus::Stopped(_, Signal::SIGSTOP) if self.threads.get(&thread) == Some(&true) => {
                self.threads.insert(thread, false);
                resume(thread, None);
            }
            WaitStatus::Stopped(_, signal) => resume(thread, Some(signal)),
            WaitStatus::PtraceEvent(_, _, event) => {
                let forks = [Event::PTRACE_EVENT_FORK, Event::PTRACE_EVENT_VFORK, Event::PTRACE_EVENT_CLONE];
                if forks.into_iter().any(|fork| fork as i32 == event)
                    && let Ok(new) = ptrace::getevent(thread)
                {
                    self.threads.entry(as_pid(new)).or_insert(true);
                }
                resume(thread, None);
            }
            WaitStatus::PtraceSyscall(_) | WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
    }

    /// Lets all threads run untraced, but for the process that is measured.
    async fn let_go_all_but(mut self, measured: Pid) -> Result<Pid, FollowError> {
        self.threads.remove(&measured);
        let start = Instant::now();
        let mut asked = BTreeSet::new();
        while let Some((&waiting, _)) = self.threads.first_key_value() {
            for (thread, is_new) in self.threads.clone() {
                // A thread must be stopped to be let go. A new one stops by itself.
                if !is_new && asked.insert(thread) {
                    // SAFETY: the call takes two numbers and touches no memory.
                    unsafe { libc::syscall(libc::SYS_tkill, thread.as_raw(), libc::SIGSTOP) };
                }
                match status(thread) {
                    Some(WaitStatus::Stopped(_, Signal::SIGSTOP)) => {
                        // The signal is not delivered. A thread that was killed meanwhile needs nothing.
                        let _ = ptrace::detach(thread, None);
                        self.threads.remove(&thread);
                    }
                    Some(status) => self.handle(thread, status),
                    None => {}
                }
            }
            if start.elapsed() >= LET_GO {
                return Err(FollowError::Held(waiting));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(measured)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        for &thread in self.threads.keys() {
            let _ = kill(thread, Signal::SIGKILL);
        }
        for &thread in self.threads.keys() {
            // Until it has ended: stops may come first. Nobody else can wait for a process that memgate traces.
            while matches!(waitpid(thread, Some(WaitPidFlag::__WALL)), Ok(status) if Exit::of(status).is_none()) {}
        }
    }
}

/// A stop or the end of the thread, if there is one. One that is gone has ended.
fn status(thread: Pid) -> Option<WaitStatus> {
    match waitpid(thread, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
        Ok(WaitStatus::StillAlive) => None,
        Ok(status) => Some(status),
        Err(_) => Some(WaitStatus::Exited(thread, 0)),
    }
}

/// Lets a stopped thread go on. One that was killed meanwhile is seen at the next look.
fn resume(thread: Pid, signal: Option<Signal>) {
    let _ = ptrace::cont(thread, signal);
}

fn as_pid(number: libc::c_long) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use memgate_evidence::{error::Result, plan::Plan};

    use super::*;
    use crate::{
        cgroup::Cgroup,
        launch::{self, ServiceProcess},
    };

    /// Longer than any test lasts.
    const LONG: Duration = Duration::from_secs(600);

    /// Launches a script that gets the path of a program of its own, which sleeps, and measures an execution of that.
    struct Launch {
        directory: tempfile::TempDir,
        plan: Plan,
    }

    impl Launch {
        fn of(script: &str, argument: Option<&str>, execution: u32) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let executable = directory.path().join("measured");
            fs::copy("/bin/sleep", &executable).unwrap();
            let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
            let watch = Watch { command, argument: argument.map(str::to_owned), execution };
            let ready = memgate_evidence::plan::Ready { timeout_ms: 600_000, ..memgate_testing::plan().ready };
            let plan = Plan { executable, watch: Some(watch), account: None, ready, ..memgate_testing::plan() };
            Self { directory, plan }
        }

        fn start(&self) -> Result<ServiceProcess> {
            let log = self.directory.path().join("service.log");
            let file = FileIdentity::of(&fs::metadata(&self.plan.executable).unwrap());
            let cgroup = Cgroup::create(None).unwrap();
            let stopped = runtime().block_on(launch::spawn(&self.plan, Some(file), cgroup, &log))?;
            assert_ne!(tracer(stopped.pid()), "0", "it has not executed anything");
            stopped.resume()
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// The process that traces this one; `0` if none does.
    fn tracer(process: Pid) -> String {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap().trim().to_owned()
    }

    fn words(process: Pid) -> String {
        let words = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap();
        words.trim_end_matches('\0').split('\0').skip(1).collect::<Vec<_>>().join(" ")
    }

    /// Whether it is gone, or waits for its parent to learn of its end.
    fn has_ended(process: Pid) -> bool {
        let stat = procfs::process::Process::new(process.as_raw()).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.state == 'Z') || !Path::new(&format!("/proc/{process}")).exists()
    }

    fn parent(process: Pid) -> Pid {
        Pid::from_raw(procfs::process::Process::new(process.as_raw()).unwrap().stat().unwrap().ppid)
    }

    #[test]
    fn a_program_that_a_script_executes_is_measured_and_the_script_goes_on() {
        let launch = Launch::of("\"$MEMGATE_SERVICE\" 4000 & wait", None, 1);
        let mut service = launch.start().unwrap();
        let (measured, script) = (service.pid(), parent(service.pid()));
        assert_eq!(words(measured), "4000");
        assert!(words(script).starts_with("-c "), "{}", words(script));
        assert_eq!((tracer(measured), tracer(script)), ("0".to_owned(), "0".to_owned()));
        assert_eq!(service.ended(), None);
        // The script ends by the signal and leaves the program, which gets the signal too.
        assert!(runtime().block_on(service.stop(LONG)));
        assert!(has_ended(measured) && has_ended(script));
    }

    #[test]
    fn a_script_that_becomes_the_program_is_one_process() {
        let launch = Launch::of("true; exec \"$MEMGATE_SERVICE\" 4000", None, 1);
        let mut service = launch.start().unwrap();
        assert_eq!((words(service.pid()).as_str(), parent(service.pid())), ("4000", Pid::this()));
        assert!(runtime().block_on(service.stop(LONG)), "SIGTERM ends it");
        assert_eq!(service.ended(), Some(Exit::Signal(Signal::SIGTERM)));
    }

    #[test]
    fn a_daemon_outlives_what_started_it() {
        let launch = Launch::of("setsid \"$MEMGATE_SERVICE\" 4000 & exit 0", None, 1);
        let mut service = launch.start().unwrap();
        let begun = Instant::now();
        while parent(service.pid()) != Pid::from_raw(1) && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(LOOK);
        }
        assert_eq!(service.ended(), None);
        kill(service.pid(), Signal::SIGKILL).unwrap();
        let end = runtime().block_on(service.end());
        assert_eq!((end, end.to_string().as_str()), (Exit::Unknown, "it ended"));
    }

    #[test]
    fn the_argument_and_the_number_choose_the_execution() {
        let script = "\"$MEMGATE_SERVICE\" 0; \"$MEMGATE_SERVICE\" 4001 & \"$MEMGATE_SERVICE\" 4002 & wait";
        let second = Launch::of(script, None, 2).start().unwrap();
        assert!(words(second.pid()).starts_with("400"), "{}", words(second.pid()));
        let named = Launch::of(script, Some("4002"), 1).start().unwrap();
        assert_eq!(words(named.pid()), "4002");
    }

    #[test]
    fn a_command_that_never_executes_it_says_what_it_executed() {
        let copy =
            "cp \"$MEMGATE_SERVICE\" \"$MEMGATE_SERVICE\".copy; echo no luck; \"$MEMGATE_SERVICE\".copy 0; exit 7";
        let launch = Launch::of(copy, None, 1);
        let error = launch.start().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("measured was not executed: it exited with code 7, and all that"), "{text}");
        assert!(text.contains("executed were: ") && text.contains("/measured.copy"), "{text}");
        assert!(text.ends_with("its output:\n| no luck"), "{text}");
        assert_eq!(error.exit_code(), 4);
        let error = Launch::of("\"$MEMGATE_SERVICE\" 0", Some("9"), 3).start().unwrap_err().to_string();
        assert!(error.contains("with the argument `9` for the 3. time (it was executed 0 times)"), "{error}");
    }

    #[test]
    fn time_runs_out_and_nothing_is_left() {
        let mut launch = Launch::of("sleep 4000 & echo $! >pid; wait", None, 1);
        launch.plan.directory = launch.directory.path().to_owned();
        launch.plan.ready.timeout_ms = 2000;
        let error = launch.start().unwrap_err().to_string();
        assert!(error.contains("was not executed within 2 s; executed were: "), "{error}");
        let child = fs::read_to_string(launch.directory.path().join("pid")).unwrap();
        assert!(has_ended(Pid::from_raw(child.trim().parse().unwrap())));
    }

    #[test]
    fn signals_reach_what_is_followed() {
        // A shell that traps a signal of its own child's, before anything is executed.
        let script = "trap 'exec \"$MEMGATE_SERVICE\" 4000' USR1; sh -c 'kill -USR1 $PPID'; wait; sleep 4000";
        let service = Launch::of(script, None, 1).start().unwrap();
        assert_eq!(words(service.pid()), "4000");
    }
}
