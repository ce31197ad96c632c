//! Call stacks of real processes, each stopped at a place with known callers.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::repository;
use memgate::gobuild::Builder;
use memgate_agent::{
    cancel::Cancel,
    collect::{
        ProcessMemory, RemoteMemory as _,
        unwind::{Capture, GoContinuation, Registers, Unwinder},
    },
};
use memgate_config::Build;
use memgate_evidence::{Frame, Language, platform::Platform};
use memgate_goexe::FunctionTable;
use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use tempfile::TempDir;

/// The most that the collector copies of a thread's stack and of a goroutine's, bytes.
const STACK: usize = 8 << 10;
const GO_STACK: usize = 4 << 10;
/// Stands for functions of the C library.
const LIBRARY: &str = "the C library";

/// A traced process. It is killed at the end.
struct Traced {
    child: Child,
    pid: Pid,
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Traced {
    fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(matches!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(_, Signal::SIGTRAP)), "the exec");
        Self { child, pid }
    }

    /// Lets it run until it stops itself. It receives other signals, with which Go preempts.
    fn run_to_stop(&self) {
        let mut signal = None;
        loop {
            ptrace::cont(self.pid, signal).unwrap();
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return,
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => panic!("it ended: {other:?}"),
            }
        }
    }

    fn registers(&self) -> Registers {
        let mut bytes = [0_u8; 512];
        let mut vector = nix::libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let (request, kind) = (nix::libc::PTRACE_GETREGSET, nix::libc::NT_PRSTATUS);
        // SAFETY: the vector names a buffer that outlives the call, and its length; the thread is stopped and traced by
        // this one.
        let result = unsafe { nix::libc::ptrace(request, self.pid.as_raw(), kind, &raw mut vector) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Registers::from_user(Platform::host(), &bytes[..vector.iov_len]).unwrap()
    }

    /// As many bytes as there are, at most `most`.
    fn stack(&self, sp: u64, most: usize) -> Vec<u8> {
        let memory = ProcessMemory::new(self.pid);
        (0..most / 64).rev().map(|part| (part + 1) * 64).find_map(|size| memory.read(&[sp], size).ok()).unwrap()
    }

    fn frames(&self, functions: Option<&FunctionTable>, go: Option<(u64, u64)>) -> Vec<Frame> {
        let registers = self.registers();
        let sp = registers.get(memgate_goexe::arch::frame_layout(Platform::host()).stack_pointer).unwrap();
        let stack = self.stack(sp, STACK);
        let go_stack = go.map(|(_, sp)| self.stack(sp, GO_STACK)).unwrap_or_default();
        let go = go.map(|(pc, sp)| GoContinuation { pc, sp, stack: &go_stack });
        let mut unwinder = Unwinder::new(self.pid.as_raw(), Platform::host());
        unwinder.refresh(&procfs::process::Process::new(self.pid.as_raw()).unwrap().maps().unwrap().0);
        let frames = unwinder.stack(functions, &Capture { registers, stack: &stack, go });
        assert_eq!(unwinder.skipped().collect::<Vec<_>>(), Vec::<&str>::new());
        frames
    }
}

fn source(name: &str) -> PathBuf {
    repository().join("gate/agent/testdata").join(name)
}

/// The number of the first line that starts like this.
fn line_of(text: &str, start: &str) -> u32 {
    text.lines().zip(1..).find(|(line, _)| line.starts_with(start)).unwrap().1
}

fn compile(compiler: &str, flags: &[&str], name: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    let mut command = Command::new(compiler);
    command.args(["-O2", "-fomit-frame-pointer"]).args(flags).arg("-o").arg(&program).arg(source(name));
    assert!(command.status().unwrap().success());
    (directory, program)
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.function.as_str()).collect()
}

/// The functions' names from the C library's `raise` on. Functions of the library itself differ by version and build,
/// so they count as one.
fn program_names(frames: &[Frame]) -> Vec<&str> {
    let raise = frames.iter().position(|frame| frame.function == "raise");
    let of_library = ["libc.so.6+", "qsort", "msort", "introsort", "__libc_start"];
    let mut names: Vec<_> = frames[raise.unwrap_or_else(|| panic!("no raise: {frames:#?}"))..]
        .iter()
        .map(|frame| frame.function.split("+0x").next().unwrap_or_default())
        .map(|name| if of_library.iter().any(|start| (format!("{name}+")).starts_with(start)) { LIBRARY } else { name })
        .collect();
    names.dedup_by(|a, b| a == b && *a == LIBRARY);
    names
}

#[test]
fn c_without_frame_pointers_is_unwound_across_the_c_library() {
    for (flags, own) in [
        (&["-g"][..], ["leaf", "compare", "main", "_start"]),
        (&[], ["leaf", "compare", "main", "_start"]),
        (&["-static"], ["leaf", "compare", "main", "_start"]),
        (&["-no-pie", "-s"], ["program"; 4]),
    ] {
        let (_directory, program) = compile("gcc", flags, "native.c");
        let traced = Traced::start(&program);
        traced.run_to_stop();
        let frames = traced.frames(None, None);
        let [leaf, compare, main, start] = own;
        let expected = ["raise", leaf, compare, LIBRARY, main, LIBRARY, start];
        assert_eq!(program_names(&frames), expected, "{flags:?}: {frames:#?}");
        assert!(frames.iter().all(|frame| frame.language == Language::Native && !frame.inlined));
        let lines: Vec<u32> = frames.iter().map(|frame| frame.line).filter(|line| *line > 0).collect();
        let text = fs::read_to_string(source("native.c")).unwrap();
        let calls = ["\traise", "\treturn leaf", "\tqsort"].map(|start| line_of(&text, start));
        assert_eq!(lines, if flags == ["-g"] { &calls[..] } else { &[] }, "{flags:?}");
    }
}

#[test]
fn what_a_signal_interrupted_is_below_its_handler() {
    let (_directory, program) = compile("gcc", &["-g"], "signal.c");
    let traced = Traced::start(&program);
    traced.run_to_stop();
    let frames = traced.frames(None, None);
    let expected = ["raise", "handler", LIBRARY, "raise", "work", "main", LIBRARY, "_start"];
    assert_eq!(program_names(&frames), expected, "{frames:#?}");
}

#[test]
fn cpp_has_its_names_and_what_was_inlined() {
    let (_directory, program) = compile("g++", &["-g"], "native.cc");
    let traced = Traced::start(&program);
    traced.run_to_stop();
    let frames = traced.frames(None, None);
    let found = program_names(&frames);
    assert_eq!(found[..4], ["raise", "shop::Basket<int>::add", "shop::Basket<int>::twice", "main"], "{frames:#?}");
    let inlined: Vec<_> = frames.iter().filter(|frame| frame.inlined).map(|frame| frame.function.as_str()).collect();
    assert_eq!(inlined, ["shop::Basket<int>::twice"]);
    assert!(frames.iter().filter(|frame| frame.line > 0).all(|frame| frame.file.ends_with("native.cc")));
}

/// The minor version of the `go` command.
fn go_minor() -> u32 {
    let output = Command::new("go").args(["env", "GOVERSION"]).output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    version.trim().strip_prefix("go1.").unwrap().split('.').next().unwrap().parse().unwrap()
}

/// Builds the program with cgo.
fn build_go(flags: &str, ldflags: Option<&str>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let env = [("CGO_ENABLED", "1"), ("GOFLAGS", flags)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let build = Build {
        dir: source("cgo"),
        package: ".".to_owned(),
        tags: Vec::new(),
        ldflags: ldflags.map(str::to_owned),
        env: BTreeMap::from(env),
        pass_env: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = Builder { tools: &build.dir, account: None, directory: directory.path() };
    let built = runtime.block_on(builder.build(&build, Platform::host(), "cgo", &Cancel::never()));
    let executable = built.unwrap_or_else(|error| panic!("{error}"));
    (directory, executable)
}

/// Offsets in the runtime's `g` by name, from DWARF.
fn offsets_in_g(file: &object::File<'_>) -> HashMap<String, u64> {
    let load = |id: gimli::SectionId| {
        let data = file.section_by_name(id.name()).map(|section| section.uncompressed_data().unwrap());
        Ok::<_, gimli::Error>(data.unwrap_or_default())
    };
    let sections = gimli::DwarfSections::load(load).unwrap();
    let dwarf = sections.borrow(|bytes| gimli::EndianSlice::new(bytes, gimli::LittleEndian));
    let mut offsets = HashMap::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let mut entries = unit.entries();
        let mut within = None;
        while let Some(entry) = entries.next_dfs().unwrap() {
            let name = entry.attr_value(gimli::DW_AT_name).and_then(|name| dwarf.attr_string(&unit, name).ok());
            let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if entry.tag() == gimli::DW_TAG_structure_type {
                within = (name == "runtime.g").then(|| entry.depth());
            } else if within.is_some_and(|depth| entry.depth() == depth + 1) && entry.tag() == gimli::DW_TAG_member {
                let at = entry.attr_value(gimli::DW_AT_data_member_location).unwrap().udata_value().unwrap();
                offsets.insert(name, at);
            }
        }
    }
    offsets
}

/// `syscallpc` and `syscallsp` of the main goroutine, from the runtime's list of goroutines.
fn main_goroutine(traced: &Traced, file: &object::File<'_>, twin: &object::File<'_>) -> (u64, u64) {
    let memory = ProcessMemory::new(traced.pid);
    let word = |address: u64| u64::from_le_bytes(memory.read(&[address], 8).unwrap().try_into().unwrap());
    let allgs = moved(file, twin, twin.symbol_by_name("runtime.allgs").unwrap().address()) + bias(traced, file);
    let offsets = offsets_in_g(twin);
    let (goid, pc, sp) = (offsets["goid"], offsets["syscallpc"], offsets["syscallsp"]);
    let goroutines = (0..word(allgs + 8)).map(|index| word(word(allgs) + index * 8));
    let main = goroutines.into_iter().find(|g| word(g + goid) == 1).unwrap();
    (word(main + pc), word(main + sp))
}

/// An address of the twin in the file itself. The stripped parts lie before the data without bytes in the file, so
/// stripping moves that data.
fn moved(file: &object::File<'_>, twin: &object::File<'_>, address: u64) -> u64 {
    let holds =
        |section: &object::Section<'_, '_>| (section.address()..section.address() + section.size()).contains(&address);
    let section = twin.sections().find(holds).unwrap();
    address - section.address() + file.section_by_name(section.name().unwrap()).unwrap().address()
}

/// The load address minus the address in the file.
fn bias(traced: &Traced, file: &object::File<'_>) -> u64 {
    if file.kind() != object::ObjectKind::Dynamic {
        return 0;
    }
    let maps = procfs::process::Process::new(traced.pid.as_raw()).unwrap().maps().unwrap();
    let exe = fs::read_link(format!("/proc/{}/exe", traced.pid)).unwrap();
    let path = procfs::process::MMapPath::Path(exe);
    maps.0.iter().find(|map| map.pathname == path && map.offset == 0).unwrap().address.0
}

/// The name of a C function's wrapper without the hash of its package.
fn without_hash(name: &str) -> String {
    match name.split_once('_').and_then(|(_, rest)| rest.split_once('_')) {
        Some((kind @ ("cgo" | "cgoexp"), rest)) => format!("_{kind}{}", rest.find('_').map_or("", |at| &rest[at..])),
        _ => name.to_owned(),
    }
}

/// The functions' names from `raise` on, without hashes.
fn joined_names(frames: &[Frame]) -> Vec<String> {
    program_names(frames).into_iter().map(without_hash).collect()
}

#[test]
fn c_and_the_go_that_called_it_are_one_stack() {
    let text = fs::read_to_string(source("cgo/main.go")).unwrap();
    let line_of = |start: &str| line_of(&text, start);
    let stripped = Some("-s -w");
    for (flags, ldflags) in [
        ("-buildvcs=false", None),
        ("-buildvcs=false", stripped),
        ("-buildvcs=false -buildmode=pie", None),
        ("-buildvcs=false -buildmode=pie", stripped),
    ] {
        let (_directory, executable) = build_go(flags, ldflags);
        // The same program with symbols and DWARF. The test finds the goroutines itself.
        let (_twin_directory, twin) = build_go(flags, None);
        let (bytes, twin) = (fs::read(&executable).unwrap(), fs::read(twin).unwrap());
        let twin = object::File::parse(&*twin).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let functions = FunctionTable::read(&file, go_minor()).unwrap();
        let traced = Traced::start(&executable);
        let joined = || {
            traced.run_to_stop();
            let go = main_goroutine(&traced, &file, &twin);
            traced.frames(Some(&functions), Some(go))
        };
        let (leaf, wrapper) = if ldflags.is_none() { ("leaf", "_cgo_Cfunc_leaf") } else { ("cgo", "cgo") };

        let frames = joined();
        let c = ["raise", leaf, wrapper];
        let go = ["main._Cfunc_leaf", "main.inner", "main.inlined", "main.outer", "main.main", "runtime.main"];
        let expected: Vec<&str> = c.into_iter().chain(go).chain(["runtime.goexit"]).collect();
        assert_eq!(joined_names(&frames), expected, "{flags} {ldflags:?}: {frames:#?}");
        let place = |name: &str| {
            let frame = frames.iter().find(|frame| frame.function == name).unwrap();
            (frame.line, frame.inlined, frame.language)
        };
        assert_eq!(place("main.inner"), (line_of("func inner"), false, Language::Go));
        assert_eq!(place("main.inlined"), (line_of("func inlined"), true, Language::Go));
        if ldflags.is_none() {
            assert_eq!(place("leaf"), (line_of("\traise"), false, Language::Native));
        }

        // Without data about the goroutine, only the C part is known.
        let alone = traced.frames(Some(&functions), None);
        assert_eq!(alone, frames[..alone.len()]);
        assert_eq!(joined_names(&alone), c);

        // Go code that C called has the frames of the Go code that called C below it.
        let frames = joined();
        let go = ["main._Cfunc_leaf", "main.inner", "main.backInGo"];
        let runtime = ["runtime.cgocallbackg1", "runtime.cgocallbackg", "runtime.cgocallback"];
        let outer = ["main._Cfunc_callsBack", "main.callsC", "main.main", "runtime.main", "runtime.goexit"];
        let expected: Vec<&str> = c.iter().chain(&go).chain(&runtime).chain(&outer).copied().collect();
        let left_out = ["_cgoexp_backInGo", "runtime.systemstack_switch", "runtime.cgocall"];
        let mut found = joined_names(&frames);
        found.retain(|name| !left_out.contains(&name.as_str()));
        assert_eq!(found, expected, "{flags} {ldflags:?}: {frames:#?}");

        // If the thread is in Go code, its own stack is everything.
        traced.run_to_stop();
        let frames = traced.frames(Some(&functions), None);
        let found = names(&frames);
        assert!(found.first().is_some_and(|name| name.ends_with(".Syscall6")), "{frames:#?}");
        let outer = ["syscall.Tgkill", "main.stopsInGo", "main.main", "runtime.main", "runtime.goexit"];
        assert!(found.ends_with(&outer), "{frames:#?}");
    }
}
