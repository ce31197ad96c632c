//! A guest's console: written to a file of limited length, and searched for a kernel panic.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

/// How much of the console's start is kept, bytes.
const HEAD: usize = 4 << 20;
/// How much of its end is kept if it is longer, bytes.
const TAIL: usize = 1 << 20;
/// The longest line that is searched, bytes.
const LINE: usize = 4096;

/// Receives a console's bytes.
#[derive(Debug)]
pub(crate) struct Console {
    file: File,
    head: usize,
    tail: VecDeque<u8>,
    dropped: u64,
    line: Vec<u8>,
}

impl Console {
    /// Starts a new file at `path`.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, head: 0, tail: VecDeque::new(), dropped: 0, line: Vec::new() })
    }

    /// Adds received bytes. Returns the line with the kernel's panic, if they complete one.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<Option<String>> {
        let panic = self.lines(bytes);
        let head = bytes.len().min(HEAD - self.head);
        self.file.write_all(&bytes[..head])?;
        self.head += head;
        self.tail.extend(&bytes[head..]);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
        self.dropped += over as u64;
        Ok(panic)
    }

    /// Writes the rest.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.dropped > 0 {
            write!(self.file, "\n[memgate: {} bytes left out]\n", self.dropped)?;
        }
        let tail = std::mem::take(&mut self.tail);
        self.dropped = 0;
        let (first, second) = tail.as_slices();
        self.file.write_all(first)?;
        self.file.write_all(second)
    }

    fn lines(&mut self, bytes: &[u8]) -> Option<String> {
        let mut panic = None;
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim().to_owned();
                self.line.clear();
                if panic.is_none() {
                    panic = panic_line(&line);
                }
            } else if self.line.len() < LINE {
                self.line.push(*byte);
            }
        }
        panic
    }
}

/// The message of `panic()` (kernel/panic.c), without the time before it. It starts its line. A program's output can
/// look the same only if the program has the console to itself.
fn panic_line(line: &str) -> Option<String> {
    const PANIC: &str = "Kernel panic - not syncing";
    let message = line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |(_, message)| message);
    message.starts_with(PANIC).then(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_seen_across_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let mut console = Console::create(&directory.path().join("console.log")).unwrap();
        assert_eq!(console.push(b"[    1.5] Run /init\r\n[    1.7] Kernel pan").unwrap(), None);
        let panic = console.push(b"ic - not syncing: Attempted to kill init! exitcode=0x00000009\r\n").unwrap();
        assert_eq!(panic.as_deref(), Some("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"));
        assert_eq!(console.push(b"service: Kernel panic - not syncing\n").unwrap(), None);
    }

    #[test]
    fn a_flood_leaves_its_start_and_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut console = Console::create(&directory.path().join("console.log")).unwrap();
        for number in 0..1_000_000 {
            console.push(format!("line {number}\n").as_bytes()).unwrap();
        }
        console.finish().unwrap();
        let text = std::fs::read_to_string(directory.path().join("console.log")).unwrap();
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 999999\n"));
        assert!(text.contains("bytes left out") && text.len() < HEAD + TAIL + 100, "{}", text.len());
    }
}
