//! The libraries that a program is linked with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use object::{
    elf,
    read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader},
};

use crate::image::ImageError;

/// glibc loads it by this name when a thread exits, so no program names it.
const UNNAMED: &str = "libgcc_s.so.1";

/// The loader and the libraries of a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Libraries {
    /// The loader's name, which is one of the files.
    pub(super) loader: String,
    /// Every library, by the name under which it is requested.
    pub(super) files: BTreeMap<String, PathBuf>,
}

/// Finds everything that a program needs in these directories. The first directory that contains a file wins.
///
/// # Errors
/// When something is missing or is not a 64-bit ELF file.
pub(super) fn libraries(program: &Path, directories: &[PathBuf]) -> Result<Libraries, ImageError> {
    let (loader, mut wanted) = needs(program)?;
    let missing = |name: String| ImageError::BadEmulator { why: format!("its packages have no {name}") };
    let loader = loader.ok_or_else(|| ImageError::BadEmulator { why: "it names no loader".into() })?;
    wanted.extend([loader.clone(), UNNAMED.to_owned()]);
    let mut files = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if files.contains_key(&name) {
            continue;
        }
        let found = directories.iter().map(|directory| directory.join(&name)).find(|path| path.exists());
        let found = found.ok_or_else(|| missing(name.clone()))?;
        wanted.extend(needs(&found)?.1);
        files.insert(name, found);
    }
    Ok(Libraries { loader, files })
}

/// The name of a file's loader, if it has one, and the names of its libraries.
fn needs(path: &Path) -> Result<(Option<String>, Vec<String>), ImageError> {
    let bytes = std::fs::read(path).map_err(|error| ImageError::io(format!("read {}", path.display()), error))?;
    parse(&bytes).map_err(|error| ImageError::BadEmulator { why: format!("{}: {error}", path.display()) })
}

fn parse(bytes: &[u8]) -> Result<(Option<String>, Vec<String>), object::read::Error> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)?;
    let endian = file.endian();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut loader = None;
    for segment in file.elf_program_headers() {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            loader = text(path).rsplit('/').next().map(str::to_owned);
        }
    }
    let mut names = Vec::new();
    let sections = file.elf_header().sections(endian, bytes)?;
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED) {
            names.push(text(entry.string(endian, strings)?));
        }
    }
    Ok((loader, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test executable itself is such a program.
    const OWN: &str = "/proc/self/exe";

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let (loader, names) = needs(Path::new(OWN)).unwrap();
        assert!(loader.unwrap().starts_with("ld-linux"));
        assert!(names.contains(&"libc.so.6".to_owned()), "{names:?}");
    }

    #[test]
    fn libraries_of_libraries_are_found_where_they_are_first() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let (loader, names) = needs(Path::new(OWN)).unwrap();
        for (place, names) in [(&first, vec![UNNAMED.to_owned()]), (&second, names.into_iter().chain(loader).collect())]
        {
            std::fs::create_dir(place).unwrap();
            // A file that names no libraries serves as a library without dependencies.
            names.iter().for_each(|name| std::fs::write(place.join(name), bare()).unwrap());
        }
        std::fs::write(second.join(UNNAMED), "not looked at").unwrap();
        let found = libraries(Path::new(OWN), &[first.clone(), second.clone()]).unwrap();
        assert_eq!(found.files[UNNAMED], first.join(UNNAMED));
        assert_eq!(found.files["libc.so.6"], second.join("libc.so.6"));
        assert!(found.files.contains_key(&found.loader));
        std::fs::remove_file(second.join("libc.so.6")).unwrap();
        let error = libraries(Path::new(OWN), &[first, second]).unwrap_err();
        assert!(error.message().ends_with("its packages have no libc.so.6"), "{error}");
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(matches!(libraries(&script, &[]), Err(ImageError::BadEmulator { .. })));
    }

    /// An ELF file without dependencies.
    fn bare() -> Vec<u8> {
        use object::{elf, write::elf as write};
        let mut contents = Vec::new();
        let mut writer = write::Writer::new(object::Endianness::Little, true, &mut contents);
        writer.reserve_file_header();
        let header = write::FileHeader {
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            e_type: elf::ET_DYN,
            e_machine: elf::EM_X86_64,
            e_entry: 0,
            e_flags: elf::FileFlags(0),
        };
        writer.write_file_header(&header).unwrap();
        contents
    }
}
