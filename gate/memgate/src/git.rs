//! Runs git in a checkout that may belong to somebody else.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::Path,
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
/// as the owner of the repository if memgate runs as root.
#[derive(Debug)]
pub(crate) struct Git {
    pub(crate) command: Command,
    /// The user that it runs as, if it is not memgate's own.
    pub(crate) account: Option<Account>,
    /// What it starts ends when this is dropped.
    _pen: Option<Pen>,
}

impl Git {
    /// git in the directory.
    ///
    /// # Errors
    /// When it cannot run as the owner of the repository.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let mut command = Command::new("git");
        command.args(SAFE).current_dir(directory).stdin(Stdio::null());
        let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let root = account::checkout(&real);
        if let Some(root) = root {
            command.arg("-c").arg(trusting(root));
        }
        let account = root.and_then(|root| account::of_owner(&root.join(".git")));
        let pen = match &account {
            None => None,
            Some(account) => {
                command.env_clear().envs(env::vars_os().filter(|(name, _)| is_of_git(name)));
                command.envs(child::inherited(&["PATH", "HOME", "TMPDIR", "LANG"], Some(account)));
                let pen = Pen::make();
                child::confine(&mut command, &pen, Some(account))?;
                Some(pen)
            }
        };
        command.env("LC_ALL", "C");
        Ok(Self { command, account, _pen: pen })
    }
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
