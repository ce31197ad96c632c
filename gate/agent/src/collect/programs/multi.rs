//! Probes by `uprobe_multi` (Linux 6.6): one link for all places of a program, which is taken off in one wait of the kernel.
//!
//! aya 0.14 reads and relocates the object and makes the maps. It can neither load such a program nor attach it, so this file does.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{
        bpf_attach_type::BPF_TRACE_UPROBE_MULTI, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type::BPF_PROG_TYPE_KPROBE,
    },
};
use memgate_evidence::error::in_full;
use nix::libc;

use super::{ProgramError, error::LoadError};

/// The programs of an object whose maps aya has made.
pub(super) struct MultiPrograms {
    license: CString,
    /// By name, with the maps' file descriptors in them.
    instructions: HashMap<String, Vec<bpf_insn>>,
    loaded: HashMap<&'static str, OwnedFd>,
}

impl MultiPrograms {
    /// Reads the programs of `object`, from which `ebpf` was made. Its maps must live until the programs are loaded.
    ///
    /// # Errors
    /// When the object is damaged, or has a map of a kind that is not known here.
    pub(super) fn read(object: &[u8], ebpf: &Ebpf) -> Result<Self, ProgramError> {
        let damaged = |error: &dyn std::error::Error| ProgramError::Object(format!("is damaged: {}", in_full(error)));
        let mut object = Object::parse(object).map_err(|error| damaged(&error))?;
        let definitions = std::mem::take(&mut object.maps);
        let mut maps = Vec::new();
        for (name, map) in ebpf.maps() {
            let (Map::Array(map) | Map::HashMap(map) | Map::PerCpuArray(map) | Map::RingBuf(map)) = map else {
                return Err(ProgramError::Object(format!(
                    "has the map {name} of a kind that uprobe_multi programs do not use"
                )));
            };
            let definition =
                definitions.get(name).ok_or_else(|| ProgramError::Object(format!("lacks the map {name}")))?;
            maps.push((name, map.fd().as_fd().as_raw_fd(), definition));
        }
        let text_sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(maps.into_iter(), &text_sections).map_err(|error| damaged(&error))?;
        object.relocate_calls(&text_sections).map_err(|error| damaged(&error))?;
        let functions = &object.functions;
        let instructions = object.programs.iter().filter_map(|(name, program)| {
            functions.get(&program.function_key()).map(|function| (name.clone(), function.instructions.clone()))
        });
        Ok(Self { instructions: instructions.collect(), license: object.license.clone(), loaded: HashMap::new() })
    }

    /// Puts a program on the instructions at these offsets of a file, bytes, for one process; closing the link takes it off.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(
        &mut self,
        program: &'static str,
        file: &CStr,
        offsets: &[u64],
        pid: u32,
    ) -> Result<OwnedFd, ProgramError> {
        let refused = |error: Box<dyn std::error::Error + Send + Sync>| {
            ProgramError::refused(format!("the probes `{program}` at offsets {offsets:#x?}"), error)
        };
        if !self.loaded.contains_key(program) {
            let missing = || ProgramError::Object(format!("lacks the program `{program}`"));
            let instructions = self.instructions.get(program).ok_or_else(missing)?;
            let loaded = load(program, instructions, &self.license).map_err(|error| refused(error.into()))?;
            self.loaded.insert(program, loaded);
        }
        link(&self.loaded[program], file, offsets, pid).map_err(|error| refused(error.into()))
    }
}

/// Whether the kernel has links for many probes, and has them tell processes apart: before Linux 6.10 they compared threads.
///
/// Found by asking for what must be refused, as libbpf does (`probe_uprobe_multi_link` in features.c): a probe on the directory `/` is
/// a bad file, and with a process number that cannot be, a bad argument only where that number is looked at first.
pub(super) fn is_supported() -> bool {
    // mov r0, 0; exit
    let [set, exit] = [(0xb7, 0), (0x95, 0)].map(|(code, imm)| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: Default::default(),
        off: 0,
        imm,
    });
    let refusal = |program: &OwnedFd, pid| link(program, c"/", &[0], pid).err().and_then(|error| error.raw_os_error());
    load("probe", &[set, exit], c"GPL").is_ok_and(|program| {
        refusal(&program, 0) == Some(libc::EBADF) && refusal(&program, u32::MAX) == Some(libc::EINVAL)
    })
}

/// Loads a program. If the kernel refuses, it is asked again for the verifier's log.
fn load(name: &str, instructions: &[bpf_insn], license: &CStr) -> Result<OwnedFd, LoadError> {
    /// Most of a verifier's log, bytes: what is cut off is its end. The reason stands in the last lines of a log that fits.
    const LOG_BYTES: usize = 1 << 20;
    load_logged(name, instructions, license, &mut []).or_else(|_| {
        let mut log = vec![0; LOG_BYTES];
        load_logged(name, instructions, license, &mut log).map_err(|source| LoadError {
            program: name.to_owned(),
            source,
            log: CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().trim_end().to_owned(),
        })
    })
}

/// Loads a program; the verifier writes its log into `log`, unless that is empty.
fn load_logged(name: &str, instructions: &[bpf_insn], license: &CStr, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: all of it is numbers, for which 0 is the kernel's default.
    let mut attributes = unsafe { std::mem::zeroed::<bpf_attr>() };
    // SAFETY: every bit of the union is initialised.
    let program = unsafe { &mut attributes.__bindgen_anon_3 };
    program.prog_type = BPF_PROG_TYPE_KPROBE as u32;
    program.expected_attach_type = BPF_TRACE_UPROBE_MULTI as u32;
    program.insns = instructions.as_ptr() as u64;
    program.insn_cnt = length(instructions)?;
    program.license = license.as_ptr() as u64;
    if !log.is_empty() {
        program.log_level = 1;
        program.log_size = length(log)?;
        program.log_buf = log.as_mut_ptr() as u64;
    }
    let room = program.prog_name.len() - 1;
    for (to, from) in program.prog_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from.cast_signed() as _;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &attributes)
}

fn link(program: &OwnedFd, file: &CStr, offsets: &[u64], pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: all of it is numbers, for which 0 is the kernel's default.
    let mut attributes = unsafe { std::mem::zeroed::<bpf_attr>() };
    // SAFETY: every bit of the union is initialised.
    let link = unsafe { &mut attributes.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    link.attach_type = BPF_TRACE_UPROBE_MULTI as u32;
    // SAFETY: as above.
    let probes = unsafe { &mut link.__bindgen_anon_3.uprobe_multi };
    probes.path = file.as_ptr() as u64;
    probes.offsets = offsets.as_ptr() as u64;
    probes.cnt = length(offsets)?;
    probes.pid = pid;
    bpf(bpf_cmd::BPF_LINK_CREATE, &attributes)
}

fn length<T>(slice: &[T]) -> io::Result<u32> {
    u32::try_from(slice.len()).map_err(io::Error::other)
}

/// A command whose result is a file descriptor. What the attributes point at must live until it returns.
fn bpf(command: bpf_cmd, attributes: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as it is told, and what they point at.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_ref(attributes), size_of::<bpf_attr>())
    };
    match i32::try_from(result) {
        // SAFETY: the kernel has just made it, for nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_the_verifier_refuses_shows_its_log() {
        // exit, with nothing in r0.
        let exit = bpf_insn { code: 0x95, _bitfield_align_1: [], _bitfield_1: Default::default(), off: 0, imm: 0 };
        let error = load("planted", &[exit], c"GPL").unwrap_err();
        if error.source.raw_os_error() == Some(libc::EPERM) && std::env::var_os("CI").is_none() {
            eprintln!("skipped: this user may not load BPF programs");
            return;
        }
        assert_eq!(error.source.raw_os_error(), Some(libc::EACCES), "{error}");
        assert!(error.log.contains("R0 !read_ok"), "{error}");
    }
}
