//! Runs git in a checkout that may belong to somebody else.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use memgate_agent::child::{self, Pen};
use memgate_evidence::plan::Account;

use crate::account;

/// Options of every git command: no program that the repository names for hooks or for a faster status runs.
const SAFE: [&str; 4] = ["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"];

/// A git command.
///
/// git refuses a checkout of another user, because its settings can name programs. Here it accepts the checkout, and runs
/// as another user if memgate runs as root and root does not own all of it.
#[derive(Debug)]
pub(crate) struct Git {
    pub(crate) command: Command,
    /// The user that it runs as, if it is not memgate's own.
    pub(crate) account: Option<Account>,
    /// What it starts ends when this is dropped.
    pub(crate) pen: Option<Pen>,
}

impl Git {
    /// git in the directory, for what only reads. Whoever owns the directory with the repository can put another one in
    /// its place, so this is the user if it is not root.
    ///
    /// # Errors
    /// When it cannot run as that user.
    pub(crate) fn reading(directory: &Path) -> io::Result<Self> {
        Self::new(directory, |root| account::of_owner(&root.join(".git")).or_else(|| account::of_owner(root)))
    }

    /// git in the directory, for what writes into the repository, as its owner. Nothing of the change may have run yet:
    /// it could have put another repository there.
    ///
    /// # Errors
    /// When it cannot run as that user.
    pub(crate) fn writing(directory: &Path) -> io::Result<Self> {
        Self::new(directory, |root| account::of_owner(&repository(root)))
    }

    fn new(directory: &Path, user: impl Fn(&Path) -> Option<Account>) -> io::Result<Self> {
        let mut command = Command::new("git");
        command.args(SAFE).stdin(Stdio::null());
        let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let root = account::checkout(&real);
        if let Some(root) = root {
            command.arg("-c").arg(trusting(root));
        }
        let account = root.and_then(user);
        let pen = match &account {
            None => {
                command.current_dir(directory);
                None
            }
            Some(account) => {
                command.env_clear().envs(env::vars_os().filter(|(name, _)| is_of_git(name)));
                command.envs(child::inherited(&["PATH", "HOME", "TMPDIR", "LANG"], Some(account)));
                let pen = Pen::make();
                child::confine(&mut command, &pen, Some(account), directory)?;
                Some(pen)
            }
        };
        command.env("LC_ALL", "C");
        Ok(Self { command, account, pen })
    }
}

/// The repository of a checkout: `.git` or, in a worktree, the directory that the file `.git` names (gitrepository-layout(5)).
fn repository(root: &Path) -> PathBuf {
    let file = root.join(".git");
    let named = fs::read_to_string(&file).ok().and_then(|text| Some(root.join(text.trim().strip_prefix("gitdir: ")?)));
    named.unwrap_or(file)
}

/// The setting that has git accept a checkout, whoever owns it. git 2.38 and later take it from the command line.
pub(crate) fn trusting(root: &Path) -> OsString {
    let mut setting = OsString::from("safe.directory=");
    setting.push(root);
    setting
}

/// Whether a variable is for git, or for the ssh that it starts.
fn is_of_git(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"GIT_") || name.starts_with(b"SSH_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout() -> tempfile::TempDir {
        let checkout = tempfile::tempdir().unwrap();
        fs::create_dir(checkout.path().join(".git")).unwrap();
        checkout
    }

    /// The users that read and that write.
    fn users(directory: &Path) -> [Option<u32>; 2] {
        [Git::reading(directory), Git::writing(directory)].map(|git| git.unwrap().account.map(|account| account.uid))
    }

    #[test]
    fn whoever_can_change_the_repository_is_the_user_that_reads_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a file away");
            return;
        }
        let checkout = checkout();
        let give = |file: &Path, user| std::os::unix::fs::lchown(file, Some(user), Some(user)).unwrap();
        assert_eq!(users(checkout.path()), [None, None], "all is root's");
        give(checkout.path(), 60_001);
        assert_eq!(users(checkout.path()), [Some(60_001), None], "it can put another one there");
        give(&checkout.path().join(".git"), 60_002);
        assert_eq!(users(checkout.path()), [Some(60_002), Some(60_002)]);
        // The link is its owner's, and what it leads to is root's.
        let git = checkout.path().join(".git");
        fs::remove_dir(&git).unwrap();
        std::os::unix::fs::symlink("/", &git).unwrap();
        give(&git, 60_003);
        assert_eq!(users(checkout.path()), [Some(60_003), Some(60_003)]);
    }

    #[test]
    fn a_worktree_is_of_the_owner_of_its_repository() {
        let checkout = checkout();
        let git = checkout.path().join(".git");
        assert_eq!(repository(checkout.path()), git);
        fs::remove_dir(&git).unwrap();
        fs::write(&git, "gitdir: /srv/main/.git/worktrees/w\n").unwrap();
        assert_eq!(repository(checkout.path()), Path::new("/srv/main/.git/worktrees/w"));
    }
}
