//! Steps on hand-made stacks: of architectures that this machine does not have, and with contents that no compiler
//! makes.

use std::{fs::File, io::Write as _, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use procfs::{FromRead as _, process::MemoryMaps};
use proptest::prelude::*;

use super::{cfi::Cfi, module::Module, *};

/// Address of the function that the hand-made frames describe.
const FUNCTION: u64 = 0x1000;
const LENGTH: u64 = 0x100;
/// Address of `.eh_frame`.
const FRAMES: u64 = 0x9000;

/// `.eh_frame` with one function. `augmentation` has the letters after `zR`.
fn frames(layout: &FrameLayout, augmentation: &str, initial: &[u8], rules: &[u8]) -> Cfi {
    let column = u8::try_from(layout.return_address).unwrap();
    // Version 1, code alignment 1, data alignment -8, absolute addresses.
    let mut common = vec![0, 0, 0, 0, 1, b'z', b'R'];
    common.extend_from_slice(augmentation.as_bytes());
    common.extend_from_slice(&[0, 1, 0x78, column, 1, 0]);
    common.extend_from_slice(initial);
    let mut bytes = with_length(common);
    let pointer = u32::try_from(bytes.len() + 4).unwrap();
    let mut function = pointer.to_le_bytes().to_vec();
    function.extend_from_slice(&FUNCTION.to_le_bytes());
    function.extend_from_slice(&LENGTH.to_le_bytes());
    function.push(0);
    function.extend_from_slice(rules);
    bytes.extend(with_length(function));
    Cfi::new(bytes, FRAMES)
}

fn with_length(content: Vec<u8>) -> Vec<u8> {
    let mut bytes = u32::try_from(content.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(content);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A step of the cursor, with these words on the stack from its stack pointer.
fn step(cfi: &Cfi, platform: Platform, cursor: &mut Cursor, stack: &[u64], bias: u64) -> Step {
    let layout = frame_layout(platform);
    let bytes = words(stack);
    let memory = Memory { stack: (cursor.registers.get(layout.stack_pointer).unwrap(), &bytes), go: None };
    cfi.step(layout, &mut UnwindContext::new(), cursor, bias, &memory)
}

fn cursor(platform: Platform, offset: u64, stopped: bool) -> Cursor {
    Cursor { registers: Registers::of(platform, FUNCTION + offset, 0x7000), stopped }
}

// DW_CFA_def_cfa, DW_CFA_def_cfa_offset, DW_CFA_advance_loc(1), DW_CFA_undefined, DW_CFA_def_cfa_expression.
const DEF_CFA: u8 = 0x0c;
const DEF_CFA_OFFSET: u8 = 0x0e;
const ADVANCE_1: u8 = 0x41;
const UNDEFINED: u8 = 0x07;
const DEF_CFA_EXPRESSION: u8 = 0x0f;

/// DW_CFA_offset: the register is saved at `below` times 8 bytes below the frame's address.
fn saved(register: u8, below: u8) -> [u8; 2] {
    [0x80 | register, below]
}

#[test]
fn a_pushed_register_and_the_return_address_are_found() {
    let platform = Platform::LinuxAmd64;
    let initial = [&[DEF_CFA, 7, 8][..], &saved(16, 1)].concat();
    let rules = [&[ADVANCE_1, DEF_CFA_OFFSET, 16][..], &saved(3, 2)].concat();
    let cfi = frames(frame_layout(platform), "", &initial, &rules);
    // At the entry nothing is pushed yet. The bias shifts all addresses.
    let mut at_entry = cursor(platform, 0x40_0000, true);
    assert_eq!(step(&cfi, platform, &mut at_entry, &[0x2222], 0x40_0000), Step::Caller);
    assert_eq!((at_entry.registers.pc, at_entry.registers.get(7)), (0x2222, Some(0x7008)));
    let mut inside = cursor(platform, 5, true);
    assert_eq!(step(&cfi, platform, &mut inside, &[0xbb, 0x2222], 0), Step::Caller);
    let registers = inside.registers;
    assert_eq!((registers.pc, registers.get(7), registers.get(3)), (0x2222, Some(0x7010), Some(0xbb)));
    assert!(!inside.stopped);
    // A return address at the end of the function belongs to a call in its last instruction.
    assert_eq!(step(&cfi, platform, &mut cursor(platform, LENGTH, false), &[0xbb, 0x2222], 0), Step::Caller);
    assert_eq!(step(&cfi, platform, &mut cursor(platform, LENGTH, true), &[0xbb, 0x2222], 0), Step::Unknown);
    // The copy of the stack ends before the return address.
    assert_eq!(step(&cfi, platform, &mut cursor(platform, 5, true), &[0xbb], 0), Step::Unknown);
}

#[test]
fn only_the_innermost_frame_uses_the_link_register() {
    for (platform, link) in [(Platform::LinuxArm64, 30_u16), (Platform::LinuxLoong64, 1)] {
        let layout = frame_layout(platform);
        let sp = u8::try_from(layout.stack_pointer).unwrap();
        let rules = [&[ADVANCE_1, DEF_CFA_OFFSET, 16][..], &saved(u8::try_from(link).unwrap(), 1)].concat();
        let cfi = frames(layout, "", &[DEF_CFA, sp, 0], &rules);
        let mut leaf = cursor(platform, 0, true);
        leaf.registers.set(link, Some(0x2222));
        assert_eq!(step(&cfi, platform, &mut leaf, &[], 0), Step::Caller);
        assert_eq!((leaf.registers.pc, leaf.registers.get(layout.stack_pointer)), (0x2222, Some(0x7000)));
        let mut saved_link = cursor(platform, 8, false);
        assert_eq!(step(&cfi, platform, &mut saved_link, &[0, 0x3333], 0), Step::Caller);
        assert_eq!((saved_link.registers.pc, saved_link.registers.get(layout.stack_pointer)), (0x3333, Some(0x7010)));
        let mut impossible = cursor(platform, 1, false);
        impossible.registers.set(link, Some(0x2222));
        assert_eq!(step(&cfi, platform, &mut impossible, &[], 0), Step::Unknown);
    }
}

#[test]
fn a_signed_return_address_is_read_without_its_signature() {
    let platform = Platform::LinuxArm64;
    // DW_CFA_AARCH64_negate_ra_state.
    let cfi = frames(frame_layout(platform), "", &[DEF_CFA, 31, 16], &[&[0x2d][..], &saved(30, 1)].concat());
    let mut signed = cursor(platform, 8, true);
    assert_eq!(step(&cfi, platform, &mut signed, &[0, 0x0015_0000_0000_3333], 0), Step::Caller);
    assert_eq!(signed.registers.pc, 0x3333);
}

#[test]
fn the_expression_of_a_procedure_linkage_table_is_evaluated() {
    let platform = Platform::LinuxAmd64;
    // The expression that GNU ld writes for .plt: sp + 8 + ((pc & 15) >= 11) << 3 (bfd/elfxx-x86.c, Binutils 2.40).
    let expression = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
    let initial = [&[DEF_CFA, 7, 8][..], &saved(16, 1)].concat();
    let rules = [&[DEF_CFA_EXPRESSION, 11][..], &expression].concat();
    let cfi = frames(frame_layout(platform), "", &initial, &rules);
    for (offset, sp) in [(0x26, 0x7008), (0x2b, 0x7010)] {
        let mut stub = cursor(platform, offset, true);
        assert_eq!(step(&cfi, platform, &mut stub, &[0x2222, 0x2222], 0), Step::Caller);
        assert_eq!((stub.registers.pc, stub.registers.get(7)), (0x2222, Some(sp)));
    }
}

#[test]
fn an_undefined_return_address_ends_the_stack_and_a_signal_frame_does_not() {
    let platform = Platform::LinuxAmd64;
    let layout = frame_layout(platform);
    let cfi = frames(layout, "", &[DEF_CFA, 7, 8, UNDEFINED, 16], &[]);
    assert_eq!(
        step(&cfi, platform, &mut cursor(platform, 0, false), &[0x2222], 0),
        Step::Unknown,
        "before the function"
    );
    assert_eq!(step(&cfi, platform, &mut cursor(platform, 4, false), &[0x2222], 0), Step::Outermost);
    let cfi = frames(layout, "S", &[&[DEF_CFA, 7, 8][..], &saved(16, 1)].concat(), &[]);
    let mut handler = cursor(platform, 4, false);
    assert_eq!(step(&cfi, platform, &mut handler, &[0x2222], 0), Step::Caller);
    assert!(handler.stopped, "the signal came at this instruction, not after a call");
}

#[test]
fn an_endless_expression_stops() {
    let platform = Platform::LinuxAmd64;
    // DW_OP_skip -3.
    let cfi = frames(frame_layout(platform), "", &[DEF_CFA_EXPRESSION, 3, 0x2f, 0xfd, 0xff], &[]);
    assert_eq!(step(&cfi, platform, &mut cursor(platform, 4, true), &[0x2222], 0), Step::Unknown);
}

#[test]
fn the_users_registers_are_found_in_the_kernels_order() {
    let values: Vec<u64> = (100..140).collect();
    let bytes = words(&values);
    // Indices in arch/*/include/uapi/asm/ptrace.h: sp, pc, frame pointer.
    for (platform, sp, pc, fp) in [
        (Platform::LinuxAmd64, 119, 116, 104),
        (Platform::LinuxArm64, 131, 132, 129),
        (Platform::LinuxLoong64, 103, 133, 122),
    ] {
        let layout = frame_layout(platform);
        let registers = Registers::from_user(platform, &bytes).unwrap();
        assert_eq!(registers.pc, pc, "{platform}");
        assert_eq!(registers.get(layout.stack_pointer), Some(sp), "{platform}");
        assert_eq!(registers.get(layout.frame_pointer), Some(fp), "{platform}");
        assert_eq!(Registers::from_user(platform, &bytes[..layout.user_registers.len() * 8 - 1]), None);
    }
}

/// The minor version of the Go that builds `uaa`.
pub(in super::super) fn go_minor() -> u32 {
    memgate_testing::go::newest().minor
}

/// Builds `uaa` for the platform.
pub(in super::super) fn go_executable(platform: Platform, directory: &Path) -> std::path::PathBuf {
    let executable = directory.join("uaa");
    let status = Command::new(memgate_testing::go::newest().go())
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&executable)
        .arg("./cmd/uaa")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures-go"))
        .envs([("CGO_ENABLED", "0"), ("GOARCH", platform.goarch()), ("GOTOOLCHAIN", "local")])
        .status();
    assert!(status.unwrap().success());
    executable
}

/// An unwinder for an executable, as if this process had mapped it with `bias`.
fn unwinder_of(platform: Platform, executable: &Path, file: &object::File<'_>, bias: u64) -> Unwinder {
    let mut unwinder = Unwinder::new(std::process::id().cast_signed(), platform);
    unwinder.modules.executable = Some(executable.to_string_lossy().into_owned());
    let code = file.segments().find(|segment| segment.permissions().executable()).unwrap();
    let start = code.address() + bias;
    let map = format!(
        "{start:x}-{:x} r-xp {:x} 00:01 {} {}\n",
        start + code.file_range().1,
        code.file_range().0,
        std::fs::metadata(executable).unwrap().ino(),
        executable.display()
    );
    unwinder.refresh(&MemoryMaps::from_read(map.as_bytes()).unwrap().0);
    unwinder
}

/// A return address in the function at which its frame is set up, and the frame's size.
fn inside(functions: &FunctionTable, name: &str) -> (u64, u64) {
    let function = functions.named(name).unwrap();
    let within = (function.entry..function.end).step_by(4);
    let mut deltas = within.filter_map(|pc| Some((pc, u64::try_from(functions.stack_delta(pc)?).ok()?)));
    let (pc, delta) = deltas.find(|(_, delta)| *delta > 0).unwrap();
    (pc + 4, delta)
}

#[test]
fn go_frames_are_followed_on_every_architecture() {
    const BIAS: u64 = 0x5500_0000_0000;
    for platform in Platform::ALL {
        let directory = tempfile::tempdir().unwrap();
        let executable = go_executable(platform, directory.path());
        let bytes = std::fs::read(&executable).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let functions = FunctionTable::read(&file, go_minor()).unwrap();
        let mut unwinder = unwinder_of(platform, &executable, &file, BIAS);
        let layout = frame_layout(platform);

        let names = ["main.main", "runtime.main"];
        let leaf = functions.named("runtime.gosched_m").unwrap().entry;
        let pushed = usize::try_from(layout.pushed_by_call / 8).unwrap();
        // A leaf at its entry, `main.main`, `runtime.main`, and `runtime.goexit`, which has no caller.
        let mut stack = vec![];
        let goexit = functions.named("runtime.goexit").unwrap().entry + 4;
        let [(main, main_size), (runtime, runtime_size)] = names.map(|name| inside(&functions, name));
        stack.extend(vec![main + BIAS; pushed]);
        for (size, caller) in [(main_size, runtime), (runtime_size, goexit)] {
            let start = stack.len();
            stack.resize(start + usize::try_from(size / 8).unwrap() + pushed, 0xdead);
            let at = if pushed == 0 { start } else { stack.len() - 1 };
            stack[at] = caller + BIAS;
        }
        let mut registers = Registers::of(platform, leaf + BIAS, 0x7000);
        registers.set(layout.return_address, Some(main + BIAS));
        let bytes = words(&stack);
        let frames = unwinder.stack(Some(&functions), &Capture { registers, stack: &bytes, go: None });
        let found: Vec<_> = frames.iter().filter(|frame| !frame.inlined).map(|frame| frame.function.as_str()).collect();
        assert_eq!(found, ["runtime.gosched_m", "main.main", "runtime.main", "runtime.goexit"], "{platform}");
        assert!(frames.iter().all(|frame| frame.language == Language::Go && frame.line > 0));

        // On the thread's own stack, in a function that switches stacks, while a goroutine waits for the thread.
        let at = |name: &str| Registers::of(platform, functions.named(name).unwrap().entry + 4 + BIAS, 0x1000);
        let waiting =
            Some(GoContinuation { pc: main + BIAS, sp: 0x7000 + 8 * pushed as u64, stack: &bytes[8 * pushed..] });
        let switching = Capture { registers: at("runtime.mcall"), stack: &[], go: waiting };
        let found = unwinder.stack(Some(&functions), &switching);
        assert_eq!((found[0].function.as_str(), &found[1..]), ("runtime.mcall", &frames[1..]), "{platform}");
        // Nothing follows the end of a goroutine, even if another one waits.
        let ended = unwinder.stack(Some(&functions), &Capture { registers: at("runtime.goexit"), ..switching });
        assert_eq!(ended.len(), 1, "{platform}: {ended:?}");

        // The same, cut off within the frame of `main.main`. The known frames remain.
        let cut = Capture { registers, stack: &bytes[..pushed * 8], go: None };
        let found = unwinder.stack(Some(&functions), &cut);
        assert_eq!(found[..], frames[..found.len()], "{platform}");
        assert_eq!(found.last().map(|frame| frame.function.as_str()), Some("main.main"), "{platform}");
    }
}

#[test]
fn a_circular_stack_and_unknown_code_come_to_an_end() {
    let platform = Platform::host();
    let mut unwinder = Unwinder::new(std::process::id().cast_signed(), platform);
    let own = procfs::process::Process::myself().unwrap().maps().unwrap();
    unwinder.refresh(&own.0);
    let layout = frame_layout(platform);
    let here = go_frames_are_followed_on_every_architecture as *const () as u64;
    // Frame records that lead to themselves and to each other, in code and outside of it.
    let stack = words(&[0x7000, here, 0x7000, here, 0x7010, here, 0x7020, here]);
    for pc in [0, 1, here, u64::MAX, 0x1234_5678] {
        for fp in [0, 0x7000, 0x7010, 0x7020, u64::MAX, u64::MAX - 8] {
            let mut registers = Registers::of(platform, pc, 0x7000);
            registers.set(layout.frame_pointer, Some(fp));
            let frames = unwinder.stack(None, &Capture { registers, stack: &stack, go: None });
            assert!((1..=MAXIMUM_FRAMES).contains(&frames.len()));
        }
    }
    let frames = unwinder.stack(None, &Capture { registers: Registers::of(platform, 0x1234, 0), stack: &[], go: None });
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].function, "0x1234");
}

#[test]
fn frame_records_lead_through_undescribed_code() {
    let platform = Platform::host();
    let layout = frame_layout(platform);
    let mut unwinder = Unwinder::new(std::process::id().cast_signed(), platform);
    unwinder.refresh(&procfs::process::Process::myself().unwrap().maps().unwrap().0);
    let here = frame_records_lead_through_undescribed_code as *const () as u64;
    for (return_address, followed) in [(here + 1, layout.frame_records), (0x1234, false)] {
        let mut registers = Registers::of(platform, 0x5678, 0x7000);
        registers.set(layout.frame_pointer, Some(0x7008));
        let stack = words(&[0, 0, return_address]);
        let frames = unwinder.stack(None, &Capture { registers, stack: &stack, go: None });
        assert_eq!(frames[0].function, "0x5678");
        let caller = frames.get(1).is_some_and(|frame| frame.function.contains("frame_records_lead_through"));
        assert_eq!(caller, followed, "{frames:?}");
    }
}

#[test]
fn a_file_that_is_too_large_or_was_not_mapped_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("library.so");
    std::fs::copy("/proc/self/exe", &path).unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    // The file takes no space, because nothing is written.
    let huge = directory.path().join("huge.so");
    let huge_file = File::create(&huge).unwrap();
    huge_file.set_len((1 << 30) + 1).unwrap();
    for (inode, path, reason) in [
        (huge_file.metadata().unwrap().ino(), huge.display().to_string(), "larger than 1 GiB"),
        (inode + 1, path.display().to_string(), "not the file that was mapped"),
        (inode, directory.path().display().to_string(), "not the file that was mapped"),
        (inode, "/nowhere".to_owned(), "No such file"),
    ] {
        let mut unwinder = Unwinder::new(std::process::id().cast_signed(), Platform::host());
        let map = format!("1000-9000 r-xp 00000000 00:01 {inode} {path}\n");
        unwinder.refresh(&MemoryMaps::from_read(map.as_bytes()).unwrap().0);
        let registers = Registers::of(Platform::host(), 0x2000, 0x7000);
        let frames = unwinder.stack(None, &Capture { registers, stack: &[], go: None });
        assert_eq!(frames[0].function, "0x2000");
        let skipped: Vec<_> = unwinder.skipped().collect();
        assert!(skipped.len() == 1 && skipped[0].contains(&path) && skipped[0].contains(reason), "{skipped:?}");
    }
}

/// A small program with DWARF.
fn program(directory: &Path) -> Vec<u8> {
    let program = directory.join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/native.cc");
    assert!(Command::new("g++").args(["-O2", "-g", "-o"]).arg(&program).arg(source).status().unwrap().success());
    std::fs::read(program).unwrap()
}

/// Uses the file as unwinding does. Returns the names of a few frames.
fn look_into(bytes: &[u8]) -> Vec<String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let mut budget = Budget::default();
    let Ok(mut module) = Module::read("program".to_owned(), File::try_clone(&file).unwrap(), &mut budget) else {
        return Vec::new();
    };
    let stack = words(&[0x1100; 64]);
    let mut names = Vec::new();
    for address in (0x1000..0x1300).step_by(0x10) {
        let mut cursor = Cursor { registers: Registers::of(Platform::LinuxAmd64, address, 0x7000), stopped: true };
        let memory = Memory { stack: (0x7000, &stack), go: None };
        let layout = frame_layout(Platform::LinuxAmd64);
        module.cfi.step(layout, &mut UnwindContext::new(), &mut cursor, 0, &memory);
        names.extend(module.frames(address, 16, &mut budget).into_iter().map(|frame| frame.function));
    }
    names
}

#[test]
fn the_memory_of_modules_is_limited() {
    let directory = tempfile::tempdir().unwrap();
    program(directory.path());
    let open = || File::open(directory.path().join("program")).unwrap();
    let read = |budget: &mut Budget| Module::read("program".to_owned(), open(), budget);
    let reason = read(&mut Budget(100)).err().unwrap();
    assert!(reason.contains("used all of the memory"), "{reason}");

    // There is enough for the frames and the names, but not for the source lines.
    let mut budget = Budget::default();
    read(&mut budget).unwrap();
    let taken = MAXIMUM_MEMORY - budget.0;
    let object = std::fs::read(directory.path().join("program")).unwrap();
    let object = object::File::parse(&*object).unwrap();
    let main = object.symbol_by_name("main").unwrap().address();
    for (left, has_lines) in [(100, false), (MAXIMUM_MEMORY, true)] {
        let mut budget = Budget(taken + left);
        let mut module = read(&mut budget).unwrap();
        let frames = module.frames(main, 16, &mut budget);
        let last = frames.last().unwrap();
        assert_eq!((last.function.as_str(), last.line > 0), ("main", has_lines));
    }
}

#[test]
fn a_damaged_program_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let whole = program(directory.path());
    assert!(look_into(&whole).iter().any(|name| name == "main"), "the undamaged program can be read");
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..64);
    let length = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    proptest!(config, |(damage in damage, length in length)| {
        let mut bytes = whole.clone();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(length.map_or(whole.len(), |length| length.index(whole.len())));
        look_into(&bytes);
    });
}

proptest! {
    #[test]
    fn frames_that_are_noise_do_no_harm(
        initial in prop::collection::vec(any::<u8>(), 0..32), rules in prop::collection::vec(any::<u8>(), 0..64),
        pc in 0_u64..LENGTH, sp in any::<u64>(), stopped in any::<bool>(), index in 0_usize..3,
    ) {
        let platform = Platform::ALL[index];
        let cfi = frames(frame_layout(platform), "", &initial, &rules);
        let mut registers = Registers::of(platform, FUNCTION + pc, sp);
        for number in 0..32 {
            registers.set(number, Some(sp.rotate_left(u32::from(number))));
        }
        step(&cfi, platform, &mut Cursor { registers, stopped }, &[sp; 16], 0);
        let mut noise = initial;
        noise.extend(rules);
        step(&Cfi::new(noise, FRAMES), platform, &mut Cursor { registers, stopped }, &[sp; 16], 0);
    }
}
