//! Appends verdicts to a history file.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use memgate_evidence::error::{Error, InputError, Result};
use memgate_files::OutputError;
use memgate_verdict::{history::Line, results::Report};
use nix::unistd::{AccessFlags, access};

use super::{directory, read};
use crate::{account, git::Git, narrator::Narrator};

/// A history file to which verdicts are appended.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    /// The commit of the checkout, if there is one.
    commit: Option<String>,
}

impl History {
    /// Checks that the file can be appended to, which no measurement should end without, and finds the commit of the
    /// checkout that has the directory. Writes nothing.
    ///
    /// # Errors
    /// When the file's directory does not exist, or the file cannot be written or ends in the middle of a line.
    pub(crate) fn open(path: &Path, checkout: &Path, narrator: &Narrator) -> Result<Self> {
        ending(path)?;
        let checked = if path.exists() { path } else { directory(path) };
        access(checked, AccessFlags::W_OK).map_err(|error| failed(path, error.into()))?;
        let commit = commit(checkout).unwrap_or_else(|why| {
            narrator.say(&format!("the history gets no commit: {why}"));
            None
        });
        Ok(Self { path: path.to_owned(), commit })
    }

    /// Appends a line for each service and platform that was judged.
    ///
    /// # Errors
    /// When the file cannot be written, or ends in the middle of a line by now.
    pub(crate) fn append(&self, report: &Report) -> Result<()> {
        let commit = self.commit.as_deref();
        let lines = report.results.iter().map(|result| Line::of(result, &report.memgate, &report.judged_at, commit));
        for line in lines {
            append(&self.path, &line)?;
        }
        Ok(())
    }
}

/// Appends a line in one write, so that two jobs that append at once do not mix their lines.
fn append(path: &Path, line: &Line) -> Result<()> {
    let text = serde_json::to_string(line).map_err(|error| failed(path, error.into()))?;
    let bytes = match ending(path)? {
        Ending::Newline => format!("{text}\n"),
        Ending::WholeLine => format!("\n{text}\n"),
    };
    let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| failed(path, error))?;
    write_at_once(&mut file, bytes.as_bytes()).map_err(|error| failed(path, error))
}

fn write_at_once(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let written = loop {
        match file.write(bytes) {
            // Nothing is written yet.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if written == bytes.len() {
        return Ok(());
    }
    let message = format!("only {written} of the {} bytes of a line could be written; remove them", bytes.len());
    Err(io::Error::new(io::ErrorKind::WriteZero, message))
}

/// How a file ends.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// With a newline, or it is empty or not there.
    Newline,
    /// With a line that lacks only its newline, as an editor or a merge may leave it.
    WholeLine,
}

/// # Errors
/// When the file's directory does not exist, when a line has another schema, and when its last line is cut off: a new line behind it would hide what was
/// lost, and make a broken line in the middle of it.
fn ending(path: &Path) -> Result<Ending> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let message = format!("--history {}: this is a directory", path.display());
            return Err(InputError::new(message, "name a file, such as history.jsonl in it").into());
        }
        // A pipe or a device has no end to look at.
        Ok(metadata) if !metadata.is_file() => return Ok(Ending::Newline),
        Ok(_) => {}
        Err(_) if !directory(path).is_dir() => {
            let message = format!("--history {}: there is no directory {}", path.display(), directory(path).display());
            return Err(InputError::new(message, "make it first, or correct its name").into());
        }
        Err(_) => return Ok(Ending::Newline),
    }
    let bytes = read::bytes(path, read::MAX_BYTES)?;
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // `memgate history` refuses a file with lines of another schema, so nothing is appended to them.
    for (line, number) in lines.iter().zip(1..) {
        if let Err(problem @ read::Problem::Schema(_)) = read::line(line) {
            return Err(problem.at(path, number));
        }
    }
    let (last, number) = (lines.last().copied().unwrap_or_default(), lines.len());
    if last.trim_ascii().is_empty() {
        return Ok(Ending::Newline);
    }
    if read::line(last).is_ok() {
        return Ok(Ending::WholeLine);
    }
    let message = format!("{}:{number}: the last line is cut off, and nothing is appended to it", path.display());
    let help = format!("restore it, or remove it: `sed -i '$d' {}`; the lines before it stay", path.display());
    Err(InputError::new(message, help).into())
}

/// The commit that is checked out where the directory lies; `None` if it lies in no repository.
///
/// # Errors
/// Why git does not tell, if it lies in one.
fn commit(directory: &Path) -> Result<Option<String>, String> {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    if account::checkout(&directory).is_none() {
        return Ok(None);
    }
    let output = Git::reading(&directory)
        .and_then(|mut git| git.command.args(["rev-parse", "--verify", "HEAD^{commit}"]).output())
        .map_err(|error| format!("git cannot be started: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(Some(said(&output.stdout))) } else { Err(said(&output.stderr)) }
}

fn failed(path: &Path, source: io::Error) -> Error {
    OutputError::Path { path: path.to_owned(), option: "--history", source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes of each write.
    struct Full(Vec<u8>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(&bytes[..5]);
            Ok(5)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Is interrupted once.
    struct Interrupted(Option<Vec<u8>>);

    impl Write for Interrupted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match &mut self.0 {
                Some(written) => written.write(bytes),
                None => {
                    self.0 = Some(Vec::new());
                    Err(io::ErrorKind::Interrupted.into())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_write_or_an_error() {
        let mut full = Full(Vec::new());
        let error = write_at_once(&mut full, b"a whole line\n").unwrap_err();
        assert_eq!(full.0, b"a who", "the rest would be another write");
        assert!(error.to_string().contains("only 5 of the 13 bytes"), "{error}");
        let mut interrupted = Interrupted(None);
        write_at_once(&mut interrupted, b"a whole line\n").unwrap();
        assert_eq!(interrupted.0.unwrap(), b"a whole line\n");
    }

    #[test]
    fn a_directory_outside_of_any_repository_has_no_commit() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(commit(directory.path()), Ok(None));
        fs::create_dir(directory.path().join(".git")).unwrap();
        assert!(commit(directory.path()).unwrap_err().contains("not a git repository"));
    }
}
