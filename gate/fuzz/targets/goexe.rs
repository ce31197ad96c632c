//! Reads damaged Go executables and queries everything about them. A panic, a hang or excessive memory use is a
//! finding.
//!
//! An input is the number of an executable, followed by changes to it.
//!
//! `MEMGATE_FUZZ_EXECUTABLES` names a directory with the executables. Their names must end in the minor version of Go,
//! such as `pie-1.27`.
#![no_main]

mod damage;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use damage::Original;
use libfuzzer_sys::fuzz_target;
use memgate_goexe::{FunctionTable, GoExe};

/// An executable as built.
struct Executable {
    original: Original,
    go_minor: u32,
}

static EXECUTABLES: LazyLock<Vec<Executable>> =
    LazyLock::new(|| damage::files("MEMGATE_FUZZ_EXECUTABLES").iter().map(Executable::read).collect());

impl Executable {
    fn read(path: &PathBuf) -> Self {
        let version = path.to_str().and_then(|name| name.rsplit_once("1.")).expect("a version ends its name").1;
        Self { go_minor: version.parse().expect("a minor version"), original: Original::read(path) }
    }
}

fn ask(table: &FunctionTable) {
    let functions = table.functions().count();
    // At most 64 functions are queried.
    let step = functions / 64 + 1;
    for function in table.functions().step_by(step) {
        assert!(table.named(function.name).is_some(), "{} is found by its name", function.name);
        for pc in [function.entry, function.entry.midpoint(function.end), function.end.wrapping_sub(1)] {
            let frames = table.frames(pc);
            assert_eq!(table.frame(pc).as_ref(), frames.first());
            assert_eq!(table.at(pc).is_some(), !frames.is_empty());
            table.stack_delta(pc);
        }
    }
    for pc in [0, table.text_start().wrapping_sub(1), table.module_data(), u64::MAX] {
        table.frames(pc);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, changes)) = input.split_first() else { return };
    let executable = &EXECUTABLES[usize::from(*first) % EXECUTABLES.len()];
    let bytes = executable.original.damaged(changes);
    if let Ok(file) = object::File::parse(&*bytes)
        && let Ok(table) = FunctionTable::read(&file, executable.go_minor)
    {
        ask(&table);
    }
    // Everything that memgate reads from an executable before it runs: build information, DWARF, variables, call sites,
    // the plan of probes.
    if let Ok(exe) = GoExe::from_bytes(Path::new("fuzzed"), &bytes) {
        let _ = (exe.runtime.losses(), memgate_goexe::probes::plan(&exe, false));
    }
});
