//! What is read from Go executables of each platform: versions, offsets and the call sites that probes go to.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{collections::BTreeMap, path::PathBuf};

use common::repository;
use memgate::{cancel::Cancel, config::Build, gobuild, goexe::GoExe, platform::Platform};
use tempfile::TempDir;

/// Builds `uaa` with these flags for the linker.
fn build(platform: Platform, ldflags: Option<&str>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let executable = directory.path().join("uaa");
    let build = Build {
        dir: repository().join("fixtures-go"),
        package: "./cmd/uaa".to_owned(),
        tags: Vec::new(),
        ldflags: ldflags.map(str::to_owned),
        env: BTreeMap::from([("CGO_ENABLED".to_owned(), "0".to_owned())]),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let built = runtime.block_on(gobuild::build(&build, platform, &executable, &Cancel::never()));
    built.unwrap_or_else(|error| panic!("{error}"));
    (directory, executable)
}

#[test]
fn the_call_sites_are_found_on_every_platform() {
    let mut layouts = Vec::new();
    for platform in Platform::ALL {
        let (_directory, executable) = build(platform, None);
        let exe = GoExe::open(&executable).unwrap();
        assert_eq!(exe.platform, platform);
        assert!(exe.version.starts_with("go1."), "{}", exe.version);
        let pauses = exe.call_sites("runtime.startTheWorldWithSema", "runtime.(*timeHistogram).record");
        assert_eq!(pauses.len(), 2, "{platform}: one for the GC's pauses, one for the others");
        assert_eq!(exe.runtime_call_sites("runtime.(*gcControllerState).resetLive").len(), 1, "{platform}");
        // sysAllocOS, sysReserveOS, sysReserveAlignedOS, sysMapOS and sysFaultOS at the least (mem_linux.go, Go 1.22 to 1.27).
        assert!(exe.runtime_call_sites("runtime.mmap").len() >= 5, "{platform}");
        layouts.push((exe.layout.sched_pauses_gc, exe.layout.span_count, exe.layout.p_mcache));
    }
    layouts.dedup();
    assert_eq!(layouts.len(), 1, "the runtime's structures are laid out alike on the three platforms: {layouts:?}");
}

#[test]
fn a_stripped_executable_is_refused_with_what_to_do() {
    for (ldflags, lacks) in [("-s -w", "no symbols"), ("-w", "no DWARF")] {
        let (_directory, executable) = build(Platform::host(), Some(ldflags));
        let error = GoExe::open(&executable).err().unwrap().to_string();
        assert!(error.contains(lacks) && error.contains("build it without `-"), "{ldflags}: {error}");
    }
}

#[test]
fn what_is_no_go_executable_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let (_built, executable) = build(Platform::host(), None);
    let go = std::fs::read(executable).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (b"", "not an executable"),
        (b"#!/bin/sh\n", "not an executable"),
        (&own, "not built by Go"),
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
