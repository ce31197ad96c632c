//! Measuring alone: of the memgates of a machine that measure natively, one measures and the others wait.
//!
//! What they lock (`flock`) is the file of a namespace that all processes of a machine share, and not a file on a disk.
//! The kernel has one inode for it, whatever the user, the container and the network namespace are. It needs no place
//! to write, nobody else has to make it, and it cannot be a link to somewhere else.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use memgate_evidence::error::{Error, Result};
use procfs::{Current as _, ProcResult, Uptime, process::Process};

use crate::cancel::Cancel;

/// The files of namespaces, the best first. Container engines make no time namespace (Linux 5.6) unless they are asked
/// to. Most make no user namespace.
const FILES: [&str; 2] = ["/proc/self/ns/time", "/proc/self/ns/user"];

/// The interval at which a waiting memgate tries again.
const POLL: Duration = Duration::from_millis(200);

/// The right to measure natively on this machine. Dropping it lets another memgate measure.
#[derive(Debug)]
pub struct Alone {
    /// Nothing if the machine has no file to lock.
    _lock: Option<File>,
}

impl Alone {
    /// Waits until no other memgate measures natively on this machine, and keeps others from it. `say` gets a line if
    /// there is something to wait for, or if the machine does not tell.
    ///
    /// # Errors
    /// Fails if memgate is interrupted meanwhile.
    pub async fn wait(say: impl Fn(&str), cancel: &Cancel) -> Result<Self> {
        Self::wait_for(open(), say, cancel).await
    }

    /// Does not wait. `say` gets a line if another memgate measures. Another one that waits does so for this one too.
    pub fn without_waiting(say: impl Fn(&str)) -> Self {
        Self::at_once(open(), say)
    }

    async fn wait_for(file: io::Result<File>, say: impl Fn(&str), cancel: &Cancel) -> Result<Self> {
        let mut waits = false;
        loop {
            match file.as_ref().map(File::try_lock) {
                Ok(Ok(())) => return Ok(Self { _lock: file.ok() }),
                Ok(Err(TryLockError::WouldBlock)) => {}
                Ok(Err(TryLockError::Error(error))) => return Ok(unknown(&error, say)),
                Err(error) => return Ok(unknown(error, say)),
            }
            if let (false, Ok(file)) = (waits, &file) {
                let owner = owner(file).unwrap_or_default();
                say(&format!("waiting for another memgate, which measures on this machine{owner}; --no-wait does not"));
                waits = true;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = cancel.cancelled() => return Err(Error::Interrupted),
            }
        }
    }

    fn at_once(file: io::Result<File>, say: impl Fn(&str)) -> Self {
        let file = match file {
            Ok(file) => file,
            Err(error) => return unknown(&error, say),
        };
        // Several that do not wait share the lock.
        match file.try_lock_shared() {
            Ok(()) => Self { _lock: Some(file) },
            Err(TryLockError::WouldBlock) => {
                let owner = owner(&file).unwrap_or_default();
                say(&format!("another memgate measures on this machine{owner}: the two disturb each other"));
                Self { _lock: None }
            }
            Err(TryLockError::Error(error)) => unknown(&error, say),
        }
    }
}

/// A machine that does not tell is measured on all the same.
fn unknown(error: &io::Error, say: impl Fn(&str)) -> Alone {
    say(&format!("{}: {error}; memgate does not see whether another memgate measures on this machine", FILES[0]));
    Alone { _lock: None }
}

fn open() -> io::Result<File> {
    let [time, user] = FILES;
    File::open(time).or_else(|error| File::open(user).map_err(|_| error))
}

/// ` (process 4242, started 12 min ago)`: a process that holds the lock; `None` if it is in another PID namespace.
fn owner(file: &File) -> Option<String> {
    let inode = file.metadata().ok()?.ino();
    let own = std::process::id().cast_signed();
    let locks = procfs::locks().ok()?;
    let pid = locks.iter().filter(|lock| lock.inode == inode).find_map(|lock| lock.pid.filter(|pid| *pid != own))?;
    let since = age(pid).map(|age| format!(", started {} min ago", age.as_secs() / 60)).unwrap_or_default();
    Some(format!(" (process {pid}{since})"))
}

/// How long ago a process started.
fn age(pid: i32) -> ProcResult<Duration> {
    let started = Process::new(pid)?.stat()?.starttime / procfs::ticks_per_second();
    Ok(Uptime::current()?.uptime_duration().saturating_sub(Duration::from_secs(started)))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::Future};

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// A file to lock, which stands for that of the machine, and another opening of it each time.
    fn files() -> (tempfile::NamedTempFile, impl Fn() -> io::Result<File>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        (file, move || File::open(&path))
    }

    #[test]
    fn the_second_waits_for_the_first_says_so_and_goes_on() {
        let (_file, open) = files();
        let said = RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let never = Cancel::never();
        run(async {
            let first = Alone::wait_for(open(), say, &never).await.unwrap();
            let second = Alone::wait_for(open(), say, &never);
            tokio::pin!(second);
            let early = tokio::time::timeout(POLL * 5, &mut second).await;
            assert!(early.is_err(), "{early:?}");
            drop(first);
            second.await.unwrap();
        });
        let said = said.into_inner();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("waiting for another memgate, which measures on this machine"), "{said:?}");
    }

    #[test]
    fn an_interrupt_ends_the_waiting() {
        let (_file, open) = files();
        let interrupted = Cancel::now();
        run(async {
            let _first = Alone::wait_for(open(), |_| {}, &interrupted).await.unwrap();
            let second = Alone::wait_for(open(), |_| {}, &interrupted).await;
            assert!(matches!(second, Err(Error::Interrupted)), "{second:?}");
        });
    }

    #[test]
    fn those_that_do_not_wait_run_side_by_side_and_one_that_waits_waits_for_all() {
        let (_file, open) = files();
        let said = RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let (first, second) = (Alone::at_once(open(), say), Alone::at_once(open(), say));
        assert_eq!(said.take(), Vec::<String>::new());
        let is_free = || open().unwrap().try_lock().is_ok();
        drop(first);
        assert!(!is_free());
        drop(second);
        let _waiting = run(Alone::wait_for(open(), say, &Cancel::never())).unwrap();
        let _beside = Alone::at_once(open(), say);
        assert!(said.take().concat().ends_with("the two disturb each other"));
    }

    #[test]
    fn a_machine_without_the_file_is_measured_on_with_a_line() {
        let said = RefCell::new(String::new());
        let missing = || Err(io::ErrorKind::NotFound.into());
        run(Alone::wait_for(missing(), |line| said.borrow_mut().push_str(line), &Cancel::never())).unwrap();
        assert!(said.take().contains("memgate does not see whether another memgate measures"));
        Alone::at_once(missing(), |line| said.borrow_mut().push_str(line));
        assert!(said.take().contains("memgate does not see whether another memgate measures"));
    }

    #[test]
    fn the_machine_has_the_file_and_the_kernel_tells_who_locks_it() {
        let file = open().unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.ino(), open().unwrap().metadata().unwrap().ino());
        let mut other = std::process::Command::new("flock")
            .args(["--shared", "--no-fork", FILES[0], "sleep", "60"])
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let by = format!("process {}, started 0 min ago", other.id());
        while !owner(&file).is_some_and(|owner| owner.contains(&by)) {
            assert!(std::time::Instant::now() < deadline, "{:?}", owner(&file));
            std::thread::sleep(Duration::from_millis(10));
        }
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
