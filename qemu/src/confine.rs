//! What QEMU may do on this machine: which user it is, which files it reaches, and which system calls it has left.
//!
//! A service can break out of its guest only through QEMU, which has had such faults. So QEMU is never root.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sys::{prctl, signal::Signal},
    unistd::{Gid, Pid, Uid, geteuid, getppid, setgroups, setresgid, setresuid},
};

use crate::machine::Machine;

/// The user `nobody` and its group, whose numbers every Linux has. They own no files.
const NOBODY: u32 = 65534;

/// The kernel's numbers of the capabilities that a change of group and user needs (linux/capability.h).
const SETGID_AND_SETUID: u64 = 1 << 6 | 1 << 7;

/// A QEMU before it starts.
#[derive(Debug)]
pub(crate) struct Confined {
    /// The machine, with the paths by which that QEMU finds its files.
    pub(crate) machine: Machine,
    /// Whether it runs as [`NOBODY`] and not as memgate's own user.
    is_nobody: bool,
    /// Files and directories that it inherits, and opens by their numbers.
    lent: Vec<OwnedFd>,
}

impl Confined {
    /// Opens what QEMU needs and its user may not reach by a path: a cache often lies below a directory of root's alone.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub(crate) fn new(machine: &Machine) -> io::Result<Self> {
        let is_nobody = can_be_nobody(geteuid(), &fs::read_to_string("/proc/self/status")?, &maps()?);
        let mut confined = Self { machine: machine.clone(), is_nobody, lent: Vec::new() };
        if is_nobody {
            confined.lend_files(machine)?;
        }
        Ok(confined)
    }

    fn lend_files(&mut self, machine: &Machine) -> io::Result<()> {
        self.machine.kernel = self.lend(&machine.kernel)?;
        self.machine.initramfs = self.lend(&machine.initramfs)?;
        self.machine.firmware = machine.firmware.as_deref().map(|firmware| self.lend(firmware)).transpose()?;
        if let Some(place) = &machine.emulator.place {
            let lent = self.lend(place)?;
            let moved = |path: &OsStr| match Path::new(path).strip_prefix(place) {
                Ok(below) => lent.join(below).into_os_string(),
                Err(_) => path.to_owned(),
            };
            self.machine.emulator.program = moved(machine.emulator.program.as_os_str()).into();
            self.machine.emulator.leading =
                machine.emulator.leading.iter().map(|it| moved(it)).collect::<Vec<OsString>>();
        }
        Ok(())
    }

    /// Opens a file or a directory. Returns the path by which a process that inherits it opens it again.
    fn lend(&mut self, path: &Path) -> io::Result<PathBuf> {
        let open = File::options().read(true).custom_flags(libc::O_PATH).open(path);
        let open = open.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let by_number = format!("/proc/self/fd/{}", open.as_raw_fd());
        self.lent.push(open.into());
        Ok(by_number.into())
    }

    /// What is weaker than usual, for the notes of a run.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.machine.emulator.has_sandbox {
            notes.push("QEMU was built without seccomp, so it can make every system call of its user".to_owned());
        }
        if geteuid().is_root() && !self.is_nobody {
            notes.push("QEMU runs as root, because memgate may not become another user here".to_owned());
        }
        notes
    }

    /// Makes this of the process between fork and exec. It inherits `sockets`, and ends with the thread of `parent` that
    /// started it. Makes only system calls and allocates nothing.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn become_it(&self, sockets: &[RawFd], parent: Pid) -> io::Result<()> {
        for number in self.lent.iter().map(AsRawFd::as_raw_fd).chain(sockets.iter().copied()) {
            // SAFETY: the process that forked holds it open until after exec.
            let inherited = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        if self.is_nobody {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            setgroups(&[])?;
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid)?;
        }
        prctl::set_no_new_privs()?;
        // A change of the user clears it (`commit_creds`, kernel/cred.c, Linux 6.18).
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // memgate may have ended before the call.
        if getppid() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// The user and group numbers of this user namespace that exist outside of it, as in `/proc/self/uid_map`.
fn maps() -> io::Result<[String; 2]> {
    Ok([fs::read_to_string("/proc/self/uid_map")?, fs::read_to_string("/proc/self/gid_map")?])
}

/// Whether a process with this user, this `/proc/PID/status` and these maps can become [`NOBODY`], and needs to.
fn can_be_nobody(own: Uid, status: &str, maps: &[String; 2]) -> bool {
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    let is_mapped = |map: &String| {
        map.lines().any(|line| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(NOBODY)))
        })
    };
    own.is_root() && capabilities & SETGID_AND_SETUID == SETGID_AND_SETUID && maps.iter().all(is_mapped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{architecture::Architecture, emulator::tests::emulator};

    #[test]
    fn qemu_is_nobody_where_root_can_become_it() {
        let all = "         0          0 4294967295\n".to_owned();
        let one = "         0       1000          1\n".to_owned();
        let (full, few) = ("CapEff:\t000001ffffffffff\n", "CapEff:\t0000000000000040\n");
        let root = Uid::from_raw(0);
        assert!(can_be_nobody(root, full, &[all.clone(), all.clone()]));
        assert!(!can_be_nobody(Uid::from_raw(1000), full, &[all.clone(), all.clone()]), "it is not root anyway");
        assert!(!can_be_nobody(root, few, &[all.clone(), all.clone()]), "it lacks a capability");
        assert!(!can_be_nobody(root, "", &[all.clone(), all.clone()]), "nothing is known of its capabilities");
        assert!(!can_be_nobody(root, full, &[all.clone(), one.clone()]), "its namespace has one group only");
        assert!(!can_be_nobody(root, full, &[one, all]), "its namespace has one user only");
    }

    #[test]
    fn what_lies_below_a_private_directory_is_lent() {
        let directory = tempfile::tempdir().unwrap();
        let [kernel, initramfs, place] = ["kernel", "initramfs", "qemu"].map(|name| directory.path().join(name));
        fs::write(&kernel, "a kernel").unwrap();
        fs::write(&initramfs, "").unwrap();
        fs::create_dir_all(place.join("bin")).unwrap();
        fs::write(place.join("bin/qemu"), "a program").unwrap();
        let mut emulator = emulator("10.0.13", "");
        emulator.program = place.join("bin/qemu");
        emulator.leading = vec!["-L".into(), place.join("share").into(), "$ORIGIN/../lib".into()];
        emulator.place = Some(place);
        let architecture = Architecture::Arm64;
        let machine = Machine { architecture, emulator, memory: 1, cpus: 1, kernel, initramfs, firmware: None };
        let mut confined = Confined { machine: machine.clone(), is_nobody: true, lent: Vec::new() };
        confined.lend_files(&machine).unwrap();
        let Machine { kernel, emulator, .. } = &confined.machine;
        assert_eq!(fs::read_to_string(kernel).unwrap(), "a kernel");
        assert_eq!(fs::read_to_string(&emulator.program).unwrap(), "a program");
        let lent = confined.lent.last().unwrap().as_raw_fd();
        assert_eq!(
            emulator.leading,
            ["-L".into(), format!("/proc/self/fd/{lent}/share"), "$ORIGIN/../lib".into()].map(OsString::from)
        );
        assert_eq!(confined.lent.len(), 3);
        let missing = confined.lend(Path::new("/nonexistent/kernel")).unwrap_err();
        assert!(missing.to_string().starts_with("/nonexistent/kernel: "), "{missing}");
    }

    #[test]
    fn what_is_weaker_than_usual_is_noted() {
        let mut machine = Machine {
            architecture: Architecture::Arm64,
            emulator: emulator("10.0.13", ""),
            memory: 1,
            cpus: 1,
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            firmware: None,
        };
        let is_nobody = geteuid().is_root();
        let notes =
            |machine: &Machine, is_nobody| Confined { machine: machine.clone(), is_nobody, lent: Vec::new() }.notes();
        assert_eq!(notes(&machine, is_nobody), [""; 0]);
        machine.emulator.has_sandbox = false;
        assert!(notes(&machine, is_nobody)[0].contains("without seccomp"));
        if is_nobody {
            assert!(notes(&machine, false)[1].contains("as root"));
        }
    }
}
