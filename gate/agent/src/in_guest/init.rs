//! The guest's first process: makes the guest usable, starts the agent, tells the host how it ended, powers off.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
    time::Duration,
};

use memgate_evidence::error::in_full;
use memgate_qemu::channel::{AgentEnd, FromInit, INIT_PORT, Outgoing, StreamError};
use nix::{
    libc,
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{Host, shell::BUSYBOX};

/// Why the guest is not usable, or the agent's end not known.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{kind} cannot be mounted at {at}")]
    Mount { kind: &'static str, at: &'static str, source: io::Error },
    #[error("the signals that switch the guest off cannot be heeded")]
    Signals(#[source] nix::Error),
    #[error("{module} cannot be loaded")]
    Module { module: PathBuf, source: io::Error },
    #[error("the channel to the host cannot be opened")]
    Port(#[source] io::Error),
    #[error("the host cannot be told")]
    Message(#[from] StreamError),
    #[error("the loopback interface cannot be raised")]
    Loopback(#[source] io::Error),
    #[error("the limit on files cannot be raised")]
    FileLimit(#[source] nix::Error),
    #[error("the agent cannot be started")]
    Agent(#[source] io::Error),
    #[error("the agent cannot be kept from the kernel's want of memory")]
    OomScore(#[source] io::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the agent's end is not known")]
    AgentEnd(#[source] nix::Error),
}

/// The argument with which the agent is started.
pub(super) const AGENT: &str = "agent";

/// Never returns: the kernel panics when its first process ends.
pub(super) fn run() -> ExitCode {
    if let Err(problem) = boot_and_wait() {
        eprintln!("memgate: {}", in_full(&problem));
    }
    let error = reboot(RebootMode::RB_POWER_OFF).err();
    eprintln!("memgate: the guest cannot be powered off: {error:?}");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn boot_and_wait() -> Result<(), InitError> {
    mount_all()?;
    if Path::new(BUSYBOX).exists() {
        heed_power_off().map_err(InitError::Signals)?;
    }
    load_modules()?;
    let port = super::ports::open(INIT_PORT).map_err(InitError::Port)?;
    let host: Host = Arc::new(Mutex::new(Outgoing::new(port)));
    tell(&host, &FromInit::Up)?;
    let outcome = work(&host);
    if let Err(problem) = &outcome {
        tell(&host, &FromInit::Broken(in_full(problem)))?;
    }
    outcome
}

fn work(host: &Host) -> Result<(), InitError> {
    raise_loopback().map_err(InitError::Loopback)?;
    // A file of a service may be as large as it likes, and it may open as many.
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(limit, 1 << 20, 1 << 20).map_err(InitError::FileLimit)?;
    let agent = Command::new("/proc/self/exe").arg(AGENT).current_dir("/").spawn();
    let agent = agent.map_err(InitError::Agent)?;
    let agent = Pid::from_raw(agent.id().cast_signed());
    // Where memory runs out, the agent must live to tell of it.
    let spare = fs::write(format!("/proc/{agent}/oom_score_adj"), "-1000");
    spare.map_err(InitError::OomScore)?;
    beat(host)?;
    let end = reap_until_end_of(agent)?;
    Ok(tell(host, &FromInit::AgentEnded { end, oom_kills: oom_kills() })?)
}

/// Busybox's `halt`, `poweroff` and `reboot` ask the first process by a signal, which would otherwise not heed it. A guest that
/// measures has no such commands, and a service must not be able to end it so.
fn heed_power_off() -> nix::Result<()> {
    extern "C" fn power_off(_signal: libc::c_int) {
        // SAFETY: a system call that takes no pointer, and is async-signal-safe.
        unsafe { libc::reboot(libc::RB_POWER_OFF) };
    }
    let action = SigAction::new(SigHandler::Handler(power_off), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM] {
        // SAFETY: the handler makes one system call and touches nothing.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

fn tell(host: &Host, message: &FromInit) -> Result<(), StreamError> {
    host.lock().map_err(|_| io::Error::other("a thread panicked"))?.message(message)
}

/// Says each second that the guest lives.
fn beat(host: &Host) -> Result<(), InitError> {
    let host = Arc::clone(host);
    let beating = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        while tell(&host, &FromInit::Heartbeat).is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    beating.map(|_| ()).map_err(InitError::Thread)
}

/// How often the first process looks after the others.
const ROUND: Duration = Duration::from_millis(250);

/// Waits for whatever ends, which as the first process it must, until the agent has, or is about to: taking its probes away can take an
/// emulated processor seconds, before which nobody can wait for it.
fn reap_until_end_of(agent: Pid) -> Result<AgentEnd, InitError> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => return Ok(AgentEnd::Exited(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                return Ok(AgentEnd::Signalled(signal.as_str().to_owned()));
            }
            Ok(WaitStatus::StillAlive) => {
                let stat = fs::read_to_string(format!("/proc/{agent}/stat"));
                if let Some(end) = stat.ok().and_then(|stat| end_by(&stat)) {
                    return Ok(end);
                }
                std::thread::sleep(ROUND);
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(InitError::AgentEnd(error)),
        }
    }
}

/// How a process ends that the kernel has begun to take down, by its `/proc/PID/stat` (proc_pid_stat(5)).
fn end_by(stat: &str) -> Option<AgentEnd> {
    /// `PF_EXITING` of the kernel's include/linux/sched.h.
    const EXITING: u32 = 4;
    // The name before may hold anything; behind it are the fields from the third on.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let flags: u32 = fields.nth(6)?.parse().ok()?;
    let status: i32 = fields.nth(42)?.parse().ok()?;
    if flags & EXITING == 0 {
        return None;
    }
    match status & 0x7f {
        0 => Some(AgentEnd::Exited(status >> 8 & 0xff)),
        signal => Some(AgentEnd::Signalled(Signal::try_from(signal).map_or("a signal", Signal::as_str).to_owned())),
    }
}

/// The file systems that a service and the collectors expect.
fn mount_all() -> Result<(), InitError> {
    let mounts = [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("tmpfs", "/dev/shm"),
        ("cgroup2", "/sys/fs/cgroup"),
    ];
    for (kind, at) in mounts {
        let mounted = fs::create_dir_all(at)
            .and_then(|()| mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).map_err(io::Error::from));
        mounted.map_err(|source| InitError::Mount { kind, at, source })?;
    }
    Ok(())
}

/// Loads the modules of the image, in the order of their names.
fn load_modules() -> Result<(), InitError> {
    let Ok(entries) = fs::read_dir("/lib/modules") else { return Ok(()) };
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        load(&module).map_err(|source| InitError::Module { module, source })?;
    }
    Ok(())
}

fn load(module: &Path) -> io::Result<()> {
    let file = File::open(module)?;
    match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Service and load speak over it.
fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zero bytes are an interface request without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the two flags are below 128")]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq` (net/core/dev_ioctl.c, Linux 6.12), which lives through the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Processes that the kernel killed for want of memory since it started (`oom_kill` of /proc/vmstat, Linux 4.13).
fn oom_kills() -> u64 {
    let mut text = String::new();
    let read = File::open("/proc/vmstat").and_then(|mut file| file.read_to_string(&mut text));
    let line =
        read.ok().and_then(|_| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()));
    line.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/proc/PID/stat` of a process with these flags and this status.
    fn stat(flags: u32, status: i32) -> String {
        format!("7 (a) b) S 1 7 7 0 -1 {flags}{} {status}\n", " 0".repeat(42))
    }

    #[test]
    fn an_end_is_known_as_soon_as_the_kernel_has_begun_with_it() {
        assert_eq!(end_by(&stat(0x0040_0040, 9)), None);
        assert_eq!(end_by(&stat(0x0040_0044, 9)), Some(AgentEnd::Signalled("SIGKILL".to_owned())));
        assert_eq!(end_by(&stat(0x0040_0044, 3 << 8)), Some(AgentEnd::Exited(3)));
        assert_eq!(end_by("7 (a"), None);
    }

    #[test]
    fn the_kernel_writes_what_is_read() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(stat.rsplit_once(')').unwrap().1.split_whitespace().count(), 50);
        assert_eq!(end_by(&stat), None);
    }
}
