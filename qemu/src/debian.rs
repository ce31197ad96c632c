//! Fetches packages of any suite and architecture of Debian, and checks them against a pin.
//!
//! A pinned file is fetched by its place in the archive, because its SHA-256 proves more than the archive's signature. If
//! the machine has apt, apt fetches it, with the mirror and the proxy of the system; otherwise memgate does. If the file
//! is no longer there, the suite's signed index shows what is, which only apt reads. apt works with its own state in a
//! directory of the caller. It does not touch the system and needs no privilege.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use deb822_fast::{Deb822, Paragraph};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xshell::{Cmd, Shell, cmd};

use crate::{
    http::{self, HttpError},
    stop::Stop,
};

/// The keys of Debian's archive, from the package `debian-archive-keyring`.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The variable that names a mirror of Debian, for a machine whose package manager uses none.
const MIRROR: &str = "MEMGATE_MIRROR";

/// apt's tool for single files, which is not on the `PATH`.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// One file of a package, pinned to its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The suite that contains it, by its codename.
    pub suite: String,
    /// The architecture whose index contains it. The package itself may be for `all`.
    pub architecture: String,
    /// The package's name.
    pub package: String,
    /// Debian's version of it.
    pub version: String,
    /// The file's SHA-256, in hexadecimal.
    pub sha256: String,
    /// The file's size, bytes.
    pub size: u64,
    /// Its path below the archive's root.
    pub file: String,
}

/// The entry of a package in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its file.
    pub pin: Pin,
    /// The names of the packages that it depends on, including alternatives.
    pub depends: Vec<String>,
}

/// Why a package is not available.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A program is missing. Of those of Debian, only reading the archive's index needs one.
    #[error("there is no `{0}`, which memgate needs for that")]
    NoTool(String),
    /// Nothing names a mirror.
    #[error("this machine's package manager uses no mirror of Debian, and {MIRROR} names none")]
    NoMirror,
    /// The given mirror is not one.
    #[error("{by} names `{mirror}`, which is not the address of a mirror")]
    BadMirror {
        /// The text.
        mirror: String,
        /// Who names it.
        by: &'static str,
    },
    /// The index could not be checked.
    #[error("the keys of Debian's archive, {KEYRING}, are missing")]
    NoKeyring,
    /// The mirror does not answer, or not like a mirror.
    #[error("cannot fetch {what} from the mirror of Debian: {said}")]
    Unreachable {
        /// What was requested.
        what: String,
        /// The answer.
        said: String,
    },
    /// A proxy or a certificate stands in the way.
    #[error("cannot fetch {what} from the mirror of Debian: {said}")]
    Barred {
        /// What was requested.
        what: String,
        /// The reason.
        said: String,
    },
    /// The mirror has the file no more, and nobody knows what it has instead.
    #[error("the mirror of Debian no longer has {package} {version}, which the lock names")]
    Gone {
        /// The package.
        package: String,
        /// The pinned version.
        version: String,
    },
    /// The file is no package that memgate can unpack.
    #[error("cannot unpack {package}: {why}")]
    BadPackage {
        /// The file.
        package: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The suite has no such package.
    #[error("Debian's {suite} has no package {package} for {architecture}")]
    NoPackage {
        /// The suite.
        suite: String,
        /// The architecture.
        architecture: String,
        /// The package.
        package: String,
    },
    /// The mirror has another version than the pinned one.
    #[error("the lock names {package} {version}, which the mirror no longer has; it has {offered}")]
    Superseded {
        /// The package.
        package: String,
        /// The pinned version.
        version: String,
        /// What the mirror offers instead.
        offered: String,
    },
    /// The entry in the index cannot be understood.
    #[error("the index of Debian's {suite} for {architecture} says nothing useful about {package}: {why}")]
    BadRecord {
        /// The suite.
        suite: String,
        /// The architecture.
        architecture: String,
        /// The package.
        package: String,
        /// What is wrong.
        why: String,
    },
    /// The file is not the pinned one.
    #[error("{path} has the SHA-256 {found} and {size} bytes, but {pinned} and {pinned_size} bytes are pinned")]
    Differs {
        /// The file.
        path: String,
        /// Its SHA-256.
        found: String,
        /// Its size, bytes.
        size: u64,
        /// The pinned SHA-256.
        pinned: String,
        /// The pinned size, bytes.
        pinned_size: u64,
    },
    /// The user or the CI system wants memgate to end.
    #[error("memgate was interrupted")]
    Interrupted,
    /// A command failed in another way.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// The command line.
        command: String,
        /// Its output.
        said: String,
    },
    /// The file system refuses.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

impl DebianError {
    /// What the user can do.
    pub fn help(&self) -> String {
        match self {
            Self::NoTool(_) => "install it; only `memgate image lock` needs apt, so run that on Debian or Ubuntu".into(),
            Self::NoMirror => format!("name a mirror of Debian in {MIRROR}, by its http:// or https:// address"),
            Self::BadMirror { .. } => {
                "name the mirror's root, the directory that has `dists` and `pool`, by its URI; without apt, by http:// \
                 or https://"
                    .into()
            }
            Self::Interrupted => "run memgate again: it has left nothing half-made".into(),
            Self::NoKeyring => "install the package `debian-archive-keyring`".into(),
            Self::Unreachable { .. } => {
                "check the network and the proxy, name another mirror with --mirror, or give memgate a cache that already has \
                 the package"
                    .into()
            }
            Self::Barred { .. } => format!(
                "name the mirror in {MIRROR} by its other scheme, http:// or https://: what decides about a file is its pinned \
                 SHA-256"
            ),
            Self::Gone { .. } => format!(
                "update memgate, name a mirror that keeps old packages in {MIRROR}, or put the file into the cache's directory \
                 `packages`"
            ),
            Self::BadPackage { .. } => {
                "empty the cache with `memgate image clean`, so that memgate fetches the package again".into()
            }
            Self::NoPackage { .. } | Self::Superseded { .. } => {
                "update memgate, or pin what the mirror has with `memgate image lock`".into()
            }
            Self::BadRecord { .. } | Self::Failed { .. } => {
                "name another mirror of Debian if this one is broken".into()
            }
            Self::Differs { .. } => {
                "do not use the file; if the mirror keeps serving it, name another mirror of Debian".into()
            }
            Self::Io { source, .. } => io_help(source),
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

/// What the user can do about a file system error.
pub(crate) fn io_help(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, or name a cache directory elsewhere in MEMGATE_CACHE".into()
        }
        _ => "name a cache directory that can be written in MEMGATE_CACHE".into(),
    }
}

impl Pin {
    /// The file's own name.
    pub fn file_name(&self) -> &str {
        self.file.rsplit_once('/').map_or(&*self.file, |(_, name)| name)
    }

    /// Checks that a file is the pinned one.
    ///
    /// # Errors
    /// When it is not, or when it cannot be read.
    pub fn check(&self, path: &Path) -> Result<(), DebianError> {
        let (found, size) = sha256(path).map_err(|error| DebianError::io(format!("read {}", path.display()), error))?;
        if found == self.sha256 && size == self.size {
            return Ok(());
        }
        let (pinned, pinned_size) = (self.sha256.clone(), self.size);
        Err(DebianError::Differs { path: path.display().to_string(), found, size, pinned, pinned_size })
    }
}

/// A file's SHA-256 in hexadecimal, and its size in bytes.
pub(crate) fn sha256(path: &Path) -> io::Result<(String, u64)> {
    struct Hasher(Sha256);
    impl io::Write for Hasher {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hasher = Hasher(Sha256::new());
    let size = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok((hex(&hasher.0.finalize()), size))
}

/// In hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where this machine's package manager gets its package lists.
#[derive(Debug)]
pub struct Sources {
    /// One `origin label codename uri` a line. All but the last two may contain spaces.
    targets: String,
}

/// A release of Debian, and the mirror of its main archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `trixie`.
    pub codename: String,
    /// The URI of the mirror's root, the directory that contains `dists` and `pool`.
    pub mirror: String,
}

impl Sources {
    /// Asks apt.
    ///
    /// # Errors
    /// Without apt, and where it fails.
    pub fn read() -> Result<Self, DebianError> {
        let format = "$(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)";
        let sh = shell()?;
        let targets =
            run(&Stop::default(), cmd!(sh, "apt-get indextargets --format {format}").arg("Created-By: Packages"))?;
        Ok(Self { targets })
    }

    /// The release of Debian among them. Its updates do not count; they have their own codename.
    pub fn debian(&self) -> Option<Release> {
        self.targets.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["Debian", "Debian", codename, uri] if !codename.contains('-') => {
                Some(Release { codename: (*codename).to_owned(), mirror: (*uri).to_owned() })
            }
            _ => None,
        })
    }
}

/// A mirror of Debian, and the tools that fetch packages from it.
#[derive(Debug)]
pub struct Debian {
    sh: Shell,
    stop: Stop,
    mirror: String,
    /// Whether apt fetches, and not memgate itself.
    has_apt: bool,
}

impl Debian {
    /// The given mirror, or else the one that `MEMGATE_MIRROR` names, or else that of this machine's package manager.
    ///
    /// # Errors
    /// When apt fails, when there is no mirror, or when the text cannot be one.
    pub fn new(mirror: Option<&str>) -> Result<Self, DebianError> {
        // CI systems set a variable to nothing that they do not have.
        let named = std::env::var_os(MIRROR).filter(|named| !named.is_empty());
        let named = named.map(|named| named.to_string_lossy().into_owned());
        let mirror = mirror.map(|mirror| (mirror, "--mirror")).or(named.as_deref().map(|named| (named, MIRROR)));
        Self::with(mirror, Path::new(APT_HELPER).exists())
    }

    fn with(mirror: Option<(&str, &'static str)>, has_apt: bool) -> Result<Self, DebianError> {
        let own = || if has_apt { Sources::read().map(|sources| sources.debian()) } else { Ok(None) };
        let (mirror, by) = match mirror {
            Some((mirror, by)) => (mirror.to_owned(), by),
            None => (own()?.ok_or(DebianError::NoMirror)?.mirror, "apt"),
        };
        // It becomes a line of a sources file.
        let is_web = mirror.starts_with("http://") || mirror.starts_with("https://");
        if !(is_web || has_apt && mirror.contains(':')) || mirror.contains(char::is_whitespace) {
            return Err(DebianError::BadMirror { mirror: shown(&mirror), by });
        }
        Ok(Self { sh: shell()?, stop: Stop::default(), mirror, has_apt })
    }

    /// The same, whose commands end when memgate must end.
    pub fn stopped_by(self, stop: &Stop) -> Self {
        Self { stop: stop.clone(), ..self }
    }

    /// Fetches a pinned file into `dir`, under its own name, and checks it. `successor` is the package whose version
    /// the error reports if the mirror no longer has the pinned one: the package itself, or the one that always depends
    /// on the newest of its kind. Nothing else is left in `dir`.
    ///
    /// # Errors
    /// When the mirror cannot be reached or has another version, or when the file is not the pinned one.
    pub fn fetch(&self, pin: &Pin, successor: &str, dir: &Path) -> Result<PathBuf, DebianError> {
        let work = unfinished(dir)?;
        let file = match self.fetch_directly(pin, work.path()) {
            Ok(file) => file,
            Err(ours @ (DebianError::Io { .. } | DebianError::Interrupted)) => return Err(ours),
            Err(direct) if !self.has_apt => return Err(direct),
            // Some kinds of mirrors that apt supports cannot serve a single file.
            Err(direct) => match self.fetch_by_index(pin, successor, work.path()) {
                Err(DebianError::NoKeyring) => return Err(unreachable(pin.file_name().to_owned(), direct)),
                other => other?,
            },
        };
        pin.check(&file)?;
        let place = dir.join(pin.file_name());
        std::fs::rename(&file, &place).map_err(|error| DebianError::io(format!("write {}", place.display()), error))?;
        Ok(place)
    }

    fn fetch_directly(&self, pin: &Pin, work: &Path) -> Result<PathBuf, DebianError> {
        let uri = format!("{}/{}", self.mirror.trim_end_matches('/'), pin.file);
        let (file, sum) = (work.join(pin.file_name()), format!("SHA256:{}", pin.sha256));
        if !self.has_apt {
            return match http::fetch(&uri, &file, pin.size, &self.stop) {
                Ok(()) => Ok(file),
                Err(HttpError::Interrupted) => Err(DebianError::Interrupted),
                Err(HttpError::Write(source)) => Err(DebianError::io(format!("write {}", file.display()), source)),
                Err(HttpError::Gone) => {
                    Err(DebianError::Gone { package: pin.package.clone(), version: pin.version.clone() })
                }
                Err(HttpError::Barred(said)) => Err(DebianError::Barred { what: shown(&uri), said }),
                Err(HttpError::Answer(said)) => Err(DebianError::Unreachable { what: shown(&uri), said }),
            };
        }
        run(&self.stop, cmd!(self.sh, "{APT_HELPER} -o {SANDBOX} download-file {uri} {file} {sum}"))?;
        // If the mirror is a directory of this machine, apt makes a link to the file.
        if file.is_symlink() {
            let copy = work.join("copy");
            let copied = std::fs::copy(&file, &copy);
            copied.map_err(|error| DebianError::io(format!("read {}", shown(&uri)), error))?;
            return Ok(copy);
        }
        Ok(file)
    }

    fn fetch_by_index(&self, pin: &Pin, successor: &str, work: &Path) -> Result<PathBuf, DebianError> {
        let suite = self.suite(&pin.suite, &pin.architecture, work)?;
        match suite.record(&pin.package) {
            Ok(record) if record.pin.version == pin.version => suite.download(pin, work),
            Ok(record) => Err(superseded(pin, &record)),
            Err(gone @ DebianError::NoPackage { .. }) => {
                Err(suite.record(successor).map_or(gone, |record| superseded(pin, &record)))
            }
            Err(other) => Err(other),
        }
    }

    /// Reads the signed index of a suite for an architecture. apt's state stays in `dir` until the suite is dropped.
    ///
    /// # Errors
    /// When the mirror cannot be reached, when it does not have the suite, or when its signature is not valid.
    pub fn suite(&self, name: &str, architecture: &str, dir: &Path) -> Result<Suite<'_>, DebianError> {
        if !self.has_apt {
            return Err(DebianError::NoTool("apt-get".to_owned()));
        }
        if !Path::new(KEYRING).exists() {
            return Err(DebianError::NoKeyring);
        }
        let state = unfinished(dir)?;
        let options = &private_state(state.path(), &self.mirror, name, architecture)
            .map_err(|error| DebianError::io(format!("lay out apt's state in {}", dir.display()), error))?;
        let what = format!("the index of {name} for {architecture}");
        run(&self.stop, cmd!(self.sh, "apt-get -qq {options...} update")).map_err(|error| unreachable(what, error))?;
        Ok(Suite {
            sh: &self.sh,
            stop: &self.stop,
            name: name.into(),
            architecture: architecture.into(),
            options: options.clone(),
            _state: state,
        })
    }
}

/// A suite for an architecture, as in its signed index.
#[derive(Debug)]
pub struct Suite<'a> {
    sh: &'a Shell,
    stop: &'a Stop,
    name: String,
    architecture: String,
    options: Vec<String>,
    _state: TempDir,
}

impl Suite<'_> {
    /// The newest version of a package in the suite.
    ///
    /// # Errors
    /// When there is none, or when the index cannot be understood.
    pub fn record(&self, package: &str) -> Result<Record, DebianError> {
        let document = self.show(&[package])?;
        self.record_in(&document, package)
    }

    /// The newest version of each of these packages in the suite.
    ///
    /// # Errors
    /// As [`Suite::record`].
    pub fn records(&self, packages: &[&str]) -> Result<Vec<Record>, DebianError> {
        let document = self.show(packages)?;
        packages.iter().map(|package| self.record_in(&document, package)).collect()
    }

    fn show(&self, packages: &[&str]) -> Result<Deb822, DebianError> {
        let (options, names) = (&self.options, packages.join(" "));
        // It fails if a package does not exist.
        let shown = run(self.stop, cmd!(self.sh, "apt-cache {options...} show --no-all-versions {packages...}"));
        let text = shown.map_err(|error| match error {
            DebianError::Interrupted => error,
            _ => self.missing(&names),
        })?;
        text.parse().map_err(|error| self.bad(&names, format!("{error}")))
    }

    fn record_in(&self, document: &Deb822, package: &str) -> Result<Record, DebianError> {
        // apt-cache treats an unknown name as a pattern.
        let found = document.iter().find(|paragraph| paragraph.get("Package") == Some(package));
        let found = found.ok_or_else(|| self.missing(package))?;
        record(found, &self.name, &self.architecture).map_err(|why| self.bad(package, why))
    }

    fn missing(&self, package: &str) -> DebianError {
        let (suite, architecture) = (self.name.clone(), self.architecture.clone());
        DebianError::NoPackage { suite, architecture, package: package.into() }
    }

    fn bad(&self, package: &str, why: String) -> DebianError {
        let (suite, architecture) = (self.name.clone(), self.architecture.clone());
        DebianError::BadRecord { suite, architecture, package: package.into(), why }
    }

    /// The names of these packages and of all packages that their installation requires on an empty system.
    ///
    /// # Errors
    /// When the suite does not have all of them.
    pub fn closure(&self, packages: &[&str]) -> Result<Vec<String>, DebianError> {
        let options = &self.options;
        let install =
            cmd!(self.sh, "apt-get -qq {options...} --simulate --no-install-recommends install {packages...}");
        Ok(installed(&run(self.stop, install)?))
    }

    fn download(&self, pin: &Pin, dir: &Path) -> Result<PathBuf, DebianError> {
        let (options, wanted) = (&self.options, format!("{}={}", pin.package, pin.version));
        let _in_dir = self.sh.push_dir(dir);
        run(self.stop, cmd!(self.sh, "apt-get -qq {options...} download {wanted}"))
            .map_err(|error| unreachable(format!("{} {}", pin.package, pin.version), error))?;
        let entries =
            std::fs::read_dir(dir).map_err(|error| DebianError::io(format!("read {}", dir.display()), error))?;
        // Its name differs from the one in the archive, because apt writes an epoch into it.
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or_else(|| DebianError::Unreachable { what: wanted, said: "apt-get wrote no file".into() })
    }
}

/// The packages that `apt-get --simulate` would install, from its lines `Inst NAME (VERSION SUITE [ARCHITECTURE])`.
fn installed(simulated: &str) -> Vec<String> {
    let names = simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split([' ', ':']).next());
    names.map(str::to_owned).collect()
}

fn record(paragraph: &Paragraph, suite: &str, architecture: &str) -> Result<Record, String> {
    let field = |name: &str| paragraph.get(name).map(str::to_owned).ok_or_else(|| format!("no field {name}"));
    let size = field("Size")?;
    let pin = Pin {
        suite: suite.into(),
        architecture: architecture.into(),
        package: field("Package")?,
        version: field("Version")?,
        sha256: field("SHA256")?,
        size: size.parse().map_err(|_| format!("a size of `{size}`"))?,
        file: field("Filename")?,
    };
    let depends = paragraph.get("Depends").unwrap_or_default();
    // In `a (= 1) | b:any, c` only the names matter here.
    let name = |relation: &str| relation.split([' ', '(', ':', '[']).next().unwrap_or_default().to_owned();
    let depends = depends.split([',', '|']).map(|relation| name(relation.trim())).filter(|name| !name.is_empty());
    Ok(Record { pin, depends: depends.collect() })
}

fn superseded(pin: &Pin, record: &Record) -> DebianError {
    let offered = format!("{} {}", record.pin.package, record.pin.version);
    DebianError::Superseded { package: pin.package.clone(), version: pin.version.clone(), offered }
}

/// The state is in a directory of the user, which apt's own user may not be able to enter.
const SANDBOX: &str = "APT::Sandbox::User=root";

/// Lays out apt's state in `state` and returns the options that make apt use it. apt then uses nothing of the system
/// except settings such as its proxy.
fn private_state(state: &Path, mirror: &str, suite: &str, architecture: &str) -> io::Result<Vec<String>> {
    let [sources, lists, cache, config] = ["sources", "lists", "cache", "apt.conf"].map(|name| state.join(name));
    std::fs::create_dir(&sources)?;
    std::fs::create_dir_all(lists.join("partial"))?;
    std::fs::create_dir_all(cache.join("archives/partial"))?;
    let source = format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n");
    std::fs::write(sources.join("memgate.sources"), source)?;
    // The system's hooks, such as those in container images, would act on the system's own state.
    std::fs::write(
        &config,
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
    )?;
    let nothing = Path::new("/dev/null");
    let paths: [(&str, &Path); 9] = [
        ("Dir::Etc::SourceParts", &sources),
        ("Dir::State", state),
        ("Dir::State::Lists", &lists),
        ("Dir::Cache", &cache),
        ("Dir::Etc::SourceList", nothing),
        ("Dir::Etc::Preferences", nothing),
        ("Dir::Etc::PreferencesParts", nothing),
        ("Dir::State::Status", nothing),
        ("Dir::State::extended_states", nothing),
    ];
    let paths = paths.map(|(key, path)| format!("{key}={}", path.display()));
    let values = [
        SANDBOX.to_owned(),
        format!("APT::Architecture={architecture}"),
        format!("APT::Architectures={architecture}"),
        "APT::Default-Release=".to_owned(),
        "APT::Update::Error-Mode=any".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    let options = paths.into_iter().chain(values).flat_map(|option| ["-o".into(), option]);
    Ok(["-c".into(), config.display().to_string()].into_iter().chain(options).collect())
}

/// A directory in `dir` for unfinished work. It is removed when dropped.
pub(crate) fn unfinished(dir: &Path) -> Result<TempDir, DebianError> {
    let made = std::fs::create_dir_all(dir).and_then(|()| tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(dir));
    made.map_err(|error| DebianError::io(format!("write into {}", dir.display()), error))
}

const UNFINISHED: &str = ".unfinished-";

/// Whether a path is that of an [`unfinished`] directory.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED))
}

/// A shell in the current directory.
pub(crate) fn shell() -> Result<Shell, DebianError> {
    Shell::new().map_err(|error| DebianError::io("start a command", io::Error::other(error.to_string())))
}

/// Runs a command and returns what it wrote to stdout. It ends when memgate must end.
pub(crate) fn run(stop: &Stop, cmd: Cmd<'_>) -> Result<String, DebianError> {
    let command = shown(&cmd.to_string());
    let program = command.split(' ').next().unwrap_or_default().to_owned();
    let started = stop.output(cmd.env("LC_ALL", "C.UTF-8").into());
    let output = started.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DebianError::NoTool(program),
        _ => DebianError::io(format!("run `{command}`"), error),
    })?;
    let output = output.ok_or(DebianError::Interrupted)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No space left on device") {
        return Err(DebianError::io(format!("go on with `{command}`"), io::ErrorKind::StorageFull.into()));
    }
    let said = if said.trim().is_empty() { output.status.to_string() } else { errors_of(&shown(&said)) };
    Err(DebianError::Failed { command, said })
}

/// A text without the users and passwords of its URIs.
fn shown(text: &str) -> String {
    let mut parts = text.split("://");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |before, part| {
        let ends = |character: char| matches!(character, '/' | '\'' | '"' | '`') || character.is_whitespace();
        let end = part.find(ends).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        format!("{before}://{}", &part[host..])
    })
}

/// The lines that apt marks as errors, or the whole output.
fn errors_of(said: &str) -> String {
    let errors: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    if errors.is_empty() { said.trim().to_owned() } else { errors.join("; ") }
}

fn unreachable(what: String, error: DebianError) -> DebianError {
    match error {
        DebianError::Failed { said, .. } => DebianError::Unreachable { what, said },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Package: linux-image-cloud-arm64
Source: linux-signed-arm64 (7.2.12+1)
Version: 7.2.12-1
Architecture: arm64
Depends: linux-base-cloud-arm64 (= 7.2.12-1), dracut | initramfs-tools:any (>= 0.120), kmod
Filename: pool/main/l/linux-signed-arm64/linux-image-cloud-arm64_7.2.12-1_arm64.deb
Size: 1660
SHA256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
Description: Linux for arm64 cloud (meta-package)
 This package depends on the latest Linux kernel.
 .
 Version: none

";

    fn shown_record() -> Pin {
        in_index().unwrap().pin
    }

    fn in_index() -> Result<Record, String> {
        record(SHOWN.parse::<Deb822>().unwrap().iter().next().unwrap(), "forky", "arm64")
    }

    #[test]
    fn record_is_read_from_what_apt_shows() {
        let Record { pin, depends } = in_index().unwrap();
        assert_eq!((&*pin.version, pin.size), ("7.2.12-1", 1660));
        assert_eq!(pin.file_name(), "linux-image-cloud-arm64_7.2.12-1_arm64.deb");
        assert_eq!(depends, ["linux-base-cloud-arm64", "dracut", "initramfs-tools", "kmod"]);
    }

    #[test]
    fn installed_packages_are_read_from_what_apt_would_do() {
        let simulated = "\
Inst gcc-14-base (14.2.0-19 Debian:13.5/stable [amd64]) []
Inst libc6 (2.41-12+deb13u5 Debian:13.5/stable [amd64])
Inst seabios:all (1.16.3-2 Debian:13.5/stable [all])
Conf libc6 (2.41-12+deb13u5 Debian:13.5/stable [amd64])
";
        assert_eq!(installed(simulated), ["gcc-14-base", "libc6", "seabios"]);
    }

    #[test]
    fn record_without_a_field_names_it() {
        let text = SHOWN.replace("SHA256", "SHA1");
        let document: Deb822 = text.parse().unwrap();
        let error = record(document.iter().next().unwrap(), "forky", "arm64").unwrap_err();
        assert_eq!(error, "no field SHA256");
    }

    #[test]
    fn only_the_pinned_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.deb");
        let pin = Pin { size: 3, ..shown_record() };
        assert!(matches!(pin.check(&file), Err(DebianError::Io { .. })));
        std::fs::write(&file, "abc").unwrap();
        pin.check(&file).unwrap();
        std::fs::write(&file, "abd").unwrap();
        let error = pin.check(&file).unwrap_err();
        assert!(error.to_string().contains("are pinned"), "{error}");
    }

    #[test]
    fn release_is_that_of_the_main_archive() {
        let targets = "Debian Debian-Security bookworm-security http://mirror.example/debian-security/
Debian Debian bookworm-updates http://mirror.example/debian/
Debian Backports Debian Backports bookworm-backports http://mirror.example/debian/
Debian Debian bookworm http://mirror.example/debian/
";
        let sources = Sources { targets: targets.into() };
        let release = Release { codename: "bookworm".into(), mirror: "http://mirror.example/debian/".into() };
        assert_eq!(sources.debian(), Some(release));
        let sources = Sources { targets: "Ubuntu Ubuntu noble http://mirror.example/ubuntu/\n".into() };
        assert_eq!(sources.debian(), None);
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for mirror in ["", "mirror.example", "http://mirror.example/\nTrusted: yes"] {
            let refused = Debian::new(Some(mirror)).unwrap_err();
            assert!(refused.to_string().starts_with("--mirror names `"), "{refused}");
        }
        let refused = Debian::with(Some(("ftp://ci:token@mirror/", MIRROR)), false).unwrap_err().to_string();
        assert_eq!(refused, "MEMGATE_MIRROR names `ftp://mirror/`, which is not the address of a mirror");
        assert!(matches!(Debian::with(Some(("file:/srv/debian", MIRROR)), false), Err(DebianError::BadMirror { .. })));
        Debian::with(Some(("file:/srv/debian", MIRROR)), true).unwrap();
        let error = Debian::with(None, false).unwrap_err();
        assert!(error.help().starts_with("name a mirror of Debian in MEMGATE_MIRROR"), "{error}");
    }

    #[test]
    fn users_and_passwords_of_uris_are_not_shown() {
        for (text, expected) in [
            ("http://ci:to@ken@mirror/debian/a@b", "http://mirror/debian/a@b"),
            ("get 'https://u@m' x://y@z failed", "get 'https://m' x://z failed"),
            ("no URI of ci@mirror", "no URI of ci@mirror"),
        ] {
            assert_eq!(shown(text), expected);
        }
        let mirror = "http://ci:token@127.0.0.1:1/debian";
        let debian = Debian::with(Some((mirror, MIRROR)), false).unwrap();
        let (pin, dir) = (shown_record(), tempfile::tempdir().unwrap());
        let error = debian.fetch(&pin, &pin.package, dir.path()).unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:1/debian/pool/") && !error.contains("token"), "{error}");
        let sh = shell().unwrap();
        let failed = run(&Stop::default(), cmd!(sh, "false {mirror}")).unwrap_err().to_string();
        assert_eq!(failed, "`false http://127.0.0.1:1/debian` failed: exit status: 1");
    }

    /// A mirror that gives each request the next of these answers.
    fn mirror(answers: &'static [&'static [u8]]) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/debian/", listener.local_addr().unwrap());
        let serve = move || {
            let one = |answer: &&[u8]| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                io::BufRead::read_line(&mut io::BufReader::new(&stream), &mut line).unwrap();
                io::Write::write_all(&mut stream, answer).unwrap();
                line
            };
            answers.iter().map(one).collect()
        };
        (uri, std::thread::spawn(serve))
    }

    #[test]
    fn without_apt_a_pinned_file_comes_by_http_and_is_checked() {
        const ANSWERS: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabd",
            b"HTTP/1.1 200 OK\r\n\r\nabcdefghijklmnopqrstuvwxyz",
            b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\nabc",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ];
        let (uri, server) = mirror(ANSWERS);
        let debian = Debian::with(Some((&uri, MIRROR)), false).unwrap();
        let pin = Pin { size: 3, ..shown_record() };
        let dir = tempfile::tempdir().unwrap();
        let fetch = || debian.fetch(&pin, &pin.package, dir.path());
        assert_eq!(std::fs::read(fetch().unwrap()).unwrap(), b"abc");
        let [other, longer, cut, gone] = [(); 4].map(|()| fetch().unwrap_err());
        assert!(matches!(other, DebianError::Differs { .. }), "{other}");
        assert!(matches!(longer, DebianError::Differs { size: 4, .. }), "no more than that is read: {longer}");
        assert!(matches!(cut, DebianError::Unreachable { .. }), "{cut}");
        assert!(
            gone.to_string().contains("no longer has linux-image-cloud-arm64 7.2.12-1, which the lock names"),
            "{gone}"
        );
        assert!(gone.help().starts_with("update memgate, name a mirror that keeps old packages"), "{}", gone.help());
        let refused = Debian::with(Some(("http://127.0.0.1:1/debian", MIRROR)), false).unwrap();
        let error = refused.fetch(&pin, &pin.package, dir.path()).unwrap_err();
        assert!(error.help().contains("--mirror"), "{error}");
        let asked = server.join().unwrap();
        assert_eq!(
            asked[0],
            "GET /debian/pool/main/l/linux-signed-arm64/linux-image-cloud-arm64_7.2.12-1_arm64.deb HTTP/1.1\r\n"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
        assert!(matches!(debian.suite("forky", "arm64", dir.path()), Err(DebianError::NoTool(_))));
    }

    #[test]
    fn an_interrupt_does_not_wait_for_a_mirror_that_says_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = Stop::from(flag.clone());
        let (pin, dir) = (shown_record(), tempfile::tempdir().unwrap());
        std::thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let debian = Debian::with(Some((&uri, MIRROR)), false).unwrap().stopped_by(&stop);
                debian.fetch(&pin, &pin.package, dir.path())
            });
            let _connection = listener.accept().unwrap();
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(matches!(fetching.join().unwrap(), Err(DebianError::Interrupted)));
        });
    }

    #[test]
    fn state_is_private_and_signed() {
        let dir = tempfile::tempdir().unwrap();
        let options = private_state(dir.path(), "http://mirror.example/debian/", "forky", "loong64").unwrap();
        assert!(options.contains(&format!("Dir::State::Lists={}", dir.path().join("lists").display())));
        assert!(options.contains(&"APT::Architectures=loong64".to_owned()));
        let source = std::fs::read_to_string(dir.path().join("sources/memgate.sources")).unwrap();
        assert!(source.contains("URIs: http://mirror.example/debian/\nSuites: forky\n"), "{source}");
        assert!(source.contains("Signed-By: /usr/share/keyrings/"), "{source}");
    }

    #[test]
    fn commands_fail_with_what_they_say() {
        let sh = shell().unwrap();
        let said = |script: &str| run(&Stop::default(), cmd!(sh, "sh -c {script}")).unwrap_err();
        assert!(said("echo note; echo 'W: odd' >&2; echo 'E: bad' >&2; false").to_string().ends_with(" failed: bad"));
        assert!(said("echo plain >&2; false").to_string().ends_with(" failed: plain"));
        assert!(said("exit 7").to_string().ends_with(" failed: exit status: 7"));
        let full = said("echo 'write: No space left on device' >&2; false");
        assert!(full.help().contains("free some space"), "{full}");
        let missing = run(&Stop::default(), cmd!(sh, "memgate-no-such-program --version")).unwrap_err();
        assert!(missing.to_string().starts_with("there is no `memgate-no-such-program`"), "{missing}");
    }
}
