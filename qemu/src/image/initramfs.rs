//! A guest's first file system: the agent as its first process, and little else. The same input gives the same bytes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use cpio::newc::{Builder, trailer};

use super::modules::Module;

/// The kind of an entry in the archive.
enum Entry<'a> {
    Directory { mode: u32 },
    Console,
    File { mode: u32, contents: &'a [u8] },
}

/// The kinds of files in a mode, by inode(7).
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

const DIRECTORIES: [&str; 9] = ["dev", "etc", "lib", "lib/modules", "proc", "root", "run", "sys", "tmp"];

/// Files in which programs look up names first. No name server is named, because there is no other machine.
const FILES: [(&str, &str); 3] = [
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/resolv.conf", ""),
];

/// The archive, in cpio's format newc. It contains `agent` as `/init` and the modules as `/lib/modules/NN-NAME.ko`,
/// where NN counts from 00 in the loading order.
///
/// # Errors
/// When a file has 4 GiB or more, which the format does not allow.
pub(super) fn initramfs(agent: &[u8], modules: &[Module]) -> io::Result<Vec<u8>> {
    let names: Vec<_> =
        modules.iter().enumerate().map(|(at, module)| format!("lib/modules/{at:02}-{}.ko", module.name)).collect();
    // Sorted by name, so that a directory comes before its contents.
    let mut entries =
        BTreeMap::from([("dev/console", Entry::Console), ("init", Entry::File { mode: 0o755, contents: agent })]);
    for directory in DIRECTORIES {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        entries.insert(directory, Entry::Directory { mode });
    }
    for (name, contents) in FILES {
        entries.insert(name, Entry::File { mode: 0o644, contents: contents.as_bytes() });
    }
    for (name, module) in names.iter().zip(modules) {
        entries.insert(name, Entry::File { mode: 0o644, contents: &module.contents });
    }
    archived(&entries)
}

/// An archive with a shell, which the kernel unpacks after a guest's own archive. It contains `busybox` at
/// `/bin/busybox` and the directories in which busybox makes links to itself.
///
/// # Errors
/// When it has 4 GiB or more.
pub(super) fn shell(busybox: &[u8]) -> io::Result<Vec<u8>> {
    let mut entries = BTreeMap::from([("bin/busybox", Entry::File { mode: 0o755, contents: busybox })]);
    for directory in ["bin", "sbin", "usr", "usr/bin", "usr/sbin"] {
        entries.insert(directory, Entry::Directory { mode: 0o755 });
    }
    archived(&entries)
}

fn archived(entries: &BTreeMap<&str, Entry<'_>>) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (inode, (name, entry)) in (1..).zip(entries) {
        archive = append(archive, inode, name, entry)?;
    }
    trailer(archive)
}

fn append(archive: Vec<u8>, inode: u32, name: &str, entry: &Entry<'_>) -> io::Result<Vec<u8>> {
    // Owner, time and device are zero unless set.
    let builder = Builder::new(name).ino(inode);
    let (builder, contents) = match entry {
        Entry::Directory { mode } => (builder.mode(DIRECTORY | mode).nlink(2), &[][..]),
        Entry::Console => (builder.mode(CHARACTER_DEVICE | 0o600).rdev_major(5).rdev_minor(1), &[][..]),
        Entry::File { mode, contents } => (builder.mode(REGULAR | mode), *contents),
    };
    let size = u32::try_from(contents.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut writer = builder.write(archive, size);
    writer.write_all(contents)?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cpio::newc::Reader;

    use super::*;

    fn module(name: &str) -> Module {
        Module { name: name.into(), contents: format!("contents of {name}").into_bytes() }
    }

    /// Name, mode, rdev, owner, time and contents of each entry.
    fn listed(archive: &[u8]) -> Vec<String> {
        let (mut rest, mut entries) = (archive, Vec::new());
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let mut contents = String::new();
            reader.read_to_string(&mut contents).unwrap();
            let entry = reader.entry();
            entries.push(format!(
                "{} {:o} {}:{} {}:{} {} {contents:?}",
                entry.name(),
                entry.mode(),
                entry.rdev_major(),
                entry.rdev_minor(),
                entry.uid(),
                entry.gid(),
                entry.mtime(),
            ));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn archive_holds_what_a_guest_needs() {
        let archive = initramfs(b"agent", &[module("virtio_ring"), module("virtio")]).unwrap();
        insta::assert_snapshot!(listed(&archive).join("\n"));
    }

    #[test]
    fn shell_has_the_directories_that_it_needs() {
        let entries = listed(&shell(b"busybox").unwrap());
        let names: Vec<_> = entries.iter().filter_map(|entry| entry.split(' ').next()).collect();
        assert_eq!(names, ["bin", "bin/busybox", "sbin", "usr", "usr/bin", "usr/sbin"]);
        assert_eq!(entries[1], "bin/busybox 100755 0:0 0:0 0 \"busybox\"");
    }

    #[test]
    fn modules_are_named_in_the_order_of_loading() {
        let modules: Vec<_> = (0..11).map(|at| module(&format!("m{at}"))).collect();
        let entries = listed(&initramfs(b"", &modules).unwrap()).join("\n");
        assert!(entries.contains("lib/modules/00-m0.ko ") && entries.contains("lib/modules/10-m10.ko "), "{entries}");
    }

    #[test]
    fn same_input_gives_the_same_bytes() {
        let build = || initramfs(b"agent", &[module("virtio")]).unwrap();
        assert_eq!(build(), build());
        assert_ne!(build(), initramfs(b"Agent", &[module("virtio")]).unwrap());
    }
}
