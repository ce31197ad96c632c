//! Reads Go executables in which anything may have been changed, and asks them everything. It has found something when a
//! panic, a hang or an excess of memory ends it.
//!
//! An input is the number of an executable, and changes to it.
//!
//! `MEMGATE_FUZZ_EXECUTABLES` names a directory with the executables; the minor version of Go must end their names: `pie-1.27`.
#![no_main]

mod damage;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use damage::Original;
use libfuzzer_sys::fuzz_target;
use memgate_goexe::{FunctionTable, GoExe};

/// An executable as it was built.
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
    // The more there are, the fewer of them are asked about.
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
    // All that is read of an executable before it is run: build information, DWARF, variables, call sites, the plan of probes.
    if let Ok(exe) = GoExe::from_bytes(Path::new("fuzzed"), &bytes) {
        let _ = (exe.runtime.losses(), memgate_goexe::probes::plan(&exe, false));
    }
});
