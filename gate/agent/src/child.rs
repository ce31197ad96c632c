//! What a process that memgate starts becomes before it executes anything: in which cgroup, as which user, and that it
//! ends with memgate.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt as _},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::Command,
};

use memgate_evidence::plan::Account;
use nix::{
    fcntl::{OFlag, open},
    sys::{
        prctl, ptrace,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::{Gid, Pid, Uid, chdir, getpid, getppid, setgroups, setresgid, setresuid, write},
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
#[derive(Debug)]
pub(crate) struct Child {
    /// Files to which it writes `0` to enter its cgroups.
    entries: Vec<OwnedFd>,
    account: Option<Ids>,
    /// The working directory, which the process must be able to enter.
    directory: CString,
    traced: bool,
    /// Whether memgate itself is protected from the kernel's OOM killer.
    is_protected: bool,
}

/// The ids of a user.
#[derive(Debug)]
struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Child {
    /// A process in this cgroup and this directory, as this user, or as memgate's own if there is none.
    ///
    /// # Errors
    /// When a file of the cgroup cannot be opened, or the directory's name has a zero byte.
    pub(crate) fn new(cgroup: &Cgroup, account: Option<&Account>, directory: &Path) -> io::Result<Self> {
        let ids = |account: &Account| Ids {
            uid: account.uid.into(),
            gid: account.gid.into(),
            groups: account.groups.iter().copied().map(Gid::from_raw).collect(),
        };
        let directory = CString::new(directory.as_os_str().as_bytes())?;
        let own = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
        let (entries, account, is_protected) = (cgroup.entries()?, account.map(ids), own.is_some_and(|own| own < 0));
        Ok(Self { entries, account, directory, traced: false, is_protected })
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
        if self.is_protected {
            // The kernel kills it, and all that it starts, before memgate. Later the file may be another user's.
            let score = open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            write(score, b"0")?;
        }
        if let Some(ids) = &self.account {
            // With no way back: the saved ids change too.
            setgroups(&ids.groups)?;
            setresgid(ids.gid, ids.gid, ids.gid)?;
            setresuid(ids.uid, ids.uid, ids.uid)?;
            // A program with the set-user-ID bit would be a way back.
            prctl::set_no_new_privs()?;
            // memgate's own may hide from others what this user makes.
            umask(Mode::S_IWGRP | Mode::S_IWOTH);
        }
        // Only now: the user must not get into a directory that it cannot enter by itself.
        chdir(self.directory.as_c_str())?;
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

/// Those of memgate's own variables that a process gets. If it is another user's, `HOME` is that user's, and `TMPDIR` is
/// left out if that user cannot write there.
pub fn inherited(names: &[&str], account: Option<&Account>) -> Vec<(OsString, OsString)> {
    let own = |name: &str| match (name, account) {
        ("HOME", Some(account)) => Some(account.home.clone().into_os_string()),
        ("TMPDIR", Some(account)) => std::env::var_os(name).filter(|place| may_write(account, Path::new(place))),
        _ => std::env::var_os(name),
    };
    names.iter().filter_map(|name| Some((OsString::from(name), own(name)?))).collect()
}

/// Whether the user may make files in the directory, or make the directory where there is none.
pub fn may_write(account: &Account, directory: &Path) -> bool {
    let existing = directory.ancestors().find_map(|above| fs::metadata(above).ok());
    existing.is_some_and(|found| {
        let mode = found.permissions().mode();
        let class = match () {
            () if found.uid() == account.uid => mode >> 6,
            () if found.gid() == account.gid || account.groups.contains(&found.gid()) => mode >> 3,
            () => mode,
        };
        class & 0o3 == 0o3
    })
}

/// Has the command run in the cgroup and in the directory as this user, or as memgate's own if there is none. The kernel
/// kills its process when the calling thread ends.
///
/// # Errors
/// When a file of the cgroup cannot be opened, or the directory's name has a zero byte.
pub fn confine(command: &mut Command, pen: &Pen, account: Option<&Account>, directory: &Path) -> io::Result<()> {
    Child::new(&pen.0, account, directory)?.apply(command);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, process::Stdio};

    use super::*;

    fn nobody() -> Account {
        Account { name: "nobody".to_owned(), uid: 65534, gid: 65534, groups: vec![60001], home: PathBuf::from("/") }
    }

    fn shell(script: &str, pen: &Pen, account: Option<&Account>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stderr(Stdio::inherit());
        confine(&mut command, pen, account, Path::new("/")).unwrap();
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
    fn nothing_inherits_memgates_protection() {
        let score = |child: &Child| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "cat /proc/self/oom_score_adj"]);
            let of_it = Child { entries: vec![], account: None, directory: child.directory.clone(), ..*child };
            of_it.apply(&mut command);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let usual = Child::new(&Pen::make().0, None, Path::new("/")).unwrap();
        assert_eq!(usual.is_protected, own.starts_with('-'));
        assert_eq!(score(&Child { is_protected: true, ..usual }), "0\n");
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
        // The cgroup forgets a process a little before it has ended.
        let begun = std::time::Instant::now();
        while runs() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(100), "it still runs");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    #[test]
    fn who_may_write_is_told_by_owner_group_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("below/further");
        let owner = fs::metadata(directory.path()).unwrap();
        let user = |uid, gid| Account { name: String::new(), uid, gid, groups: vec![], home: PathBuf::new() };
        let set = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let [own, group, other] = [user(owner.uid(), owner.gid()), user(60001, owner.gid()), user(60001, 60001)];
        for (mode, expected) in
            [(0o700, [true, false, false]), (0o570, [false, true, false]), (0o773, [true, true, true])]
        {
            set(mode);
            assert_eq!([&own, &group, &other].map(|user| may_write(user, &place)), expected, "{mode:o}");
        }
        set(0o700);
    }
}
