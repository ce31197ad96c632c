//! What `memgate init` says at its end: what it found, and what comes next.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use memgate_report::shell_word;

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
        let baselines = file.parent().map_or_else(PathBuf::new, |parent| parent.join("baselines"));
        let word = |path: &Path| shell_word(&path.display().to_string());
        let (config, record) = match file == Path::new(super::target::NAME) {
            true => (String::new(), String::new()),
            false => (format!(" -c {}", word(file)), format!(" --baselines {}", word(&baselines))),
        };
        let sudo = if self.can_attach { "" } else { "sudo env \"PATH=$PATH\" " };
        let ready = self.entries.iter().filter(|entry| !entry.is_open).count();
        let service = match (self.entries.iter().find(|entry| !entry.is_open), self.entries.len()) {
            (Some(entry), 2..) if ready < self.entries.len() => format!(" --service {}", entry.name),
            _ => String::new(),
        };
        let complete = if ready == 0 { "complete the file, and then:" } else { "next:" };
        writeln!(text, "\n{complete}\n  {sudo}memgate check{config}{service}")?;
        writeln!(
            text,
            "  memgate baseline record target/memgate{record}    # and commit {}/ with the file",
            baselines.display()
        )?;
        writeln!(text, "\nin .gitignore:\n  /target/")?;
        writeln!(
            text,
            "\nin CI, as root (memgate's documentation has a whole workflow):\n  memgate check{config} --format \
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, is_open: bool) -> Entry {
        Entry {
            name: name.to_owned(),
            dir: PathBuf::new(),
            package: ".".to_owned(),
            build_env: [].into(),
            about: Vec::new(),
            printed: Vec::new(),
            how: super::super::render::How::default(),
            variables: [].into(),
            ready: "http://127.0.0.1:8080/".to_owned(),
            ready_note: String::new(),
            rate: 200,
            rate_note: String::new(),
            requests: vec!["http://127.0.0.1:8080/".to_owned()],
            requests_note: String::new(),
            aside: Vec::new(),
            is_open,
        }
    }

    #[test]
    fn what_comes_next_depends_on_what_was_found() {
        let text = |file: Option<&str>, entries: &[Entry], can_attach| {
            let left_out = ["cmd/tool: it imports no `net`, so that it listens nowhere".to_owned()];
            Closing { file: file.map(Path::new), entries, left_out: &left_out, can_attach }.text()
        };
        let [open, ready] = [entry("pay", true), entry("api", false)];
        insta::assert_snapshot!(text(Some("memgate.yaml"), &[open.clone(), ready.clone()], true));
        let others = text(Some("deploy/memgate.yaml"), std::slice::from_ref(&ready), false);
        let next = "\nnext:\n  sudo env \"PATH=$PATH\" memgate check -c deploy/memgate.yaml\n  memgate baseline record \
                    target/memgate --baselines deploy/baselines    # and commit deploy/baselines/ with the file\n";
        assert!(others.contains(next), "{others}");
        let others = text(Some("my app's/memgate.yaml"), &[ready], true);
        let next = "memgate check -c 'my app'\\''s/memgate.yaml'\n  memgate baseline record target/memgate --baselines \
                    'my app'\\''s/baselines' ";
        assert!(others.contains(next), "{others}");
        assert!(
            text(Some("memgate.yaml"), std::slice::from_ref(&open), true).contains("\ncomplete the file, and then:\n")
        );
        assert_eq!(text(None, &[open], true).lines().count(), 2, "a file that is printed has no next command");
    }
}
