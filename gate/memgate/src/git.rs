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
