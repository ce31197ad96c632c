//! The other build of `--against`, and the commit of `--baselines-from`: a commit, which gets a worktree of its own, or a
//! second checkout.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    process::{Output, Stdio},
};

use memgate_agent::cancel::Cancel;
use memgate_config::{Executable, Service};
use memgate_evidence::error::{Error, InputError, Result};
use nix::unistd::{getegid, geteuid};
use serde::Serialize;

use crate::{
    account,
    command::{last_lines, output_unless_cancelled},
    git,
};

/// The directory of a commit's worktree below the directory that is given for it.
pub(crate) const CHECKOUT: &str = "checkout";

/// The word that stands for the commit at which the change left the branch that it is for.
const MERGE_BASE: &str = "merge-base";

/// The variable in which GitHub Actions names the branch that a pull request is for.
const GITHUB_BASE: &str = "GITHUB_BASE_REF";

/// The sources of the other build. The worktree of a commit is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Revision {
    /// Its name in reports: `main (1a2b3c4)`, or the path of a second checkout.
    pub(crate) name: String,
    /// That it has another configuration, which is not used, if it has.
    pub(crate) note: Option<String>,
    /// The root of the checkout that has the change.
    here: PathBuf,
    /// The root of the other checkout.
    there: PathBuf,
    /// The worktree that memgate made.
    worktree: Option<Worktree>,
}

impl Revision {
    /// Finds what `words` name, and checks it out below `out`: `merge-base`, a commit, a branch or a tag, or the
    /// directory of a second checkout. `configuration` is the file in the checkout that has the change.
    ///
    /// # Errors
    /// When there is no such revision, or it cannot be checked out; and when memgate is interrupted.
    pub(crate) async fn find(
        option: &'static str,
        words: &str,
        configuration: &Path,
        out: &Path,
        cancel: &Cancel,
    ) -> Result<Self> {
        let beside = configuration.parent().unwrap_or(Path::new("/"));
        let git = Git { option, directory: beside.to_owned(), cancel };
        if let Some(there) = second_checkout(words) {
            let there = canonical(&there)?;
            // Neither need be in a repository.
            let root = async |directory: PathBuf| {
                let git = Git { option, directory: directory.clone(), cancel };
                git.root().await.unwrap_or(directory)
            };
            let (here, there) = (root(canonical(beside)?).await, root(there).await);
            if here == there {
                let message = format!("{option} {words}: this is the checkout that has the change");
                return Err(InputError::new(message, "name another checkout, or a commit").into());
            }
            let name = there.display().to_string();
            return Ok(Self { name, note: None, here, there, worktree: None }.noting(configuration));
        }
        let here = git.root().await?;
        let (name, commit) = git.commit(words).await?;
        let worktree = Worktree::make(&git, &here, &out.join(CHECKOUT), &commit).await?;
        let found = Self { name, note: None, here, there: worktree.place.clone(), worktree: Some(worktree) };
        Ok(found.noting(configuration))
    }

    /// Checks the submodules of a commit out, which a build may need. Those of a second checkout are its owner's.
    ///
    /// # Errors
    /// When git cannot check one out, and when memgate is interrupted.
    pub(crate) async fn with_submodules(self, option: &'static str, cancel: &Cancel) -> Result<Self> {
        if self.worktree.is_some() && self.there.join(".gitmodules").exists() {
            let git = Git { option, directory: self.there.clone(), cancel };
            git.write(["submodule", "--quiet", "update", "--init", "--recursive"], []).await?;
        }
        Ok(self)
    }

    /// Makes what memgate has checked out memgate's user's, so that nothing that the change executes as the repository's
    /// owner alters it. Nothing of the change may have run yet.
    ///
    /// # Errors
    /// When a file cannot be given to memgate's user.
    pub(crate) fn sealed(self) -> Result<Self> {
        if let Some(worktree) = &self.worktree {
            let place = &worktree.place;
            take_over(place).map_err(|error| {
                InputError::new(format!("{}: {error}", place.display()), "name another directory with `--out`")
            })?;
        }
        Ok(self)
    }

    /// With a note if the other checkout has another configuration.
    fn noting(self, configuration: &Path) -> Self {
        let inside =
            canonical(configuration).ok().and_then(|real| Some(real.strip_prefix(&self.here).ok()?.to_owned()));
        let differs = inside.is_some_and(|inside| {
            let [here, there] = [&self.here, &self.there].map(|root| fs::read(root.join(&inside)));
            there.is_ok_and(|there| here.is_ok_and(|here| here != there))
        });
        let note = differs.then(|| {
            let file = configuration.file_name().unwrap_or_default().display();
            format!("it has another {file}, which is not used: both builds have the load and the settings of this one")
        });
        Self { note, ..self }
    }

    /// The place in the other checkout of what is at `path` in this one, whether there is something or not. `path` need
    /// not exist; the configuration lies in this checkout.
    ///
    /// # Errors
    /// When the path lies outside of the checkout.
    pub(crate) fn beside(&self, configuration: &Path, path: &Path) -> Result<PathBuf> {
        let directory = configuration.parent().unwrap_or(Path::new("/"));
        let inside = path.strip_prefix(directory).ok().filter(|inside| inside.components().all(is_name));
        let real = canonical(directory)?;
        match (real.strip_prefix(&self.here), inside) {
            (Ok(of_directory), Some(inside)) => Ok(self.there.join(of_directory).join(inside)),
            _ => {
                let (path, here) = (path.display(), self.here.display());
                let message = format!("{path} lies outside of {here}, so {} has no other version of it", self.name);
                Err(InputError::new(message, "keep the baselines in the checkout, below the configuration").into())
            }
        }
    }

    /// The service as it is in the other checkout: the same load and the same settings with the other sources.
    ///
    /// # Errors
    /// When the service is not built from sources in the checkout.
    pub(crate) fn service(&self, service: &Service) -> Result<Service> {
        let mut other = service.clone();
        match &mut other.executable {
            Executable::Build(build) => build.dir = self.place(&build.dir, &service.name, "build.dir")?,
            Executable::Binary(binaries) if self.worktree.is_none() => {
                for path in binaries.values_mut() {
                    *path = self.place(path, &service.name, "binary")?;
                }
            }
            Executable::Binary(_) => {
                let message = format!(
                    "services.{}.binary names an executable, which {} has no other version of",
                    service.name, self.name
                );
                let help = "name the directory of a second checkout that has its own executable: `--against DIR`";
                return Err(InputError::new(message, help).into());
            }
        }
        let of_sidecars = other.sidecars.iter_mut().filter_map(|sidecar| sidecar.directory.as_mut());
        let of_before = other.before.iter_mut().filter_map(|before| before.directory.as_mut());
        for directory in [&mut other.run.directory].into_iter().chain(of_sidecars).chain(of_before) {
            // A working directory outside of the checkout, such as /tmp, is the same for both.
            if let Ok(there) = self.place(directory, &service.name, "directory") {
                *directory = there;
            }
        }
        Ok(other)
    }

    /// The place in the other checkout of what is at `path` in this one.
    fn place(&self, path: &Path, service: &str, key: &str) -> Result<PathBuf> {
        let real = canonical(path)?;
        let Ok(inside) = real.strip_prefix(&self.here) else {
            let message = format!(
                "services.{service}.{key}: {} lies outside of {}, so {} has no other version of it",
                path.display(),
                self.here.display(),
                self.name
            );
            return Err(InputError::new(message, "compare services whose sources are in the checkout").into());
        };
        let there = self.there.join(inside);
        if there.exists() {
            return Ok(there);
        }
        let message = format!("services.{service}.{key}: {} has no {}", self.name, inside.display());
        let help = "compare with a revision that has the service, or leave the service out with --service";
        Err(InputError::new(message, help).into())
    }
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct Commit {
    /// Its full hash.
    pub(crate) hash: String,
    /// Its hash, as short as people write it.
    pub(crate) short: String,
    /// Who wrote it.
    pub(crate) author: String,
    /// The day on which it was written, such as `2026-11-23`.
    pub(crate) day: String,
    /// The first line of its message.
    pub(crate) subject: String,
}

/// The commits between two.
#[derive(Debug)]
pub(crate) struct CommitRange {
    /// The commit before them.
    pub(crate) first: Commit,
    /// The commits after it, the oldest first. A merge is one commit: what it merges is not listed.
    pub(crate) commits: Vec<Commit>,
}

impl CommitRange {
    /// The commits after `first`, up to `last`. `configuration` is a file in the checkout.
    ///
    /// # Errors
    /// When there is no such commit, when `last` does not come after `first`, and when memgate is interrupted.
    pub(crate) async fn between(first: &str, last: &str, configuration: &Path, cancel: &Cancel) -> Result<Self> {
        let directory = configuration.parent().unwrap_or(Path::new("/")).to_owned();
        let git = |option| Git { option, directory: directory.clone(), cancel };
        if second_checkout(first).is_some() {
            let message = format!("--against {first}: bisect needs a commit, and this is a directory");
            return Err(InputError::new(message, "name a commit, a branch or a tag").into());
        }
        let (first_name, first) = git("--against").commit(first).await?;
        let git = git("--to");
        let (last_name, last) = git.commit(last).await?;
        let is_before = git.output(["merge-base", "--is-ancestor"], [OsStr::new(&first), OsStr::new(&last)]).await?;
        if !is_before.status.success() || first == last {
            let message = format!("--against {first_name}: {last_name} does not come after it");
            let help = "name a commit that is older: `--against merge-base`, or a tag of the same branch";
            return Err(InputError::new(message, help).into());
        }
        let range = format!("{first}..{last}");
        let list = git.run(["rev-list", "--reverse", "--first-parent"], [OsStr::new(&range)]).await?;
        let mut commits = Vec::new();
        for hash in list.lines() {
            commits.push(git.described(hash).await?);
        }
        Ok(Self { first: git.described(&first).await?, commits })
    }
}

/// Whether a part of a path leads down.
fn is_name(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(_) | Component::CurDir)
}

/// The directory that `words` mean, if they begin as a path.
fn second_checkout(words: &str) -> Option<PathBuf> {
    let path = Path::new(words);
    let is_path = path.is_absolute() || words.starts_with("./") || words.starts_with("../") || words == "..";
    is_path.then(|| path.to_owned())
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path)
        .map_err(|error| InputError::new(format!("{}: {error}", path.display()), "name a directory that exists").into())
}

/// A worktree of a commit, removed when dropped.
#[derive(Debug)]
struct Worktree {
    repository: PathBuf,
    place: PathBuf,
    /// Device and inode of the repository's `.git`, as it was.
    git: Option<(u64, u64)>,
}

impl Worktree {
    async fn make(git: &Git<'_>, repository: &Path, place: &Path, commit: &str) -> Result<Self> {
        let place = std::path::absolute(place)
            .map_err(|error| InputError::new(format!("{}: {error}", place.display()), "change to a directory"))?;
        let made = Self { repository: repository.to_owned(), place: place.clone(), git: identity(repository) };
        // What an earlier memgate left when it was killed.
        made.remove();
        let unusable = |error: std::io::Error| {
            InputError::new(format!("{}: {error}", place.display()), "name another directory with `--out`")
        };
        made.place.parent().map_or(Ok(()), fs::create_dir_all).map_err(unusable)?;
        // memgate's own directory may not be the repository's owner's to write to.
        let owner = git::Git::writing(repository).ok().and_then(|git| git.account);
        if owner.is_some() {
            account::make_directory(owner.as_ref(), &place).map_err(unusable)?;
        }
        let words = ["worktree", "add", "--quiet", "--force", "--detach"];
        git.write(words, [made.place.as_os_str(), OsStr::new(commit)]).await?;
        Ok(made)
    }

    /// Removes the worktree, if there is one.
    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.place);
        // A build or a service may have put another repository there, whose settings name programs.
        if identity(&self.repository) != self.git {
            return;
        }
        let words = ["worktree", "remove", "--force", "--force"].map(OsStr::new);
        // It forgets a worktree whose directory is gone, and fails if there is none. `prune` would forget those of others.
        let _ = git::Git::writing(&self.repository).and_then(|mut git| {
            git.command.args(words).arg(&self.place).stdout(Stdio::null()).stderr(Stdio::null()).status()
        });
    }
}

/// Device and inode of the repository of a checkout.
fn identity(checkout: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(checkout.join(".git")).ok()?;
    Some((found.dev(), found.ino()))
}

/// Makes a directory and all in it memgate's user's. Follows no link.
fn take_over(directory: &Path) -> std::io::Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    std::os::unix::fs::lchown(directory, Some(user), Some(group))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => take_over(&entry.path())?,
            false => std::os::unix::fs::lchown(entry.path(), Some(user), Some(group))?,
        }
    }
    Ok(())
}

impl Drop for Worktree {
    fn drop(&mut self) {
        self.remove();
    }
}

/// git in a directory.
struct Git<'a> {
    /// The option that named the revision, for messages.
    option: &'static str,
    directory: PathBuf,
    cancel: &'a Cancel,
}

impl Git<'_> {
    /// The root of the checkout that has the directory.
    async fn root(&self) -> Result<PathBuf> {
        canonical(Path::new(&self.run(["rev-parse", "--show-toplevel"], []).await?))
    }

    /// The name and the hash of the commit that `words` mean.
    async fn commit(&self, words: &str) -> Result<(String, String)> {
        if words == MERGE_BASE {
            let target = self.target().await?;
            let commit = self.merge_base(&target).await?;
            return Ok((format!("the merge base with {target} ({})", short(&commit)), commit));
        }
        let option = self.option;
        let asked = format!("{words}^{{commit}}");
        let found = self.output(["rev-parse", "--verify", "--quiet", "--end-of-options"], [OsStr::new(&asked)]).await?;
        if !found.status.success() {
            let message =
                format!("{option} {words}: there is no such commit, branch or tag in {}", self.directory.display());
            let help = "fetch it first (in GitHub Actions, check out with `fetch-depth: 0`); a second checkout is named \
                        by its path, such as ../main";
            return Err(InputError::new(message, help).into());
        }
        let commit = text(&found.stdout);
        let name =
            if commit.starts_with(words) { short(&commit).to_owned() } else { format!("{words} ({})", short(&commit)) };
        Ok((name, commit))
    }

    /// The commit with this hash.
    async fn described(&self, hash: &str) -> Result<Commit> {
        // Nothing in a name or a first line is a zero byte.
        let text = self.run(["show", "--no-patch", "--format=%h%x00%an%x00%as%x00%s"], [OsStr::new(hash)]).await?;
        let mut parts = text.splitn(4, '\0').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Ok(Commit { hash: hash.to_owned(), short: part(), author: part(), day: part(), subject: part() })
    }

    /// The branch that the change is for.
    async fn target(&self) -> Result<String> {
        if let Some(base) = std::env::var(GITHUB_BASE).ok().filter(|base| !base.is_empty()) {
            return Ok(format!("origin/{base}"));
        }
        let head = self.output(["rev-parse", "--abbrev-ref", "--verify", "--quiet", "origin/HEAD"], []).await?;
        if head.status.success() {
            return Ok(text(&head.stdout));
        }
        let option = self.option;
        let message = format!(
            "{option} {MERGE_BASE}: it is not known which branch the change is for: {GITHUB_BASE} is not set, and \
             there is no origin/HEAD"
        );
        let help = "run `git remote set-head origin --auto`, or name a commit: `$(git merge-base HEAD main)`";
        Err(InputError::new(message, help).into())
    }

    async fn merge_base(&self, target: &str) -> Result<String> {
        let found = self.output(["merge-base", "HEAD"], [OsStr::new(target)]).await?;
        if found.status.success() {
            return Ok(text(&found.stdout));
        }
        let shallow = self.run(["rev-parse", "--is-shallow-repository"], []).await? == "true";
        let reason = last_lines(&found.stderr);
        let reason = if reason.is_empty() { "they have no commit in common".to_owned() } else { reason };
        let why = if shallow { "; the clone is shallow" } else { "" };
        let option = self.option;
        let message = format!("{option} {MERGE_BASE}: HEAD and {target}: {reason}{why}");
        let help = match shallow {
            true => "fetch the history: `git fetch --unshallow`, or `fetch-depth: 0` in GitHub Actions",
            false => "fetch the branch that the change is for, or name a commit",
        };
        Err(InputError::new(message, help).into())
    }

    /// What git prints.
    ///
    /// # Errors
    /// When it fails.
    async fn run<const N: usize, const M: usize>(&self, words: [&str; N], paths: [&OsStr; M]) -> Result<String> {
        self.printed(words, self.output(words, paths).await?)
    }

    /// The same with a command that writes into the repository.
    async fn write<const N: usize, const M: usize>(&self, words: [&str; N], paths: [&OsStr; M]) -> Result<String> {
        let git = git::Git::writing(&self.directory).map_err(|error| self.not_started(&error))?;
        self.printed(words, self.outcome(git, &words, &paths).await?)
    }

    fn printed<const N: usize>(&self, words: [&str; N], output: Output) -> Result<String> {
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let message =
            format!("`git {}` in {} failed: {}", words.join(" "), self.directory.display(), last_lines(&output.stderr));
        let help = "memgate needs a git repository with a work tree here, or the path of a second checkout";
        Err(InputError::new(message, help).into())
    }

    async fn output<const N: usize, const M: usize>(&self, words: [&str; N], paths: [&OsStr; M]) -> Result<Output> {
        let git = git::Git::reading(&self.directory).map_err(|error| self.not_started(&error))?;
        self.outcome(git, &words, &paths).await
    }

    async fn outcome(&self, mut git: git::Git, words: &[&str], paths: &[&OsStr]) -> Result<Output> {
        git.command.args(words).args(paths);
        let outcome = output_unless_cancelled(git.command, git.pen, self.cancel).await?;
        outcome.map_err(|error| self.not_started(&error))
    }

    fn not_started(&self, error: &std::io::Error) -> Error {
        let message = format!("{} needs git, which cannot be started: {error}", self.option);
        InputError::new(message, "install git, or leave the option out").into()
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// The first characters of a commit's hash.
fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}

#[cfg(test)]
mod tests {
    use memgate_evidence::plan::Load;

    use super::*;

    #[test]
    fn everything_of_the_other_build_runs_in_the_other_checkout() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let [here, there, outside] = ["here", "there", "outside"].map(|name| root.join(name));
        for part in ["src", "run", "db", "cache"] {
            for checkout in [&here, &there] {
                fs::create_dir_all(checkout.join(part)).unwrap();
            }
        }
        fs::create_dir(&outside).unwrap();
        let text = format!(
            r#"version: 1
services:
  s:
    build: {{ dir: src, package: . }}
    run: {{ directory: run, ready: {{ log: up }} }}
    load: {{ command: [k6], results: {{ format: k6, file: results.json }} }}
    sidecars:
      cache: {{ command: [cache], directory: cache, ready: {{ log: up }} }}
      queue: {{ command: [queue], directory: {outside}, ready: {{ log: up }} }}
      fresh: {{ command: [fresh], ready: {{ log: up }} }}
    before: [ {{ command: [$MEMGATE_SERVICE, migrate], directory: db }}, {{ command: [seed] }} ]
"#,
            outside = outside.display()
        );
        let config = memgate_config::parse(&here.join("memgate.yaml"), &text).unwrap();
        let revision = Revision { name: "other".to_owned(), note: None, here, there: there.clone(), worktree: None };
        let other = revision.service(&config.services["s"]).unwrap();
        assert_eq!(other.run.directory, there.join("run"));
        let of_sidecars: Vec<_> = other.sidecars.iter().map(|sidecar| sidecar.directory.clone()).collect();
        assert_eq!(of_sidecars, [Some(there.join("cache")), Some(outside), None]);
        let of_before: Vec<_> = other.before.iter().map(|before| before.directory.clone()).collect();
        assert_eq!(of_before, [Some(there.join("db")), None]);
        let Load::Command(load) = other.load else { panic!("{:?}", other.load) };
        let results = load.results.unwrap().file;
        assert_eq!(other.run.directory.join(results), there.join("run/results.json"), "it lies where the load runs");
    }
}
