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
        signal::{Signal, kill, killpg},
    },
    unistd::{Pid, gettid},
};

use crate::wait::{self, Change, Exit, PATIENCE, SignalNumber, resume};

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
                exit: following.traced.first_exit.unwrap_or(Exit::Unknown),
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
            match change(thread) {
                Some(Change::Event(event)) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                    // Its other threads are gone, and the one that executes has the number of the process now.
                    if let Ok(former) = ptrace::getevent(thread) {
                        self.traced.threads.remove(&as_pid(former));
                    }
                    self.traced.threads.insert(thread, false);
                    if self.is_wanted(thread) {
                        return Some(thread);
                    }
                    resume(thread, None);
                }
                Some(change) => self.traced.handle(thread, change),
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
    /// Handles a change that is no execution, and lets the thread go on.
    fn handle(&mut self, thread: Pid, change: Change) {
        match change {
            Change::Ended(exit) => {
                self.threads.remove(&thread);
                if thread == self.first {
                    self.first_exit = Some(exit);
                }
            }
            // The first stop of a new thread is not a signal that somebody sent.
            Change::Stopped(SignalNumber(libc::SIGSTOP)) if self.threads.get(&thread) == Some(&true) => {
                self.threads.insert(thread, false);
                resume(thread, None);
            }
            Change::Stopped(signal) => resume(thread, Some(signal)),
            Change::Event(event) => {
                let forks = [Event::PTRACE_EVENT_FORK, Event::PTRACE_EVENT_VFORK, Event::PTRACE_EVENT_CLONE];
                if forks.into_iter().any(|fork| fork as i32 == event)
                    && let Ok(new) = ptrace::getevent(thread)
                {
                    self.threads.entry(as_pid(new)).or_insert(true);
                }
                resume(thread, None);
            }
        }
    }

    /// Lets all threads run untraced, but for the process that is measured.
    async fn let_go_all_but(mut self, measured: Pid) -> Result<Pid, FollowError> {
        let start = Instant::now();
        let mut asked = BTreeSet::new();
        loop {
            let others: Vec<_> = self.threads.clone().into_iter().filter(|(thread, _)| *thread != measured).collect();
            let Some(&(waiting, _)) = others.first() else { break };
            for (thread, is_new) in others {
                // A thread must be stopped to be let go. A new one stops by itself.
                if !is_new && asked.insert(thread) {
                    // SAFETY: the call takes two numbers and touches no memory.
                    unsafe { libc::syscall(libc::SYS_tkill, thread.as_raw(), libc::SIGSTOP) };
                }
                match change(thread) {
                    Some(Change::Stopped(SignalNumber(libc::SIGSTOP))) => {
                        // The signal is not delivered. A thread that was killed meanwhile needs nothing.
                        let _ = ptrace::detach(thread, None);
                        self.threads.remove(&thread);
                    }
                    Some(change) => self.handle(thread, change),
                    None => {}
                }
            }
            if start.elapsed() >= LET_GO {
                return Err(FollowError::Held(waiting));
            }
            tokio::time::sleep(LOOK).await;
        }
        self.threads.clear();
        Ok(measured)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        if self.first_exit.is_none() {
            // Some of it may have been let go already. The group exists until its leader is reaped.
            let _ = killpg(self.first, Signal::SIGKILL);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut left: BTreeSet<Pid> = self.threads.keys().copied().collect();
        while !left.is_empty() && Instant::now() < deadline {
            // Also those of whose start memgate has not heard yet: a process is not reported as long as one is left.
            left.extend(traced());
            for &thread in &left {
                let _ = kill(thread, Signal::SIGKILL);
            }
            // The first thread of a process is reported after the others, so none is waited for alone. Nobody else can
            // wait for what memgate traces.
            left.retain(|&thread| wait::is_awaited(thread));
            std::thread::sleep(LOOK);
        }
    }
}

/// The threads that this thread traces.
fn traced() -> Vec<Pid> {
    let tracer = gettid().as_raw();
    let tasks = procfs::process::all_processes().into_iter().flatten().flatten();
    let tasks = tasks.filter_map(|process| process.tasks().ok()).flatten().flatten();
    let traced = tasks.filter(|task| task.status().is_ok_and(|status| status.tracerpid == tracer));
    traced.map(|task| Pid::from_raw(task.tid)).collect()
}

/// What has happened to the thread, if anything has. One that is gone has ended.
fn change(thread: Pid) -> Option<Change> {
    wait::change(thread).unwrap_or(Some(Change::Ended(Exit::Unknown)))
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
        launch::{self, ServiceProcess, Stopped},
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
            self.start_in(Cgroup::create(None).unwrap())
        }

        fn start_in(&self, cgroup: Cgroup) -> Result<ServiceProcess> {
            let stopped = runtime().block_on(self.spawn_in(cgroup))?;
            assert_ne!(tracer(stopped.pid()), "0", "it has not executed anything");
            stopped.resume()
        }

        async fn spawn_in(&self, cgroup: Cgroup) -> Result<Stopped> {
            let log = self.directory.path().join("service.log");
            let file = FileIdentity::of(&fs::metadata(&self.plan.executable).unwrap());
            launch::spawn(&self.plan, Some(file), cgroup, &log).await
        }

        /// The same, in the directory in which the script writes ids of processes to the file `pid`.
        fn with_ids(mut self) -> Self {
            self.plan.directory = self.directory.path().to_owned();
            self
        }

        /// The processes with these ids, once there are `count`.
        fn ids(&self, count: usize) -> Vec<Pid> {
            let begun = Instant::now();
            loop {
                let text = fs::read_to_string(self.directory.path().join("pid")).unwrap_or_default();
                let ids: Vec<_> = text.lines().map(|line| Pid::from_raw(line.trim().parse().unwrap())).collect();
                if ids.len() >= count && text.ends_with('\n') {
                    return ids;
                }
                assert!(begun.elapsed() < LONG, "{text}");
                std::thread::sleep(LOOK);
            }
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
        assert_eq!(service.ended(), Some(Exit::Signal(Signal::SIGTERM.into())));
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
        // Also without a cgroup, and of what has left its process group.
        let scripts = [
            ("sleep 4000 & echo $! >pid; wait".to_owned(), 1),
            (format!("setsid sleep 4000 & echo $! >pid; echo $$ >>pid; exec {THREADS}"), 2),
        ];
        for (script, count) in scripts {
            let mut launch = Launch::of(&script, None, 1).with_ids();
            launch.plan.ready.timeout_ms = 4000;
            let begun = Instant::now();
            let error = launch.start_in(Cgroup::none()).unwrap_err().to_string();
            assert!(begun.elapsed() < PATIENCE, "it waits for nothing");
            assert!(error.contains("was not executed within 4 s; executed were: "), "{error}");
            assert!(launch.ids(count).into_iter().all(has_ended), "{script}");
        }
    }

    /// A program with threads, one of which starts others all the time.
    const THREADS: &str = "python3 -c '
import threading, time
def start():
    while True:
        threading.Thread(target=time.sleep, args=(0.01,)).start()
for work in [start, lambda: time.sleep(4000), lambda: time.sleep(4000)]:
    threading.Thread(target=work).start()
'";

    #[test]
    fn who_gives_up_following_leaves_nothing() {
        let script = format!("sleep 4000 & echo $! >pid; echo $$ >>pid; exec {THREADS}");
        let launch = Launch::of(&script, None, 1).with_ids();
        let begun = Instant::now();
        runtime().block_on(async {
            let followed = launch.spawn_in(Cgroup::none());
            let time = tokio::time::timeout(Duration::from_secs(4), followed).await;
            assert!(time.is_err(), "nothing is executed");
        });
        assert!(begun.elapsed() < PATIENCE, "it waits for nothing");
        assert!(launch.ids(2).into_iter().all(has_ended));
    }

    #[test]
    fn what_a_command_has_started_ends_with_it_where_there_is_no_cgroup() {
        let launch = Launch::of("sleep 4000 & echo $! >pid; \"$MEMGATE_SERVICE\" 4000 & wait", None, 1).with_ids();
        let service = launch.start_in(Cgroup::none()).unwrap();
        let [measured, script] = [service.pid(), parent(service.pid())];
        let helper = launch.ids(1)[0];
        assert!([measured, script, helper].into_iter().all(|process| !has_ended(process)));
        drop(service);
        assert!(has_ended(script));
        // Their new parent learns of their ends a little later.
        let begun = Instant::now();
        while ![measured, helper].into_iter().all(has_ended) {
            assert!(begun.elapsed() < LONG);
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn a_command_that_waits_for_the_program_leaves_it_half_of_the_time_to_end() {
        // The shell runs the trap only when the program has ended.
        let launch = Launch::of("trap 'exit 0' TERM; \"$MEMGATE_SERVICE\" 4000; exit 1", None, 1);
        let mut service = launch.start().unwrap();
        assert!(runtime().block_on(service.stop(Duration::from_secs(2))));
    }

    #[test]
    fn real_time_signals_reach_what_is_followed() {
        let script = "exec python3 -c '
import os, signal, threading, time
def handle(number, frame):
    os.execv(os.environ[\"MEMGATE_SERVICE\"], [\"measured\", \"4000\"])
signal.signal(40, handle)
threading.Thread(target=time.sleep, args=(0.5,)).start()
os.kill(os.getpid(), 40)
time.sleep(4000)
'";
        let service = Launch::of(script, None, 1).start().unwrap();
        assert_eq!(words(service.pid()), "4000");
        // One that ends by such a signal has ended by it.
        let error = Launch::of("exec python3 -c 'import os; os.kill(os.getpid(), 40)'", None, 1).start();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("was not executed: it was ended by signal 40, and all that"), "{error}");
    }

    #[test]
    fn signals_reach_what_is_followed() {
        // A shell that traps a signal of its own child's, before anything is executed.
        let script = "trap 'exec \"$MEMGATE_SERVICE\" 4000' USR1; sh -c 'kill -USR1 $PPID'; wait; sleep 4000";
        let service = Launch::of(script, None, 1).start().unwrap();
        assert_eq!(words(service.pid()), "4000");
    }
}
