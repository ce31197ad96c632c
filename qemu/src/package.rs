//! Unpacks Debian's packages, on a host of any distribution.
//!
//! A package is an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*` (deb(5)). The files are in the last,
//! which Debian compresses with xz.

use std::{
    error::Error,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use crate::{debian::DebianError, stop::Stop};

/// The most that a package may unpack to, bytes.
const LARGEST: u64 = 4 << 30;

/// Unpacks the files of a package into the directory `root`. No file lands outside of it.
///
/// # Errors
/// When the file is no package, is damaged, or unpacks to more than 4 GiB, when the directory cannot be
/// written, and when memgate must end.
pub fn unpack(package: &Path, root: &Path, stop: &Stop) -> Result<(), DebianError> {
    let failed = |error| failure(package, &error, stop);
    unpack_from(package, root, LARGEST, stop).map_err(failed)
}

/// Whose failure it is: the system's, which has a number of its own, or the package's.
fn failure(package: &Path, error: &io::Error, stop: &Stop) -> DebianError {
    if stop.is_asked() {
        return DebianError::Interrupted;
    }
    // The library's message has the file, and its last source has the reason. Those between have the file again.
    let chain = || std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source());
    let why = chain().skip(1).last().map_or_else(|| error.to_string(), |reason| format!("{error}: {reason}"));
    let is_of_the_system = |error: &(dyn Error + 'static)| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some())
    };
    if chain().any(is_of_the_system) {
        return DebianError::io(format!("unpack {}", package.display()), io::Error::new(error.kind(), why));
    }
    DebianError::BadPackage { package: package.to_owned(), why }
}

fn unpack_from(package: &Path, root: &Path, most: u64, stop: &Stop) -> io::Result<()> {
    let mut archive = ar::Archive::new(BufReader::new(File::open(package)?));
    while let Some(member) = archive.next_entry() {
        let member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        match name.trim_end_matches('/') {
            "data.tar.xz" => return files(decompressed(member), root, most, stop),
            "data.tar" => return files(member, root, most, stop),
            other if other.starts_with("data.tar") => {
                return Err(io::Error::other(format!("`{other}` is not compressed with xz, as Debian's packages are")));
            }
            _ => {}
        }
    }
    Err(io::Error::other("it is no package of Debian's: it has no `data.tar.xz`"))
}

/// What a reader gives, decompressed: xz, with its checksums.
pub(crate) fn decompressed(from: impl Read) -> impl Read {
    lzma_rust2::XzReader::new(from, true)
}

fn files(data: impl Read, root: &Path, most: u64, stop: &Stop) -> io::Result<()> {
    let mut data = Watched { from: data, stop }.take(most);
    let mut tar = tar::Archive::new(&mut data);
    // Whoever unpacks owns the files.
    tar.set_preserve_ownerships(false);
    let unpacked = tar.unpack(root);
    // The archive's end is not the end of what is compressed, and only there is the last checksum.
    let unpacked = unpacked.and_then(|()| io::copy(&mut data, &mut io::sink()));
    // What is cut off there looks like damage.
    if data.limit() == 0 {
        return Err(io::Error::other(format!("it unpacks to more than {most} bytes")));
    }
    unpacked.map(drop)
}

/// A reader that fails when memgate must end.
struct Watched<'a, R> {
    from: R,
    stop: &'a Stop,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_asked() { Err(io::Error::other("interrupted")) } else { self.from.read(bytes) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A package with this file.
    pub(crate) fn package(member: &str, path: &str, contents: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o755);
        // By hand: the library refuses names such as `../x`.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, contents).unwrap();
        let data = tar.into_inner().unwrap();
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        io::Write::write_all(&mut xz, &data).unwrap();
        let data = if member.ends_with(".xz") { xz.finish().unwrap() } else { data };
        let mut ar = ar::Builder::new(Vec::new());
        for (name, contents) in [("debian-binary", &b"2.0\n"[..]), ("control.tar.xz", b"x"), (member, &data)] {
            ar.append(&ar::Header::new(name.into(), contents.len() as u64), contents).unwrap();
        }
        ar.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<tempfile::TempDir, String> {
        let directory = tempfile::tempdir().unwrap();
        let (file, root) = (directory.path().join("a.deb"), directory.path().join("root"));
        std::fs::write(&file, bytes).unwrap();
        std::fs::create_dir(&root).unwrap();
        let result = unpack(&file, &root, &Stop::default());
        assert!(!directory.path().join("x").exists(), "nothing lands outside");
        result.map(|()| directory).map_err(|error| error.to_string())
    }

    #[test]
    fn the_files_of_a_package_are_unpacked_with_their_modes() {
        for member in ["data.tar.xz", "data.tar"] {
            let directory = unpacked(&package(member, "./usr/bin/x", b"program")).unwrap();
            let file = directory.path().join("root/usr/bin/x");
            assert_eq!(std::fs::read(&file).unwrap(), b"program");
            let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
            assert_eq!(mode & 0o777, 0o755);
        }
    }

    #[test]
    fn what_is_no_whole_package_is_refused() {
        let good = package("data.tar.xz", "./x", b"program");
        let other = unpacked(&package("data.tar.zst", "./x", b"")).unwrap_err();
        assert!(other.contains("`data.tar.zst` is not compressed with xz"), "{other}");
        for bad in [&b""[..], b"!<arch>\n", b"MZ", &good[..good.len() - 40], &good[..100]] {
            let error = unpacked(bad).unwrap_err();
            assert!(error.starts_with("cannot unpack "), "{error}");
        }
    }

    #[test]
    fn what_the_system_refuses_has_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.deb");
        std::fs::write(&file, package("data.tar.xz", "./x/y", b"program")).unwrap();
        std::fs::write(directory.path().join("x"), "no directory").unwrap();
        let error = unpack(&file, directory.path(), &Stop::default()).unwrap_err();
        assert!(matches!(&error, DebianError::Io { source, .. } if source.kind() != io::ErrorKind::Other), "{error:?}");
        assert!(error.to_string().contains("(os error "), "{error}");
        assert!(error.help().contains("MEMGATE_CACHE"), "{}", error.help());
    }

    #[test]
    fn a_package_that_is_too_large_or_damaged_is_no_fault_of_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let (file, root) = (directory.path().join("a.deb"), directory.path().join("root"));
        let good = package("data.tar.xz", "./x", &[7; 100_000]);
        std::fs::write(&file, &good).unwrap();
        std::fs::create_dir(&root).unwrap();
        let stop = Stop::default();
        let unpacked = |most| unpack_from(&file, &root, most, &stop).map_err(|error| failure(&file, &error, &stop));
        for most in [50_000, 100_600] {
            let error = unpacked(most).unwrap_err();
            assert!(error.to_string().ends_with(&format!(": it unpacks to more than {most} bytes")), "{error}");
            assert!(error.help().contains("memgate image clean"), "{}", error.help());
        }
        unpacked(200_000).unwrap();
        std::fs::write(&file, &good[..good.len() - 40]).unwrap();
        let error = unpacked(200_000).unwrap_err();
        assert!(matches!(&error, DebianError::BadPackage { why, .. } if !why.ends_with("other error")), "{error}");
    }

    #[test]
    fn no_link_leads_outside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "a", "..").unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(7);
        header.set_mode(0o644);
        tar.append_data(&mut header, "a/x", &b"program"[..]).unwrap();
        let error = files(&tar.into_inner().unwrap()[..], &root, LARGEST, &Stop::default());
        assert!(error.is_err() && !directory.path().join("x").exists());
    }

    #[test]
    fn an_interrupt_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.deb");
        std::fs::write(&file, package("data.tar.xz", "./x", b"program")).unwrap();
        let stop = Stop::from(std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
        assert!(matches!(unpack(&file, directory.path(), &stop), Err(DebianError::Interrupted)));
    }

    #[test]
    fn no_file_lands_outside() {
        // A name that climbs is left out, as `tar` does.
        let directory = unpacked(&package("data.tar.xz", "../x", b"program")).unwrap();
        assert_eq!(std::fs::read_dir(directory.path().join("root")).unwrap().count(), 0);
    }
}
