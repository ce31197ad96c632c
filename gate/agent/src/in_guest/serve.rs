//! The agent in a guest. It receives files and a plan from the host, runs the plan, and sends the evidence.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use memgate_evidence::{
    Evidence,
    error::{Error, FailureText, Stage, in_full},
    plan::Plan,
};
use memgate_qemu::channel::{AGENT_PORT, FromAgent, Incoming, Outgoing, StreamError, ToAgent};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, ClockNanosleepFlags, clock_nanosleep, clock_settime},
    unistd::{Pid, gettid},
};
use procfs::Current as _;
use serde_json::value::RawValue;

use super::{Host, shell};
use crate::{self as agent, Driver, RunEvent, RunLogs, cancel::Cancel, cgroup::Cgroup, output::LARGEST_LOG};

/// The name of the evidence as a file for the host.
pub const EVIDENCE: &str = "evidence";
/// The name of the service's output as a file for the host.
pub const SERVICE_LOG: &str = "service";

/// The path of a log of this name in the guest. The user finds it elsewhere.
pub fn log_there(name: &str) -> PathBuf {
    format!("/run/{name}.log").into()
}

/// The failure of a run in the form that the host gets.
fn text(error: &Error) -> FailureText {
    match error {
        Error::Infrastructure(failure) => failure.text(),
        Error::Input(_) | Error::Interrupted => {
            FailureText { stage: Stage::Launch, message: error.to_string(), causes: Vec::new(), help: None }
        }
    }
}

/// Serves one host. Failures appear on the console and in the exit code.
pub(super) fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("memgate: the agent: {}", in_full(&problem));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), StreamError> {
    let port = super::ports::open(AGENT_PORT)?;
    let mut incoming = Incoming::new(port.try_clone()?);
    let host: Host = Arc::new(Mutex::new(Outgoing::new(port)));
    let sleepers = Sleepers::on_each_processor()?;
    say(&host, &FromAgent::Ready { build: agent::BUILD.to_owned() })?;
    let mut sleepers = Some(sleepers);
    loop {
        match incoming.message()? {
            ToAgent::Begin { now_ns, entropy, .. } => {
                sleepers.take().map_or(Ok(()), Sleepers::wake)?;
                begin(now_ns, &entropy)?;
                say(&host, &FromAgent::Begun)?;
                beat(&host)?;
            }
            ToAgent::File { path, mode, length } => {
                store(&mut incoming, Path::new(&path), mode, length)?;
                say(&host, &FromAgent::Stored)?;
            }
            ToAgent::Run(plan) => return carry_out(&host, &plan),
            ToAgent::Command { words, terminal } => {
                return match shell::run(&host, &words, terminal.as_ref()) {
                    Ok(code) => say(&host, &FromAgent::CommandEnded(code)),
                    Err(error) => fail(&host, &error.into()),
                };
            }
        }
    }
}

fn say(host: &Host, message: &FromAgent) -> Result<(), StreamError> {
    host.lock().map_err(|_| io::Error::other("a thread panicked"))?.message(message)
}

/// A thread on each processor that sleeps until a date in the far future.
///
/// QEMU 10.0 saves a LoongArch processor without its timer (target/loongarch/machine.c). After the guest is resumed,
/// what the kernel had programmed never fires, and the guest hangs. If the clock is set beyond what a processor's
/// timers wait for, the kernel programs the timer again on that processor (`clock_was_set`, kernel/time/hrtimer.c,
/// Linux 7.2). So the agent sets the date once the guest is resumed. When the sleepers have woken, every processor has
/// a working timer.
struct Sleepers(Vec<JoinHandle<nix::Result<()>>>);

/// The year 2200, which no run reaches.
const FAR_AHEAD: Duration = Duration::from_secs(7_258_118_400);

impl Sleepers {
    /// Returns when all of them are asleep.
    fn on_each_processor() -> io::Result<Self> {
        let (ids, started) = mpsc::channel();
        let sleeper = |processor| {
            let ids = ids.clone();
            std::thread::Builder::new().name("sleeper".to_owned()).spawn(move || {
                let mut here = CpuSet::new();
                here.set(processor)?;
                sched_setaffinity(Pid::from_raw(0), &here)?;
                ids.send(gettid()).map_err(|_| nix::Error::EPIPE)?;
                clock_nanosleep(ClockId::CLOCK_REALTIME, ClockNanosleepFlags::TIMER_ABSTIME, &FAR_AHEAD.into())?;
                Ok(())
            })
        };
        let processors = std::thread::available_parallelism()?.get();
        let sleepers: Vec<_> = (0..processors).map(sleeper).collect::<io::Result<_>>()?;
        for id in started.iter().take(processors) {
            while !is_asleep(id)? {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(Self(sleepers))
    }

    /// Sets the clock beyond the date on one processor after the other, because the calling processor does not
    /// interrupt itself. Then waits for the sleepers.
    fn wake(self) -> io::Result<()> {
        /// With this, the sleepers' date is earlier than the due times of all lost timers.
        const PAST: Duration = Duration::from_secs(24 * 3600);
        let this = Pid::from_raw(0);
        let allowed = sched_getaffinity(this)?;
        for processor in 0..self.0.len() {
            let mut here = CpuSet::new();
            here.set(processor)?;
            sched_setaffinity(this, &here)?;
            clock_settime(ClockId::CLOCK_REALTIME, (FAR_AHEAD + PAST).into())?;
        }
        sched_setaffinity(this, &allowed)?;
        for sleeper in self.0 {
            sleeper.join().map_err(|_| io::Error::other("a thread panicked"))??;
        }
        Ok(())
    }
}

/// Whether a thread sleeps in its system call and has left its processor. The kernel reports the number of a thread's
/// system call only while the thread does not run (`proc_pid_syscall`, fs/proc/base.c).
fn is_asleep(thread: Pid) -> io::Result<bool> {
    let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall"))?;
    Ok(call.split_whitespace().next() == Some(nix::libc::SYS_clock_nanosleep.to_string().as_str()))
}

/// Sets the clock, and adds the host's bytes to the kernel's random numbers. Two guests from one snapshot have the same
/// state, and nothing else is sure to differ.
fn begin(now_ns: u64, entropy: &[u8]) -> io::Result<()> {
    /// `RNDRESEEDCRNG`, include/uapi/linux/random.h, Linux 4.17 and later: `_IO('R', 0x07)`.
    const RESEED: u32 = 0x5207;
    let now = Duration::from_nanos(now_ns);
    clock_settime(ClockId::CLOCK_REALTIME, now.into())?;
    let mut random = File::options().write(true).open("/dev/urandom")?;
    random.write_all(entropy)?;
    // SAFETY: the request takes no argument.
    let reseeded = unsafe { nix::libc::ioctl(random.as_raw_fd(), RESEED as _) };
    if reseeded == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reports every second that the agent is alive.
fn beat(host: &Host) -> io::Result<()> {
    let host = Arc::clone(host);
    let beating = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        while say(&host, &FromAgent::Heartbeat).is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    beating.map(|_| ())
}

fn store(incoming: &mut Incoming<File>, path: &Path, mode: u32, length: u64) -> Result<(), StreamError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = File::create(path)?;
    incoming.data(length, &mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn carry_out(host: &Host, plan: &RawValue) -> Result<(), StreamError> {
    let plan: Plan = serde_json::from_str(plan.get())?;
    if let Some(account) = &plan.account {
        // Natively the directory is the user's too.
        std::os::unix::fs::chown(&plan.directory, Some(account.uid), Some(account.gid))?;
    }
    let logs = RunLogs::of(&plan, log_there);
    let outcome = measure(host, &plan, &logs);
    if logs.service_log.exists() {
        send(host, SERVICE_LOG, &fs::read(&logs.service_log)?)?;
    }
    for (name, log) in logs.more.iter().filter(|(_, log)| log.exists()) {
        send(host, name, &fs::read(log)?)?;
    }
    match outcome {
        Ok(evidence) => {
            send(host, EVIDENCE, &serde_json::to_vec(&evidence)?)?;
            say(host, &FromAgent::Done)
        }
        Err(error) => fail(host, &error),
    }
}

/// The limit of a service that has none and runs beside this many others, bytes: the guest's free memory but for what the
/// kernel and the agent need.
///
/// Without it a service that uses up the guest's memory is killed by the kernel as the only process that may be. If its
/// memory is not free soon enough, the kernel finds no other and panics: "System is deadlocked on memory"
/// (`out_of_memory`, mm/oom_kill.c, Linux 6.18). A cgroup that reaches its limit has no such end.
pub(crate) fn memory_for_the_service(others: usize) -> Option<u64> {
    /// The least that the kernel and the agent keep, bytes. Logs are the agent's memory.
    const RESERVE: u64 = 32 << 20;
    let logs = LARGEST_LOG * (1 + others as u64);
    let free = procfs::Meminfo::current().ok()?.mem_available.filter(|_| Cgroup::has_memory_controller())?;
    free.checked_sub((RESERVE + logs).max(free / 16)).filter(|limit| *limit > 0)
}

fn fail(host: &Host, error: &Error) -> Result<(), StreamError> {
    say(host, &FromAgent::Failed(serde_json::value::to_raw_value(&text(error))?))
}

/// Runs the plan on this thread, because the service ends with the thread that started it.
fn measure(host: &Host, plan: &Plan, logs: &RunLogs) -> Result<Evidence, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Error::caused(Stage::Launch, "the agent cannot run", error, "please report this"))?;
    let unsaid = RefCell::new(None);
    let event = |event: RunEvent| {
        let said = serde_json::value::to_raw_value(&event).map_err(StreamError::from);
        if let Err(error) = said.and_then(|event| say(host, &FromAgent::Progress(event))) {
            unsaid.replace(Some(error));
        }
    };
    let evidence = runtime.block_on(agent::run(plan, logs, Driver::Host, &event, &Cancel::never()))?;
    match unsaid.take() {
        None => Ok(evidence),
        Some(error) => Err(Error::caused(
            Stage::Guest,
            "the progress of the run cannot be sent to the host",
            error,
            "please report this",
        )),
    }
}

fn send(host: &Host, name: &str, bytes: &[u8]) -> Result<(), StreamError> {
    let mut host = host.lock().map_err(|_| io::Error::other("a thread panicked"))?;
    host.message(&FromAgent::File { name: name.to_owned(), length: bytes.len() as u64 })?;
    host.data(bytes)
}
