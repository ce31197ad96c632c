//! The service's own cgroup: its memory limit, its OOM kills, and every process that the service starts. The load
//! command has one too, so that nothing of it is left.

mod files;
mod leaf;
mod owned;
mod place;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use files::CgroupFiles;
use files::Memory;
pub(crate) use files::MemoryReading;
#[cfg(test)]
pub(crate) use files::fake;
use leaf::Leaf;
use owned::Owned;
pub(crate) use owned::remove_leftovers;
use place::Hierarchies;

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Neither version of cgroups has the controller.
    #[error("there is no memory controller in cgroup v2 or v1")]
    NoMemoryController,
    /// Nothing can hold the service's memory limit.
    #[error("memgate finds no memory controller: {why}")]
    CannotLimit {
        /// What memgate tried, and what stood in the way.
        why: String,
    },
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

/// A cgroup in each mounted hierarchy. Dropping it kills the remaining processes and removes it.
#[derive(Debug)]
pub(super) struct Cgroup {
    files: CgroupFiles,
    /// What a run in this cgroup lacks, and what memgate did for it.
    pub(super) notes: Vec<String>,
    /// Its folders.
    owned: Vec<Owned>,
    /// Dropped last, because the controller is needed until then.
    _leaf: Option<Leaf>,
}

impl Cgroup {
    /// Makes the cgroup, limited to `memory_max` bytes.
    ///
    /// # Errors
    /// Fails if the caller asks for a memory limit and no memory controller can enforce it. Everything else that is
    /// missing is in [`Cgroup::notes`].
    pub(super) fn create(memory_max: Option<u64>) -> Result<Self, CgroupError> {
        let Hierarchies { unified, memory_v1 } = Hierarchies::find();
        let mut cgroup = Self { files: CgroupFiles::default(), notes: Vec::new(), owned: Vec::new(), _leaf: None };
        let mut why = Vec::new();
        match unified.map(|unified| unified.place()) {
            None => why.push("cgroup v2 is not mounted".to_owned()),
            Some(Err(refused)) => why.push(refused),
            Some(Ok(placed)) => {
                let folder = placed.owned.path().to_owned();
                cgroup.notes.extend(placed.note);
                match placed.memory {
                    Ok(()) => cgroup.files.memory = Some(Memory::V2(folder.clone())),
                    Err(reason) => why.push(reason),
                }
                cgroup.files.unified = Some(folder);
                cgroup.owned.push(placed.owned);
                cgroup._leaf = placed.leaf;
            }
        }
        if cgroup.files.memory.is_none() {
            match memory_v1.as_deref().map(Owned::make) {
                None => why.push("cgroup v1 has none".to_owned()),
                Some(Err(error)) => why.push(format!("cgroup v1: {error}")),
                Some(Ok(owned)) => {
                    cgroup.files.memory = Some(Memory::V1(owned.path().to_owned()));
                    cgroup.owned.push(owned);
                }
            }
        }
        let why = why.join("; ");
        if cgroup.owned.is_empty() {
            let lost = "no cgroup: of the processes that the service starts, memgate sees only its children";
            cgroup.notes.push(lost.to_owned());
        }
        if cgroup.files.memory.is_none() {
            let lost = "no memory controller: memgate sees neither OOM kills nor the memory of the service's cgroup";
            cgroup.notes.push(format!("{lost} ({why})"));
        }
        cgroup.limit(memory_max, why)?;
        Ok(cgroup)
    }

    /// Makes a cgroup that holds processes together and measures nothing. It moves no other process. If none can be
    /// made, the processes are in no cgroup of their own.
    pub(super) fn without_memory() -> Self {
        let Hierarchies { unified, memory_v1 } = Hierarchies::find();
        let path = |owned: &Owned| owned.path().to_owned();
        let of_v2 = unified.and_then(|unified| unified.without_memory().ok());
        let of_v1 = if of_v2.is_none() { memory_v1.and_then(|root| Owned::make(&root).ok()) } else { None };
        let memory = of_v1.as_ref().map(path).map(Memory::V1);
        let files = CgroupFiles { unified: of_v2.as_ref().map(path), memory, limit: None };
        Self { files, notes: Vec::new(), owned: of_v2.into_iter().chain(of_v1).collect(), _leaf: None }
    }

    /// None: its processes stay where memgate is.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { files: CgroupFiles::default(), notes: Vec::new(), owned: Vec::new(), _leaf: None }
    }

    /// Whether there is a memory controller that could hold a limit.
    pub(super) fn has_memory_controller() -> bool {
        Hierarchies::find().have_memory_controller()
    }

    /// `why` is the reason if there is no memory controller.
    fn limit(&mut self, memory_max: Option<u64>, why: String) -> Result<(), CgroupError> {
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
            None => return Err(CgroupError::CannotLimit { why }),
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
        let open = |folder: &Path| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        self.owned.iter().map(|owned| open(owned.path()).map(OwnedFd::from)).collect()
    }

    /// Kills every process in the cgroup.
    pub(super) fn kill(&self) {
        self.owned.iter().for_each(Owned::kill);
    }
}

/// Moves the calling process to the cgroup with this `cgroup.procs`. It is async-signal-safe and allocates nothing.
///
/// # Errors
/// Fails if the kernel refuses.
pub(super) fn enter(entry: &OwnedFd) -> io::Result<()> {
    match nix::unistd::write(entry, b"0") {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::from_raw_os_error(error as i32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_entry_is_an_error() {
        let (_, write) = nix::unistd::pipe().unwrap();
        assert!(enter(&write).is_err(), "the reading end is closed");
    }
}
