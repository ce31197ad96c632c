//! `cargo xtask bench against`: whether `memgate check --against` passes a change that does nothing, and stops one that
//! allocates more and one that leaks (docs/explanation/judging.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use miette::{IntoDiagnostic as _, Result, ensure, miette};
use xshell::{Shell, cmd};

use super::{gates, own_directory};
use crate::commands::dist;
use crate::setup::{Tools, qemu};
use crate::workspace::Workspace;
use crate::{artifact, step};

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often a change that does nothing is checked.
    #[arg(long, default_value_t = 60)]
    same: u32,
    /// How often each of the other changes is checked.
    #[arg(long, default_value_t = 10)]
    times: u32,
    /// How often the leak is checked, if not as often as that.
    #[arg(long)]
    leaks: Option<u32>,
    /// The platform.
    #[arg(long, default_value = "host", value_parser = ["host", "linux/amd64", "linux/arm64", "linux/loong64"])]
    platform: String,
}

/// A change of the service `uaa`, and what memgate must say of it.
struct Change {
    name: &'static str,
    /// The line of its options that it changes: before and after.
    edit: Option<(&'static str, &'static str)>,
    /// The gate that is about it.
    gate: Option<&'static str>,
    /// How the name of that gate's first call site must start. Half a percent is in too few samples of a short phase.
    site: &'static str,
}

const CHANGES: [Change; 3] = [
    Change { name: "nothing", edit: None, gate: None, site: "" },
    Change {
        name: "0.5 % more bytes a request",
        edit: Some(("\"alloc-more\", 0,", "\"alloc-more\", 0.5,")),
        gate: Some("alloc_bytes_per_request"),
        site: "",
    },
    Change {
        name: "a third of the sessions never go",
        edit: Some(("\"leak-sessions\", 0,", "\"leak-sessions\", 0.3,")),
        gate: Some("heap_live_growth"),
        site: "memgate.dev/fixtures/internal/session.",
    },
];

/// The phases of a check of two minutes, and those that they replace.
const PHASES: [&str; 2] = ["{ warmup: 6s, measure: 14s, drain: 2s }", "{ warmup: 15s, measure: 30s, drain: 5s }"];

/// Checks each change, prints a table and what is wrong.
///
/// # Errors
/// When a build fails, when the repository cannot be made, or when a verdict is wrong.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let sh = &workspace.sh;
    let leaks = options.leaks.unwrap_or(options.times);
    ensure!(
        options.same + options.times + leaks > 0,
        help = "check something at least once",
        "nothing would be checked"
    );
    if options.platform != "host" {
        qemu::ensure(&Tools::open(workspace)?)?;
        dist::run(workspace, &[])?;
    }
    let memgate = artifact::build(cmd!(sh, "cargo build --release --package memgate --bin memgate"), "memgate")?;
    let (out, _lock) = own_directory(&workspace.root().join("target/bench/against")).into_diagnostic()?;
    let repository = out.join("repository");
    let bench = Bench { sh, memgate, out: out.clone(), platform: &options.platform };
    bench.make(&repository)?;
    let _in_repository = sh.push_dir(&repository);
    bench.record()?;
    let (start, mut wrong) = (Instant::now(), 0);
    println!("| change | right | exit codes | regressed beside the base | first call site | seconds a check |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let asked = CHANGES.iter().zip([options.same, options.times, leaks]);
    for (change, times) in asked.filter(|(_, times)| *times > 0) {
        wrong += times - bench.check(change, times)?;
    }
    println!("\n{:.1} minutes in all", start.elapsed().as_secs_f64() / 60.0);
    ensure!(wrong == 0, "{wrong} checks are wrong; what memgate said is in {}", out.display());
    Ok(())
}

struct Bench<'a> {
    sh: &'a Shell,
    memgate: PathBuf,
    out: PathBuf,
    platform: &'a str,
}

impl Bench<'_> {
    /// Makes a repository of the committed example, with shorter phases.
    fn make(&self, at: &Path) -> Result<()> {
        let (sh, archive) = (self.sh, self.out.join("example.tar"));
        std::fs::create_dir_all(at).into_diagnostic()?;
        step::run(cmd!(sh, "git archive --output {archive} HEAD memgate.yaml fixtures-go").quiet())?;
        step::run(cmd!(sh, "tar --extract --file {archive} --directory {at}").quiet())?;
        std::fs::remove_file(&archive).into_diagnostic()?;
        replace(&at.join("memgate.yaml"), PHASES[1], PHASES[0])?;
        let _in_repository = sh.push_dir(at);
        step::run(cmd!(sh, "git init --quiet --initial-branch base").quiet())?;
        self.commit("base")
    }

    fn commit(&self, message: &str) -> Result<()> {
        step::run(cmd!(self.sh, "git add --all").quiet())?;
        let author = ["-c", "user.name=memgate", "-c", "user.email=memgate@localhost"];
        step::run(cmd!(self.sh, "git {author...} commit --quiet --allow-empty --message {message}").quiet())
    }

    /// Commits a baseline of three runs.
    fn record(&self) -> Result<()> {
        let Self { sh, memgate, out, platform } = self;
        let evidence = out.join("recorded");
        let record = cmd!(sh, "{memgate} record --service uaa --platform {platform} --runs 3 --out {evidence}").quiet();
        step::run(record)?;
        step::run(cmd!(sh, "{memgate} baseline record {evidence}").quiet())?;
        self.commit("baseline")
    }

    /// Checks a change so often, and prints its row. Returns how often memgate was right.
    fn check(&self, change: &Change, times: u32) -> Result<u32> {
        let Self { sh, memgate, out, platform } = self;
        step::run(cmd!(sh, "git checkout --quiet -B change base").quiet())?;
        if let Some((before, after)) = change.edit {
            replace(&sh.current_dir().join("fixtures-go/cmd/uaa/options.go"), before, after)?;
        }
        self.commit(change.name)?;
        let (mut codes, mut beside, mut firsts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (start, mut right) = (Instant::now(), 0);
        for time in 1..=times {
            let dir = out.join(format!("{}{time}", change.name.replace([' ', '%', '.'], "")));
            std::fs::create_dir_all(&dir).into_diagnostic()?;
            let check =
                cmd!(sh, "{memgate} check --against base --service uaa --platform {platform} --out {dir}").quiet();
            let code = step::outcome(check, &dir.join("memgate.log"))?;
            // A check that could not measure has no report, and is wrong by its exit code.
            let report = dir.join("report.json");
            let said = if report.exists() { Said::of(&gates(&report)?, change) } else { Said::default() };
            if code == Some(i32::from(change.edit.is_some())) && said.first.starts_with(change.site) {
                right += 1;
                std::fs::remove_dir_all(&dir).into_diagnostic()?;
            }
            *codes.entry(code.map_or_else(|| "signal".to_owned(), |code| code.to_string())).or_insert(0) += 1;
            for metric in said.beside {
                *beside.entry(format!("`{metric}`")).or_insert(0) += 1;
            }
            if !said.first.is_empty() {
                *firsts.entry(format!("`{}`", said.first)).or_insert(0) += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64() / f64::from(times.max(1));
        println!(
            "| {} | {right} of {times} | {} | {} | {} | {seconds:.0} |",
            change.name,
            counted(&codes),
            counted(&beside),
            counted(&firsts)
        );
        Ok(right)
    }
}

/// What a report says.
#[derive(Debug, Default)]
struct Said {
    /// The metrics that regressed beside the base.
    beside: Vec<String>,
    /// The first call site of the change's gate beside the base, or else of the one beside the recorded figure.
    first: String,
}

impl Said {
    fn of(gates: &[serde_json::Value], change: &Change) -> Self {
        let is_beside = |gate: &&serde_json::Value| gate["against"].is_string();
        let is_regressed = |gate: &&serde_json::Value| gate["verdict"] == "regressed";
        let beside = gates.iter().filter(is_beside).filter(is_regressed);
        let mut of_change: Vec<_> = gates.iter().filter(|gate| gate["metric"].as_str() == change.gate).collect();
        of_change.sort_by_key(|gate| !is_beside(gate));
        let first = of_change.iter().find_map(|gate| gate["sites"][0]["at"]["function"].as_str());
        Self {
            beside: beside.filter_map(|gate| gate["metric"].as_str().map(str::to_owned)).collect(),
            first: first.unwrap_or_default().to_owned(),
        }
    }
}

/// `0 × 60, 1 × 2`, or `-`.
fn counted(counts: &BTreeMap<String, u32>) -> String {
    let counted: Vec<_> = counts.iter().map(|(what, count)| format!("{what} × {count}")).collect();
    if counted.is_empty() { "-".to_owned() } else { counted.join(", ") }
}

/// Replaces a text that occurs once in a file.
fn replace(file: &Path, before: &str, after: &str) -> Result<()> {
    let text = std::fs::read_to_string(file).into_diagnostic()?;
    if text.matches(before).count() != 1 {
        return Err(miette!("{} does not have `{before}` once", file.display()));
    }
    std::fs::write(file, text.replace(before, after)).into_diagnostic()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changes_and_the_phases_are_in_the_example() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let options = std::fs::read_to_string(root.join("fixtures-go/cmd/uaa/options.go")).unwrap();
        for (before, _) in CHANGES.iter().filter_map(|change| change.edit) {
            assert_eq!(options.matches(before).count(), 1, "{before}");
        }
        let example = std::fs::read_to_string(root.join("memgate.yaml")).unwrap();
        assert_eq!(example.matches(PHASES[1]).count(), 1);
    }

    #[test]
    fn the_gate_beside_the_base_names_the_site() {
        let site = |name: &str| serde_json::json!([{ "at": { "function": name } }]);
        let gates = [
            ("heap_live_growth", None, site("main.recorded")),
            ("heap_live_growth", Some("base"), site("main.beside")),
            ("rss_peak", Some("base"), serde_json::json!([])),
        ];
        let gates = gates.map(|(metric, against, sites)| {
            serde_json::json!({ "metric": metric, "verdict": "regressed", "against": against, "sites": sites })
        });
        let said = Said::of(&gates, &CHANGES[2]);
        assert_eq!(
            (said.beside.as_slice(), said.first.as_str()),
            (&["heap_live_growth".into(), "rss_peak".into()][..], "main.beside")
        );
        assert_eq!(Said::of(&gates, &CHANGES[0]).first, "");
    }

    #[test]
    fn outcomes_are_counted() {
        assert_eq!(counted(&BTreeMap::new()), "-");
        assert_eq!(counted(&BTreeMap::from([("0".into(), 59), ("3".into(), 1)])), "0 × 59, 3 × 1");
    }
}
