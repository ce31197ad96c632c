//! `cargo xtask bench`: measurements whose figures are in docs/. It prints them. `field` also judges what memgate
//! decided; the others judge nothing.
#![expect(clippy::print_stdout, reason = "the figures are the result")]

mod against;
mod field;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Subcommand;
use miette::{IntoDiagnostic as _, Result};
use xshell::cmd;

use crate::commands::dist;
use crate::setup::{Tools, apt, gcc, go, qemu, zig};
use crate::workspace::Workspace;
use crate::{artifact, step};

/// A measurement.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Throughput of `uaa` with and without the collectors, in interleaved pairs (docs/explanation/performance.md).
    Overhead {
        /// Arguments for the benchmark, such as `--pairs 30 --seconds 3`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Whether the first call site of each planted leak is the right one, in short runs with different seeds
    /// (docs/explanation/defects.md).
    Attribution {
        /// The number of runs of each.
        #[arg(long, default_value_t = 20)]
        times: u32,
        /// Only this leak.
        #[arg(long)]
        service: Option<String>,
    },
    /// How long guests take to boot and to resume (docs/explanation/guests.md).
    Guests {
        /// Arguments for the benchmark, such as `--times 30` or `--platform linux/arm64`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// How soon memgate notices each fault of a guest, and whether the guest ends as it must; fails if one does not
    /// (docs/explanation/guests.md).
    Faults {
        /// Arguments for the benchmark, such as `--times 20` or `--only panic`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// How much the counts vary between runs of a healthy service, on each platform (docs/explanation/guests.md).
    Variation {
        /// Arguments for the benchmark, such as `--times 30` or `--platform linux/arm64`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// How often healthy runs are not green, and how small a worsening is noticed, on recorded runs
    /// (docs/explanation/statistics.md).
    Panel {
        /// Arguments for the benchmark: directories of evidence files, each of one service.
        #[arg(last = true, required = true)]
        args: Vec<String>,
    },
    /// How well the marks of `memgate history` find known steps, and how many there are without one
    /// (docs/explanation/statistics.md).
    History,
    /// `memgate check` of every planted defect, several times each (docs/explanation/defects.md).
    Defects {
        /// The number of runs of each.
        #[arg(long, default_value_t = 5)]
        times: u32,
        /// Only these platforms.
        #[arg(long, default_values = ["host"])]
        platform: Vec<String>,
        /// Only these defects.
        #[arg(long, value_parser = SERVICES, default_values = SERVICES)]
        service: Vec<String>,
    },
    /// Whether a comparison with another build passes a change that does nothing and stops a worse one; fails if one verdict
    /// is wrong (docs/explanation/judging.md).
    Against(against::Options),
    /// Whether memgate decides rightly on services for which nobody tuned it; fails if one verdict is wrong
    /// (docs/explanation/field.md).
    Field(field::Options),
}

/// Runs a measurement.
///
/// # Errors
/// When the set-up or a build fails, or when `memgate` cannot be run. `field` also if a verdict is wrong.
pub(crate) fn run(workspace: &Workspace, bench: &Bench) -> Result<()> {
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    drop(tools);
    match bench {
        Bench::Overhead { args } => {
            let tools = Tools::open(workspace)?;
            if step::probe(cmd!(tools.sh, "bpftrace --version")).is_none() {
                apt::install(&tools, &["bpftrace"])?;
            }
            drop(tools);
            overhead(workspace, args)
        }
        Bench::Attribution { times, service } => attribution(workspace, *times, service.as_deref()),
        Bench::Guests { args } => in_guests(workspace, "guests", args),
        Bench::Panel { args } => {
            let bench = cmd!(workspace.sh, "cargo bench --package memgate --bench panel -- {args...}");
            match step::become_command(bench)? {}
        }
        Bench::History => {
            let bench = cmd!(workspace.sh, "cargo bench --package memgate-verdict --bench history");
            match step::become_command(bench)? {}
        }
        Bench::Variation { args } => in_guests(workspace, "variation", args),
        Bench::Faults { args } => {
            go::ensure_older(&Tools::open(workspace)?)?;
            in_guests(workspace, "faults", args)
        }
        Bench::Defects { times, platform, service } => defects(workspace, *times, platform, service),
        Bench::Against(options) => against::run(workspace, options),
        Bench::Field(options) => field::run(workspace, options),
    }
}

fn overhead(workspace: &Workspace, args: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    let service = sh.current_dir().join("target/bench/uaa");
    {
        let _in_fixtures = sh.push_dir(workspace.fixtures()?);
        step::run(cmd!(sh, "go build -o {service} ./cmd/uaa").env("CGO_ENABLED", "0"))?;
    }
    let bpftrace = step::capture(cmd!(sh, "which bpftrace"))?;
    let bpftrace = bpftrace.trim();
    let bench = cmd!(
        sh,
        "cargo bench --package memgate --bench overhead -- --service {service} --hash-rounds 4100 --bpftrace {bpftrace} {args...}"
    );
    match step::become_command(bench)? {}
}

/// A benchmark of memgate's that starts guests.
fn in_guests(workspace: &Workspace, bench: &str, args: &[String]) -> Result<()> {
    qemu::ensure(&Tools::open(workspace)?)?;
    dist::run(workspace, &[])?;
    let bench = cmd!(workspace.sh, "cargo bench --package memgate --bench {bench} -- {args...}");
    match step::become_command(bench)? {}
}

/// The services of fixtures-go/memgate.yaml.
const SERVICES: [&str; 7] =
    ["session-leak", "goroutine-leak", "alloc-heavier", "cgo-leak", "slow-leak", "long-pauses", "warm-cache"];

fn defects(workspace: &Workspace, times: u32, platforms: &[String], services: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    let tools = Tools::open(workspace)?;
    let zig = zig::ensure(&tools)?;
    let guests = platforms.iter().any(|platform| platform != "host");
    if guests {
        qemu::ensure(&tools)?;
    }
    drop(tools);
    if guests {
        dist::run(workspace, &[])?;
    }
    let zig = zig.parent().into_iter().map(Path::to_owned);
    let inherited = sh.var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(zig.chain(std::env::split_paths(&inherited))).into_diagnostic()?;
    let memgate = artifact::build(cmd!(sh, "cargo build --release --package memgate --bin memgate"), "memgate")?;
    let out = sh.current_dir().join("target/bench/defects");
    let start = Instant::now();
    println!("| service | platform | exit codes | regressed gates, with how often of {times} |");
    println!("| --- | --- | --- | --- |");
    for service in services {
        for platform in platforms {
            let mut codes = Vec::new();
            let mut regressed = BTreeMap::new();
            for _ in 0..times {
                let check = cmd!(
                    sh,
                    "{memgate} check -c fixtures-go/memgate.yaml --service {service} --platform {platform} --out {out} --format markdown=/dev/null"
                );
                // The exit code is the result.
                let output = check.env("PATH", &path).quiet().ignore_status().output().into_diagnostic()?;
                codes.push(output.status.code().map_or_else(|| "signal".to_owned(), |code| code.to_string()));
                for metric in regressed_gates(&out.join("report.json"))? {
                    *regressed.entry(metric).or_insert(0) += 1;
                }
            }
            let gates: Vec<_> = regressed.iter().map(|(metric, count)| format!("`{metric}` {count}")).collect();
            println!("| {service} | {platform} | {} | {} |", codes.join(" "), gates.join(", "));
        }
    }
    println!("\n{:.1} minutes in all", start.elapsed().as_secs_f64() / 60.0);
    Ok(())
}

/// An empty directory below `parent` that no other command of this kind uses while the lock is held.
fn own_directory(parent: &Path) -> io::Result<(PathBuf, File)> {
    std::fs::create_dir_all(parent)?;
    let mut number = 1;
    let lock = loop {
        let lock = File::create(parent.join(format!("{number}.lock")))?;
        match lock.try_lock() {
            Ok(()) => break lock,
            Err(TryLockError::WouldBlock) => number += 1,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    };
    let directory = parent.join(number.to_string());
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir(&directory)?;
    Ok((directory, lock))
}

/// The leaks of fixtures-go/memgate.yaml: the gate for which each is planted, and how the name of the right call site
/// starts.
const LEAKS: [(&str, &str, &str); 3] = [
    ("session-leak", "heap_live_growth", "memgate.dev/fixtures/internal/session."),
    ("goroutine-leak", "goroutines_leaked", "memgate.dev/fixtures/internal/defect.(*Goroutines).OnRequest"),
    ("cgo-leak", "offheap_growth", "render_and_forget"),
];

fn attribution(workspace: &Workspace, times: u32, only: Option<&str>) -> Result<()> {
    let sh = &workspace.sh;
    let memgate = artifact::build(cmd!(sh, "cargo build --release --package memgate --bin memgate"), "memgate")?;
    let out = sh.current_dir().join("target/bench/attribution");
    let fixtures = workspace.fixtures()?;
    let configuration = std::fs::read_to_string(fixtures.join("memgate.yaml")).into_diagnostic()?;
    println!("| service | right site first | sites that came first, with how often |");
    println!("| --- | --- | --- |");
    for (service, gate, right) in LEAKS.into_iter().filter(|leak| only.is_none_or(|only| only == leak.0)) {
        let (mut firsts, mut rights) = (BTreeMap::new(), 0);
        for seed in 1..=times {
            let short = configuration
                .replace("seed: 1\n", &format!("seed: {seed}\n"))
                .replace("{ warmup: 4s, measure: 12s, drain: 3s }", "{ warmup: 2s, measure: 6s, drain: 1s }")
                .replace("dir: .,", &format!("dir: \"{}\",", fixtures.display()));
            std::fs::create_dir_all(&out).into_diagnostic()?;
            let config = out.join("memgate.yaml");
            std::fs::write(&config, short).into_diagnostic()?;
            step::run(cmd!(sh, "{memgate} record -c {config} --service {service} --out {out}").quiet())?;
            let (evidence, report) =
                (out.join(format!("{service}.linux-amd64.run1.evidence.json")), out.join("report.json"));
            step::run(cmd!(sh, "{memgate} report {evidence} --out {out} --format json={report}").quiet())?;
            let first = first_site(&report, gate)?;
            rights += u32::from(first.starts_with(right));
            *firsts.entry(first).or_insert(0) += 1;
        }
        let firsts: Vec<_> = firsts.iter().map(|(site, count)| format!("`{site}` {count}")).collect();
        println!("| {service} | {rights} of {times} | {} |", firsts.join(", "));
    }
    Ok(())
}

/// The gates of a report's first service.
fn gates(report: &Path) -> Result<Vec<serde_json::Value>> {
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(report).into_diagnostic()?).into_diagnostic()?;
    Ok(report["results"][0]["gates"].as_array().cloned().unwrap_or_default())
}

fn first_site(report: &Path, metric: &str) -> Result<String> {
    let gates = gates(report)?;
    let gate = gates.iter().find(|gate| gate["metric"] == metric);
    let first = gate.and_then(|gate| gate["sites"][0]["at"]["function"].as_str());
    let reason = || gate.and_then(|gate| gate["reason"].as_str()).unwrap_or("no gate");
    Ok(first.map_or_else(|| format!("no site: {}", reason()), str::to_owned))
}

fn regressed_gates(report: &Path) -> Result<Vec<String>> {
    let gates = gates(report)?;
    let regressed = gates.iter().filter(|gate| gate["verdict"] == "regressed");
    Ok(regressed.filter_map(|gate| gate["metric"].as_str().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_at_once_have_directories_of_their_own() {
        let parent = tempfile::tempdir().unwrap();
        let (first, lock) = own_directory(parent.path()).unwrap();
        std::fs::write(first.join("report.json"), "{}").unwrap();
        let (second, _) = own_directory(parent.path()).unwrap();
        assert_eq!((first.clone(), second), (parent.path().join("1"), parent.path().join("2")));
        assert!(first.join("report.json").exists());
        drop(lock);
        let (again, _lock) = own_directory(parent.path()).unwrap();
        assert_eq!(again, first);
        assert!(!first.join("report.json").exists(), "an ended command's files are removed");
    }
}
