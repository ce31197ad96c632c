//! Runs `go build` for the platform to measure.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use memgate_agent::{
    cancel::Cancel,
    child::{self, Pen},
};
use memgate_config::Build;
use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    plan::Account,
    platform::Platform,
};

use crate::{
    account,
    command::{last_lines, output_unless_cancelled},
    outdir::OutDirectory,
};

/// Why there is no executable.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BuildError {
    /// There is no Go toolchain.
    #[error("no `go` on PATH and none in .tools/go/bin in {directory} or above it in its repository")]
    #[diagnostic(help("install Go 1.22 or later, or name an executable with `binary:`"))]
    NoGo {
        /// The module's directory.
        directory: PathBuf,
    },
    /// The toolchain does not start.
    #[error("{go} cannot be started")]
    #[diagnostic(help("check the Go toolchain"))]
    NotStarted {
        /// The `go` command.
        go: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The user that builds may not execute the toolchain, or not enter the module's directory.
    #[error("the user {user} may not run {go} in {directory}")]
    #[diagnostic(help("let that user reach both, or name another user in `run.user`"))]
    Forbidden {
        /// The `go` command.
        go: PathBuf,
        /// The module's directory.
        directory: PathBuf,
        /// The user.
        user: String,
    },
    /// There is no room for what the build makes.
    #[error("{directory} cannot be used to build in")]
    #[diagnostic(help("choose another directory with `--out`"))]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The build succeeded and left no executable.
    #[error("`go build` made no executable that memgate can take: {executable}")]
    #[diagnostic(help("check that `build.package` is a program (`package main`)"))]
    Executable {
        /// The file that it was told to make.
        executable: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The packages of a module cannot be listed.
    #[error("`go list` in {directory} failed:\n{output}")]
    #[diagnostic(help("run it there by hand; the command was {command}"))]
    Unlisted {
        /// The module's directory.
        directory: PathBuf,
        /// The last lines of its output.
        output: String,
        /// The whole command, in the form for a shell.
        command: String,
    },
    /// The program does not compile.
    #[error("`go build {package}` in {directory} failed:\n{output}")]
    #[diagnostic(help("fix the build; the command was {command}"))]
    Failed {
        /// The package.
        package: String,
        /// The module's directory.
        directory: PathBuf,
        /// The last lines of the compiler's output.
        output: String,
        /// The whole command, in the form for a shell.
        command: String,
    },
}

impl FailureKind for BuildError {
    fn stage(&self) -> Stage {
        Stage::Build
    }
}

/// What builds: a toolchain, as a user.
#[derive(Debug)]
pub struct Builder<'a> {
    /// The directory in which, or above which, a Go toolchain that is not on `PATH` is looked for, in `.tools/go`.
    pub tools: &'a Path,
    /// The user that builds, or `None` for memgate's own.
    pub account: Option<&'a Account>,
    /// The directory for the executable and for caches that the user has nowhere else. It belongs to memgate's user.
    pub directory: &'a Path,
}

impl Builder<'_> {
    /// Builds the executable `name` for `platform` and returns its path. It belongs to memgate's user, so that nothing
    /// that the build leaves behind can change it. Whatever the build starts ends with it.
    ///
    /// # Errors
    /// Fails if there is no Go, if the build fails (with the compiler's output), or if memgate is interrupted.
    pub async fn build(&self, build: &Build, platform: Platform, name: &str, cancel: &Cancel) -> Result<PathBuf> {
        let executable = self.directory.join(name);
        // Named by memgate's process, because the user could have made another one.
        let making = self.directory.join(format!("{name}.{}", std::process::id()));
        let place = OutDirectory::of(self.directory)?;
        let workshop = Workshop::new(making, self.account).map_err(|source| self.unusable(source))?;
        let made = workshop.0.join(name);
        let mut words: Vec<OsString> = vec!["build".into(), "-o".into(), made.clone().into()];
        if !build.tags.is_empty() {
            words.extend(["-tags".into(), build.tags.join(",").into()]);
        }
        if let Some(flags) = &build.ldflags {
            words.extend(["-ldflags".into(), flags.into()]);
        }
        words.push(build.package.clone().into());
        let (output, shown) = self.go(&words, build, platform, cancel).await?;
        if !output.status.success() {
            let (package, directory) = (build.package.clone(), build.dir.clone());
            return Err(
                BuildError::Failed { package, directory, output: last_lines(&output.stderr), command: shown }.into()
            );
        }
        // The build's user may own a directory above it.
        place.is_still_there()?;
        take(&made, &executable).map_err(|source| BuildError::Executable { executable: made, source })?;
        Ok(executable)
    }

    /// Lists the packages below a module's directory, one JSON object each, with these fields of `go list -json`. What
    /// is wrong with a package is in its object.
    ///
    /// # Errors
    /// Fails if there is no Go, if `go list` fails as a whole, or if memgate is interrupted.
    pub(crate) async fn list(
        &self,
        build: &Build,
        fields: &str,
        platform: Platform,
        cancel: &Cancel,
    ) -> Result<Vec<u8>> {
        let words = ["list".into(), "-e".into(), format!("-json={fields}").into(), OsString::from(&build.package)];
        let (output, command) = self.go(&words, build, platform, cancel).await?;
        if !output.status.success() {
            let (directory, output) = (build.dir.clone(), last_lines(&output.stderr));
            return Err(BuildError::Unlisted { directory, output, command }.into());
        }
        Ok(output.stdout)
    }

    /// Runs `go` with these words to its end, in the directory of the build and with its environment. Returns its output
    /// and the command in the form for a shell.
    async fn go(
        &self,
        words: &[OsString],
        build: &Build,
        platform: Platform,
        cancel: &Cancel,
    ) -> Result<(Output, String)> {
        let go = find_go(&env::var_os("PATH").unwrap_or_default(), self.tools)?;
        let mut command = Command::new(&go);
        let environment = self.environment(build).map_err(|source| self.unusable(source))?;
        command.args(words).env_clear().envs(environment);
        command.env("GOOS", "linux").env("GOARCH", platform.goarch()).envs(&build.env);
        let shown = shown(&command, build);
        let pen = Pen::make();
        child::confine(&mut command, &pen, self.account, &build.dir).map_err(|source| self.unusable(source))?;
        let output = output_unless_cancelled(command, Some(pen), cancel).await?;
        let output = output.map_err(|source| match self.account {
            Some(account) if source.kind() == io::ErrorKind::PermissionDenied => {
                BuildError::Forbidden { go, directory: build.dir.clone(), user: account.name.clone() }
            }
            Some(_) | None => BuildError::NotStarted { go, source },
        })?;
        Ok((output, shown))
    }

    fn unusable(&self, source: io::Error) -> BuildError {
        BuildError::Directory { directory: self.directory.to_owned(), source }
    }

    /// The environment of `go build`, without what the configuration adds.
    fn environment(&self, build: &Build) -> io::Result<Vec<(OsString, OsString)>> {
        let mut variables: Vec<_> =
            env::vars_os().filter(|(name, _)| is_of_a_build(name) || is_passed(name, build)).collect();
        if let Some(root) = account::checkout(&build.dir.canonicalize()?) {
            variables.extend(trusting(root));
        }
        let Some(account) = self.account else { return Ok(variables) };
        variables.retain(|(name, value)| {
            let is_usable = || written_place(name, value).is_none_or(|place| child::may_write(account, &place));
            name != "HOME" && is_usable()
        });
        let home = self.home(account)?;
        variables.push(("HOME".into(), home.into()));
        Ok(variables)
    }

    /// The home of the user, or a directory that stands for it, where Go keeps its caches.
    fn home(&self, account: &Account) -> io::Result<PathBuf> {
        let own = fs::metadata(&account.home).is_ok_and(|home| home.is_dir() && home.uid() == account.uid);
        if own {
            return Ok(account.home.clone());
        }
        let home = self.directory.join(format!("home-{}", account.uid));
        match account::make_directory(Some(account), &home) {
            // The directory above belongs to memgate's user, so nobody else has made it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(home),
            made => made.map(|()| home),
        }
    }
}

/// A directory in which a build makes its executable. It is removed when dropped.
struct Workshop(PathBuf);

impl Workshop {
    fn new(directory: PathBuf, account: Option<&Account>) -> io::Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => account::make_directory(account, &directory)?,
        }
        Ok(Self(directory))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies the executable that a build made. A build may be hostile: what it made may be a link to a file that only
/// memgate's user can read.
fn take(made: &Path, executable: &Path) -> io::Result<()> {
    let mut from = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(made)?;
    let found = from.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Err(io::Error::other("it is no file of its own"));
    }
    match fs::remove_file(executable) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut to = File::options().write(true).create_new(true).open(executable)?;
    io::copy(&mut from, &mut to)?;
    // Whatever memgate's umask is, the service's user executes it.
    to.set_permissions(fs::Permissions::from_mode(0o755))
}

/// The command in the form for a shell, with the variables that the configuration names and without the others.
fn shown(command: &Command, build: &Build) -> String {
    let mut shown = Command::new(command.get_program());
    shown.args(command.get_args()).envs(&build.env);
    for name in ["GOOS", "GOARCH"] {
        if let Some((_, Some(value))) = command.get_envs().find(|(of, _)| *of == name) {
            shown.env(name, value);
        }
    }
    format!("{shown:?}")
}

/// The variables that have git accept the checkout, whoever owns it: Go asks git for the commit. Those that are there
/// already stay.
fn trusting(root: &Path) -> Vec<(OsString, OsString)> {
    let count: u32 = env::var("GIT_CONFIG_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    vec![
        ("GIT_CONFIG_COUNT".into(), (count + 1).to_string().into()),
        (format!("GIT_CONFIG_KEY_{count}").into(), "safe.directory".into()),
        (format!("GIT_CONFIG_VALUE_{count}").into(), root.into()),
    ]
}

/// What Go, cgo, git, ssh and zig read (`go help environment`, Go 1.27; git(1), 2.47), where programs, libraries and
/// certificates are, and proxies. A name that ends in `*` stands for all that begin so. Tokens of a CI job are none of
/// these.
const OF_A_BUILD: &str = "PATH HOME TMPDIR USER LOGNAME LANG LC_ALL TZ TERM XDG_CACHE_HOME XDG_CONFIG_HOME NETRC \
    SSL_CERT_FILE SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy \
    GO111MODULE GO386 GOAMD64 GOARM GOARM64 GOAUTH GOBIN GOCACHE GOCACHEPROG GOCOVERDIR GODEBUG GOENV GOEXPERIMENT \
    GOFIPS140 GOFLAGS GOGC GOINSECURE GOMAXPROCS GOMEMLIMIT GOMODCACHE GONOPROXY GONOSUMDB GOPATH GOPRIVATE GOPROXY \
    GOROOT GOSUMDB GOTELEMETRY GOTMPDIR GOTOOLCHAIN GOVCS GOWORK CGO_* CC CXX AR FC CPATH C_INCLUDE_PATH \
    CPLUS_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH PKG_CONFIG* SOURCE_DATE_EPOCH CCACHE_DIR ZIG_* GIT_CONFIG* GIT_SSH* \
    GIT_SSL* GIT_ASKPASS GIT_TERMINAL_PROMPT GIT_PROXY_COMMAND GIT_EXEC_PATH SSH_ASKPASS SSH_AUTH_SOCK";

/// Whether a build gets this one of memgate's own variables.
fn is_of_a_build(name: &OsStr) -> bool {
    let is = |known: &str, name: &str| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == known,
    };
    name.to_str().is_some_and(|name| OF_A_BUILD.split_whitespace().any(|known| is(known, name)))
}

fn is_passed(name: &OsStr, build: &Build) -> bool {
    build.pass_env.iter().any(|passed| name == passed.as_str())
}

/// The directory in which a build makes files because of this variable, if it names one.
fn written_place(name: &OsStr, value: &OsStr) -> Option<PathBuf> {
    const PLACES: [&str; 6] = ["GOCACHE", "GOMODCACHE", "GOTMPDIR", "TMPDIR", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR"];
    if name == "GOPATH" {
        // Modules go into the first of several.
        return env::split_paths(value).next().map(|first| first.join("pkg/mod"));
    }
    PLACES.iter().any(|place| name == *place).then(|| value.into())
}

/// The `go` command: the one in `path`, the value of `PATH`, or else the project's own in `.tools/go`, in the directory or
/// above it in the same checkout.
fn find_go(path: &OsStr, directory: &Path) -> Result<PathBuf> {
    let on_path = env::split_paths(path).map(|folder| folder.join("go"));
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    // Above the checkout anybody may have put one.
    let root = account::checkout(&directory).unwrap_or(&directory).to_owned();
    let of_project = directory.ancestors().take_while(|folder| folder.starts_with(&root));
    let of_project = of_project.map(|folder| folder.join(".tools/go/bin/go")).collect::<Vec<_>>();
    let go = on_path.chain(of_project).find(|candidate| candidate.is_file());
    go.ok_or_else(|| BuildError::NoGo { directory }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_gets_what_go_reads_and_no_token() {
        for name in ["PATH", "GOFLAGS", "GOPRIVATE", "CGO_CFLAGS", "GIT_CONFIG_KEY_0", "PKG_CONFIG_PATH", "http_proxy"]
        {
            assert!(is_of_a_build(OsStr::new(name)), "{name}");
        }
        for name in
            ["GITHUB_TOKEN", "GOOGLE_API_KEY", "GORELEASER_KEY", "GIT_TOKEN", "CI_JOB_TOKEN", "AWS_SECRET", "PATHS", ""]
        {
            assert!(!is_of_a_build(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_build_writes_modules_below_the_first_gopath() {
        let place = |name: &str, value: &str| written_place(OsStr::new(name), OsStr::new(value));
        assert_eq!(place("GOPATH", "/go:/other").unwrap(), Path::new("/go/pkg/mod"));
        assert_eq!(place("GOCACHE", "/cache").unwrap(), Path::new("/cache"));
        assert_eq!(place("GOPROXY", "/proxy"), None);
    }

    #[test]
    fn a_link_is_no_executable() {
        let directory = tempfile::tempdir().unwrap();
        let [file, made, taken] = ["file", "made", "taken"].map(|name| directory.path().join(name));
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &made).unwrap();
        assert!(take(&made, &taken).is_err());
        fs::remove_file(&made).unwrap();
        fs::hard_link(&file, &made).unwrap();
        assert_eq!(take(&made, &taken).unwrap_err().to_string(), "it is no file of its own");
        assert!(!taken.exists());
        fs::remove_file(&file).unwrap();
        take(&made, &taken).unwrap();
        assert_eq!(fs::read_to_string(&taken).unwrap(), "text");
    }

    #[test]
    fn a_toolchain_above_the_checkout_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("checkout/module");
        fs::create_dir_all(&module).unwrap();
        let plant = |place: &Path| {
            let go = place.join(".tools/go/bin/go");
            fs::create_dir_all(go.parent().unwrap()).unwrap();
            fs::write(&go, "").unwrap();
            go
        };
        let find = || find_go(OsStr::new(""), &module);
        plant(directory.path());
        assert!(find().is_err(), "there is no repository");
        fs::create_dir(directory.path().join("checkout/.git")).unwrap();
        assert!(find().is_err());
        let go = plant(&directory.path().join("checkout"));
        assert_eq!(find().unwrap(), go.canonicalize().unwrap());
    }
}
