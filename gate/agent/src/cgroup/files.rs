//! Reads a service's cgroup: its processes, its memory by kind, and the kernel's kills.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use super::CgroupError;

/// The files of a service's cgroup. By default there is none. If the cgroup is gone, each reading fails.
#[derive(Debug, Clone, Default)]
pub struct CgroupFiles {
    /// The folder in the unified hierarchy (v2), which may be mounted beside v1.
    pub(super) unified: Option<PathBuf>,
    /// The folder with the memory controller, in v2 or v1.
    pub(super) memory: Option<Memory>,
    /// The memory limit that memgate set, bytes.
    pub(super) limit: Option<u64>,
}

/// The folder with the memory controller.
#[derive(Debug, Clone)]
pub(super) enum Memory {
    V2(PathBuf),
    V1(PathBuf),
}

/// The memory that is charged to a cgroup and to those below it, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MemoryReading {
    /// Anonymous memory: `anon` of memory.stat, or `total_rss` of version 1.
    pub(crate) anon: u64,
    /// Pages of files, with those of `shmem`: `file`, or `total_cache` of version 1.
    pub(crate) file: u64,
    /// Shared memory and files on a tmpfs: `shmem`, or `total_shmem` of version 1.
    pub(crate) shmem: u64,
    /// Memory of the kernel: `kernel`, which memory.stat has since Linux 5.18, or memory.kmem.usage_in_bytes of version
    /// 1.
    pub(crate) kernel: Option<u64>,
    /// Pages of files that the kernel frees first: `inactive_file`, or `total_inactive_file` of version 1.
    pub(crate) inactive_file: u64,
    /// Swapped-out memory: memory.swap.current, or `total_swap` of version 1, if the kernel accounts for it.
    pub(crate) swap: Option<u64>,
    /// Everything that counts against the limit: memory.current, or memory.usage_in_bytes of version 1.
    pub(crate) current: u64,
    /// Transparent huge pages that the cgroup's processes got since it was made, at a fault or by a later collapse:
    /// `thp_fault_alloc` and `thp_collapse_alloc`. Version 1 does not count them.
    pub(crate) huge_pages: Option<u64>,
}

impl MemoryReading {
    /// What the kernel cannot free easily, as cAdvisor defines it (`container_memory_working_set_bytes`).
    pub(crate) const fn working_set(&self) -> u64 {
        self.current.saturating_sub(self.inactive_file)
    }
}

impl CgroupFiles {
    /// The memory limit that memgate set, bytes.
    pub(crate) const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// The processes in the cgroup, with their ids in this PID namespace; `None` if there is no cgroup.
    ///
    /// # Errors
    /// Fails if the cgroup cannot be read.
    pub(crate) fn processes(&self) -> Option<Result<Vec<Pid>, CgroupError>> {
        Some(processes(self.folders().next()?))
    }

    /// The memory by kind.
    ///
    /// # Errors
    /// Fails if there is no memory controller, or if a file or a line of it is missing.
    pub(crate) fn memory(&self) -> Result<MemoryReading, CgroupError> {
        // The sum is read first. What is charged meanwhile is rather in the kinds than missing there.
        let current = self.current()?;
        let folder = self.memory_folder()?;
        let stat = folder.join("memory.stat");
        let text = read(stat.clone())?;
        let line =
            |name: &'static str| line(&text, name).ok_or_else(|| CgroupError::NoLine { file: stat.clone(), name });
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok());
        Ok(match &self.memory {
            Some(Memory::V1(_)) => MemoryReading {
                anon: line("total_rss")?,
                file: line("total_cache")?,
                shmem: line("total_shmem")?,
                kernel: number("memory.kmem.usage_in_bytes"),
                inactive_file: line("total_inactive_file")?,
                swap: line("total_swap").ok(),
                current,
                huge_pages: None,
            },
            Some(Memory::V2(_)) | None => MemoryReading {
                anon: line("anon")?,
                file: line("file")?,
                shmem: line("shmem")?,
                kernel: line("kernel").ok(),
                inactive_file: line("inactive_file")?,
                swap: number("memory.swap.current"),
                current,
                huge_pages: line("thp_fault_alloc").and_then(|faults| Ok(faults + line("thp_collapse_alloc")?)).ok(),
            },
        })
    }

    /// Everything that counts against the limit now, bytes. The kernel has this number at hand.
    ///
    /// # Errors
    /// Fails if there is no memory controller.
    pub(crate) fn current(&self) -> Result<u64, CgroupError> {
        let folder = self.memory_folder()?;
        let file = folder.join(match &self.memory {
            Some(Memory::V1(_)) => "memory.usage_in_bytes",
            Some(Memory::V2(_)) | None => "memory.current",
        });
        let text = read(file.clone())?;
        text.trim().parse().map_err(|_| CgroupError::NoNumber { file, text })
    }

    /// The processes of the cgroup that the kernel killed because memory ran out.
    ///
    /// # Errors
    /// Fails if there is no memory controller, or it does not count them.
    pub(crate) fn oom_kills(&self) -> Result<u64, CgroupError> {
        let folder = self.memory_folder()?;
        let file = folder.join(match &self.memory {
            Some(Memory::V1(_)) => "memory.oom_control",
            Some(Memory::V2(_)) | None => "memory.events",
        });
        line(&read(file.clone())?, "oom_kill").ok_or(CgroupError::NoLine { file, name: "oom_kill" })
    }

    fn memory_folder(&self) -> Result<&Path, CgroupError> {
        match &self.memory {
            Some(Memory::V1(folder) | Memory::V2(folder)) => Ok(folder),
            None => Err(CgroupError::NoMemoryController),
        }
    }

    /// Its folder in each hierarchy.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        let memory = match &self.memory {
            Some(Memory::V1(folder)) => Some(folder.as_path()),
            Some(Memory::V2(_)) | None => None,
        };
        self.unified.as_deref().into_iter().chain(memory)
    }
}

/// The processes in this folder of a cgroup, with their ids in this PID namespace. Those outside of it have the id 0.
pub(super) fn processes(folder: &Path) -> Result<Vec<Pid>, CgroupError> {
    let text = read(folder.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect())
}

/// Writes into a file that the kernel has made.
pub(super) fn put(file: &Path, text: &str) -> io::Result<()> {
    fs::File::options().write(true).open(file)?.write_all(text.as_bytes())
}

fn read(file: PathBuf) -> Result<String, CgroupError> {
    fs::read_to_string(&file).map_err(|source| CgroupError::File { file, source })
}

/// The number in the line `NAME NUMBER`.
fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A cgroup in a directory, whose files tests write.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// A cgroup's directory.
    pub(crate) struct FakeCgroup {
        directory: tempfile::TempDir,
        is_v1: bool,
    }

    impl FakeCgroup {
        pub(crate) fn v2() -> Self {
            let cgroup = Self { directory: tempfile::tempdir().unwrap(), is_v1: false };
            cgroup.write("cgroup.procs", "");
            cgroup
        }

        pub(crate) fn v1() -> Self {
            Self { is_v1: true, ..Self::v2() }
        }

        pub(crate) fn files(&self, limit: Option<u64>) -> CgroupFiles {
            let folder = self.directory.path().to_owned();
            let memory = if self.is_v1 { Memory::V1(folder.clone()) } else { Memory::V2(folder.clone()) };
            CgroupFiles { unified: Some(folder), memory: Some(memory), limit }
        }

        pub(crate) fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }

        pub(crate) fn remove(&self, name: &str) {
            fs::remove_file(self.directory.path().join(name)).unwrap();
        }

        /// Version 2: shared memory and other memory, which is anonymous, with no kills.
        pub(crate) fn holds(&self, shmem: u64, anon: u64) {
            self.write("memory.current", &format!("{}\n", shmem + anon));
            self.write("memory.stat", &format!("anon {anon}\nfile {shmem}\nshmem {shmem}\ninactive_file 0\n"));
            self.write("memory.events", "oom_kill 0\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::FakeCgroup, *};

    /// Linux 6.18, shortened.
    const V2: &str = "anon 1000\nfile 700\nkernel 90\nkernel_stack 16\nshmem 300\nfile_mapped 5\nswapcached 0\n\
        anon_thp 7\ninactive_anon 1\nactive_anon 2\ninactive_file 40\nactive_file 3\n\
        thp_fault_alloc 3\nthp_collapse_alloc 4\n";
    /// Linux 6.18, shortened: first the cgroup's own, then with those below it.
    const V1: &str = "cache 1\nrss 2\nshmem 3\nmapped_file 4\nswap 5\ninactive_file 6\n\
        total_cache 700\ntotal_rss 1000\ntotal_rss_huge 9\ntotal_shmem 300\ntotal_swap 8\ntotal_inactive_file 40\n";
    const READ: MemoryReading = MemoryReading {
        anon: 1000,
        file: 700,
        shmem: 300,
        kernel: Some(90),
        inactive_file: 40,
        swap: Some(8),
        current: 1800,
        huge_pages: None,
    };

    fn v2(stat: &str) -> FakeCgroup {
        let cgroup = FakeCgroup::v2();
        cgroup.write("memory.stat", stat);
        cgroup.write("memory.current", "1800\n");
        cgroup.write("memory.swap.current", "8\n");
        cgroup
    }

    fn v1() -> FakeCgroup {
        let cgroup = FakeCgroup::v1();
        cgroup.write("memory.stat", V1);
        cgroup.write("memory.usage_in_bytes", "1800\n");
        cgroup.write("memory.kmem.usage_in_bytes", "90\n");
        cgroup
    }

    #[test]
    fn both_versions_give_the_same_kinds() {
        for (cgroup, huge_pages) in [(v2(V2), Some(7)), (v1(), None)] {
            let reading = cgroup.files(None).memory().unwrap();
            assert_eq!((reading, reading.working_set()), (MemoryReading { huge_pages, ..READ }, 1760));
        }
    }

    #[test]
    fn what_a_kernel_does_not_report_is_unknown_and_not_nothing() {
        let old = v2(&V2.replace("kernel 90\n", "").replace("thp_collapse_alloc 4\n", ""));
        old.remove("memory.swap.current");
        let reading = old.files(None).memory().unwrap();
        assert_eq!((reading.kernel, reading.swap), (None, None), "`kernel_stack` is another line");
        assert_eq!(reading.huge_pages, None, "one of two counts is no sum");
        let old = v1();
        old.write("memory.stat", &V1.replace("total_swap 8\n", ""));
        old.remove("memory.kmem.usage_in_bytes");
        let reading = old.files(None).memory().unwrap();
        assert_eq!((reading.kernel, reading.swap), (None, None));
    }

    #[test]
    fn a_missing_line_file_or_controller_is_an_error_with_its_name() {
        let error = v2(&V2.replace("shmem 300\n", "")).files(None).memory().unwrap_err();
        assert!(error.to_string().ends_with("memory.stat has no line `shmem`"), "{error}");
        let gone = v1();
        gone.remove("memory.usage_in_bytes");
        assert!(matches!(gone.files(None).memory(), Err(CgroupError::File { .. })));
        gone.write("memory.usage_in_bytes", "max\n");
        assert!(matches!(gone.files(None).current(), Err(CgroupError::NoNumber { .. })));
        assert!(matches!(CgroupFiles::default().memory(), Err(CgroupError::NoMemoryController)));
        assert!(CgroupFiles::default().processes().is_none());
    }

    #[test]
    fn oom_kills_are_read_from_both_versions() {
        let (v2, v1) = (v2(V2), v1());
        v2.write("memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n");
        v1.write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        assert_eq!([v2.files(None).oom_kills().unwrap(), v1.files(None).oom_kills().unwrap()], [1, 3]);
        v1.write("memory.oom_control", "oom_kill_disable 0\n");
        assert!(v1.files(None).oom_kills().unwrap_err().to_string().contains("oom_kill"));
    }
}
