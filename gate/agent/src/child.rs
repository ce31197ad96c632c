//! What a process that memgate starts becomes before it executes anything: in which cgroup, as which user, and that it
//! ends with memgate.

use std::{ffi::OsString, io, os::fd::OwnedFd, os::unix::process::CommandExt as _, process::Command};

use memgate_evidence::plan::Account;
use nix::{
    sys::{prctl, ptrace, signal::Signal},
    unistd::{Gid, Pid, Uid, getpid, getppid, setgroups, setresgid, setresuid},
};

use crate::cgroup::{Cgroup, enter};

/// A cgroup for processes that are not measured: a build, a load command. Dropping it kills every process in it, whatever
/// session or process group that process has made for itself.
#[derive(Debug)]
pub struct Pen(Cgroup);

impl Pen {
    /// Makes the cgroup. Where none can be made, nothing holds the processes together but their process group.
    pub fn make() -> Self {
        Self(Cgroup::without_memory())
    }
}

/// What a child process becomes between fork and exec.
#[derive(Debug, Default)]
pub(crate) struct Child {
    /// Files to which it writes `0` to enter its cgroups.
    entries: Vec<OwnedFd>,
    account: Option<Ids>,
    traced: bool,
}

/// The ids of a user.
#[derive(Debug)]
struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Child {
    /// A process in this cgroup, as this user, or as memgate's own if there is none.
    ///
    /// # Errors
    /// When a file of the cgroup cannot be opened.
    pub(crate) fn new(cgroup: &Cgroup, account: Option<&Account>) -> io::Result<Self> {
        let ids = |account: &Account| Ids {
            uid: account.uid.into(),
            gid: account.gid.into(),
            groups: account.groups.iter().copied().map(Gid::from_raw).collect(),
        };
        Ok(Self { entries: cgroup.entries()?, account: account.map(ids), traced: false })
    }

    /// The same, stopped before its first instruction.
    pub(crate) fn traced(self) -> Self {
        Self { traced: true, ..self }
    }

    /// Has the command make this of the process. The kernel kills the process when the calling thread ends.
    pub(crate) fn apply(self, command: &mut Command) {
        let parent = getpid();
        // SAFETY: between fork and exec the closure makes only system calls, which are async-signal-safe, and allocates
        // nothing.
        unsafe { command.pre_exec(move || self.become_it(parent)) };
    }

    fn become_it(&self, parent: Pid) -> io::Result<()> {
        self.entries.iter().try_for_each(enter)?;
        if let Some(ids) = &self.account {
            // With no way back: the saved ids change too.
            setgroups(&ids.groups)?;
            setresgid(ids.gid, ids.gid, ids.gid)?;
            setresuid(ids.uid, ids.uid, ids.uid)?;
            // A program with the set-user-ID bit would be a way back.
            prctl::set_no_new_privs()?;
        }
        // A change of the user clears it (`commit_creds`, kernel/cred.c, Linux 6.18).
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have ended before the call.
        if getppid() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.traced {
            ptrace::traceme()?;
        }
        Ok(())
    }
}

/// Those of memgate's own variables that a process gets. `HOME` is that of the user, if it is another one.
pub fn inherited(names: &[&str], account: Option<&Account>) -> Vec<(OsString, OsString)> {
    let own = |name: &str| match (name, account) {
        ("HOME", Some(account)) => Some(account.home.clone().into_os_string()),
        _ => std::env::var_os(name),
    };
    names.iter().filter_map(|name| Some((OsString::from(name), own(name)?))).collect()
}

/// Has the command run in the cgroup as this user, or as memgate's own if there is none. The kernel kills its process
/// when the calling thread ends.
///
/// # Errors
/// When a file of the cgroup cannot be opened.
pub fn confine(command: &mut Command, pen: &Pen, account: Option<&Account>) -> io::Result<()> {
    Child::new(&pen.0, account)?.apply(command);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, process::Stdio};

    use super::*;

    fn nobody() -> Account {
        Account { name: "nobody".to_owned(), uid: 65534, gid: 65534, groups: vec![60001], home: PathBuf::from("/") }
    }

    fn shell(script: &str, pen: &Pen, account: Option<&Account>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir("/").stderr(Stdio::inherit());
        confine(&mut command, pen, account).unwrap();
        command
    }

    #[test]
    fn a_process_of_another_user_has_no_way_back() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can become another user");
            return;
        }
        let pen = Pen::make();
        let status = "grep -E '^(Uid|Gid|Groups|NoNewPrivs|CapEff):' /proc/self/status";
        let output = shell(status, &pen, Some(&nobody())).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap().replace('\t', " ");
        let expected =
            ["Uid: 65534 65534 65534 65534", "Gid: 65534 65534 65534 65534", "Groups: 60001 ", "NoNewPrivs: 1"];
        for line in expected.into_iter().chain(["CapEff: 0000000000000000"]) {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn memgates_own_user_keeps_what_it_has() {
        let pen = Pen::make();
        let output = shell("id -u; grep NoNewPrivs: /proc/self/status", &pen, None).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let no_new_privileges = own.lines().find(|line| line.starts_with("NoNewPrivs")).unwrap();
        assert_eq!(text, format!("{}\n{no_new_privileges}\n", nix::unistd::geteuid()));
    }

    #[test]
    fn what_leaves_its_session_ends_with_the_pen() {
        let pen = Pen::make();
        if pen.0.files().processes().is_none() {
            eprintln!("SKIPPED: no cgroup can be made");
            return;
        }
        let mut command = shell("setsid sh -c 'echo $$; exec sleep 1000' &", &pen, None);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        child.wait().unwrap();
        let runs = || {
            fs::read_to_string(format!("/proc/{}/stat", line.trim()))
                .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
        };
        assert!(runs());
        drop(pen);
        assert!(!runs());
    }
}
