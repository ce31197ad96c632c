//! The agent: the executable that becomes a guest's first process.

use std::path::Path;

use object::{
    Endianness, elf,
    read::elf::{FileHeader, ProgramHeader},
};
use sha2::{Digest, Sha256};

use super::error::ImageError;
use crate::{architecture::Architecture, debian::hex};

/// An executable that can be a guest's first process.
#[derive(Debug)]
pub struct Agent {
    /// The executable's bytes.
    pub contents: Vec<u8>,
    /// SHA-256 of the contents, in hexadecimal.
    pub(super) sha256: String,
}

impl Agent {
    /// Reads the executable.
    ///
    /// # Errors
    /// When it cannot be read, is for another architecture, or needs a dynamic loader, which guests do not have.
    pub fn read(path: &Path, architecture: Architecture) -> Result<Self, ImageError> {
        let contents = std::fs::read(path)
            .map_err(|error| ImageError::BadAgent { path: path.display().to_string(), why: error.to_string() })?;
        check(&contents, architecture).map_err(|why| ImageError::BadAgent { path: path.display().to_string(), why })?;
        let sha256 = hex(&Sha256::digest(&contents));
        Ok(Self { contents, sha256 })
    }
}

fn check(contents: &[u8], architecture: Architecture) -> Result<(), String> {
    let bad = |_| "it is not a 64-bit ELF executable".to_owned();
    let header = elf::FileHeader64::<Endianness>::parse(contents).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    let machine = header.e_machine(endian);
    if machine != machine_of(architecture) || endian != Endianness::Little {
        let other = Architecture::ALL.into_iter().find(|other| machine_of(*other) == machine);
        let other = other.map_or_else(|| "another architecture".to_owned(), |other| other.to_string());
        return Err(format!("it is for {other}, and the guest is {architecture}"));
    }
    if ![elf::ET_EXEC, elf::ET_DYN].contains(&header.e_type(endian)) {
        return Err("it is an ELF file, but not an executable".into());
    }
    for segment in header.program_headers(endian, contents).map_err(bad)? {
        if segment.interpreter(endian, contents).map_err(bad)?.is_some() {
            return Err("it is linked dynamically, and a guest has no libraries".into());
        }
    }
    Ok(())
}

fn machine_of(architecture: Architecture) -> elf::Machine {
    match architecture {
        Architecture::Amd64 => elf::EM_X86_64,
        Architecture::Arm64 => elf::EM_AARCH64,
        Architecture::Loong64 => elf::EM_LOONGARCH,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use object::write::elf::{FileHeader, ProgramHeader, Writer};

    use super::*;

    /// An executable without code.
    pub(in crate::image) fn executable(
        machine: elf::Machine,
        kind: elf::FileType,
        segment: elf::ProgramType,
    ) -> Vec<u8> {
        let mut contents = Vec::new();
        let mut writer = Writer::new(Endianness::Little, true, &mut contents);
        writer.reserve_file_header();
        writer.reserve_program_headers(1);
        writer.reserve(8, 8);
        let header = FileHeader {
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            e_type: kind,
            e_machine: machine,
            e_entry: 0,
            e_flags: elf::FileFlags(0),
        };
        writer.write_file_header(&header).unwrap();
        writer.write_align_program_headers();
        let header = ProgramHeader {
            p_type: segment,
            p_flags: elf::PF_R,
            p_offset: 120,
            p_vaddr: 0,
            p_paddr: 0,
            p_filesz: 8,
            p_memsz: 8,
            p_align: 1,
        };
        writer.write_program_header(&header);
        writer.write_align(8);
        writer.write(b"/lib/ld\0");
        contents
    }

    fn why(contents: &[u8]) -> Result<(), String> {
        check(contents, Architecture::Arm64)
    }

    #[test]
    fn static_executables_for_the_guest_are_taken() {
        let machines = [elf::EM_X86_64, elf::EM_AARCH64, elf::EM_LOONGARCH];
        for (architecture, machine) in Architecture::ALL.into_iter().zip(machines) {
            for kind in [elf::ET_EXEC, elf::ET_DYN] {
                assert_eq!(check(&executable(machine, kind, elf::PT_LOAD), architecture), Ok(()));
            }
        }
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let of = |machine| why(&executable(machine, elf::ET_EXEC, elf::PT_LOAD)).unwrap_err();
        assert_eq!(of(elf::EM_X86_64), "it is for amd64, and the guest is arm64");
        assert_eq!(of(elf::EM_RISCV), "it is for another architecture, and the guest is arm64");
        let dynamic = executable(elf::EM_AARCH64, elf::ET_DYN, elf::PT_INTERP);
        assert_eq!(why(&dynamic).unwrap_err(), "it is linked dynamically, and a guest has no libraries");
        let object = executable(elf::EM_AARCH64, elf::ET_REL, elf::PT_LOAD);
        assert_eq!(why(&object).unwrap_err(), "it is an ELF file, but not an executable");
        for contents in [&b""[..], b"#!/bin/sh\n", &dynamic[..70]] {
            assert_eq!(why(contents).unwrap_err(), "it is not a 64-bit ELF executable", "{contents:?}");
        }
    }

    #[test]
    fn one_that_is_not_there_is_named() {
        let error = Agent::read(Path::new("/nonexistent/memgate"), Architecture::Arm64).unwrap_err();
        assert!(error.message().contains("/nonexistent/memgate"), "{error}");
    }
}
