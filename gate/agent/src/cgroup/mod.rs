//! The service's own cgroup: its memory limit, its OOM kills, and every process that the service starts.

mod files;

use std::{
    fs,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use procfs::process::Process;

pub use files::CgroupFiles;
use files::Memory;
pub(crate) use files::MemoryReading;
#[cfg(test)]
pub(crate) use files::fake;

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
    /// The kernel does not report this there.
    #[error("{file} has no line `{name}`")]
    NoLine {
        /// The file in which other kernels report it.
        file: PathBuf,
        /// The first word of the line.
        name: &'static str,
    },
    /// One of its files does not hold a number.
    #[error("{file} holds {text:?} and not a number")]
    NoNumber {
        /// The file.
        file: PathBuf,
        /// Its text.
        text: String,
    },
}

/// A service's cgroup in each mounted hierarchy. Dropping it kills the remaining processes and removes it.
#[derive(Debug)]
pub(super) struct Cgroup {
    files: CgroupFiles,
    /// What a run in this cgroup lacks.
    pub(super) notes: Vec<String>,
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
        let mut cgroup = Self { files: CgroupFiles::default(), notes: Vec::new() };
        cgroup.files.unified = cgroup.make(hierarchies.unified.as_deref(), &name);
        cgroup.files.memory = match (&cgroup.files.unified, hierarchies.unified.as_deref()) {
            (Some(folder), Some(root)) if enable_memory(root, folder) => Some(Memory::V2(folder.clone())),
            _ => cgroup.make(hierarchies.memory_v1.as_deref(), &name).map(Memory::V1),
        };
        if cgroup.files.unified.is_none() && cgroup.files.memory.is_none() {
            let lost = "no cgroup: of the processes that the service starts, memgate sees only its children";
            cgroup.notes.push(lost.to_owned());
        }
        if cgroup.files.memory.is_none() {
            let lost = "no memory controller: memgate sees neither OOM kills nor the memory of the service's cgroup";
            cgroup.notes.push(lost.to_owned());
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

    fn limit(&mut self, memory_max: Option<u64>) -> Result<(), CgroupError> {
        let Some(bytes) = memory_max else { return Ok(()) };
        let write = |file: PathBuf| {
            let written = fs::write(&file, bytes.to_string());
            written.map_err(|source| CgroupError::File { file, source })
        };
        match &self.files.memory {
            Some(Memory::V2(folder)) => {
                write(folder.join("memory.max"))?;
                // Without swap the limit is exact. The file is missing if the kernel does not account for swap.
                let _ = fs::write(folder.join("memory.swap.max"), "0");
            }
            Some(Memory::V1(folder)) => write(folder.join("memory.limit_in_bytes"))?,
            None => return Err(CgroupError::NoMemoryController),
        }
        self.files.limit = Some(bytes);
        Ok(())
    }

    /// Its files, to read.
    pub(super) const fn files(&self) -> &CgroupFiles {
        &self.files
    }

    /// Files to which a process writes `0` to enter the cgroup.
    ///
    /// # Errors
    /// Fails if one of them cannot be opened.
    pub(super) fn entries(&self) -> io::Result<Vec<OwnedFd>> {
        self.files
            .folders()
            .map(|folder| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")).map(OwnedFd::from))
            .collect()
    }

    /// Kills every process in the cgroup.
    pub(super) fn kill(&self) {
        // `cgroup.kill` (Linux 5.14) also kills a process that forks meanwhile.
        if let Some(folder) = &self.files.unified
            && fs::write(folder.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for process in self.files.processes().unwrap_or_default() {
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process stays in its cgroup until its parent reaps it, or init if the parent is gone. On a busy
        // machine it must first get a processor.
        let deadline = Instant::now() + PATIENCE;
        while self.files.processes().is_some_and(|left| !left.is_empty()) && Instant::now() < deadline {
            self.kill();
            std::thread::sleep(Duration::from_millis(10));
        }
        for folder in self.files.folders().map(Path::to_path_buf).collect::<Vec<_>>() {
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

fn serial() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
