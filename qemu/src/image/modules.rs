//! The kernel modules that a guest needs to communicate with its host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use object::{Object, ObjectSection};
use walkdir::WalkDir;

use super::error::ImageError;
use crate::package::decompressed;

/// The modules that a guest needs, and whether it can run without each.
const NEEDED: [(&str, bool); 3] = [("virtio_pci", true), ("virtio_console", true), ("virtio_rng", false)];

/// The largest module, bytes. Those of Debian's kernels that a guest needs have less than 200 kB.
const LARGEST: u64 = 64 << 20;

/// A module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name, as the kernel writes it: with `_`.
    pub(super) name: String,
    /// An ELF file, uncompressed.
    pub(super) contents: Vec<u8>,
}

/// The modules in a kernel's packages.
#[derive(Debug)]
struct Tree {
    /// The loadable ones, by name.
    files: BTreeMap<String, PathBuf>,
    /// The built-in ones.
    built_in: BTreeSet<String>,
}

/// The modules that a guest with this kernel needs, in the loading order; empty if all are built in. `directory` is the
/// kernel's own below `lib/modules`.
///
/// # Errors
/// When a module is neither built in nor available, when one cannot be read, or when the directory does not say what is
/// built in.
pub(super) fn needed(directory: &Path) -> Result<Vec<Module>, ImageError> {
    let tree = Tree::read(directory).map_err(|error| ImageError::io(format!("read {}", directory.display()), error))?;
    let mut modules = BTreeMap::new();
    let read = |name: &str, path: &Path| {
        let contents = contents(path)?;
        let depends = depends(&contents).ok_or_else(|| ImageError::BadModule { path: path.display().to_string() })?;
        modules.insert(name.to_owned(), contents);
        Ok(depends)
    };
    let mut order = Order { tree: &tree, read, done: Vec::new(), begun: BTreeSet::new() };
    for (name, is_required) in NEEDED {
        if is_required || tree.files.contains_key(name) {
            order.visit(name)?;
        }
    }
    let names = order.done;
    Ok(names.into_iter().filter_map(|name| Some(Module { contents: modules.remove(&name)?, name })).collect())
}

impl Tree {
    fn read(directory: &Path) -> std::io::Result<Self> {
        let list = std::fs::read_to_string(directory.join("modules.builtin"))?;
        let built_in = list.lines().filter_map(|line| module_name(Path::new(line))).collect();
        let mut files = BTreeMap::new();
        for entry in WalkDir::new(directory) {
            let path = entry?.into_path();
            if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
        Ok(Self { files, built_in })
    }
}

/// The name of the module in a file, if it is one: `virtio_rng` for `virtio-rng.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

fn contents(path: &Path) -> Result<Vec<u8>, ImageError> {
    let read = || {
        if path.extension().is_none_or(|extension| extension != "xz") {
            return std::fs::read(path);
        }
        let mut contents = Vec::new();
        let read = decompressed(File::open(path)?).take(LARGEST + 1).read_to_end(&mut contents)?;
        let is_larger = u64::try_from(read).is_ok_and(|read| read > LARGEST);
        let too_large = || std::io::Error::other(format!("it decompresses to more than {LARGEST} bytes"));
        if is_larger { Err(too_large()) } else { Ok(contents) }
    };
    read().map_err(|error| ImageError::io(format!("read {}", path.display()), error))
}

/// The modules that a module depends on, from its section `.modinfo`, which contains strings `key=value` with a NUL
/// after each.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let file = object::File::parse(module).ok()?;
    let section = file.section_by_name(".modinfo")?;
    let strings = section.data().ok()?.split(|byte| *byte == 0);
    let list = strings.filter_map(|string| std::str::from_utf8(string).ok()?.strip_prefix("depends=")).next()?;
    Some(list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// A walk that yields each module after its dependencies.
struct Order<'a, R> {
    tree: &'a Tree,
    read: R,
    done: Vec<String>,
    /// Includes modules whose dependencies are not finished, so that a cycle ends there.
    begun: BTreeSet<String>,
}

impl<R: FnMut(&str, &Path) -> Result<Vec<String>, ImageError>> Order<'_, R> {
    fn visit(&mut self, name: &str) -> Result<(), ImageError> {
        if self.tree.built_in.contains(name) || !self.begun.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.tree.files.get(name).ok_or_else(|| ImageError::NoModule { name: name.to_owned() })?;
        for dependency in (self.read)(name, path)? {
            self.visit(&dependency)?;
        }
        self.done.push(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object::{Architecture, BinaryFormat, Endianness, SectionKind, write};

    use super::*;

    /// A module that depends on others.
    fn module(depends: &str) -> Vec<u8> {
        let mut object = write::Object::new(BinaryFormat::Elf, Architecture::Aarch64, Endianness::Little);
        let section = object.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        object.append_section_data(section, info.as_bytes(), 1);
        object.write().unwrap()
    }

    fn directory(files: &[(&str, &str)], built_in: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let drivers = directory.path().join("kernel/drivers");
        std::fs::create_dir_all(&drivers).unwrap();
        for (name, depends) in files {
            std::fs::write(drivers.join(name), module(depends)).unwrap();
        }
        std::fs::write(directory.path().join("modules.builtin"), built_in).unwrap();
        directory
    }

    fn names(directory: &Path) -> Result<Vec<String>, String> {
        let modules = needed(directory).map_err(|error| error.to_string())?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn modules_come_after_what_they_depend_on() {
        let files = [
            ("virtio.ko", ""),
            ("virtio_ring.ko", ""),
            ("virtio_pci.ko", "virtio,virtio_ring"),
            ("virtio_console.ko", "virtio_ring,virtio"),
            ("virtio-rng.ko", "virtio,rng-core,virtio_ring"),
            ("rng-core.ko", ""),
            ("unrelated.ko", ""),
        ];
        let found = names(directory(&files, "").path()).unwrap();
        assert_eq!(found, ["virtio", "virtio_ring", "virtio_pci", "virtio_console", "rng_core", "virtio_rng"]);
    }

    #[test]
    fn what_is_built_in_is_not_loaded() {
        let built_in = "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_pci.ko\n";
        let files = [("virtio_console.ko", "virtio")];
        assert_eq!(names(directory(&files, built_in).path()).unwrap(), ["virtio_console"]);
        let all = format!("{built_in}kernel/drivers/char/virtio_console.ko\n");
        assert_eq!(names(directory(&[], &all).path()).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(names(Path::new("/nonexistent")).unwrap_err().contains("/nonexistent"));
        assert!(names(directory(&[], "").path()).unwrap_err().contains("virtio_pci"));
    }

    #[test]
    fn a_circle_ends() {
        let files = [("virtio_pci.ko", "virtio_console"), ("virtio_console.ko", "virtio_pci")];
        assert_eq!(names(directory(&files, "").path()).unwrap(), ["virtio_console", "virtio_pci"]);
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        let directory = directory(&[("virtio_console.ko", "")], "");
        std::fs::write(directory.path().join("kernel/drivers/virtio_pci.ko"), "no ELF").unwrap();
        assert!(names(directory.path()).unwrap_err().contains("virtio_pci.ko"));
    }
}
