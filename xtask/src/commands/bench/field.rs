//! `cargo xtask bench field`: whether memgate decides rightly on services for which nobody tuned it
//! (docs/explanation/field.md).

mod fixtures;
mod right;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use memgate_qemu::architecture::Architecture;
use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use self::fixtures::{Case, Fixtures, Need};
use self::right::{Check, Outcome, Report};
use super::own_directory;
use crate::commands::dist;
use crate::setup::{Tools, qemu, services};
use crate::workspace::Workspace;
use crate::{artifact, step};

/// What to check, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these cases: services of fixtures-go/field.
    #[arg(long)]
    case: Vec<String>,
    /// These platforms: `host`, `linux/amd64`, `linux/arm64` or `linux/loong64`.
    #[arg(long, default_values = ["host"], value_parser = platform)]
    platform: Vec<Platform>,
    /// Where to run: `qemu` also runs this machine's own platform in a guest.
    #[arg(long, value_parser = ["native", "qemu"])]
    runner: Option<String>,
    /// How often each case is checked. A healthy one is recorded only once.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Measures beside other memgates, for benches that run at once, each in a network namespace of its own.
    #[arg(long)]
    no_wait: bool,
    /// How long the phases are.
    #[arg(long, value_enum, default_value_t = Phases::Default)]
    phases: Phases,
}

/// The length of the phases, except for what a service sets itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Phases {
    /// memgate's own: 30 s, 60 s, 10 s.
    Default,
    /// 4 s, 12 s, 3 s.
    Short,
}

/// A platform as memgate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Platform {
    name: String,
    architecture: Architecture,
}

/// Reads `host` or `linux/ARCHITECTURE`.
fn platform(name: &str) -> Result<Platform, String> {
    let architecture = match name.strip_prefix("linux/") {
        Some(architecture) => architecture.parse()?,
        None if name == "host" => {
            host().ok_or_else(|| format!("memgate does not run on {}", std::env::consts::ARCH))?
        }
        None => return Err("expected `host`, `linux/amd64`, `linux/arm64` or `linux/loong64`".to_owned()),
    };
    Ok(Platform { name: format!("linux/{architecture}"), architecture })
}

fn host() -> Option<Architecture> {
    Architecture::ALL.into_iter().find(|architecture| architecture.compilers() == std::env::consts::ARCH)
}

/// Checks every case on every platform, prints a table and what is wrong.
///
/// # Errors
/// When the set-up or a build fails, when the fixtures cannot be read, or when a verdict is wrong.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let fixtures = Fixtures::read(&workspace.fixtures()?.join("field"))?;
    let cases = fixtures.chosen(&options.case)?;
    prepare(workspace, options, &cases)?;
    let sh = &workspace.sh;
    let memgate = artifact::build(cmd!(sh, "cargo build --release --package memgate --bin memgate"), "memgate")?;
    let (out, _lock) = own_directory(&workspace.root().join("target/bench/field"))
        .into_diagnostic()
        .wrap_err("cannot make an empty directory for the results")?;
    fixtures.write(&out, options.phases)?;
    let mut bench = Bench { workspace, options, fixtures: &fixtures, memgate, out, recorded: BTreeMap::new() };
    let (start, mut outcomes) = (Instant::now(), Vec::new());
    table::head();
    for (name, case) in &cases {
        for platform in &options.platform {
            if let Some(reason) = bench.unfit(case, platform) {
                table::left_out(name, &platform.name, reason);
                continue;
            }
            for _ in 0..options.times {
                for check in case.right.checks() {
                    let outcome = bench.check(name, case, platform, &check)?;
                    table::row(&outcome);
                    outcomes.push(outcome);
                }
            }
        }
    }
    table::end(&outcomes, start.elapsed());
    let wrong = outcomes.iter().filter(|outcome| outcome.wrong.is_some()).count();
    match (outcomes.len(), wrong) {
        (0, _) => Err(miette!(help = "choose other cases or platforms", "nothing was checked")),
        (_, 0) => Ok(()),
        (all, wrong) => Err(miette!("{wrong} of {all} are wrong")),
    }
}

/// Installs what the chosen cases need.
fn prepare(workspace: &Workspace, options: &Options, cases: &[(&str, &Case)]) -> Result<()> {
    let guests = options.platform.iter().any(|platform| is_guest(options, platform));
    let tools = Tools::open(workspace)?;
    if guests {
        qemu::ensure(&tools)?;
    }
    if cases.iter().any(|(_, case)| case.is_binary) {
        let architectures: BTreeSet<_> = options.platform.iter().map(|platform| platform.architecture).collect();
        for architecture in architectures {
            services::ensure_field(&tools, architecture)?;
        }
    }
    drop(tools);
    if guests { dist::run(workspace, &[]) } else { Ok(()) }
}

fn is_guest(options: &Options, platform: &Platform) -> bool {
    options.runner.as_deref() == Some("qemu") || Some(platform.architecture) != host()
}

/// The checks of one command.
struct Bench<'a> {
    workspace: &'a Workspace,
    options: &'a Options,
    fixtures: &'a Fixtures,
    memgate: PathBuf,
    out: PathBuf,
    /// The services and platforms that have a baseline, or why not.
    recorded: BTreeMap<(String, String), Option<String>>,
}

impl Bench<'_> {
    /// Why a case cannot show on this platform what it is about.
    fn unfit(&self, case: &Case, platform: &Platform) -> Option<&'static str> {
        let guest = is_guest(self.options, platform);
        case.needs.iter().find_map(|need| match need {
            Need::Native => guest.then_some("it shows nothing in a guest"),
            Need::Amd64 => {
                (platform.architecture != Architecture::Amd64).then_some("it is about processors of linux/amd64")
            }
            // QEMU's most capable processor lacks it.
            Need::NoAvx512 => (!guest && has_avx512()).then_some("this machine's processor has AVX-512"),
        })
    }

    /// Runs one check and judges it.
    fn check(&mut self, name: &str, case: &Case, platform: &Platform, check: &Check<'_>) -> Result<Outcome> {
        let outcome = Outcome::new(name, &platform.name, check);
        let baseline = match check {
            Check::WithoutBaseline => None,
            Check::Green => Some(name),
            Check::Red { .. } => case.sibling.as_deref(),
            Check::NotRed { .. } | Check::Exit4 { .. } => None,
        };
        if let Some(baseline) = baseline
            && let Some(reason) = self.record(baseline, platform)?
        {
            return Ok(Outcome { wrong: Some(reason), ..outcome });
        }
        let config = self.fixtures.configuration(&self.out, name, baseline.is_some())?;
        let dir = self.directory(name, platform, check.name())?;
        let services = std::iter::once(name).chain(case.beside.as_deref());
        let services: Vec<_> = services.flat_map(|service| ["--service", service]).collect();
        let start = Instant::now();
        let (code, said) = self.memgate("check", &config, &services, platform, &dir)?;
        let report = Report::read(&dir.join("report.json"))?;
        Ok(outcome.of(check, case, code, start.elapsed(), report, &said))
    }

    /// Records a baseline of a healthy service, once. Returns why it could not.
    fn record(&mut self, service: &str, platform: &Platform) -> Result<Option<String>> {
        let key = (service.to_owned(), platform.name.clone());
        if let Some(recorded) = self.recorded.get(&key) {
            return Ok(recorded.clone());
        }
        let dir = self.directory(service, platform, "record")?;
        let config = self.fixtures.configuration(&self.out, service, true)?;
        let arguments = ["--service", service, "--runs", "3"];
        let (mut code, _) = self.memgate("record", &config, &arguments, platform, &dir)?;
        let mut log = dir.join("memgate.log");
        if code == Some(0) {
            let (memgate, baselines) = (&self.memgate, self.out.join(fixtures::BASELINES));
            log = dir.join("baseline.log");
            let command = cmd!(self.workspace.sh, "{memgate} baseline record {dir} --baselines {baselines}");
            code = step::outcome(command, &log)?;
        }
        let failed = (code != Some(0))
            .then(|| format!("no baseline of {service}: exit code {}, {}", right::code(code), log.display()));
        self.recorded.insert(key, failed.clone());
        Ok(failed)
    }

    /// Runs memgate. Returns its exit code and all that it printed, which is also in `memgate.log` in `dir`.
    fn memgate(
        &self,
        command: &str,
        config: &Path,
        arguments: &[&str],
        platform: &Platform,
        dir: &Path,
    ) -> Result<(Option<i32>, String)> {
        let (sh, memgate, name) = (&self.workspace.sh, &self.memgate, &platform.name);
        let runner = self.options.runner.iter().flat_map(|runner| ["--runner", runner]);
        let no_wait = self.options.no_wait.then_some("--no-wait");
        let log = dir.join("memgate.log");
        let command = cmd!(
            sh,
            "{memgate} {command} -c {config} {arguments...} --platform {name} {runner...} {no_wait...} --out {dir}"
        );
        let code = step::outcome(command, &log)?;
        let said = std::fs::read(&log).into_diagnostic().wrap_err_with(|| format!("cannot read {}", log.display()))?;
        Ok((code, String::from_utf8_lossy(&said).into_owned()))
    }

    /// A new directory for the files of one command of memgate's, so that no check reads an older one's.
    fn directory(&self, service: &str, platform: &Platform, what: &str) -> Result<PathBuf> {
        let parent = self.out.join(service).join(platform.architecture.name());
        let place = (1..).map(|number| parent.join(format!("{what}{number}"))).find(|place| !place.exists());
        let place = place.unwrap_or(parent);
        std::fs::create_dir_all(&place)
            .into_diagnostic()
            .wrap_err_with(|| format!("cannot make {}", place.display()))?;
        Ok(place)
    }
}

/// Whether the processor has all that GOAMD64=v4 asks for (asm_amd64.s, Go 1.21 to 1.27).
fn has_avx512() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]
        .iter()
        .all(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_memgates() {
        assert_eq!(platform("linux/loong64").unwrap().architecture, Architecture::Loong64);
        assert_eq!(platform("host").unwrap().architecture, host().unwrap());
        assert!(platform("windows/amd64").unwrap_err().contains("expected `host`"));
        assert!(platform("linux/mips").is_err());
    }
}
