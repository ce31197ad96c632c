//! The launched process: whether it is still the same program, and whether it is the whole service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use memgate_evidence::error::{FailureKind, Stage};
use memgate_goexe::FileIdentity;
use procfs::{
    ProcResult,
    process::{MMapPath, MemoryMap, Process, Stat},
};

use super::worth::note;
use crate::environment;

/// The launched process.
pub(super) struct ServiceProcess {
    process: Process,
    /// Its entry in /proc, or another directory with the same files.
    entry: PathBuf,
    identity: Identity,
    stat: ProcResult<Stat>,
    /// Why the process is no longer the launched program.
    replaced: Option<String>,
    /// The processes that the service started and memgate saw, by number and time of start: numbers come again.
    others: BTreeMap<(i32, u64), Other>,
    /// Whether a process has ended that memgate did not see. It looks many times a second, so that one lived shortly.
    has_unseen: bool,
    /// Whether memgate sees the service's own children only, because there is no cgroup.
    sees_children_only: bool,
    /// Why memgate cannot see what the service started, if it could not once.
    unseeable: Option<String>,
    /// Whether the user has said that this process is measured, of all those of the service.
    expects_others: bool,
}

/// A process that the service started.
#[derive(Debug)]
struct Other {
    name: String,
    /// When memgate saw it for the first and for the last time, ns since launch.
    first_ns: u64,
    last_ns: u64,
}

/// A process that lives for less than this, or for less than half of a shorter run, does a job for the service and does
/// not serve in its stead.
const LIVES_SHORTLY_NS: u64 = 10_000_000_000;

/// Why memgate cannot watch the launched process.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(super) enum ServiceError {
    /// Its entry in /proc cannot be read.
    #[error("the service's entry in /proc cannot be read")]
    #[diagnostic(help("mount procfs at /proc and run as root"))]
    Entry(#[source] procfs::ProcError),
    /// Its executable cannot be examined.
    #[error("the executable that the service runs cannot be examined")]
    #[diagnostic(help("mount procfs at /proc and run as root"))]
    Executable(#[source] io::Error),
    /// It runs another file than the one that memgate read.
    #[error("{path} was replaced after memgate read it and before it started")]
    #[diagnostic(help("run memgate again while nothing rebuilds the executable"))]
    Replaced {
        /// The executable.
        path: PathBuf,
    },
}

impl FailureKind for ServiceError {
    fn stage(&self) -> Stage {
        Stage::Collect
    }
}

/// The execution that a process runs. Another execution of the same file has another stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// Where its first stack begins (`startstack` of /proc/PID/stat). The kernel chooses it for each execution.
    stack: u64,
}

impl Identity {
    fn of(entry: &Path, stat: &Stat) -> io::Result<Self> {
        let executable = fs::metadata(entry.join("exe"))?;
        Ok(Self { device: executable.dev(), inode: executable.ino(), stack: stat.startstack })
    }
}

impl ServiceProcess {
    /// The process whose entry in /proc is `entry`, such as `/proc/4242`.
    ///
    /// # Errors
    /// Fails if the entry cannot be read.
    pub(super) fn open(entry: PathBuf) -> Result<Self, ServiceError> {
        let process = Process::new_with_root(entry.clone()).map_err(ServiceError::Entry)?;
        let stat = process.stat().map_err(ServiceError::Entry)?;
        let identity = Identity::of(&entry, &stat).map_err(ServiceError::Executable)?;
        Ok(Self {
            process,
            entry,
            identity,
            stat: Ok(stat),
            replaced: None,
            others: BTreeMap::new(),
            has_unseen: false,
            sees_children_only: false,
            unseeable: None,
            expects_others: false,
        })
    }

    /// Checks that the process runs the same file that memgate read at `path`.
    ///
    /// # Errors
    /// Fails if the process is gone or runs another file.
    pub(super) fn must_run(&self, file: FileIdentity, path: &Path) -> Result<(), ServiceError> {
        let metadata = fs::metadata(self.entry.join("exe")).map_err(ServiceError::Executable)?;
        let same = FileIdentity::of(&metadata) == file;
        if same { Ok(()) } else { Err(ServiceError::Replaced { path: path.to_owned() }) }
    }

    /// Its process.
    pub(super) const fn process(&self) -> &Process {
        &self.process
    }

    /// A file of its entry in /proc.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.entry.join(name)
    }

    /// Examines the process: whether it still runs the executable that was launched. Addresses are valid only in that
    /// one.
    pub(super) fn look(&mut self) -> bool {
        self.stat = self.process.stat();
        let now = self.stat.as_ref().ok().and_then(|stat| Identity::of(&self.entry, stat).ok());
        // An ended process was not replaced. The readings themselves report its end.
        if self.replaced.is_none() && now.is_some_and(|now| now != self.identity) {
            let other = self.process.exe().map_or_else(|_| "another".to_owned(), |path| path.display().to_string());
            self.replaced = Some(format!(
                "the service replaced itself by a new execution of {other}: let it run without that, by `run.args` or `run.env`, \
                 name what it executes under `binary`, or measure a later execution: `run.watch: {{ execution: 2 }}`"
            ));
        }
        self.is_itself()
    }

    /// Whether it was the launched program when it was last examined.
    pub(super) const fn is_itself(&self) -> bool {
        self.replaced.is_none()
    }

    /// Its status when it was last examined.
    pub(super) const fn stat(&self) -> Result<&Stat, &procfs::ProcError> {
        self.stat.as_ref()
    }

    /// Its entry in /proc.
    pub(super) fn entry(&self) -> &Path {
        &self.entry
    }

    /// What `read` reads in the entry of another process; `None` if that has ended.
    ///
    /// # Errors
    /// Fails if the process lives and cannot be read.
    pub(super) fn of_sibling<T>(
        &self,
        pid: i32,
        read: impl FnOnce(PathBuf) -> ProcResult<T>,
    ) -> Result<Option<T>, String> {
        let Some(all) = self.entry.parent() else { return Ok(None) };
        of_living(read(all.join(pid.to_string()))).map_err(|error| format!("process {pid}: {error}"))
    }

    /// The child processes of its threads. A thread that has ended meanwhile has none.
    ///
    /// # Errors
    /// Fails if the kernel does not tell the children of a thread that lives.
    pub(super) fn children(&self) -> Result<Vec<i32>, String> {
        let failed = |error: procfs::ProcError| format!("the children of its threads: {error}");
        let mut children = Vec::new();
        for task in of_living(self.process.tasks()).map_err(failed)?.into_iter().flatten() {
            let Some(task) = of_living(task).map_err(failed)? else { continue };
            match task.children() {
                Ok(of_task) => children.extend(of_task.into_iter().map(u32::cast_signed)),
                // A kernel without CONFIG_PROC_CHILDREN has no such file for threads that live either.
                Err(procfs::ProcError::NotFound(_)) if !self.file(&format!("task/{}", task.tid)).exists() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(children)
    }

    /// Notes why memgate cannot see which processes the service has started. That is a doubt, whatever it sees later.
    pub(super) fn cannot_be_seen_whole(&mut self, reason: String) {
        note(&mut self.unseeable, reason);
    }

    /// Notes that the service has started this process. Call it while the process lives, at each look.
    pub(super) fn has_started(&mut self, other: i32, at_ns: u64) {
        let stat = match self.of_sibling(other, |entry| Process::new_with_root(entry)?.stat()) {
            Ok(Some(stat)) => stat,
            Ok(None) => {
                self.has_unseen = true;
                return;
            }
            Err(reason) => return self.cannot_be_seen_whole(reason),
        };
        let seen = self.others.entry((other, stat.starttime));
        let seen = seen.or_insert_with(|| Other { name: String::new(), first_ns: at_ns, last_ns: 0 });
        // Between fork and exec it has its parent's name.
        (seen.name, seen.last_ns) = (stat.comm, at_ns);
    }

    /// Takes other processes for right: the user has said that this one is measured.
    pub(super) const fn expect_others(&mut self) {
        self.expects_others = true;
    }

    /// Notes that memgate sees the service's own children only. What a child starts may outlive it, so that each child is
    /// a doubt.
    pub(super) const fn is_seen_with_children_only(&mut self) {
        self.sees_children_only = true;
    }

    /// Notes that a process has ended that the service started.
    pub(super) const fn has_ended_one(&mut self) {
        self.has_unseen = true;
    }

    /// The names of the processes that are a doubt at the end of a run, and of those that lived shortly.
    fn others(&self, end_ns: u64) -> [BTreeSet<&str>; 2] {
        let lived_shortly = |other: &Other| {
            !self.sees_children_only && other.last_ns.saturating_sub(other.first_ns) < LIVES_SHORTLY_NS.min(end_ns / 2)
        };
        let (short, long): (Vec<&Other>, Vec<&Other>) = self.others.values().partition(|other| lived_shortly(other));
        let [mut long, mut short] = [long, short].map(|some| some.iter().map(|other| other.name.as_str()).collect());
        if self.others.is_empty() && self.has_unseen {
            let unseen: &mut BTreeSet<&str> = if self.sees_children_only { &mut long } else { &mut short };
            unseen.insert("unknown, because they had ended");
        }
        [long, short]
    }

    /// What the reader must know of processes that are no doubt, at the end of a run, if there were any.
    pub(super) fn other_processes(&self, end_ns: u64) -> Option<String> {
        let [long, short] = self.others(end_ns);
        if self.expects_others && !long.is_empty() {
            return Some(format!(
                "figures of Go's heap, of the GC and of page faults are those of the one process that `run.watch` names; \
                 beside it ran {}",
                joined(&long)
            ));
        }
        (!short.is_empty()).then(|| {
            format!(
                "the service started processes that lived shortly ({}): figures of Go's heap, of the GC and of page \
                 faults are those of the launched process alone",
                joined(&short)
            )
        })
    }

    /// Why sums over the processes of the cgroup are not those of the whole service, if there is a reason.
    pub(super) fn doubt_of_sums(&self) -> Option<String> {
        let unseeable =
            || self.unseeable.as_ref().map(|why| format!("the processes that it starts are unknown: {why}"));
        self.replaced.clone().or_else(unseeable)
    }

    /// Why figures of this process are not those of the whole service at the end of a run, if there is a reason. Processes
    /// that live shortly are none: what the service keeps and what it serves with stays in the launched process.
    pub(super) fn doubt(&self, end_ns: u64) -> Option<String> {
        let [long, _] = self.others(end_ns);
        let others = || format!("the service started other processes, which are not measured: {}", joined(&long));
        self.doubt_of_sums().or_else(|| (!long.is_empty() && !self.expects_others).then(others))
    }

    /// The number that is added to an address of a position-independent executable with these segments to get one of
    /// the process.
    ///
    /// # Errors
    /// Fails if the process is gone.
    pub(super) fn load_bias(&self, segments: &[Range<u64>]) -> Result<u64, ServiceError> {
        let loaded = self.process.exe().map_err(ServiceError::Entry)?;
        let is_executable = |map: &&MemoryMap| map.pathname == MMapPath::Path(loaded.clone());
        let maps = self.process.maps().map_err(ServiceError::Entry)?;
        let first = maps.0.iter().filter(is_executable).map(|map| map.address.0).min();
        let lowest = segments.iter().map(|segment| segment.start & !(environment::page_size() - 1)).min();
        Ok(first.unwrap_or(0).wrapping_sub(lowest.unwrap_or(0)))
    }
}

/// What was read, or `None` if the process or thread has ended.
fn of_living<T>(read: ProcResult<T>) -> ProcResult<Option<T>> {
    match read {
        Err(procfs::ProcError::NotFound(_)) => Ok(None),
        Err(procfs::ProcError::Io(error, _)) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
        read => read.map(Some),
    }
}

fn joined(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::FakeProc;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn another_execution_is_not_the_service_and_stays_so() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        assert!(service.look());
        assert_eq!(service.doubt(100 * SECOND), None);
        proc.stat(|stat| stat.startstack += 4096);
        assert!(!service.look());
        proc.stat(|stat| stat.startstack -= 4096);
        assert!(!service.look(), "a process that was replaced meanwhile is not trusted again");
        assert!(service.doubt(100 * SECOND).unwrap().contains("replaced itself by a new execution of "));
    }

    #[test]
    fn another_file_is_not_the_service() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        proc.replace_executable();
        assert!(!service.look());
    }

    #[test]
    fn a_process_that_has_ended_was_not_replaced() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        proc.end();
        assert!(service.look());
        assert!(service.stat().is_err());
        assert_eq!(service.doubt(100 * SECOND), None);
    }

    #[test]
    fn the_bias_is_that_of_the_executables_first_mapping() {
        let proc = FakeProc::new();
        let program = fs::read_link(proc.path().join("exe")).unwrap();
        proc.write(
            "maps",
            &format!(
                "7f0000000000-7f0000001000 r--p 00000000 08:01 12 /lib/libc.so.6\n\
                 555500000000-555500001000 r--p 00000000 08:01 11 {0}\n\
                 555500001000-555500002000 r-xp 00001000 08:01 11 {0}\n",
                program.display()
            ),
        );
        let segments = [0x1040..0x2000, 0x40..0x1000];
        assert_eq!(proc.service().load_bias(&segments).unwrap(), 0x5555_0000_0000);
    }

    #[test]
    fn children_are_found_without_a_cgroup() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let service = ServiceProcess::open("/proc/self".into()).unwrap();
        let found = service.children().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id().cast_signed()), "{found:?}");
    }

    #[test]
    fn a_thread_whose_children_the_kernel_does_not_tell_is_a_doubt_and_one_that_has_ended_is_none() {
        let proc = FakeProc::new();
        let service = proc.service();
        assert_eq!(service.children(), Ok(Vec::new()), "there is no thread");
        proc.thread(4242, Some("4243 4244 "));
        assert_eq!(service.children(), Ok(vec![4243, 4244]));
        proc.thread(4250, None);
        let reason = service.children().unwrap_err();
        assert!(reason.starts_with("the children of its threads: "), "{reason}");
    }

    #[test]
    fn what_cannot_be_seen_is_a_doubt_of_sums_too() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        service.has_started(4243, SECOND);
        assert_eq!((service.doubt(100 * SECOND), service.doubt_of_sums()), (None, None), "it has ended");
        proc.other(4243, "worker");
        proc.unreadable(4243, "stat");
        service.has_started(4243, SECOND);
        let doubt = service.doubt(100 * SECOND).unwrap();
        assert!(doubt.starts_with("the processes that it starts are unknown: process 4243: "), "{doubt}");
        assert_eq!(service.doubt_of_sums(), Some(doubt));
    }

    #[test]
    fn processes_that_live_long_are_a_doubt_and_named() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        proc.other(4243, "worker");
        service.has_started(4243, SECOND);
        assert_eq!(service.doubt(100 * SECOND), None);
        service.has_started(4243, 12 * SECOND);
        let doubt = service.doubt(100 * SECOND).unwrap();
        assert!(doubt.ends_with("which are not measured: worker"), "{doubt}");
        assert_eq!(service.other_processes(100 * SECOND), None);
    }

    #[test]
    fn other_processes_are_no_doubt_where_the_user_has_said_which_one_is_measured() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        service.expect_others();
        assert_eq!(service.other_processes(100 * SECOND), None);
        proc.other(4243, "supervisor");
        for at in [1, 50] {
            service.has_started(4243, at * SECOND);
        }
        assert_eq!(service.doubt(100 * SECOND), None);
        let note = service.other_processes(100 * SECOND).unwrap();
        assert!(note.ends_with("that `run.watch` names; beside it ran supervisor"), "{note}");
        proc.unreadable(4243, "stat");
        service.has_started(4243, 60 * SECOND);
        assert!(service.doubt(100 * SECOND).is_some(), "what cannot be seen stays a doubt");
    }

    #[test]
    fn processes_that_have_the_same_number_one_after_the_other_live_shortly() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        for at_s in [1, 50] {
            proc.other_since(4243, "convert", at_s);
            service.has_started(4243, at_s * SECOND);
            proc.end_other(4243);
        }
        assert_eq!(service.doubt(100 * SECOND), None);
        assert!(service.other_processes(100 * SECOND).unwrap().contains("lived shortly (convert)"));
    }

    #[test]
    fn processes_that_live_shortly_are_a_note() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        assert_eq!(service.other_processes(100 * SECOND), None);
        service.has_ended_one();
        assert!(
            service.other_processes(100 * SECOND).unwrap().contains("lived shortly (unknown, because they had ended)")
        );
        for pid in 1..100 {
            proc.other(pid, "convert");
            service.has_started(pid, u64::try_from(pid).unwrap() * SECOND);
            service.has_started(pid, u64::try_from(pid + 9).unwrap() * SECOND);
            proc.end_other(pid);
            service.has_started(pid, 200 * SECOND);
        }
        assert_eq!(service.doubt(200 * SECOND), None, "each lived for 9 s");
        assert!(service.other_processes(200 * SECOND).unwrap().contains("lived shortly (convert)"));
    }

    #[test]
    fn without_a_cgroup_each_child_is_a_doubt() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        service.is_seen_with_children_only();
        service.has_ended_one();
        assert!(service.doubt(100 * SECOND).unwrap().ends_with("unknown, because they had ended"));
        proc.other(4243, "daemonize");
        service.has_started(4243, SECOND);
        assert!(service.doubt(100 * SECOND).unwrap().ends_with("daemonize"));
        assert_eq!(service.other_processes(100 * SECOND), None);
    }

    #[test]
    fn a_process_that_lives_through_half_of_a_short_run_is_a_doubt() {
        let proc = FakeProc::new();
        let mut service = proc.service();
        proc.other(4243, "worker");
        service.has_started(4243, SECOND / 10);
        service.has_started(4243, 4 * SECOND);
        assert!(service.doubt(5 * SECOND).unwrap().ends_with("worker"));
        assert_eq!(service.doubt(100 * SECOND), None);
    }
}
