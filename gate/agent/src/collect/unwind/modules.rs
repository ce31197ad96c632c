//! The files of code that a process has mapped. Each is read when an address in it first appears.

use std::{collections::HashMap, ops::Range};

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{Budget, file::open_mapped, module::Module};

/// The files of code of one process.
pub(super) struct Modules {
    pid: i32,
    /// The path of the executable in the kernel's form.
    pub(super) executable: Option<String>,
    /// In order of address.
    mappings: Vec<Mapping>,
    read: HashMap<FileId, Result<Module, String>>,
    pub(super) budget: Budget,
}

/// Device and inode.
type FileId = ((i32, i32), u64);

/// A range of addresses with code from a file.
#[derive(PartialEq)]
struct Mapping {
    range: Range<u64>,
    /// The offset of its start in the file.
    offset: u64,
    file: FileId,
    path: String,
}

/// An address in a module.
pub(super) struct Place<'m> {
    pub(super) module: &'m mut Module,
    /// The number that is added to an address of the file to get one of the process.
    pub(super) bias: u64,
    /// Whether the module is the executable.
    pub(super) executable: bool,
    pub(super) budget: &'m mut Budget,
}

impl Modules {
    pub(super) fn new(pid: i32) -> Self {
        let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        Self {
            pid,
            executable: executable.map(|path| path.to_string_lossy().into_owned()),
            mappings: Vec::new(),
            read: HashMap::new(),
            budget: Budget::default(),
        }
    }

    /// Uses the process's current mappings. Returns whether they have changed. Files that were read stay in memory.
    pub(super) fn refresh(&mut self, maps: &[MemoryMap]) -> bool {
        let mut mappings: Vec<_> = maps.iter().filter_map(Mapping::of).collect();
        mappings.sort_unstable_by_key(|mapping| mapping.range.start);
        let changed = mappings != self.mappings;
        self.mappings = mappings;
        changed
    }

    /// The module at an address; `None` if there is none or it cannot be read.
    pub(super) fn at(&mut self, address: u64) -> Option<Place<'_>> {
        let mapping = mapping_at(&self.mappings, address)?;
        let (pid, budget) = (self.pid, &mut self.budget);
        let module = self.read.entry(mapping.file).or_insert_with(|| mapping.read(pid, budget)).as_mut().ok()?;
        let bias = module.bias(mapping.range.start, mapping.offset)?;
        let executable = self.executable.as_ref() == Some(&mapping.path);
        Some(Place { module, bias, executable, budget })
    }

    /// Whether there is code at an address.
    pub(super) fn has(&self, address: u64) -> bool {
        mapping_at(&self.mappings, address).is_some()
    }

    /// The files that could not be read, with the reasons.
    pub(super) fn skipped(&self) -> impl Iterator<Item = &str> {
        self.read.values().filter_map(|module| module.as_ref().err()).map(String::as_str)
    }
}

fn mapping_at(mappings: &[Mapping], address: u64) -> Option<&Mapping> {
    let behind = mappings.partition_point(|mapping| mapping.range.start <= address);
    mappings.get(behind.checked_sub(1)?).filter(|mapping| mapping.range.contains(&address))
}

impl Mapping {
    fn of(map: &MemoryMap) -> Option<Self> {
        let MMapPath::Path(path) = &map.pathname else { return None };
        map.perms.contains(MMPermissions::EXECUTE).then(|| Self {
            range: map.address.0..map.address.1,
            offset: map.offset,
            file: (map.dev, map.inode),
            path: path.to_string_lossy().into_owned(),
        })
    }

    fn read(&self, pid: i32, budget: &mut Budget) -> Result<Module, String> {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        open_mapped(pid, &self.range, self.file.1, &self.path)
            .and_then(|file| Module::read(name, file, budget))
            .map_err(|reason| format!("{}: {reason}", self.path))
    }
}
