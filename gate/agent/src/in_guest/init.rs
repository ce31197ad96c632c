//! The guest's first process. It prepares the guest, starts the agent, reports the agent's end to the host, and powers
//! off.

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
    },
    unistd::Pid,
};

use super::{Host, shell::BUSYBOX};
use crate::wait::{Change, Exit, SignalNumber, any_change};

/// Why the guest is not usable, or why the agent's end is unknown.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{kind} cannot be mounted at {at}")]
    Mount { kind: &'static str, at: &'static str, source: io::Error },
    #[error("the signals that switch the guest off cannot be handled")]
    Signals(#[source] nix::Error),
    #[error("{module} cannot be loaded")]
    Module { module: PathBuf, source: io::Error },
    #[error("the channel to the host cannot be opened")]
    Port(#[source] io::Error),
    #[error("the host cannot be reached")]
    Message(#[from] StreamError),
    #[error("the loopback interface cannot be raised")]
    Loopback(#[source] io::Error),
    #[error("the ports below 1024 cannot be opened to every user")]
    LowPorts(#[source] io::Error),
    #[error("the limit on files cannot be raised")]
    FileLimit(#[source] nix::Error),
    #[error("the agent cannot be started")]
    Agent(#[source] io::Error),
    #[error("the agent cannot be protected from the kernel's OOM killer")]
    OomScore(#[source] io::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the agent's end is unknown")]
    AgentEnd(#[source] nix::Error),
}

/// The argument that starts the agent.
pub(super) const AGENT: &str = "agent";

/// Never returns, because the kernel panics when its first process ends.
pub(super) fn run() -> ExitCode {
    if let Err(problem) = boot_and_wait() {
        eprintln!("memgate: {}", in_full(&problem));
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("memgate: the guest cannot be powered off: {error}");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn boot_and_wait() -> Result<(), InitError> {
    mount_all()?;
    if Path::new(BUSYBOX).exists() {
        handle_power_off().map_err(InitError::Signals)?;
    }
    load_modules()?;
    let port = super::ports::open(INIT_PORT).map_err(InitError::Port)?;
    let host: Host = Arc::new(Mutex::new(Outgoing::new(port)));
    report(&host, &FromInit::Up)?;
    let outcome = work(&host);
    if let Err(problem) = &outcome {
        report(&host, &FromInit::Broken(in_full(problem)))?;
    }
    outcome
}

fn work(host: &Host) -> Result<(), InitError> {
    raise_loopback().map_err(InitError::Loopback)?;
    // Container engines allow it too, and the service need not be root.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").map_err(InitError::LowPorts)?;
    // A service may open many files.
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(limit, 1 << 20, 1 << 20).map_err(InitError::FileLimit)?;
    let agent = Command::new("/proc/self/exe").arg(AGENT).current_dir("/").spawn();
    let agent = agent.map_err(InitError::Agent)?;
    let agent = Pid::from_raw(agent.id().cast_signed());
    // If memory runs out, the agent must stay alive to report it.
    let spare = fs::write(format!("/proc/{agent}/oom_score_adj"), "-1000");
    spare.map_err(InitError::OomScore)?;
    beat(host)?;
    let end = reap_until_end_of(agent)?;
    Ok(report(host, &FromInit::AgentEnded { end, oom_kills: oom_kills() })?)
}

/// Busybox's `halt`, `poweroff` and `reboot` send a signal to the first process, which would ignore it by default. A
/// guest for measurements has no such commands, and a service must not be able to switch it off.
fn handle_power_off() -> nix::Result<()> {
    extern "C" fn power_off(_signal: libc::c_int) {
        // SAFETY: the system call takes no pointer and is async-signal-safe.
        unsafe { libc::reboot(libc::RB_POWER_OFF) };
    }
    let action = SigAction::new(SigHandler::Handler(power_off), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM] {
        // SAFETY: the handler makes one system call and accesses nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

fn report(host: &Host, message: &FromInit) -> Result<(), StreamError> {
    host.lock().map_err(|_| io::Error::other("a thread panicked"))?.message(message)
}

/// Reports every second that the guest is alive.
fn beat(host: &Host) -> Result<(), InitError> {
    let host = Arc::clone(host);
    let beating = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        while report(&host, &FromInit::Heartbeat).is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    beating.map(|_| ()).map_err(InitError::Thread)
}

/// How often the first process waits for others.
const ROUND: Duration = Duration::from_millis(250);

/// Waits for every process that ends, as the first process must, until the agent has ended or is about to end.
/// Detaching its probes can take seconds on an emulated processor, and waiting for it succeeds only after that.
fn reap_until_end_of(agent: Pid) -> Result<AgentEnd, InitError> {
    loop {
        match any_change() {
            Ok(Some((pid, Change::Ended(Exit::Code(code))))) if pid == agent => return Ok(AgentEnd::Exited(code)),
            Ok(Some((pid, Change::Ended(Exit::Signal(signal))))) if pid == agent => {
                return Ok(AgentEnd::Signalled(signal.to_string()));
            }
            Ok(None) => {
                let stat = fs::read_to_string(format!("/proc/{agent}/stat"));
                if let Some(end) = stat.ok().and_then(|stat| end_by(&stat)) {
                    return Ok(end);
                }
                std::thread::sleep(ROUND);
            }
            Ok(Some(_)) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(InitError::AgentEnd(error)),
        }
    }
}

/// The end of a process that the kernel has begun to remove, from its `/proc/PID/stat` (proc_pid_stat(5)).
fn end_by(stat: &str) -> Option<AgentEnd> {
    /// `PF_EXITING` in the kernel's include/linux/sched.h.
    const EXITING: u32 = 4;
    // The name may contain anything. The fields from the third on follow it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let flags: u32 = fields.nth(6)?.parse().ok()?;
    let status: i32 = fields.nth(42)?.parse().ok()?;
    if flags & EXITING == 0 {
        return None;
    }
    match status & 0x7f {
        0 => Some(AgentEnd::Exited(status >> 8 & 0xff)),
        signal => Some(AgentEnd::Signalled(SignalNumber(signal).to_string())),
    }
}

/// Mounts the file systems that a service and the collectors expect.
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

/// Raises the loopback interface, over which service and load communicate.
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

/// Processes that the kernel killed because memory ran out, since it started (`oom_kill` of /proc/vmstat, Linux 4.13).
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
    fn an_end_is_known_as_soon_as_the_kernel_begins_it() {
        assert_eq!(end_by(&stat(0x0040_0040, 9)), None);
        assert_eq!(end_by(&stat(0x0040_0044, 9)), Some(AgentEnd::Signalled("SIGKILL".to_owned())));
        assert_eq!(end_by(&stat(0x0040_0044, 3 << 8)), Some(AgentEnd::Exited(3)));
        assert_eq!(end_by("7 (a"), None);
    }

    #[test]
    fn the_kernels_file_has_the_expected_fields() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(stat.rsplit_once(')').unwrap().1.split_whitespace().count(), 50);
        assert_eq!(end_by(&stat), None);
    }
}
