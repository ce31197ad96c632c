//! A person's command in a guest, or a shell on its console: `memgate image boot`.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _, unix::process::ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use memgate_evidence::error::{FailureKind, Stage};
use memgate_qemu::channel::{FromAgent, Printer, StreamError, Terminal};
use nix::{
    libc,
    mount::{MsFlags, mount},
};

use super::Host;

/// The program that is a shell and the usual commands, which the guest's second archive has.
pub(super) const BUSYBOX: &str = "/bin/busybox";

const TRACEFS: &str = "/sys/kernel/tracing";

/// Why there is no exit code.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[diagnostic(help("please report this"))]
pub(super) enum ShellError {
    /// The program that is a shell does not start.
    #[error("{BUSYBOX} cannot be run")]
    Busybox(#[source] io::Error),
    /// It does not become the usual commands.
    #[error("{BUSYBOX} cannot make links to itself: {0}")]
    Links(ExitStatus),
    /// A file system that a person expects is missing.
    #[error("tracefs cannot be mounted at {TRACEFS}")]
    Tracefs(#[source] nix::Error),
    /// The command does not run to its end.
    #[error("the command in the guest cannot be run")]
    Run(#[source] io::Error),
    /// The host does not take what is printed.
    #[error("the host does not take what is printed")]
    Print(#[from] StreamError),
}

impl FailureKind for ShellError {
    fn stage(&self) -> Stage {
        Stage::Guest
    }
}

/// Runs the command, or a shell where there are no words, and gives its exit code, or 128 and the number of the signal that ended it. A
/// command that is not there has 127, and one that cannot be run 126, as with a shell.
///
/// # Errors
/// When the guest has no shell, or no console for it.
pub(super) fn run(host: &Host, words: &[String], terminal: Option<&Terminal>) -> Result<u8, ShellError> {
    furnish()?;
    let mut command = match words {
        [] => {
            let mut shell = Command::new("/bin/sh");
            shell.arg0("-sh");
            shell
        }
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    // Looked up there, since the agent has none of its own.
    command.env_clear().env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").env("HOME", "/root").current_dir("/root");
    let status = match terminal {
        Some(terminal) => on_console(command, terminal),
        None => piped(host, command),
    };
    match status {
        Ok(status) => Ok(code(status)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            let program = words.first().map_or("/bin/sh", String::as_str);
            let message = format!("memgate: {program}: {error}\n");
            print(host, Printer::Stderr, message.as_bytes())?;
            Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
        Err(error) => Err(ShellError::Run(error)),
    }
}

/// What a person expects beside what every guest has.
fn furnish() -> Result<(), ShellError> {
    let linked = Command::new(BUSYBOX).args(["--install", "-s"]).status().map_err(ShellError::Busybox)?;
    if !linked.success() {
        return Err(ShellError::Links(linked));
    }
    mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), None::<&str>).map_err(ShellError::Tracefs)
}

/// With the guest's console as the terminal that controls it.
fn on_console(mut command: Command, terminal: &Terminal) -> io::Result<ExitStatus> {
    let console = console()?;
    let size = libc::winsize { ws_row: terminal.rows, ws_col: terminal.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a `winsize` (tty_ioctl(2)), which lives through the call.
    let sized = unsafe { libc::ioctl(console.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) };
    if sized != 0 {
        return Err(io::Error::last_os_error());
    }
    command.env("TERM", &terminal.kind);
    command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    // SAFETY: between fork and exec only two system calls are made, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            let taken = libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY as _, 0);
            if taken == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
    let mut child = command.spawn()?;
    may_be_killed(&child)?;
    child.wait()
}

/// The device behind `/dev/console`, which itself can control nothing: the last that the kernel names.
fn console() -> io::Result<File> {
    let names = fs::read_to_string("/sys/class/tty/console/active")?;
    let name = names.split_whitespace().last().ok_or_else(|| io::Error::other("the guest has no console"))?;
    File::options().read(true).write(true).open(Path::new("/dev").join(name))
}

/// Without input; what it prints goes to the host.
fn piped(host: &Host, mut command: Command) -> io::Result<ExitStatus> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    may_be_killed(&child)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let to_stdout = scope.spawn(|| stdout.map_or(Ok(()), |stdout| hand_on(host, Printer::Stdout, stdout)));
        stderr.map_or(Ok(()), |stderr| hand_on(host, Printer::Stderr, stderr))?;
        to_stdout.join().map_err(|_| io::Error::other("a thread panicked"))?
    })?;
    child.wait()
}

fn hand_on(host: &Host, printer: Printer, mut from: impl Read) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => print(host, printer, &bytes[..read]).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn print(host: &Host, printer: Printer, bytes: &[u8]) -> Result<(), StreamError> {
    let mut host = host.lock().map_err(|_| io::Error::other("a thread panicked"))?;
    host.message(&FromAgent::Printed { printer, length: bytes.len() as u64 })?;
    host.data(bytes)
}

/// The agent is kept from the kernel's want of memory, and what it starts would inherit that.
fn may_be_killed(child: &Child) -> io::Result<()> {
    match fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0") {
        // It may have ended already.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        written => written,
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_by_a_signal_has_a_code_of_its_own() {
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }
}
