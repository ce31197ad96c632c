//! Where memgate's cgroups may lie: the mounted hierarchies, and memgate's own cgroup in the unified one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use procfs::{
    ProcResult,
    process::{MountInfo, Process},
};

use super::{
    files::put,
    leaf::{LEAF, Leaf},
    owned::Owned,
};

/// The name of the memory controller.
pub(super) const MEMORY: &str = "memory";

/// The hierarchies that are mounted.
#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    pub(super) unified: Option<Unified>,
    /// The root of version 1's hierarchy with the memory controller.
    pub(super) memory_v1: Option<PathBuf>,
}

/// The unified hierarchy (version 2), as far as this process sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unified {
    /// Where it is mounted. In a container it begins at the container's own cgroup.
    root: PathBuf,
    /// memgate's own cgroup; the root if it lies outside of what is mounted.
    own: PathBuf,
}

/// A new cgroup in the unified hierarchy.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) owned: Owned,
    /// What keeps the memory controller there, if memgate had to make room for it.
    pub(super) leaf: Option<Leaf>,
    /// Whether it has the memory controller, or why not.
    pub(super) memory: Result<(), String>,
    /// What a reader must know of it.
    pub(super) note: Option<String>,
}

impl Hierarchies {
    pub(super) fn find() -> Self {
        let mounts = || -> ProcResult<Self> {
            let process = Process::myself()?;
            let own = process.cgroups()?.0.into_iter().find(|cgroup| cgroup.hierarchy == 0);
            Ok(Self::of(&process.mountinfo()?.0, own.map(|cgroup| cgroup.pathname).as_deref()))
        };
        mounts().unwrap_or_default()
    }

    /// `own` is the path of this process's cgroup in the unified hierarchy.
    fn of(mounts: &[MountInfo], own: Option<&str>) -> Self {
        let mut found = Self::default();
        for mount in mounts {
            match mount.fs_type.as_str() {
                "cgroup2" if found.unified.is_none() => found.unified = Some(Unified::of(mount, own)),
                "cgroup" if mount.super_options.contains_key(MEMORY) => {
                    found.memory_v1 = Some(mount.mount_point.clone());
                }
                _ => {}
            }
        }
        found
    }

    /// The roots of the hierarchies that memgate uses.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.unified.as_ref().map(|unified| unified.root.as_path()).into_iter().chain(self.memory_v1.as_deref())
    }

    /// Whether there is a memory controller that could hold a limit.
    pub(super) fn have_memory_controller(&self) -> bool {
        let in_unified = |unified: &Unified| unified.places().any(|place| lists(place, "cgroup.controllers"));
        self.memory_v1.is_some() || self.unified.as_ref().is_some_and(in_unified)
    }
}

impl Unified {
    fn of(mount: &MountInfo, own: Option<&str>) -> Self {
        let root = mount.mount_point.clone();
        let below = own.and_then(|own| Path::new(own).strip_prefix(&mount.root).ok());
        let own = below.map_or_else(|| root.clone(), |below| root.components().chain(below.components()).collect());
        Self { root, own }
    }

    /// memgate's own cgroup and those above it, nearest first.
    fn places(&self) -> impl Iterator<Item = &Path> {
        self.own.ancestors().take_while(|folder| folder.starts_with(&self.root))
    }

    /// Makes a cgroup at the nearest place that gives it the memory controller and where nothing must be moved, else in
    /// memgate's own cgroup with its processes moved, else at the nearest place without that controller.
    ///
    /// # Errors
    /// Fails if there is no place where memgate may make a cgroup, with the reason for its own.
    pub(super) fn place(&self) -> Result<Placed, String> {
        if let Some(placed) = self.places().find_map(with_memory) {
            return Ok(placed);
        }
        let why = match self.with_room_for_memory() {
            Ok(placed) => return Ok(placed),
            Err(why) => why,
        };
        let owned = self.without_memory().map_err(|refused| refused.unwrap_or_else(|| why.clone()))?;
        Ok(Placed { owned, leaf: None, memory: Err(why), note: None })
    }

    /// Makes a cgroup at the nearest place where memgate may, whatever its controllers are, and moves nothing.
    ///
    /// # Errors
    /// Fails if there is no such place, with the reason for memgate's own cgroup if there is one.
    pub(super) fn without_memory(&self) -> Result<Owned, Option<String>> {
        let mut refused = None;
        for place in self.places() {
            match may_enter(place).and_then(|()| Owned::make(place)) {
                Ok(owned) => return Ok(owned),
                Err(error) => refused = refused.or_else(|| Some(format!("{}: {error}", place.display()))),
            }
        }
        Err(refused)
    }

    /// Makes a cgroup in memgate's own, from which it moves the processes.
    fn with_room_for_memory(&self) -> Result<Placed, String> {
        let own = &self.own;
        if !lists(own, "cgroup.controllers") {
            return Err(format!("{} does not list `{MEMORY}`", own.join("cgroup.controllers").display()));
        }
        if is_root(own) {
            // The machine's own processes stay where they are.
            return Err(format!("it cannot be enabled in {}", own.join(SUBTREE).display()));
        }
        let refused = |error: std::io::Error| format!("{}: {error}", own.display());
        may_enter(own).map_err(refused)?;
        let (leaf, moved) = Leaf::make(own).map_err(|error| error.to_string())?;
        let owned = Owned::make(own).map_err(refused)?;
        let noun = if moved == 1 { "process" } else { "processes" };
        let note = format!(
            "the memory controller needs a cgroup without processes: memgate moved {moved} {noun} from its own cgroup \
             {} into {LEAF} below it, and moves them back at the end of the run",
            own.display()
        );
        Ok(Placed { owned, leaf: Some(leaf), memory: Ok(()), note: (moved > 0).then_some(note) })
    }
}

/// Makes a cgroup in `place` if it gets the memory controller there without moving anything.
fn with_memory(place: &Path) -> Option<Placed> {
    may_enter(place).ok()?;
    // Another memgate may have made room there, and must not take it back.
    let leaf = Leaf::share(place);
    if !lists(place, SUBTREE) && is_root(place) && lists(place, "cgroup.controllers") {
        put(&place.join(SUBTREE), &format!("+{MEMORY}")).ok()?;
    }
    if !lists(place, SUBTREE) {
        return None;
    }
    let owned = Owned::make(place).ok()?;
    owned.path().join("memory.max").exists().then_some(Placed { owned, leaf, memory: Ok(()), note: None })
}

/// The file with the controllers of the cgroups below.
const SUBTREE: &str = "cgroup.subtree_control";

/// Whether the file lists the memory controller.
fn lists(folder: &Path, file: &str) -> bool {
    fs::read_to_string(folder.join(file)).is_ok_and(|names| names.split_whitespace().any(|name| name == MEMORY))
}

/// Whether this is the machine's root cgroup. It alone may hold processes beside cgroups with controllers, and it alone
/// has no type.
fn is_root(folder: &Path) -> bool {
    folder.join("cgroup.controllers").exists() && !folder.join("cgroup.type").exists()
}

/// Checks that memgate may move processes of its own cgroup into one below `place`. Between two cgroups, the kernel asks
/// for the right to write `cgroup.procs` of the nearest one above both.
fn may_enter(place: &Path) -> std::io::Result<()> {
    fs::File::options().write(true).open(place.join("cgroup.procs")).map(drop)
}

/// The folders in a folder, sorted.
pub(super) fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut folders: Vec<_> = folders.map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

#[cfg(test)]
mod tests {
    use procfs::FromBufRead as _;

    use super::*;

    /// The hierarchies of a process with these mounts, in this cgroup of the unified hierarchy.
    fn hierarchies(mounts: &str, own: &str) -> Hierarchies {
        Hierarchies::of(&procfs::process::MountInfos::from_buf_read(mounts.as_bytes()).unwrap().0, Some(own))
    }

    fn own(mount_root: &str, own: &str) -> String {
        let mounts = format!("35 30 0:30 {mount_root} /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
        hierarchies(&mounts, own).unified.unwrap().own.display().to_string()
    }

    #[test]
    fn the_own_cgroup_is_found_below_what_is_mounted() {
        assert_eq!(own("/", "/user.slice/user-1000.slice"), "/sys/fs/cgroup/user.slice/user-1000.slice");
        assert_eq!(own("/", "/"), "/sys/fs/cgroup");
        assert_eq!(
            own("/docker/4f", "/docker/4f/runner"),
            "/sys/fs/cgroup/runner",
            "a mount without its own namespace"
        );
        assert_eq!(own("/docker/4f", "/docker/4f0"), "/sys/fs/cgroup", "it is outside of what is mounted");
        assert_eq!(own("/../..", "/"), "/sys/fs/cgroup", "the names above the namespace are unknown");
    }

    #[test]
    fn places_begin_at_the_own_cgroup_and_end_at_the_root() {
        let unified = Unified { root: "/sys/fs/cgroup".into(), own: "/sys/fs/cgroup/a/b".into() };
        let places: Vec<_> = unified.places().map(|place| place.display().to_string()).collect();
        assert_eq!(places, ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]);
    }

    #[test]
    fn version_1_is_used_where_it_has_the_controller() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(mounts, "/");
        let roots: Vec<_> = found.roots().map(|root| root.display().to_string()).collect();
        assert_eq!(roots, ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"]);
        assert!(found.have_memory_controller());
    }
}
