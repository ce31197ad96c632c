//! What `memgate init` says at its end: what it found, and what comes next.

use std::{fmt::Write as _, path::Path};

use super::render::Entry;

/// What the text is about.
pub(super) struct Closing<'a> {
    /// The file for people; `None` if it was printed.
    pub(super) file: Option<&'a Path>,
    pub(super) entries: &'a [Entry],
    /// Programs that are not in the file, with the reason.
    pub(super) left_out: &'a [String],
    /// Whether memgate can put probes on services as whoever starts it.
    pub(super) can_attach: bool,
}

impl Closing<'_> {
    /// The text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        if let Some(file) = self.file {
            writeln!(text, "wrote {}", file.display())?;
        }
        for entry in self.entries {
            match entry.is_open {
                false => writeln!(text, "  {}: {} in its load, {}/s", entry.name, requests(entry), entry.rate)?,
                true => writeln!(text, "  {}: to be completed; its comments in the file say how", entry.name)?,
            }
        }
        for line in self.left_out {
            writeln!(text, "  left out: {line}")?;
        }
        let Some(file) = self.file else { return Ok(()) };
        let config =
            if file == Path::new(super::target::NAME) { String::new() } else { format!(" -c {}", file.display()) };
        let sudo = if self.can_attach { "" } else { "sudo env \"PATH=$PATH\" " };
        let ready = self.entries.iter().filter(|entry| !entry.is_open).count();
        let service = match (self.entries.iter().find(|entry| !entry.is_open), self.entries.len()) {
            (Some(entry), 2..) if ready < self.entries.len() => format!(" --service {}", entry.name),
            _ => String::new(),
        };
        let complete = if ready == 0 { "complete the file, and then:" } else { "next:" };
        writeln!(text, "\n{complete}\n  {sudo}memgate check{config}{service}")?;
        writeln!(text, "  memgate baseline record target/memgate    # and commit baselines/ with the file")?;
        writeln!(text, "\nin .gitignore:\n  /target/")?;
        writeln!(
            text,
            "\nin CI, as root (docs/how-to/github-actions.md has a whole workflow):\n  memgate check{config} --format \
             terminal --format junit=memgate.xml"
        )
    }
}

fn requests(entry: &Entry) -> String {
    match entry.requests.len() {
        1 => "1 request".to_owned(),
        many => format!("{many} requests"),
    }
}
