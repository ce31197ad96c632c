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
    let by_hand = || format!("install {} yourself, then run this command again", packages.join(" "));
    if step::probe(cmd!(tools.sh, "apt-get --version")).is_none() {
        return Err(miette!(help = by_hand(), "{} is missing, and there is no apt-get", packages.join(" ")));
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(miette!(help = by_hand(), "{} is missing, and only root can install it", packages.join(" ")));
    }
    let sh = tools.sh;
    let wait = "DPkg::Lock::Timeout=300";
    step::run(cmd!(sh, "apt-get -qq update"))?;
    let install = cmd!(sh, "apt-get -qq -o {wait} install --yes --no-install-recommends {packages...}");
    step::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
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
    let targets = step::capture(cmd!(
        tools.sh,
        "apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages'"
    ))?;
    Ok(debian_mirror(&targets))
}

/// The mirror of Debian's main archive among apt's index targets, one `origin label uri` a line.
fn debian_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["Debian", "Debian", uri] => Some((*uri).to_owned()),
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
    fn mirror_is_that_of_the_main_archive() {
        let targets = "Debian Debian-Security http://mirror.example/debian-security/\nDebian Debian http://mirror.example/debian/\n";
        assert_eq!(debian_mirror(targets).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(debian_mirror("Ubuntu Ubuntu http://mirror.example/ubuntu/\n"), None);
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
