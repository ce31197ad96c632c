//! The text of a memgate.yaml, with a comment at every choice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
};

use memgate_config::{self as config, Config, Executable};
use memgate_evidence::{
    error::{InputError, Result},
    plan::{Load, ReadyBy, Request, Transport},
};

use super::programs::shown;

/// The width of comments.
const WIDTH: usize = 110;

/// How a service is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct How {
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// The working directory, as a path from the file's; empty for that one itself.
    pub(super) directory: PathBuf,
    /// Why it is started so, if it is not as simple as possible.
    pub(super) why: Option<String>,
    /// Whether the arguments are a command of the program's, such as `serve`.
    pub(super) is_command: bool,
}

/// A request that is not in the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aside {
    /// A method that a request can have in memgate.yaml, in small letters.
    pub(super) method: &'static str,
    pub(super) url: String,
    pub(super) why: String,
}

/// A service of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where `go build` runs, as a path from the file's directory.
    pub(super) dir: PathBuf,
    pub(super) package: String,
    pub(super) build_env: BTreeMap<String, String>,
    /// What memgate saw.
    pub(super) about: Vec<String>,
    /// The last lines of what the service printed, if it has to be completed by hand.
    pub(super) printed: Vec<String>,
    pub(super) how: How,
    /// Variables that the sources read, if the service has to be completed by hand.
    pub(super) variables: BTreeSet<String>,
    pub(super) ready: String,
    pub(super) ready_note: String,
    /// Requests in a second.
    pub(super) rate: u32,
    pub(super) rate_note: String,
    /// URLs, at least one.
    pub(super) requests: Vec<String>,
    pub(super) requests_note: String,
    pub(super) aside: Vec<Aside>,
    /// Whether somebody has to complete it.
    pub(super) is_open: bool,
}

/// The text of the file.
pub(super) fn file(entries: &[Entry]) -> String {
    let mut text = String::from(
        "# What `memgate check` builds, runs, loads and judges, as `memgate init` found it. Keys behind a `#` are optional.\n\
         # `memgate schema config` prints all of them.\nversion: 1\nservices:\n",
    );
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = entry.write(&mut text);
    }
    text
}

impl Entry {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        for line in &self.about {
            text.push_str(&comment("  ", line));
        }
        for line in &self.printed {
            writeln!(text, "  #   {}", plain(line))?;
        }
        writeln!(text, "  {}:", self.name)?;
        self.write_build(text)?;
        self.write_run(text)?;
        self.write_load(text)?;
        text.push_str(&comment(
            "    ",
            "What a check takes; these are the defaults. A longer `measure` finds smaller growth.",
        ));
        writeln!(text, "    # phases: {{ warmup: 30s, measure: 60s, drain: 10s }}")
    }

    fn write_build(&self, text: &mut String) -> std::fmt::Result {
        let env = match self.build_env.is_empty() {
            true => String::new(),
            false => format!(", env: {}", map(&self.build_env)),
        };
        if !self.build_env.is_empty() {
            text.push_str(&comment("    ", "The module is not in the go.work above it."));
        }
        writeln!(text, "    build: {{ dir: {}, package: {}{env} }}", path(&self.dir), scalar(&self.package))
    }

    fn write_run(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "    run:")?;
        if let Some(why) = &self.how.why {
            text.push_str(&comment("      ", why));
        }
        if !self.how.args.is_empty() {
            let args: Vec<_> = self.how.args.iter().map(|arg| quoted(arg)).collect();
            writeln!(text, "      args: [{}]", args.join(", "))?;
        }
        if !self.how.env.is_empty() {
            writeln!(text, "      env: {}", map(&self.how.env))?;
        }
        if !self.how.directory.as_os_str().is_empty() {
            writeln!(text, "      directory: {}", path(&self.how.directory))?;
        }
        if self.is_open {
            self.write_what_to_fill_in(text)?;
        }
        text.push_str(&comment("      ", &self.ready_note));
        writeln!(text, "      ready: {{ http: {} }}", quoted(&self.ready))?;
        text.push_str(&comment("      ", "The kernel kills the service above this limit; give it production's."));
        writeln!(text, "      # memory_max: 256MiB")
    }

    /// The keys with which a service gets what it lacks.
    fn write_what_to_fill_in(&self, text: &mut String) -> std::fmt::Result {
        text.push_str(&comment(
            "      ",
            "Give the service here what it needs to start: arguments, variables that everybody may read, and names of \
             variables that memgate passes on, such as passwords.",
        ));
        if self.how.args.is_empty() {
            writeln!(text, "      # args: [\"-config\", \"config.yaml\"]")?;
        }
        if self.how.env.is_empty() {
            writeln!(text, "      # env: {{ NAME: \"value\" }}")?;
        }
        writeln!(text, "      # pass_env: [PASSWORD]")?;
        if !self.variables.is_empty() {
            let names: Vec<_> = self.variables.iter().map(String::as_str).take(40).collect();
            text.push_str(&comment("      ", &format!("Its sources read these variables: {}.", names.join(", "))));
        }
        Ok(())
    }

    fn write_load(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "    load:")?;
        text.push_str(&comment("      ", &self.rate_note));
        writeln!(text, "      rate: {}/s", self.rate)?;
        text.push_str(&comment("      ", &self.requests_note));
        writeln!(text, "      requests:")?;
        for url in &self.requests {
            writeln!(text, "        - {{ get: {} }}", quoted(url))?;
        }
        if !self.aside.is_empty() {
            text.push_str(&comment("        ", "Not in the load, with the reason:"));
        }
        for Aside { method, url, why } in &self.aside {
            writeln!(text, "        # - {{ {method}: {} }}  # {}", quoted(url), plain(why))?;
        }
        Ok(())
    }
}

/// Reads the text as memgate reads the file, and checks that it says what is meant. What a service prints or is called
/// must not become configuration.
///
/// # Errors
/// When the text is no configuration, or another one.
pub(super) fn read(text: &str, file: &Path, entries: &[Entry]) -> Result<Config> {
    let config = config::parse(file, text)?;
    let is_as_meant = config.services.len() == entries.len()
        && config.platforms.is_empty()
        && entries.iter().all(|entry| {
            let service = config.services.get(&entry.name);
            service.is_some_and(|service| entry.is(service, file.parent().unwrap_or(Path::new(""))))
        });
    if is_as_meant {
        return Ok(config);
    }
    let message = format!("{}: the text that memgate made is not what it means", file.display());
    Err(InputError::new(message, "please report this with the output of `memgate init --print`").into())
}

impl Entry {
    /// Whether a service of a file in this directory is what is written of the entry, and nothing else.
    fn is(&self, service: &config::Service, directory: &Path) -> bool {
        let at = |path: &Path| std::path::absolute(directory.join(path)).ok();
        let (Executable::Build(build), Load::Http(load)) = (&service.executable, &service.load) else { return false };
        let is_built = Some(&build.dir) == at(&self.dir).as_ref()
            && build.package == self.package
            && build.env == self.build_env
            && build.pass_env.is_empty();
        let run = &service.run;
        let is_run = Some(&run.directory) == at(&self.how.directory).as_ref()
            && run.args == self.how.args
            && run.env == self.how.env
            && run.pass_env.is_empty()
            && run.user.is_none()
            && run.watch.is_none()
            && run.memory_max.is_none()
            && run.ready.by == ReadyBy::Http(self.ready.clone());
        let is_loaded = load.rate_per_second.total_cmp(&f64::from(self.rate)).is_eq()
            && load.transport == Transport::default()
            && load.rows.is_none()
            && load.requests.iter().cloned().eq(self.requests.iter().map(Request::get));
        is_built && is_run && is_loaded && service.sidecars.is_empty() && service.before.is_empty()
    }
}

/// The text as lines of a comment.
fn comment(indent: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut line = format!("{indent}#");
    let empty = line.len();
    for word in plain(text).split(' ').filter(|word| !word.is_empty()) {
        if line.len() > empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line.truncate(empty);
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// The text on one line: without control characters, and without what YAML takes for the end of a line.
fn plain(text: &str) -> String {
    let is_bad = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.chars().map(|character| if is_bad(character) { ' ' } else { character }).collect()
}

fn map(values: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = values.iter().map(|(name, value)| format!("{}: {}", scalar(name), quoted(value))).collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn path(path: &Path) -> String {
    scalar(&shown(path))
}

/// Text without quotes if it cannot be anything but text, and with quotes else.
fn scalar(text: &str) -> String {
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-".contains(&byte);
    let is_path = text == "." || text.starts_with("./") || text.contains('/');
    let is_name = text.len() > 3
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        && text != "TRUE"
        && text != "FALSE"
        && text != "NULL";
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '.');
    if (is_path || is_name) && begins_well && text.bytes().all(may_be) { text.to_owned() } else { quoted(text) }
}

/// Text in double quotes. JSON's are YAML's (YAML 1.2.2, 7.3.1).
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    // JSON leaves these as they are, and YAML forbids them.
    json.chars().fold(String::new(), |mut quoted, character| {
        match u32::from(character) {
            code @ (0x7f..=0x9f | 0x2028 | 0x2029 | 0xfeff) => {
                let _ = write!(quoted, "\\u{code:04x}");
            }
            _ => quoted.push(character),
        }
        quoted
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "api".to_owned(),
            dir: PathBuf::new(),
            package: "./cmd/api".to_owned(),
            build_env: BTreeMap::new(),
            about: vec!["cmd/api: it listens at 127.0.0.1:8080.".to_owned()],
            printed: Vec::new(),
            how: How::default(),
            variables: BTreeSet::new(),
            ready: "http://127.0.0.1:8080/healthz".to_owned(),
            ready_note: "The service is ready when this answers with a status below 400. It answered 200.".to_owned(),
            rate: 200,
            rate_note: "The requests that start in a second.".to_owned(),
            requests: vec!["http://127.0.0.1:8080/hello".to_owned()],
            requests_note: "Each answered a GET with 2xx.".to_owned(),
            aside: vec![Aside {
                method: "post",
                url: "http://127.0.0.1:8080/login".to_owned(),
                why: "cmd/api/main.go:12: it is no GET".to_owned(),
            }],
            is_open: false,
        }
    }

    /// A service that does not start by itself.
    fn open() -> Entry {
        Entry {
            name: "pay".to_owned(),
            dir: "services/pay".into(),
            package: ".".to_owned(),
            build_env: [("GOWORK".to_owned(), "off".to_owned())].into(),
            about: vec!["services/pay: it exited with code 1. The last lines that it printed:".to_owned()],
            printed: vec!["| dial tcp 127.0.0.1:5432: connect: connection refused".to_owned()],
            how: How {
                args: vec!["serve".to_owned()],
                env: [("PORT".to_owned(), "8080".to_owned())].into(),
                directory: "services/pay".into(),
                why: Some("Its help names the command `serve`.".to_owned()),
                is_command: true,
            },
            variables: ["DATABASE_URL".to_owned()].into(),
            is_open: true,
            ..entry()
        }
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("services/pay")).unwrap();
        directory
    }

    #[test]
    fn a_file_has_a_comment_at_every_choice() {
        let entries = [entry(), open()];
        let text = file(&entries);
        read(&text, &directory().path().join("memgate.yaml"), &entries).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn text_that_means_something_else_is_refused() {
        let text = file(&[entry()]);
        let directory = directory();
        let place = directory.path().join("memgate.yaml");
        let at = |path: &str| PathBuf::from(path);
        let others = [
            open(),
            Entry { dir: at("services/pay"), ..entry() },
            Entry { how: How { directory: at("services"), ..How::default() }, ..entry() },
            Entry { rate: 201, ..entry() },
            Entry { ready: "http://127.0.0.1:8080/".to_owned(), ..entry() },
            Entry { requests: vec![], ..entry() },
        ];
        for other in others {
            let error = read(&text, &place, &[other]).unwrap_err();
            assert!(error.to_string().ends_with("the text that memgate made is not what it means"), "{error}");
        }
        // A name that is no text is written as another one, which may be there too.
        let foreign = Entry { dir: std::ffi::OsString::from_vec(b"\xff".to_vec()).into(), ..entry() };
        std::fs::create_dir(directory.path().join(shown(&foreign.dir))).unwrap();
        assert!(read(&file(std::slice::from_ref(&foreign)), &place, &[foreign]).is_err());
    }

    #[test]
    fn scalars_are_quoted_where_they_could_be_something_else() {
        for plain in [".", "./cmd/api", "services/pay", "PORT"] {
            assert_eq!(scalar(plain), plain);
        }
        for text in ["true", "NULL", "12", "a b/c", "-x/y", "a: b/c", "", "ü/x", "NO"] {
            assert_eq!(scalar(text), quoted(text), "{text}");
        }
        assert_eq!(quoted("a\"\u{85}\n"), r#""a\"\u0085\n""#);
    }

    proptest! {
        /// Nothing that a service prints, is called or takes becomes configuration.
        #[test]
        fn any_text_stays_what_it_is(texts in proptest::collection::vec("(\\PC|[\u{0}-\u{ff}]|\n|: |# |\u{2028}|\u{feff}){0,20}", 6)) {
            let mut entry = Entry { about: vec![texts[0].clone()], printed: vec![texts[1].clone()], ..entry() };
            entry.how.args = vec![texts[2].replace('\0', "")];
            entry.how.why = Some(texts[3].clone());
            entry.aside[0].why.clone_from(&texts[4]);
            entry.how.env = [("A".to_owned(), texts[5].replace('\0', ""))].into();
            entry.is_open = true;
            let entries = [entry];
            let directory = directory();
            prop_assert!(read(&file(&entries), &directory.path().join("memgate.yaml"), &entries).is_ok());
        }
    }
}
