//! Reads damaged configurations and baselines, and changes the baselines that are right. A panic, a hang, excessive
//! memory use, or a change after which memgate cannot read its own file is a finding.
//!
//! An input is a text. If it begins with `#b`, it is a baseline, and else a configuration. `MEMGATE_FUZZ_ROOT` names a
//! directory for the paths of configurations: that of the corpus's own files.
#![no_main]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use memgate_config::baseline;
use memgate_evidence::platform::Platform;
use memgate_testing::evidence::healthy;
use memgate_verdict::{
    baseline::{Baseline, Waiver},
    metric::Metric,
    summarise::{Summary, summarise},
};

/// The platform and the service of every baseline.
const OF: (Platform, &str) = (Platform::LinuxAmd64, "uaa");

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::var_os("MEMGATE_FUZZ_ROOT").map_or_else(|| panic!("MEMGATE_FUZZ_ROOT names a directory"), PathBuf::from)
});

static RUNS: LazyLock<Summary> = LazyLock::new(|| summarise(&[healthy(1, 2010), healthy(2, 2020)]).expect("runs of one service"));

fn read(text: &str) -> Option<Baseline> {
    baseline::parse(Path::new("uaa.yaml"), text, OF.0, OF.1).ok()
}

fn change(text: &str, before: &Baseline) {
    let path = Path::new("uaa.yaml");
    let all = BTreeSet::new();
    let again = |text: &str| read(text).unwrap_or_else(|| panic!("memgate wrote what it cannot read:\n{text}"));
    if let Ok(accepted) = baseline::accept(path, text, &RUNS, "2026-11-24", &all) {
        again(&accepted.text);
        let second = baseline::accept(path, &accepted.text, &RUNS, "2026-11-24", &all).expect("accepted once");
        assert_eq!(second.text, accepted.text, "a second acceptance changes something");
    }
    for metric in Metric::ALL {
        let waiver = Waiver { reason: "a: \"b\" # c".into(), owner: "d".into(), expires: "2027-01-01".into() };
        if let Ok(waived) = baseline::waive(path, text, OF, metric, &waiver) {
            let mut expected = before.clone();
            expected.metrics.entry(metric).and_modify(|entry| entry.waiver = Some(waiver));
            assert_eq!(again(&waived), expected, "something else than a waiver of {metric} changed");
        }
    }
    if let Ok(pinned) = baseline::anchor(path, text, OF, &all) {
        again(&pinned.text);
    }
}

fuzz_target!(|text: &str| {
    if !text.starts_with("#b") {
        if let Err(error) = memgate_config::parse(&ROOT.join("memgate.yaml"), text) {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().is_empty());
        }
    } else if let Some(before) = read(text) {
        change(text, &before);
    }
});
