//! Debian's packages.

use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use sha2::{Digest, Sha256};
use xshell::cmd;

use super::Tools;
use crate::step;

/// Installs packages in the system.
///
/// # Errors
/// Fails without apt-get or root's rights, and where apt-get does.
pub(crate) fn install(tools: &Tools<'_>, packages: &[&str]) -> Result<()> {
    can_install(tools, packages)?;
    update(tools, &[])?;
    install_with(tools, &[], packages)
}

/// Packages that are needed no older than a certain version.
#[derive(Debug)]
pub(crate) struct AtLeast {
    /// Their names.
    pub(crate) packages: &'static [&'static str],
    /// Debian's version of the oldest that will do.
    pub(crate) oldest: &'static str,
}

/// Installs packages in the system: those of its own sources or, where they are too old, those of Debian's backports to the same
/// release. The system's own configuration of sources stays as it is.
///
/// # Errors
/// As [`install`], and where there are no backports to a system whose own packages are too old.
pub(crate) fn install_at_least(tools: &Tools<'_>, wanted: &AtLeast) -> Result<()> {
    can_install(tools, wanted.packages)?;
    update(tools, &[])?;
    if wanted.packages.iter().all(|package| has_candidate(tools, package, wanted.oldest)) {
        return install_with(tools, &[], wanted.packages);
    }
    let too_old = || {
        let packages = wanted.packages.join(" ");
        miette!(
            help = format!(
                "install {packages} of version {} or newer yourself, then run this command again",
                wanted.oldest
            ),
            "this system's own {packages} are too old, and Debian's backports are not for it"
        )
    };
    let targets = index_targets(tools)?;
    let release = debian_release(&targets).ok_or_else(too_old)?;
    let suite = format!("{}-backports", release.codename);
    let scratch = tools.scratch()?;
    let mut options = vec!["-o".to_owned(), "APT::Update::Error-Mode=any".to_owned()];
    if !targets.lines().any(|line| line.split_whitespace().rev().nth(1) == Some(&suite)) {
        let list = scratch.path().join("sources.list");
        add_source(&list, Path::new(SOURCES), &release.uri, &suite)
            .into_diagnostic()
            .wrap_err_with(|| format!("cannot write {}", list.display()))?;
        options.extend(["-o".to_owned(), format!("Dir::Etc::SourceList={}", list.display())]);
    }
    update(tools, &options)?;
    options.extend(["--target-release".to_owned(), suite]);
    install_with(tools, &options, wanted.packages)
}

fn can_install(tools: &Tools<'_>, packages: &[&str]) -> Result<()> {
    let packages = packages.join(" ");
    let by_hand = || format!("install {packages} yourself, then run this command again");
    if step::probe(cmd!(tools.sh, "apt-get --version")).is_none() {
        return Err(miette!(help = by_hand(), "{packages} is missing, and there is no apt-get"));
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(miette!(help = by_hand(), "{packages} is missing, and only root can install it"));
    }
    Ok(())
}

fn update(tools: &Tools<'_>, options: &[String]) -> Result<()> {
    step::run(cmd!(tools.sh, "apt-get -qq {options...} update"))
}

fn install_with(tools: &Tools<'_>, options: &[String], packages: &[&str]) -> Result<()> {
    let wait = "DPkg::Lock::Timeout=300";
    let install =
        cmd!(tools.sh, "apt-get -qq {options...} -o {wait} install --yes --no-install-recommends {packages...}");
    step::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether the system's own sources have `package` in version `oldest` or a newer one.
fn has_candidate(tools: &Tools<'_>, package: &str, oldest: &str) -> bool {
    let shown = step::probe(cmd!(tools.sh, "apt-cache show --no-all-versions {package}"));
    let Some(version) = shown.as_deref().and_then(version) else { return false };
    step::probe(cmd!(tools.sh, "dpkg --compare-versions {version} ge {oldest}")).is_some()
}

fn version(record: &str) -> Option<&str> {
    record.lines().find_map(|line| line.strip_prefix("Version: "))
}

/// Makes `list` a list of sources: those of the system's own list, if it has one, and `suite`. The system's other sources are in a
/// directory, which apt reads as well.
fn add_source(list: &Path, own: &Path, uri: &str, suite: &str) -> std::io::Result<()> {
    let mut sources = match std::fs::read_to_string(own) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        sources => sources.unwrap_or_default(),
    };
    sources.push_str(&format!("\ndeb [signed-by={KEYRING}] {uri} {suite} main\n"));
    std::fs::write(list, sources)
}

/// One version of a package, in a suite that the system itself need not use.
#[derive(Debug)]
pub(crate) struct Package {
    /// The suite's name.
    pub(crate) suite: &'static str,
    /// The package's name.
    pub(crate) name: &'static str,
    /// Debian's version of it.
    pub(crate) version: &'static str,
    /// In hexadecimal.
    pub(crate) sha256: &'static str,
}

/// The keys of Debian's archive, by the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The system's own list of sources, where they are not in a directory.
const SOURCES: &str = "/etc/apt/sources.list";

impl Package {
    /// Fetches the package into `dir` from the mirror of Debian that this machine uses. apt works with a state of its
    /// own below `dir`, so that the system is untouched, and checks the archive's signature.
    ///
    /// # Errors
    /// Fails where the machine uses no mirror of Debian, where apt-get does, and where the file is not the pinned one.
    pub(crate) fn fetch(&self, tools: &Tools<'_>, dir: &Path) -> Result<PathBuf> {
        let uri = mirror(tools)?.ok_or_else(|| miette!("this machine's package manager has no mirror of Debian"))?;
        let options = &self.private_state(dir, &uri).into_diagnostic().wrap_err("cannot lay out apt's state")?;
        let _in_dir = tools.sh.push_dir(dir);
        let wanted = format!("{}={}", self.name, self.version);
        step::run(cmd!(tools.sh, "apt-get -qq {options...} update"))?;
        step::run(cmd!(tools.sh, "apt-get -qq {options...} download {wanted}"))?;
        self.checked(dir)
    }

    fn private_state(&self, dir: &Path, uri: &str) -> std::io::Result<Vec<String>> {
        let [sources, lists, cache] = ["sources", "lists", "cache"].map(|name| dir.join(name));
        std::fs::create_dir(&sources)?;
        std::fs::create_dir_all(lists.join("partial"))?;
        std::fs::create_dir_all(cache.join("archives/partial"))?;
        let source =
            format!("Types: deb\nURIs: {uri}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n", self.suite);
        std::fs::write(sources.join("memgate.sources"), source)?;
        let paths = [
            ("Dir::Etc::SourceParts", &*sources),
            ("Dir::State::Lists", &*lists),
            ("Dir::Cache", &*cache),
            ("Dir::Etc::SourceList", Path::new("/dev/null")),
            ("Dir::State::Status", Path::new("/dev/null")),
        ];
        let paths = paths.map(|(key, path)| format!("{key}={}", path.display()));
        // The state lies below the checkout, which apt's own user may not be able to enter.
        let fixed = ["APT::Sandbox::User=root", "APT::Update::Error-Mode=any"].map(String::from);
        Ok(paths.into_iter().chain(fixed).flat_map(|option| ["-o".into(), option]).collect())
    }

    fn checked(&self, dir: &Path) -> Result<PathBuf> {
        let read = || -> std::io::Result<Option<(PathBuf, Vec<u8>)>> {
            for entry in std::fs::read_dir(dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "deb") {
                    let bytes = std::fs::read(&path)?;
                    return Ok(Some((path, bytes)));
                }
            }
            Ok(None)
        };
        let file = read().into_diagnostic().wrap_err_with(|| format!("cannot read {}", dir.display()))?;
        let (path, bytes) = file.ok_or_else(|| miette!("apt-get fetched no file of {}", self.name))?;
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if sum == self.sha256 {
            return Ok(path);
        }
        Err(miette!("{} {} has the SHA-256 {sum}, but {} is pinned", self.name, self.version, self.sha256))
    }
}

/// Whether this machine's package manager uses a mirror of Debian, from which [`Package::fetch`] can fetch.
///
/// # Errors
/// Fails where apt-get does.
pub(crate) fn has_debian(tools: &Tools<'_>) -> Result<bool> {
    Ok(step::probe(cmd!(tools.sh, "apt-get --version")).is_some() && mirror(tools)?.is_some())
}

fn mirror(tools: &Tools<'_>) -> Result<Option<String>> {
    Ok(debian_release(&index_targets(tools)?).map(|release| release.uri))
}

/// What apt fetches lists of packages from, one `origin label codename uri` a line. Each may hold spaces but the last two.
fn index_targets(tools: &Tools<'_>) -> Result<String> {
    let format = "$(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)";
    step::capture(cmd!(tools.sh, "apt-get indextargets --format {format} 'Created-By: Packages'"))
}

/// A release of Debian, and the mirror of the main archive that it is fetched from.
#[derive(Debug, PartialEq, Eq)]
struct Release {
    codename: String,
    uri: String,
}

/// The release of Debian among apt's index targets: not its updates, which carry a codename of their own.
fn debian_release(targets: &str) -> Option<Release> {
    targets.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["Debian", "Debian", codename, uri] if !codename.contains('-') => {
            Some(Release { codename: (*codename).to_owned(), uri: (*uri).to_owned() })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: Package = Package {
        suite: "trixie-backports",
        name: "rust-src",
        version: "1",
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };

    #[test]
    fn release_is_that_of_the_main_archive() {
        let targets = "Debian Debian-Security bookworm-security http://mirror.example/debian-security/
Debian Debian bookworm-updates http://mirror.example/debian/
Debian Backports Debian Backports bookworm-backports http://mirror.example/debian/
Debian Debian bookworm http://mirror.example/debian/
";
        let release = Release { codename: "bookworm".into(), uri: "http://mirror.example/debian/".into() };
        assert_eq!(debian_release(targets), Some(release));
        assert_eq!(debian_release("Ubuntu Ubuntu noble http://mirror.example/ubuntu/\n"), None);
    }

    #[test]
    fn a_source_is_added_to_those_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let (own, list) = (dir.path().join("own"), dir.path().join("list"));
        let uri = "http://mirror.example/debian/";
        let added = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian/ bookworm-backports main\n";
        add_source(&list, &own, uri, "bookworm-backports").unwrap();
        assert_eq!(std::fs::read_to_string(&list).unwrap(), format!("\n{added}"));
        std::fs::write(&own, "deb http://mirror.example/debian bookworm main").unwrap();
        add_source(&list, &own, uri, "bookworm-backports").unwrap();
        let expected = format!("deb http://mirror.example/debian bookworm main\n{added}");
        assert_eq!(std::fs::read_to_string(&list).unwrap(), expected);
        assert!(
            add_source(&list, dir.path(), uri, "bookworm-backports").is_err(),
            "a list that cannot be read is not an empty one"
        );
    }

    #[test]
    fn version_is_read_from_a_record() {
        let record = "Package: qemu-system-x86\nSource: qemu\nVersion: 1:7.2+dfsg-7+deb12u18\nDescription: x\n";
        assert_eq!(version(record), Some("1:7.2+dfsg-7+deb12u18"));
        assert_eq!(version(""), None);
    }

    #[test]
    fn only_the_pinned_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PACKAGE.checked(dir.path()).unwrap_err().to_string().contains("fetched no file"));
        let file = dir.path().join("rust-src_1_all.deb");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(PACKAGE.checked(dir.path()).unwrap(), file);
        std::fs::write(&file, "abd").unwrap();
        assert!(PACKAGE.checked(dir.path()).unwrap_err().to_string().contains("is pinned"));
    }

    #[test]
    fn state_is_private_and_signed() {
        let dir = tempfile::tempdir().unwrap();
        let options = PACKAGE.private_state(dir.path(), "http://mirror.example/debian/").unwrap();
        assert!(options.contains(&format!("Dir::State::Lists={}", dir.path().join("lists").display())));
        let source = std::fs::read_to_string(dir.path().join("sources/memgate.sources")).unwrap();
        assert!(source.contains("URIs: http://mirror.example/debian/\nSuites: trixie-backports\n"), "{source}");
        assert!(source.contains("Signed-By: /usr/share/keyrings/"), "{source}");
    }
}
