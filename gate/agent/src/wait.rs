//! What the kernel tells of processes: that they have ended or, if memgate traces them, have stopped.
//!
//! memgate reads the status by itself, because nix fails at a signal that its [`Signal`] does not have: a real-time one,
//! such as Go and the C libraries send to each thread of a process that changes its user.

use std::{
    fmt, io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The time between two looks at a process that was killed.
const LOOK: Duration = Duration::from_millis(1);

/// How long memgate waits for the end of what it has killed. What hangs in the kernel ends later, or never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(SignalNumber),
    /// In a way that only another process knows, which started it or has waited for it.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it exited with code {code}"),
            Self::Signal(signal) => write!(f, "it was ended by {signal}"),
            Self::Unknown => f.write_str("it ended"),
        }
    }
}

/// A signal by its number, which may be that of a real-time signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalNumber(pub i32);

impl From<Signal> for SignalNumber {
    fn from(signal: Signal) -> Self {
        Self(signal as i32)
    }
}

impl fmt::Display for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

/// What has happened to a process or to a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has ended, and is reaped.
    Ended(Exit),
    /// A traced one is stopped before it gets this signal.
    Stopped(SignalNumber),
    /// A traced one is stopped at this event (`PTRACE_EVENT_…`, ptrace(2)).
    Event(i32),
}

impl Change {
    /// What a status of waitpid(2) means.
    const fn of(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            return Self::Ended(Exit::Code(libc::WEXITSTATUS(status)));
        }
        if libc::WIFSIGNALED(status) {
            return Self::Ended(Exit::Signal(SignalNumber(libc::WTERMSIG(status))));
        }
        match (libc::WSTOPSIG(status), status >> 16) {
            (libc::SIGTRAP, event) if event != 0 => Self::Event(event),
            (signal, _) => Self::Stopped(SignalNumber(signal)),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(exit) => exit.fmt(f),
            Self::Stopped(signal) => write!(f, "it was stopped by {signal}"),
            Self::Event(_) => f.write_str("its status is unexpected"),
        }
    }
}

/// What has happened to a child or to a traced thread, if anything has. One that has ended is reaped.
///
/// # Errors
/// `ECHILD` if it is neither, or was reaped before.
pub(crate) fn change(process: Pid) -> nix::Result<Option<Change>> {
    wait(process, libc::WNOHANG | libc::__WALL).map(|(_, change)| change)
}

/// What has happened to any child, and to which one. One that has ended is reaped.
///
/// # Errors
/// `ECHILD` if there is none.
pub(crate) fn any_change() -> nix::Result<Option<(Pid, Change)>> {
    let (process, change) = wait(Pid::from_raw(-1), libc::WNOHANG | libc::__WALL)?;
    Ok(change.map(|change| (process, change)))
}

/// Waits until something happens to a child or to a traced thread.
///
/// # Errors
/// `ECHILD` if it is neither.
pub(crate) fn next_change(process: Pid) -> nix::Result<Change> {
    loop {
        match wait(process, libc::__WALL) {
            Ok((_, Some(change))) => return Ok(change),
            Ok((_, None)) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait(process: Pid, options: libc::c_int) -> nix::Result<(Pid, Option<Change>)> {
    let mut status = 0;
    // SAFETY: the kernel writes the status, which lives as long as the call.
    let waited = Errno::result(unsafe { libc::waitpid(process.as_raw(), &raw mut status, options) })?;
    Ok((Pid::from_raw(waited), (waited != 0).then(|| Change::of(status))))
}

/// How a child has ended, if it has. It is not reaped, so no other process can get its id.
///
/// # Errors
/// `ECHILD` if it is none, or was reaped before.
pub(crate) fn ended(child: Pid) -> nix::Result<Option<Exit>> {
    end_of(libc::P_PID, child.as_raw().cast_unsigned(), libc::WNOWAIT)
}

fn end_of(kind: libc::idtype_t, id: libc::id_t, options: libc::c_int) -> nix::Result<Option<Exit>> {
    // SAFETY: the structure has numbers and pointers only, and zeros are a value of each.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = options | libc::WEXITED | libc::WNOHANG;
    // SAFETY: the kernel writes the structure, which lives as long as the call.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, options) })?;
    // SAFETY: waitid(2) fills these fields, or leaves zeros if the child lives.
    let (process, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if process == 0 => None,
        libc::CLD_EXITED => Some(Exit::Code(status)),
        _ => Some(Exit::Signal(SignalNumber(status))),
    })
}

/// Lets a stopped thread go on, with this signal if it is to get one. A thread that was killed meanwhile needs nothing.
pub(crate) fn resume(thread: Pid, signal: Option<SignalNumber>) {
    let signal = signal.map_or(0, |SignalNumber(number)| number);
    let data = ptr::without_provenance_mut::<libc::c_void>(usize::try_from(signal).unwrap_or(0));
    // SAFETY: the request takes two numbers and touches no memory of memgate's.
    unsafe { libc::ptrace(libc::PTRACE_CONT, thread.as_raw(), ptr::null_mut::<libc::c_void>(), data) };
}

/// Kills a process and waits for its end, if it is a child or traced.
pub(crate) fn kill_and_wait(process: Pid) {
    let _ = kill(process, Signal::SIGKILL);
    let deadline = Instant::now() + PATIENCE;
    // One that was killed at a stop may report that stop first.
    while is_awaited(process) && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
}

/// Whether a child or a traced thread that was killed has still to be reaped.
pub(crate) fn is_awaited(thread: Pid) -> bool {
    !matches!(change(thread), Ok(Some(Change::Ended(_))) | Err(_))
}

/// A handle of a process, which need not be a child. A later process with the same id is another one.
#[derive(Debug)]
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// Of a process that has not been reaped: a child, or a traced one.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn of(process: Pid) -> io::Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) })?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made it, and nothing else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether all its threads have ended.
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Sends it the signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let (fd, signal) = (self.0.as_raw_fd(), signal as i32);
        // SAFETY: the call takes numbers and a null pointer, and touches no memory.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<libc::siginfo_t>(), 0) };
    }

    /// Kills it. If memgate traces it, this waits for its end, because its parent cannot do so before.
    pub(crate) fn kill_and_wait(&self) {
        self.signal(Signal::SIGKILL);
        let deadline = Instant::now() + PATIENCE;
        let end = || end_of(libc::P_PIDFD, self.0.as_raw_fd().cast_unsigned(), libc::__WALL);
        while matches!(end(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn python(script: &str) -> (Child, Pid) {
        let child = Command::new("python3").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(100), "{what} has not happened");
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn an_end_by_any_signal_is_seen() {
        for (script, exit, words) in [
            ("exit(3)", Exit::Code(3), "it exited with code 3"),
            ("import os; os.kill(os.getpid(), 9)", Exit::Signal(Signal::SIGKILL.into()), "it was ended by SIGKILL"),
            ("import os; os.kill(os.getpid(), 40)", Exit::Signal(SignalNumber(40)), "it was ended by signal 40"),
        ] {
            let (mut child, pid) = python(script);
            let end = eventually("the end", || ended(pid).unwrap());
            assert_eq!((end, end.to_string().as_str()), (exit, words));
            assert_eq!(ended(pid).unwrap(), Some(exit), "it is not reaped");
            assert_eq!(change(pid).unwrap(), Some(Change::Ended(exit)));
            assert_eq!((ended(pid).unwrap_err(), change(pid).unwrap_err()), (Errno::ECHILD, Errno::ECHILD));
            assert!(child.try_wait().is_err());
        }
    }

    #[test]
    fn a_handle_tells_of_a_process_and_ends_it() {
        let (mut child, pid) = python("import time; time.sleep(1000)");
        assert_eq!((ended(pid), change(pid)), (Ok(None), Ok(None)));
        let handle = Handle::of(pid).unwrap();
        assert!(!handle.has_ended());
        handle.signal(Signal::SIGTERM);
        eventually("the end", || handle.has_ended().then_some(()));
        child.wait().unwrap();
        // Nobody else gets a signal.
        handle.signal(Signal::SIGTERM);
        assert!(handle.has_ended() && Handle::of(pid).is_err());
    }
}
