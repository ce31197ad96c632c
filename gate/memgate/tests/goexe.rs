//! Reads Go executables of each version and platform: offsets, variables and the call sites of probes.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{collections::BTreeMap, path::PathBuf};

use common::{
    go::{Mode, Program, links},
    repository,
};
use memgate::gobuild::Builder;
use memgate_agent::cancel::Cancel;
use memgate_config::Build;
use memgate_evidence::platform::Platform;
use memgate_goexe::{
    FIELDS, Field, GLOBALS, GoExe,
    arch::ProbeCost,
    probes::{self, ProbedSignal},
};
use memgate_testing::go::{minors, newest, toolchain, toolchains};
use tempfile::TempDir;

/// Builds `uaa` with these flags for the linker.
fn build(platform: Platform, ldflags: Option<&str>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let build = Build {
        dir: repository().join("fixtures-go"),
        package: "./cmd/uaa".to_owned(),
        tags: Vec::new(),
        ldflags: ldflags.map(str::to_owned),
        env: BTreeMap::from([("CGO_ENABLED".to_owned(), "0".to_owned())]),
        pass_env: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = Builder { tools: &build.dir, account: None, directory: directory.path() };
    let built = runtime.block_on(builder.build(&build, platform, "uaa", &Cancel::never()));
    let executable = built.unwrap_or_else(|error| panic!("{error}"));
    (directory, executable)
}

#[test]
fn everything_is_known_of_a_real_service_on_every_platform() {
    for platform in Platform::ALL {
        let (_directory, executable) = build(platform, None);
        let exe = GoExe::open(&executable).unwrap();
        assert_eq!(exe.platform, platform);
        assert_eq!(exe.version(), newest().version);
        assert_eq!(exe.runtime.losses(), [], "{platform}");
        // Only refills are probed in windows, so only these probes are removed while the service runs.
        let lost = probes::plan(&exe, false).into_iter().filter(|plan| plan.probes.is_err());
        let lost: Vec<_> = lost.map(|plan| plan.signal).collect();
        let stay = platform == Platform::LinuxLoong64;
        assert_eq!(lost, if stay { vec![ProbedSignal::SpanRefills] } else { Vec::new() }, "{platform}");
        let settings = exe.build.unwrap().settings;
        assert_eq!(settings.get("GOARCH").map(String::as_str), Some(platform.goarch()));
        assert_eq!(settings.get("CGO_ENABLED").map(String::as_str), Some("0"));
    }
}

/// A program with one goroutine and one large allocation.
const PROGRAM: &str = r#"package main

var sink []byte

func main() {
	done := make(chan int)
	go func() { sink = make([]byte, 1<<20); close(done) }()
	<-done
	println(len(sink))
}
"#;

/// Everything is known about executables built by one version of Go, on every platform, plain and position-independent.
fn everything_is_known_of(minor: u32) {
    let program = Program::new(PROGRAM);
    let toolchain = toolchain(minor);
    for platform in Platform::ALL {
        for mode in [Mode::Plain, Mode::PositionIndependent] {
            if links(&toolchain, platform, mode) {
                // It does nothing, but has the same length as `-w`, because the flags are part of the executable.
                let exe = GoExe::open(&program.build(&toolchain, platform, mode, "-a")).unwrap();
                let what = format!("{} {platform} {mode:?}", exe.version());
                assert_eq!((exe.version(), exe.platform), (toolchain.version.as_str(), platform));
                assert_eq!(exe.position_independent, mode == Mode::PositionIndependent);
                assert_eq!(exe.runtime.losses(), [], "{what}");
                the_code_agrees_with_the_symbols(&exe, &what);
                every_probe_is_emulated(&exe, &what);
                mappings_can_be_read(&exe, minor, &what);
                let without = GoExe::open(&program.build(&toolchain, platform, mode, "-w")).unwrap();
                assert_eq!(without.dwarf_field("runtime.g", "goid"), None, "{what}");
                assert_eq!(without.runtime, exe.runtime, "{what}: the table of offsets holds what the DWARF says");
                let known = GoExe::open(&program.build(&toolchain, platform, mode, "-a -a")).unwrap();
                let stripped = GoExe::open(&program.build(&toolchain, platform, mode, "-s -w")).unwrap();
                assert_eq!(stripped.runtime, known.runtime, "{what}: stripped");
            }
        }
    }
}

fn the_code_agrees_with_the_symbols(exe: &GoExe, what: &str) {
    for global in GLOBALS {
        assert_eq!(exe.discovered(global), exe.global(global), "{what} {global:?}");
    }
}

fn every_probe_is_emulated(exe: &GoExe, what: &str) {
    let runtime = &exe.runtime;
    let mmaps = runtime.mmaps.as_ref().unwrap();
    let refills = runtime.span_refills.as_ref().unwrap();
    let mut sites = runtime.pauses.as_ref().unwrap().sites.clone();
    sites.extend(runtime.world_starts.as_ref().unwrap().sites.iter().map(|(_, site)| *site));
    sites.extend(mmaps.sites.iter().flat_map(|site| [Some(site.call), site.result]).flatten());
    sites.extend(mmaps.unmaps.iter().chain(&refills.refills).chain(&refills.grows));
    sites.extend([runtime.live_heap.as_ref().unwrap().site, runtime.alloc_samples.as_ref().unwrap().site]);
    for site in sites {
        let probed = exe.probed(site.address).unwrap();
        assert_eq!(probed.cost, ProbeCost::Emulated, "{what}: `{}` at {:#x}", probed.mnemonic, site.address);
    }
}

/// Every call of mmap that lets the kernel choose a place has a branch at which the place can be read. Before Go 1.25,
/// however, the compiler needs no branch in `sysReserve` on some platforms.
fn mappings_can_be_read(exe: &GoExe, minor: u32, what: &str) {
    let sites = &exe.runtime.mmaps.as_ref().unwrap().sites;
    assert!(sites.len() >= 7, "{what}: {sites:?}");
    let fixed = ["runtime.sysFault", "runtime.sysUnusedOS"];
    for site in sites.iter().filter(|site| site.result.is_none()) {
        let known = minor < 25 && (site.function == "runtime.sysReserve" || fixed.contains(&site.function.as_str()));
        assert!(known, "{what}: {site:?}");
    }
}

#[test]
fn everything_is_known_of_go_1_21() {
    everything_is_known_of(21);
}

#[test]
fn everything_is_known_of_go_1_22() {
    everything_is_known_of(22);
}

#[test]
fn everything_is_known_of_go_1_23() {
    everything_is_known_of(23);
}

#[test]
fn everything_is_known_of_go_1_24() {
    everything_is_known_of(24);
}

#[test]
fn everything_is_known_of_go_1_25() {
    everything_is_known_of(25);
}

#[test]
fn everything_is_known_of_go_1_26() {
    everything_is_known_of(26);
}

#[test]
fn everything_is_known_of_go_1_27_and_later() {
    minors().filter(|minor| *minor >= 27).for_each(everything_is_known_of);
}

/// The committed table is exactly what the DWARF of each version says on each platform.
#[test]
fn the_table_of_offsets_is_what_the_dwarf_says() {
    let program = Program::new(PROGRAM);
    let mut versions = BTreeMap::new();
    for toolchain in toolchains() {
        let offsets = Platform::ALL.map(|platform| {
            let exe = GoExe::open(&program.build(&toolchain, platform, Mode::Plain, "-a")).unwrap();
            FIELDS.iter().map(|(name, path)| exe.dwarf_field(name, path)).collect::<Vec<_>>()
        });
        versions.insert(toolchain.minor, offsets);
    }
    let path = repository().join("gate/goexe/src/offsets.txt");
    let table: String = FIELDS.iter().enumerate().map(|(index, field)| lines(field, index, &versions)).collect();
    if std::env::var_os("MEMGATE_WRITE_OFFSETS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), table, "write it anew with MEMGATE_WRITE_OFFSETS=1");
}

/// A line for each run of versions with the field at the same place; separate lines for platforms that differ.
fn lines(
    (name, path): &(&str, &str),
    index: usize,
    versions: &BTreeMap<u32, [Vec<Option<Field>>; Platform::ALL.len()]>,
) -> String {
    let dot = if path.is_empty() { "" } else { "." };
    let of_platform = |platform: usize, suffix: &str| -> String {
        let line = |(first, last, field): (u32, u32, Field)| {
            format!("{name}{dot}{path} 1.{first}-1.{last} {} {}{suffix}\n", field.offset, field.size)
        };
        let fields = versions.iter().map(|(minor, platforms)| (*minor, platforms[platform][index]));
        runs(fields).into_iter().map(line).collect()
    };
    let alike = versions.values().all(|platforms| platforms.iter().all(|fields| fields[index] == platforms[0][index]));
    if alike {
        return of_platform(0, "");
    }
    Platform::ALL.iter().enumerate().map(|(at, platform)| of_platform(at, &format!(" {platform}"))).collect()
}

/// The first and the last version of each run with the same field.
fn runs(fields: impl Iterator<Item = (u32, Option<Field>)>) -> Vec<(u32, u32, Field)> {
    let mut runs: Vec<(u32, u32, Field)> = Vec::new();
    for (minor, field) in fields {
        match (field, runs.last_mut()) {
            (Some(field), Some((_, last, same))) if *last + 1 == minor && *same == field => *last = minor,
            (Some(field), _) => runs.push((minor, minor, field)),
            (None, _) => {}
        }
    }
    runs
}

#[test]
fn an_executable_that_is_far_too_large_is_not_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 30).unwrap();
    let error = GoExe::open(file.path()).err().unwrap().to_string();
    assert!(error.contains("2147483648 bytes"), "{error}");
}

#[test]
fn an_executable_without_go_is_no_error_and_has_no_runtime() {
    let exe = GoExe::open(&std::env::current_exe().unwrap()).unwrap();
    assert_eq!((exe.build.is_none(), exe.version()), (true, "not built by Go"));
    let losses = exe.runtime.losses();
    assert_eq!(losses.len(), 16);
    assert!(losses.iter().all(|(_, reason)| reason.contains("Go did not build it")), "{losses:?}");
}

/// With C code, the system's linker lays out the executable.
#[test]
fn everything_is_known_of_what_is_linked_with_c() {
    let source = "package main\n\n// #include <stdlib.h>\nimport \"C\"\n\nfunc main() { C.free(C.malloc(8)) }\n";
    let program = Program::new(source);
    for toolchain in [toolchains().swap_remove(0), newest()] {
        let build = |ldflags| GoExe::open(&program.build(&toolchain, Platform::host(), Mode::Cgo, ldflags)).unwrap();
        let (known, stripped) = (build("-a -a"), build("-s -w"));
        assert_eq!(known.runtime.losses(), [], "{}", toolchain.version);
        the_code_agrees_with_the_symbols(&known, &toolchain.version);
        assert_eq!(stripped.runtime, known.runtime, "{}: stripped", toolchain.version);
    }
}

#[test]
fn the_twin_of_a_stripped_executable_supplies_what_it_lacks() {
    let latest = newest();
    let program = Program::new(PROGRAM);
    let [stripped, twin] = ["-s -w", "-a -a"].map(|flags| program.build(&latest, Platform::host(), Mode::Plain, flags));
    let known = GoExe::open(&twin).unwrap();
    assert_eq!(GoExe::open(&stripped).unwrap().with_twin(&twin).unwrap().runtime, known.runtime);
}

#[test]
fn a_twin_must_have_the_same_code() {
    let latest = newest();
    let program = Program::new(PROGRAM);
    let [one, twin] = ["-w", "-a"].map(|flags| program.build(&latest, Platform::host(), Mode::Plain, flags));
    let alone = GoExe::open(&one).unwrap();
    let known = GoExe::open(&twin).unwrap();
    let together = alone.with_twin(&twin).unwrap();
    assert_eq!(together.runtime, known.runtime);
    assert!(together.dwarf_field("runtime.g", "goid").is_some());
    let other = Program::new(&common::changed(PROGRAM, "<<20", "<<21"));
    let other_twin = other.build(&latest, Platform::host(), Mode::Plain, "-a");
    let error = together.with_twin(&other_twin).err().unwrap().to_string();
    assert!(error.contains("its code differs"), "{error}");
}

#[test]
fn what_is_no_executable_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let (_built, executable) = build(Platform::host(), None);
    let go = std::fs::read(executable).unwrap();
    let cases: [(&[u8], &str); 4] = [
        (b"", "not an executable"),
        (b"#!/bin/sh\n", "not an executable"),
        (&go[..go.len() / 2], ""),
        (&go[..100], ""),
    ];
    for (bytes, reason) in cases {
        std::fs::write(&file, bytes).unwrap();
        let error = GoExe::open(&file).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(GoExe::open(&directory.path().join("nowhere")).err().unwrap().to_string().contains("No such file"));
}
