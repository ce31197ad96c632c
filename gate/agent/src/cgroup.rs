//! The service's own cgroup: its memory limit, its OOM kills, and every process that the service starts.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::Process;

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Neither version of cgroups has the controller.
    #[error("there is no memory controller in cgroup v2 or v1")]
    NoMemoryController,
    /// One of its files cannot be read or written.
    #[error("{file}")]
    File {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel does not count OOM kills there.
    #[error("{file} has no line `oom_kill`")]
    NoOomKills {
        /// The file in which other kernels count them.
        file: PathBuf,
    },
}

/// A service's cgroup in each mounted hierarchy. Dropping it kills the remaining processes and removes it.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// The folder in the unified hierarchy (v2), which may be mounted beside v1.
    unified: Option<PathBuf>,
    /// The folder with the memory controller, in v2 or v1.
    memory: Option<Memory>,
    /// What a run in this cgroup lacks.
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
enum Memory {
    V2(PathBuf),
    V1(PathBuf),
}

/// Where the hierarchies are mounted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    unified: Option<PathBuf>,
    memory_v1: Option<PathBuf>,
}

/// All of memgate's cgroups have this prefix, followed by memgate's process id and a number.
const PREFIX: &str = "memgate-";

/// How long memgate waits for the end of killed processes.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cgroup {
    /// Makes the cgroup, limited to `memory_max` bytes.
    ///
    /// # Errors
    /// Fails if the caller asks for a memory limit and no memory controller can enforce it. Everything else that is
    /// missing is in [`Cgroup::notes`].
    pub(super) fn create(memory_max: Option<u64>) -> Result<Self, CgroupError> {
        let hierarchies = Hierarchies::find();
        hierarchies.remove_leftovers();
        let name = format!("{PREFIX}{}-{}", std::process::id(), serial());
        let mut cgroup = Self { unified: None, memory: None, notes: Vec::new() };
        cgroup.unified = cgroup.make(hierarchies.unified.as_deref(), &name);
        cgroup.memory = match (&cgroup.unified, hierarchies.unified.as_deref()) {
            (Some(folder), Some(root)) if enable_memory(root, folder) => Some(Memory::V2(folder.clone())),
            _ => cgroup.make(hierarchies.memory_v1.as_deref(), &name).map(Memory::V1),
        };
        if cgroup.unified.is_none() && cgroup.memory.is_none() {
            let lost = "no cgroup: of the processes that the service starts, memgate sees only its children";
            cgroup.notes.push(lost.to_owned());
        }
        if cgroup.memory.is_none() {
            cgroup.notes.push("no memory controller: memgate cannot see OOM kills".to_owned());
        }
        cgroup.limit(memory_max)?;
        Ok(cgroup)
    }

    /// Whether there is a memory controller that could hold a limit.
    pub(super) fn has_memory_controller() -> bool {
        let Hierarchies { unified, memory_v1 } = Hierarchies::find();
        let controllers = unified.and_then(|root| fs::read_to_string(root.join("cgroup.controllers")).ok());
        memory_v1.is_some() || controllers.is_some_and(|names| names.split_whitespace().any(|name| name == "memory"))
    }

    fn make(&mut self, root: Option<&Path>, name: &str) -> Option<PathBuf> {
        let folder = root?.join(name);
        match fs::create_dir(&folder) {
            Ok(()) => Some(folder),
            Err(error) => {
                self.notes.push(format!("{}: {error}", folder.display()));
                None
            }
        }
    }

    fn limit(&self, memory_max: Option<u64>) -> Result<(), CgroupError> {
        let Some(bytes) = memory_max else { return Ok(()) };
        let write = |file: PathBuf| {
            let written = fs::write(&file, bytes.to_string());
            written.map_err(|source| CgroupError::File { file, source })
        };
        match &self.memory {
            Some(Memory::V2(folder)) => {
                write(folder.join("memory.max"))?;
                // Without swap the limit is exact. The file is missing if the kernel does not account for swap.
                let _ = fs::write(folder.join("memory.swap.max"), "0");
                Ok(())
            }
            Some(Memory::V1(folder)) => write(folder.join("memory.limit_in_bytes")),
            None => Err(CgroupError::NoMemoryController),
        }
    }

    /// Files to which a process writes `0` to enter the cgroup.
    ///
    /// # Errors
    /// Fails if one of them cannot be opened.
    pub(super) fn entries(&self) -> io::Result<Vec<OwnedFd>> {
        self.folders()
            .map(|folder| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).map(OwnedFd::from))
            .collect()
    }

    /// The processes in the cgroup, with their ids in this PID namespace; `None` if there is no cgroup.
    pub(super) fn processes(&self) -> Option<Vec<Pid>> {
        let text = fs::read_to_string(self.folders().next()?.join("cgroup.procs")).ok()?;
        Some(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect())
    }

    /// The processes of the cgroup that the kernel killed because memory ran out.
    ///
    /// # Errors
    /// Fails if there is no memory controller, or it does not count them.
    pub(super) fn oom_kills(&self) -> Result<u64, CgroupError> {
        let file = match &self.memory {
            Some(Memory::V2(folder)) => folder.join("memory.events"),
            Some(Memory::V1(folder)) => folder.join("memory.oom_control"),
            None => return Err(CgroupError::NoMemoryController),
        };
        match fs::read_to_string(&file) {
            Ok(text) => oom_kill_line(&text).ok_or(CgroupError::NoOomKills { file }),
            Err(source) => Err(CgroupError::File { file, source }),
        }
    }

    /// Transparent huge pages that the cgroup's processes got since it was made, at a fault or by a later collapse;
    /// `None` if the controller does not count them. That of version 1 does not.
    pub(super) fn huge_pages(&self) -> Option<u64> {
        let Some(Memory::V2(folder)) = &self.memory else { return None };
        huge_page_lines(&fs::read_to_string(folder.join("memory.stat")).ok()?)
    }

    /// Kills every process in the cgroup.
    pub(super) fn kill(&self) {
        // `cgroup.kill` (Linux 5.14) also kills a process that forks meanwhile.
        if let Some(folder) = &self.unified
            && fs::write(folder.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for process in self.processes().unwrap_or_default() {
            let _ = kill(process, Signal::SIGKILL);
        }
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let memory = match &self.memory {
            Some(Memory::V1(folder)) => Some(folder.as_path()),
            Some(Memory::V2(_)) | None => None,
        };
        self.unified.as_deref().into_iter().chain(memory)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process stays in its cgroup until its parent reaps it, or init if the parent is gone. On a busy
        // machine it must first get a processor.
        let deadline = Instant::now() + PATIENCE;
        while self.processes().is_some_and(|left| !left.is_empty()) && Instant::now() < deadline {
            self.kill();
            std::thread::sleep(Duration::from_millis(10));
        }
        for folder in self.folders().map(Path::to_path_buf).collect::<Vec<_>>() {
            let mut removed = fs::remove_dir(&folder);
            while removed.is_err() && folder.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
                removed = fs::remove_dir(&folder);
            }
        }
    }
}

impl Hierarchies {
    fn find() -> Self {
        let mounts =
            Process::myself().and_then(|process| process.mountinfo()).map(|mounts| mounts.0).unwrap_or_default();
        let mut found = Self::default();
        for mount in mounts {
            match mount.fs_type.as_str() {
                "cgroup2" => found.unified = found.unified.or(Some(mount.mount_point)),
                "cgroup" if mount.super_options.contains_key("memory") => found.memory_v1 = Some(mount.mount_point),
                _ => {}
            }
        }
        found
    }

    /// Removes the cgroups of a memgate that was killed before it could remove them.
    fn remove_leftovers(&self) {
        for root in self.unified.iter().chain(&self.memory_v1) {
            for entry in fs::read_dir(root).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
                if owner.is_some_and(|owner: i32| !Path::new(&format!("/proc/{owner}")).exists()) {
                    // This fails if processes are left. memgate does not kill them without being asked.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// Enables the memory controller for the children of `root`. Returns whether `folder` has it then.
fn enable_memory(root: &Path, folder: &Path) -> bool {
    let has_it = || folder.join("memory.max").exists();
    if !has_it()
        && let Ok(mut control) = fs::OpenOptions::new().write(true).open(root.join("cgroup.subtree_control"))
    {
        let _ = control.write_all(b"+memory");
    }
    has_it()
}

fn oom_kill_line(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn huge_page_lines(text: &str) -> Option<u64> {
    let line =
        |name: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) };
    Some(line("thp_fault_alloc ")? + line("thp_collapse_alloc ")?)
}

fn serial() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_the_sum_of_both_counts_and_unknown_without_one() {
        assert_eq!(huge_page_lines("anon 4096\nthp_fault_alloc 3\nthp_collapse_alloc 4\n"), Some(7));
        assert_eq!(huge_page_lines("anon 4096\nthp_fault_alloc 3\n"), None);
    }

    #[test]
    fn oom_kills_are_read_from_both_versions() {
        assert_eq!(oom_kill_line("low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(oom_kill_line("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(oom_kill_line("oom_kill_disable 0\n"), None);
    }
}
