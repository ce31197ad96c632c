//! `memgate doctor --probes` on executables of each kind.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{path::Path, process::Output};

use common::{
    assert_fails,
    go::{Mode, Program},
    memgate, stdout,
};
use memgate_evidence::platform::Platform;
use memgate_testing::go::newest;

const PROGRAM: &str = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(1) }\n";

fn doctor(executable: &Path, args: &[&str]) -> Output {
    memgate().arg("doctor").arg("--probes").arg(executable).args(args).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", common::stderr(output)))
}

/// Without addresses, which differ from build to build.
fn places(report: &serde_json::Value) -> Vec<(String, String)> {
    let signals = report["signals"].as_array().unwrap();
    let probes = signals.iter().flat_map(|signal| {
        let name = signal["signal"].as_str().unwrap();
        signal["probes"].as_array().unwrap().iter().map(move |probe| (name, probe))
    });
    probes.map(|(name, probe)| (name.to_owned(), probe["place"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn every_probe_of_every_platform_is_emulated_and_stripping_changes_none() {
    let program = Program::new(PROGRAM);
    let newest = newest();
    for platform in Platform::ALL {
        let plain = json(&doctor(&program.build(&newest, platform, Mode::Plain, "-a -a"), &["--json"]));
        assert_eq!((&plain["platform"], &plain["go"]), (&platform.to_string().into(), &newest.version.clone().into()));
        for signal in plain["signals"].as_array().unwrap() {
            // On loong64 memgate does not remove probes while the service runs, and these would be removed.
            let stay = platform == Platform::LinuxLoong64 && signal["signal"] == "span_refills";
            assert_eq!(signal["lost"], stay, "{platform}: {signal}");
            for probe in signal["probes"].as_array().unwrap() {
                assert_eq!(probe["class"], "emulated", "{platform}: {probe}");
            }
        }
        assert_eq!(plain["unknown"], serde_json::json!([]), "{platform}");
        let stripped = json(&doctor(&program.build(&newest, platform, Mode::Plain, "-s -w"), &["--json"]));
        assert_eq!(stripped["signals"], plain["signals"], "{platform}");
        assert!(
            places(&plain).contains(&("live_heap".to_owned(), "call of (*gcControllerState).resetLive".to_owned()))
        );
    }
}

#[test]
fn the_plan_lists_every_signal() {
    let program = Program::new(PROGRAM);
    let newest = newest();
    let output = doctor(&program.build(&newest, Platform::host(), Mode::Plain, ""), &[]);
    let text = stdout(&output);
    for line in ["world_stops\n  every stop of the world", "emulated       call of startTheWorldWithSema", "\ntier T"] {
        assert!(text.contains(line), "`{line}` is not in:\n{text}");
    }
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_cannot_be_probed_is_listed_with_the_reason() {
    let own = std::env::current_exe().unwrap();
    let text = stdout(&doctor(&own, &[]));
    assert!(text.contains("not built by Go") && text.contains("lost: Go did not build it"), "{text}");
}

#[test]
fn what_is_no_executable_or_no_twin_is_refused() {
    let program = Program::new(PROGRAM);
    let newest = newest();
    let executable = program.build(&newest, Platform::host(), Mode::Plain, "-s -w");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert_fails(&doctor(&manifest, &[]), 2, &["not an executable"]);
    assert_fails(&doctor(Path::new("nowhere"), &[]), 2, &["nowhere", "No such file"]);
    let own = std::env::current_exe().unwrap();
    assert_fails(&doctor(&executable, &["--twin", own.to_str().unwrap()]), 2, &["its code differs"]);
}
