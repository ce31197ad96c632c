//! The output of a process that memgate starts: a pipe, which a thread empties into a file of bounded size.
//!
//! A file alone would fill the disk, and in a guest it would be the service's own memory.

mod awaited;
mod hidden;

use std::{
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read as _},
    os::fd::AsFd as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use awaited::Awaited;
use hidden::Hidden;

use memgate_evidence::{plan::Account, secrets::Secrets};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{Gid, Uid, fchown},
};
use regex_lite::Regex;

use crate::log::LogEnd;

/// How much of an output is kept, bytes.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// The most that the file has.
    file: usize,
    /// The most that is kept of the start.
    start: usize,
    /// What is kept of the end when the file is full.
    end: usize,
}

/// The most that a file of output has, bytes.
pub(crate) const LARGEST_LOG: u64 = 16 << 20;

/// The start tells how a service was set up. The end tells how it ended: the stacks of ten thousand goroutines take some
/// 7 MiB. Half of the rest is free after each cut, so no byte is copied more than once on average.
const BOUNDS: Bounds = Bounds { file: 16 << 20, start: 1 << 20, end: 7 << 20 };

/// The most that one read takes from the pipe: all that a usual pipe holds, bytes.
const PIECE: usize = 64 << 10;

/// The output of a process and of those that it starts. Dropping it keeps what is in the pipe, and ends the thread.
#[derive(Debug)]
pub(crate) struct Output {
    log: PathBuf,
    shared: Arc<Shared>,
    /// The thread ends when this is closed.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the users of an output share.
#[derive(Debug)]
struct Shared {
    /// Reading it does not wait. The writers' end does, which is another file for the kernel.
    pipe: PipeReader,
    /// Whoever holds this reads the pipe, so its bytes keep their order.
    kept: Mutex<Kept>,
}

/// The file, and why it is not complete.
#[derive(Debug)]
struct Kept {
    /// What a read puts there.
    piece: Box<[u8]>,
    log: Bounded,
    failure: Option<io::Error>,
    line: Line,
    hidden: Hidden,
}

/// Whether a line that memgate waits for has been printed.
#[derive(Debug)]
enum Line {
    /// memgate waits for none.
    None,
    Awaited(Awaited),
    Seen,
}

/// Whether there may be more output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes were read.
    Read(usize),
    /// The pipe is empty.
    Empty,
    /// Nobody can write to the pipe any more.
    Ended,
}

impl Output {
    /// Makes the file `log` anew and starts to keep there what is written to the pipe, which belongs to the user who
    /// writes, so that `/dev/stdout` can be opened again. Returns the writers' end.
    ///
    /// # Errors
    /// Fails if the file or the pipe cannot be made.
    pub(crate) fn to(log: &Path, account: Option<&Account>) -> io::Result<(Self, PipeWriter)> {
        Self::bounded(log, account, BOUNDS)
    }

    fn bounded(log: &Path, account: Option<&Account>, bounds: Bounds) -> io::Result<(Self, PipeWriter)> {
        let kept = Kept {
            piece: vec![0; PIECE].into(),
            log: Bounded::create(log, bounds)?,
            failure: None,
            line: Line::None,
            hidden: Hidden::default(),
        };
        let (pipe, writer) = io::pipe()?;
        if let Some(account) = account {
            fchown(&writer, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
        }
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let shared = Arc::new(Shared { pipe, kept: Mutex::new(kept) });
        let (stopped, stop) = io::pipe()?;
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.keep_all(&stopped)
        })?;
        Ok((Self { log: log.to_owned(), shared, stop: Some(stop), thread: Some(thread) }, writer))
    }

    /// The file.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for a line that matches the pattern from now on, so call this before anything is written.
    pub(crate) fn await_line(&self, pattern: Regex) {
        self.shared.lock().line = Line::Awaited(Awaited::new(pattern));
    }

    /// Puts something else in place of these from now on, so call this before anything is written.
    pub(crate) fn hide(&self, secrets: &Secrets) {
        self.shared.lock().hidden = Hidden::new(secrets);
    }

    /// Whether the awaited line has been written.
    pub(crate) fn has_line(&self) -> bool {
        self.settle();
        matches!(self.shared.lock().line, Line::Seen)
    }

    /// The last lines of what was written before this call.
    pub(crate) fn end(&self) -> LogEnd {
        self.settle();
        LogEnd::of(&self.shared.lock().log.file)
    }

    /// The first `most` bytes of what was written before this call, as text.
    pub(crate) fn start(&self, most: usize) -> String {
        self.settle();
        let kept = self.shared.lock();
        let mut start = vec![0; most.min(kept.log.length)];
        // A log that cannot be read is an empty one: whoever asks wants a hint.
        if kept.log.file.read_exact_at(&mut start, 0).is_err() {
            start.clear();
        }
        String::from_utf8_lossy(&start).into_owned()
    }

    /// Brings what was written before this call into the file. Another process may still write: this does not wait for
    /// its end.
    pub(crate) fn settle(&self) {
        // No more can be in the pipe now.
        let mut left =
            fcntl(&self.shared.pipe, FcntlArg::F_GETPIPE_SZ).map_or(PIECE, |size| size.unsigned_abs() as usize);
        while let State::Read(read) = self.shared.keep()
            && read < left
        {
            left -= read;
        }
    }

    /// Why the file is not complete, if it is not.
    pub(crate) fn failure(&self) -> Option<String> {
        let kept = self.shared.lock();
        kept.failure.as_ref().map(|error| format!("{} is not complete: {error}", self.log.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.settle();
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported, and there is nothing left to keep.
            let _ = thread.join();
        }
        let Kept { log, failure, hidden, .. } = &mut *self.shared.lock();
        if failure.is_none() {
            *failure = log.append(&hidden.end()).err();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is written until there are no writers, or until the writers' end of `stopped` is closed.
    fn keep_all(&self, stopped: &PipeReader) {
        loop {
            let mut ready = [self.pipe.as_fd(), stopped.as_fd()].map(|pipe| PollFd::new(pipe, PollFlags::POLLIN));
            // The only failure is a signal's, and then the pipe is read without need.
            let _: nix::Result<i32> = poll(&mut ready, PollTimeout::NONE);
            if ready[1].any().unwrap_or(false) || self.keep() == State::Ended {
                return;
            }
        }
    }

    /// Keeps what one read of the pipe gives. If the file cannot be written, the pipe is read nevertheless, because a
    /// service must not wait for it.
    fn keep(&self) -> State {
        let mut kept = self.lock();
        let Kept { piece, log, failure, line, hidden } = &mut *kept;
        match (&self.pipe).read(piece) {
            Ok(0) => State::Ended,
            Ok(read) => {
                if let Line::Awaited(awaited) = line
                    && awaited.sees(&piece[..read])
                {
                    *line = Line::Seen;
                }
                if failure.is_none() {
                    *failure = log.append(&hidden.pass(&piece[..read])).err();
                }
                State::Read(read)
            }
            Err(_) => State::Empty,
        }
    }
}

/// A file that keeps the start and the end of what is appended to it, with a line between them that counts the rest. It
/// is never larger than its bounds, and has the last bytes at any time.
#[derive(Debug)]
struct Bounded {
    file: File,
    bounds: Bounds,
    length: usize,
    cut: Option<Cut>,
}

/// Where bytes are left out.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// The length of the start that is kept.
    start: usize,
    /// The length of the line that tells it.
    line: usize,
    left_out: u64,
}

impl Bounded {
    /// A new file in the place of what was there.
    fn create(path: &Path, bounds: Bounds) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, bounds, length: 0, cut: None })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(self.bounds.end) {
            if self.length + piece.len() > self.bounds.file {
                self.leave_out()?;
            }
            self.file.write_all_at(piece, self.length as u64)?;
            self.length += piece.len();
        }
        Ok(())
    }

    /// Leaves out what lies between the start and the end. Both consist of whole lines, unless a line is longer.
    fn leave_out(&mut self) -> io::Result<()> {
        let Cut { start, line, left_out } = match self.cut {
            Some(cut) => cut,
            None => Cut { start: self.start()?, line: 0, left_out: 0 },
        };
        let mut end = vec![0; self.bounds.end];
        self.file.read_exact_at(&mut end, (self.length - self.bounds.end) as u64)?;
        let part = end.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1) % end.len();
        let end = &end[part..];
        let left_out = left_out + (self.length - start - line - end.len()) as u64;
        let said = format!("\n[memgate: {left_out} bytes are left out here]\n");
        self.file.write_all_at(said.as_bytes(), start as u64)?;
        self.file.write_all_at(end, (start + said.len()) as u64)?;
        self.length = start + said.len() + end.len();
        self.file.set_len(self.length as u64)?;
        self.cut = Some(Cut { start, line: said.len(), left_out });
        Ok(())
    }

    /// The length of the start that is kept.
    fn start(&self) -> io::Result<usize> {
        let mut start = vec![0; self.bounds.start];
        self.file.read_exact_at(&mut start, 0)?;
        Ok(start.iter().rposition(|byte| *byte == b'\n').map_or(start.len(), |newline| newline + 1))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::child::{self, Pen};

    const SMALL: Bounds = Bounds { file: 200, start: 20, end: 60 };

    /// A shell's output, and the shell.
    struct Shell {
        output: Output,
        child: std::process::Child,
        directory: tempfile::TempDir,
    }

    impl Shell {
        fn of(script: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (output, pipe) = Output::to(&directory.path().join("service.log"), None).unwrap();
            let child = command(script, pipe).spawn().unwrap();
            Self { output, child, directory }
        }

        /// The log after the end of the shell and the drop of its output.
        fn log(mut self) -> String {
            assert!(self.child.wait().unwrap().success());
            drop(self.output);
            fs::read_to_string(self.directory.path().join("service.log")).unwrap()
        }
    }

    fn command(script: &str, pipe: PipeWriter) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stderr(pipe.try_clone().unwrap()).stdout(pipe);
        command
    }

    /// The start, the number of bytes that are left out, and the end.
    fn parts(log: &[u8]) -> Option<(&[u8], u64, &[u8])> {
        let find =
            |text: &[u8], from: usize| Some(from + log[from..].windows(text.len()).position(|part| part == text)?);
        let (said, rest) = (b"\n[memgate: ", b" bytes are left out here]\n");
        let line = find(said, 0)?;
        let number = line + said.len();
        let after = find(rest, number)?;
        let count = std::str::from_utf8(&log[number..after]).unwrap().parse().unwrap();
        Some((&log[..line], count, &log[after + rest.len()..]))
    }

    #[test]
    fn of_100_mb_the_start_and_the_end_are_kept() {
        const LINES: u64 = 12_000_000;
        let log = Shell::of(&format!("seq 1 {LINES}")).log();
        let length: u64 = (1..=LINES).map(|line| u64::from(line.ilog10()) + 2).sum();
        assert!(length > 90_000_000 && log.len() as u64 <= LARGEST_LOG, "{length} {}", log.len());
        let (start, left_out, end) = parts(log.as_bytes()).unwrap();
        assert!(start.starts_with(b"1\n2\n") && start.len() > (1 << 20) - 10, "{}", start.len());
        assert!(end.ends_with(b"\n11999999\n12000000\n") && end.len() >= (7 << 20) - 10, "{}", end.len());
        assert_eq!(start.len() as u64 + left_out + end.len() as u64, length);
    }

    proptest! {
        #[test]
        fn a_file_is_never_larger_than_its_bounds_and_has_the_start_and_the_end_of_any_bytes(
            pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![b'\n', b'a', 0xff]), 0..90), 0..40)
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let mut log = Bounded::create(&path, SMALL).unwrap();
            let mut all = Vec::new();
            for piece in &pieces {
                log.append(piece).unwrap();
                all.extend(piece);
                let kept = fs::read(&path).unwrap();
                prop_assert!(kept.len() <= SMALL.file, "{}", kept.len());
                match parts(&kept) {
                    None => prop_assert_eq!(&kept, &all),
                    Some((start, left_out, end)) => {
                        prop_assert!(all.starts_with(start) && all.ends_with(end));
                        prop_assert_eq!(start.len() as u64 + left_out + end.len() as u64, all.len() as u64);
                        prop_assert!(all.len() > SMALL.file);
                        prop_assert!(start.len() == SMALL.start || start.ends_with(b"\n"), "the start is of whole lines");
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_longer_than_the_bounds_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Bounded::create(&path, SMALL).unwrap();
        log.append(&[b'x'; 1000]).unwrap();
        log.append(b"y").unwrap();
        let kept = fs::read(&path).unwrap();
        let (start, left_out, end) = parts(&kept).unwrap();
        assert_eq!((start.len(), left_out), (SMALL.start, 1001 - (SMALL.start + end.len()) as u64));
        assert!(end.len() >= SMALL.end && end.ends_with(b"xy"), "{end:?}");
    }

    #[test]
    fn the_last_words_before_a_kill_are_there() {
        for _ in 0..20 {
            let mut shell = Shell::of("echo the last words; kill -KILL $$");
            shell.child.wait().unwrap();
            assert_eq!(shell.output.end().to_string(), "; its output:\n| the last words");
        }
    }

    #[test]
    fn a_process_that_keeps_the_pipe_is_not_waited_for() {
        for holder in ["sleep 1000 &", "yes &"] {
            let mut shell = Shell::of(&format!("echo first; {holder} echo $! >&2; exit 0"));
            assert!(shell.child.wait().unwrap().success());
            let begun = Instant::now();
            shell.output.settle();
            let log = fs::read_to_string(shell.output.log()).unwrap();
            let pid = log.lines().find_map(|line| line.parse().ok()).unwrap();
            drop(shell.output);
            assert!(begun.elapsed() < Duration::from_secs(100));
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
            assert!(log.starts_with("first\n"), "{}", &log[..100.min(log.len())]);
        }
    }

    #[test]
    fn lines_are_in_the_file_while_the_process_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (output, mut pipe) = Output::to(&path, None).unwrap();
        pipe.write_all(b"a line\n").unwrap();
        let begun = Instant::now();
        while fs::read(&path).unwrap() != b"a line\n" {
            assert!(begun.elapsed() < Duration::from_secs(100));
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(output);
    }

    #[test]
    fn an_awaited_line_is_seen_wherever_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let start = |pattern, script| {
            let (output, pipe) = Output::to(&directory.path().join("log"), None).unwrap();
            output.await_line(Regex::new(pattern).unwrap());
            (output, command(script, pipe).spawn().unwrap())
        };
        let (output, mut child) = start("^ready$", "seq 1 20000; printf 'rea'; sleep 0.1; echo dy; sleep 1000");
        let begun = Instant::now();
        while !output.has_line() {
            assert!(begun.elapsed() < Duration::from_secs(100));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (output, mut child) = start("steady", "echo ready");
        child.wait().unwrap();
        assert!(!output.has_line());
    }

    #[test]
    fn secrets_are_hidden_in_the_file_and_not_from_who_waits_for_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (output, mut pipe) = Output::to(&path, None).unwrap();
        let mut secrets = Secrets::default();
        secrets.add("hunter2");
        output.hide(&secrets);
        output.await_line(Regex::new("^with hunter2$").unwrap());
        for piece in ["with hun", "ter2\nand hunter2 hunte"] {
            pipe.write_all(piece.as_bytes()).unwrap();
            output.settle();
        }
        assert_eq!(output.end().to_string(), "; the end of its output:\n| with ***\n| and ***");
        assert!(output.has_line());
        drop(output);
        assert_eq!(fs::read_to_string(path).unwrap(), "with ***\nand *** ***");
    }

    #[test]
    fn a_file_that_cannot_be_written_stops_no_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (output, pipe) = Output::to(&path, None).unwrap();
        output.shared.kept.lock().unwrap().log.file = File::open(&path).unwrap();
        assert_eq!(output.failure(), None);
        assert!(command("seq 1 100000", pipe).status().unwrap().success());
        output.settle();
        let failure = output.failure().unwrap();
        assert!(failure.ends_with("log is not complete: Bad file descriptor (os error 9)"), "{failure}");
    }

    #[test]
    fn what_was_there_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "log"].map(|name| directory.path().join(name));
        fs::write(&target, "of another").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let (output, mut pipe) = Output::to(&link, None).unwrap();
        pipe.write_all(b"own\n").unwrap();
        drop(output);
        assert_eq!([&target, &link].map(|file| fs::read_to_string(file).unwrap()), ["of another", "own\n"]);
    }

    #[test]
    fn another_user_can_open_its_standard_output_again() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let nobody = Account { name: "nobody".to_owned(), uid: 65534, gid: 65534, groups: vec![], home: "/".into() };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (output, pipe) = Output::to(&path, Some(&nobody)).unwrap();
        let pen = Pen::make();
        let mut shell = command("id -u; echo again > /dev/stdout; echo error > /dev/stderr", pipe);
        child::confine(&mut shell, &pen, Some(&nobody), Path::new("/")).unwrap();
        assert!(shell.status().unwrap().success());
        drop(shell);
        drop(output);
        assert_eq!(fs::read_to_string(path).unwrap(), "65534\nagain\nerror\n");
    }
}
