//! Invariant: neither `summarise` nor `judge` touches a process, a clock, a file or the network.
//!
//! Of `std` they use only what computes. Anything else there, and every crate that acts, is refused here.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The modules of `std` and `core` that compute and do nothing else.
const COMPUTING: [&str; 10] = ["array", "cmp", "collections", "convert", "f64", "fmt", "iter", "mem", "ops", "slice"];

/// What acts without being named after `std::`.
const ACTING: [&str; 13] = [
    "tokio",
    "nix::",
    "procfs",
    "sysinfo",
    "hyper",
    "aya::",
    "indicatif",
    "tempfile",
    "jiff",
    "rand::",
    "include_str!",
    "println!",
    "unsafe ",
];

/// What in a source is not allowed.
fn offences(source: &str) -> Vec<String> {
    let compact: String = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let acting = ACTING.iter().filter(|acting| compact.contains(**acting)).map(|acting| (*acting).to_owned());
    let of_std = ["std::", "core::"].into_iter().flat_map(|root| {
        compact.match_indices(root).flat_map(|(at, _)| modules(&compact[at + root.len()..])).collect::<Vec<_>>()
    });
    acting.chain(of_std.filter(|module| !COMPUTING.contains(&module.as_str()))).collect()
}

/// The modules named after `std::`: one, or those of the first level of a `{…}`.
fn modules(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut modules, mut current) = (1, vec![], String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => modules.push(name(std::mem::take(&mut current).trim())),
            _ if depth == 1 => current.push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    modules.push(name(current.trim()));
    modules.retain(|module| !module.is_empty());
    modules
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn judging_never_acts() {
    for module in ["summarise", "judge"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
        let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
        let sources: Vec<PathBuf> = sources(&folder).into_iter().filter(is_source).collect();
        assert!(sources.len() > 5, "{module} has moved: {sources:?}");
        for path in sources {
            let found = offences(&fs::read_to_string(&path).unwrap());
            assert!(found.is_empty(), "{} is to be pure, but uses {found:?}", path.display());
        }
    }
}

#[test]
fn what_acts_is_found_however_it_is_written() {
    for source in [
        "use std::fs;",
        "use std::{collections::BTreeMap, time::{Duration, Instant}};",
        "use std::{\n    net,\n};",
        "std::process::exit(1)",
        "std::time::Instant::now()",
        "std::env::var(\"HOME\")",
        "jiff::Timestamp::now()",
        "tokio::spawn(work)",
    ] {
        assert!(!offences(source).is_empty(), "{source}");
    }
    assert_eq!(offences("use std::collections::BTreeMap; use std::{cmp, fmt::{self, Display}};"), [""; 0]);
}
