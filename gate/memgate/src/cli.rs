//! The command line: clap's definitions, turned into plain options.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use memgate_config::{Size, yaml::Kind as _};
use memgate_evidence::{
    plan::Collecting,
    platform::{Platform, Runner},
    tier::Tier,
};
use memgate_report::{Format, Output};
use memgate_verdict::{
    baseline::Waiver,
    metric::{Limits, Metric},
};

use crate::{baseline_files, history::Wanted, images::Which, init, select::Selection, trust::calibrate};

/// A CI quality gate for the memory behaviour of Go services.
///
/// Exit codes: 0 every gate holds; 1 a gate failed; 2 usage or configuration error; 3 inconclusive; 4 infrastructure
/// failed; 130 interrupted.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Writes a memgate.yaml for the services of a directory: finds its Go modules and their programs, builds them, and
    /// starts each briefly to see where it listens and what it answers.
    Init(Initialised),
    /// Builds, runs, measures and judges services.
    Check {
        /// What to measure.
        #[command(flatten)]
        measured: Measured,
        /// What to judge by.
        #[command(flatten)]
        judged_by: JudgedBy,
        /// What to print and write.
        #[command(flatten)]
        formats: Formats,
        /// Where to keep the verdicts.
        #[command(flatten)]
        kept: Kept,
    },
    /// Builds, runs and measures services. Writes evidence and does not judge it.
    Record {
        /// What to measure.
        #[command(flatten)]
        measured: Measured,
    },
    /// Judges recorded evidence again. Starts no process and uses no network.
    Judge {
        /// What was recorded.
        #[command(flatten)]
        recorded: Recorded,
        /// The directory for flame graphs.
        #[arg(long, value_name = "DIR", default_value = "target/memgate")]
        out: PathBuf,
        /// What to print and write.
        #[command(flatten)]
        formats: Formats,
        /// Where to keep the verdicts.
        #[command(flatten)]
        kept: Kept,
    },
    /// Judges evidence that several jobs recorded as one. Fails if the evidence of a run is missing.
    Merge {
        /// What the jobs were to measure.
        #[command(flatten)]
        measured: Measured,
        /// Evidence files, or directories that contain them.
        #[arg(required = true, value_name = "EVIDENCE")]
        evidence: Vec<PathBuf>,
        /// What to judge by.
        #[command(flatten)]
        judged_by: JudgedBy,
        /// What to print and write.
        #[command(flatten)]
        formats: Formats,
        /// Where to keep the verdicts.
        #[command(flatten)]
        kept: Kept,
    },
    /// Finds the commit since that of `--against` which makes a metric worse. Exits with 0 if it names one, or else 3.
    Bisect {
        /// What to measure: one service on one platform.
        #[command(flatten)]
        measured: Measured,
        /// The last commit.
        #[arg(long = "to", value_name = "REV", default_value = "HEAD")]
        last: String,
        /// The metric. The default is the one that grows most of those that fail between the first and the last commit.
        #[arg(long, value_name = "M", value_parser = one_of(&Metric::ALL, Metric::name))]
        metric: Option<Metric>,
        /// How to print what it finds.
        #[arg(long, value_name = "F", value_enum, default_value_t = Printed::Terminal)]
        format: Printed,
    },
    /// Prints the jobs that measure the services.
    Plan {
        /// What to measure.
        #[command(flatten)]
        measured: Measured,
        /// Prints a matrix for a GitHub workflow, with one job for each platform.
        #[arg(long, required = true)]
        github_matrix: bool,
    },
    /// Prints the report of recorded evidence. Exits with 0 whatever the verdict is.
    Report {
        /// What was recorded.
        #[command(flatten)]
        recorded: Recorded,
        /// The directory for flame graphs.
        #[arg(long, value_name = "DIR", default_value = "target/memgate")]
        out: PathBuf,
        /// What to print and write.
        #[command(flatten)]
        formats: Formats,
    },
    /// Shows the trends of kept verdicts, and from which commits on a figure has another level. Marks never gate.
    History(Shown),
    /// Records baselines, and gives them new figures.
    #[command(subcommand)]
    Baseline(BaselineCommand),
    /// Manages the images of guests: Debian kernels with memgate's agent.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Reports what memgate can measure on this machine.
    Doctor {
        /// The executable whose probes to report, signal by signal.
        #[arg(long, value_name = "EXE")]
        probes: PathBuf,
        /// The same executable with symbols and DWARF, for facts that the executable itself does not contain.
        #[arg(long, value_name = "EXE")]
        twin: Option<PathBuf>,
        /// Also plans probes on instructions that the kernel single-steps.
        #[arg(long)]
        force_probes: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows how often checks of one and the same build are not green on this machine, and what each gate notices. The
    /// exit code is that of the worst check.
    Calibrate {
        /// What to measure, or what was recorded.
        #[command(flatten)]
        trusted: Trusted,
        /// The number of fresh processes to measure.
        #[arg(long, value_name = "N", default_value_t = 12, conflicts_with = "from",
            value_parser = clap::value_parser!(u32).range(i64::from(calibrate::FEWEST_PROCESSES)..=200))]
        processes: u32,
    },
    /// Plants a leak, garbage and goroutines into runs of the service, and shows whether its gates find them. The exit
    /// code is 1 if one is not found, and 3 if a gate cannot find one.
    Selftest {
        /// What to measure, or what was recorded.
        #[command(flatten)]
        trusted: Trusted,
    },
    /// Prints the JSON Schema of a file format, for use in editors.
    Schema {
        /// The file format.
        of: SchemaOf,
    },
    /// Prints a script that completes memgate's command line in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the man page of memgate, or of a command.
    Man {
        /// The command, such as `check` or `baseline record`.
        #[arg(value_name = "COMMAND", conflicts_with = "out")]
        words: Vec<String>,
        /// Writes the man pages of memgate and of all its commands into this directory instead.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// The commands for baselines.
#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Writes a new baseline file for each service and platform in the evidence. Never overwrites a file.
    Record {
        /// What was recorded.
        #[command(flatten)]
        recorded: NewFigures,
        /// The default limits of the baselines.
        #[arg(long, value_name = "SET", value_enum, default_value_t = LimitSet::General)]
        limits: LimitSet,
    },
    /// Shows how the figures in the evidence differ from those in the baseline files.
    Diff {
        /// What was recorded.
        #[command(flatten)]
        recorded: NewFigures,
        /// Prints what would change as a patch for `git apply`, with a new file for each service that has none.
        #[arg(long)]
        patch: bool,
    },
    /// Puts the figures in the evidence into the baseline files, with where they come from. Every other byte stays.
    Accept {
        /// What was recorded.
        #[command(flatten)]
        recorded: NewFigures,
        /// A metric whose figure to accept. Can be given several times. The default is all.
        #[arg(long = "metric", value_name = "M", value_parser = one_of(&Metric::ALL, Metric::name))]
        metrics: Vec<Metric>,
    },
    /// Asks about each figure that differs from the recorded one, and about each baseline that does not exist yet.
    /// Writes what is accepted.
    Review {
        /// What was recorded.
        #[command(flatten)]
        recorded: NewFigures,
    },
    /// Takes the figures in the evidence that are lower than the recorded ones by more than noise, for a script. Never
    /// takes a higher one: exit code 1 if there is one and nobody answers for it.
    Update(Updated),
    /// Pins the recorded figures as those of a release. From then on a gate also fails if small steps add up to more
    /// than twice the difference that matters.
    Anchor(Anchored),
    /// Lets a gate fail up to a day: puts a waiver into the baseline files of a service. Every other byte stays.
    Waive(Waived),
    /// Explains a metric: what it is, its default limits, and what each baseline file expects of it.
    Explain {
        /// The metric.
        #[arg(value_name = "METRIC", value_parser = one_of(&Metric::ALL, Metric::name))]
        metric: Metric,
        /// The directory of baselines.
        #[arg(long, value_name = "DIR", default_value = "baselines")]
        baselines: PathBuf,
    },
}

/// What to waive.
#[derive(Debug, Args)]
pub struct Waived {
    /// The metric. It must have an entry in the file.
    #[arg(value_name = "METRIC", value_parser = one_of(&Metric::ALL, Metric::name))]
    pub metric: Metric,
    /// The service, as its baseline file is named.
    #[arg(long, value_name = "S")]
    pub service: String,
    /// linux/amd64, linux/arm64, linux/loong64, `host` or `all`. Can be given several times. The default is every platform
    /// for which the service has a baseline.
    #[arg(long = "platform", value_name = "P")]
    platforms: Vec<PlatformArgument>,
    /// Why the gate may fail.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who answers for it.
    #[arg(long, value_name = "WHO")]
    owner: String,
    /// The last day on which it may, such as 2026-12-31.
    #[arg(long, value_name = "DAY")]
    expires: String,
    /// The directory of baselines.
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    pub baselines: PathBuf,
}

impl Waived {
    /// The platforms; none for all that have a baseline.
    pub fn platforms(&self) -> Vec<Platform> {
        platforms(&self.platforms)
    }

    /// The waiver as the file has it.
    pub fn waiver(&self) -> Waiver {
        Waiver { reason: self.reason.clone(), owner: self.owner.clone(), expires: self.expires.clone() }
    }
}

/// What to take without a person.
#[derive(Debug, Args)]
pub struct Updated {
    /// What was recorded.
    #[command(flatten)]
    pub recorded: NewFigures,
    /// Why gates on figures that got looser may fail. With it, their metrics get a waiver.
    #[arg(long, value_name = "TEXT", requires_all = ["owner", "expires"])]
    reason: Option<String>,
    /// Who answers for it.
    #[arg(long, value_name = "WHO", requires_all = ["reason", "expires"])]
    owner: Option<String>,
    /// The last day on which they may, such as 2026-12-31.
    #[arg(long, value_name = "DAY", requires_all = ["reason", "owner"])]
    expires: Option<String>,
}

impl Updated {
    /// The waiver for what got looser, if there is one.
    pub fn waiver(&self) -> Option<Waiver> {
        let Self { recorded: _, reason, owner, expires } = self;
        Some(Waiver { reason: reason.clone()?, owner: owner.clone()?, expires: expires.clone()? })
    }
}

/// What to pin.
#[derive(Debug, Args)]
pub struct Anchored {
    /// A service, as its baseline file is named. Can be given several times. The default is all.
    #[arg(long = "service", value_name = "S")]
    services: Vec<String>,
    /// linux/amd64, linux/arm64, linux/loong64, `host` or `all`. Can be given several times. The default is every platform
    /// that has a baseline.
    #[arg(long = "platform", value_name = "P")]
    platforms: Vec<PlatformArgument>,
    /// A metric whose figure to pin. Can be given several times. The default is all.
    #[arg(long = "metric", value_name = "M", value_parser = one_of(&Metric::ALL, Metric::name))]
    metrics: Vec<Metric>,
    /// The directory of baselines.
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    pub baselines: PathBuf,
}

impl Anchored {
    /// The plain options.
    pub(crate) fn which(&self) -> baseline_files::Which {
        baseline_files::Which {
            services: self.services.clone(),
            platforms: platforms(&self.platforms),
            metrics: self.metrics.iter().copied().collect(),
        }
    }
}

/// A set of default limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LimitSet {
    /// The limits that hold for every service.
    General,
    /// These, and the four limits of the 信创 case: GC pause p99, allocation rate, goroutines and RSS growth.
    Xinchuang,
}

impl From<LimitSet> for Limits {
    fn from(set: LimitSet) -> Self {
        match set {
            LimitSet::General => Self::General,
            LimitSet::Xinchuang => Self::Xinchuang,
        }
    }
}

/// The commands for images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Makes the images that are not in the cache. A check does this by itself.
    Build {
        /// The images.
        #[command(flatten)]
        which: WhichImages,
    },
    /// Boots a guest of one platform and runs a shell on this terminal, or one command. Ctrl-a x leaves the shell, and
    /// so does switching the guest off. The exit code is that of the shell or the command; memgate itself also uses 4
    /// and 130.
    Boot {
        /// The image.
        #[command(flatten)]
        which: WhichImages,
        /// The directory for the console's log.
        #[arg(long, value_name = "DIR", default_value = "target/memgate")]
        out: PathBuf,
        /// The command to run instead of a shell, with its arguments. It gets no input.
        #[arg(last = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
    /// Lists the images in the cache and the available kernels.
    List,
    /// Removes images, packages and snapshots from the cache.
    Clean,
    /// Looks up the newest packages in Debian's archive and writes them to a file for review.
    Lock {
        /// The images.
        #[command(flatten)]
        which: WhichImages,
        /// The file to write.
        #[arg(long, value_name = "FILE", default_value = "qemu/images.lock")]
        file: PathBuf,
    },
}

/// Images, by platform and kernel.
#[derive(Debug, Args)]
pub struct WhichImages {
    /// linux/amd64, linux/arm64, linux/loong64, `host` or `all`. Can be given several times.
    #[arg(long = "platform", value_name = "P")]
    platforms: Vec<PlatformArgument>,
    /// A kernel release such as 6.12. The default is the platform's usual kernel.
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// The kernel's page size, such as 16KiB.
    #[arg(long, value_name = "SIZE", value_parser = page_size)]
    page_size: Option<u64>,
    /// A mirror of Debian's archive. The default is the one that MEMGATE_MIRROR names, or else the mirror
    /// that this machine's package manager uses.
    #[arg(long, value_name = "URI")]
    mirror: Option<String>,
}

impl WhichImages {
    /// The plain options.
    pub fn which(&self) -> Which {
        Which {
            platforms: platforms(&self.platforms),
            kernel: self.kernel.clone(),
            page_size: self.page_size,
            mirror: self.mirror.clone(),
        }
    }
}

fn page_size(text: &str) -> Result<u64, String> {
    Size::<4096>::read(text).map_err(|problem| problem.what)
}

fn platforms(arguments: &[PlatformArgument]) -> Vec<Platform> {
    let mut platforms: Vec<_> = arguments.iter().flat_map(PlatformArgument::platforms).collect();
    platforms.sort_unstable();
    platforms.dedup();
    platforms
}

/// What to measure.
#[derive(Debug, Args)]
pub struct Measured {
    /// The configuration file.
    #[arg(short, long, default_value = CONFIG)]
    pub config: PathBuf,
    /// A service in the configuration. Can be given several times. The default is all services.
    #[arg(long = "service", value_name = "S")]
    services: Vec<String>,
    /// linux/amd64, linux/arm64, linux/loong64, `host` or `all`. Can be given several times. The default is `host`; for
    /// `plan` and `merge` it is `all`.
    #[arg(long = "platform", value_name = "P")]
    platforms: Vec<PlatformArgument>,
    /// Where to run the service. Overrides the configuration.
    #[arg(long, value_name = "R", value_parser = one_of(&Runner::ALL, Runner::name))]
    runner: Option<Runner>,
    /// The number of fresh processes to measure. Overrides the configuration.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    runs: Option<u32>,
    /// Another build to compare with, which is measured in turn with this one: `merge-base`, a commit, a branch or a tag,
    /// or the path of a second checkout, such as ../main.
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// The highest tier of collectors to use: T0, T1, T2, T3 or T4 (docs/reference/tiers.md). The default is the
    /// highest that the kernel allows.
    #[arg(long, value_name = "T", ignore_case = true, value_parser = one_of(&Tier::ALL, Tier::name))]
    tier: Option<Tier>,
    /// Also puts probes on instructions that the kernel single-steps. This slows the service down.
    #[arg(long)]
    force_probes: bool,
    /// Boots every guest instead of resuming a booted one.
    #[arg(long)]
    no_snapshot: bool,
    /// The user that builds, services and load commands run as if memgate runs as root: NAME, NAME:GROUP, or numbers. It
    /// overrides the configuration, which a change can rewrite.
    #[arg(long, value_name = "USER", value_parser = user)]
    user: Option<String>,
    /// Does not wait while another memgate measures natively on this machine. The two disturb each other.
    #[arg(long)]
    no_wait: bool,
    /// The directory for executables, evidence, logs, reports and flame graphs.
    #[arg(long, value_name = "DIR", default_value = "target/memgate")]
    pub out: PathBuf,
}

impl Measured {
    /// The plain options; `absent` are the platforms to use if none is named.
    pub fn selection(&self, absent: &[Platform]) -> Selection {
        let named = platforms(&self.platforms);
        Selection {
            services: self.services.clone(),
            platforms: if named.is_empty() { absent.to_vec() } else { named },
            runner: self.runner,
            runs: self.runs,
            commit: None,
            against: self.against.clone(),
            collecting: Collecting { tier: self.tier, force_probes: self.force_probes },
            snapshots: !self.no_snapshot,
            user: self.user.clone(),
            waits: !self.no_wait,
            out: self.out.clone(),
            options: self.options(),
        }
    }

    /// The options that decide how a service is measured, except service and platform. With them `memgate check`
    /// repeats the measurement.
    fn options(&self) -> Vec<String> {
        // Every field is named, so a new one does not compile until it is handled here.
        let Self {
            config,
            services: _,
            platforms: _,
            runner,
            runs,
            against,
            tier,
            force_probes,
            no_snapshot,
            // Another machine has other users.
            user: _,
            no_wait,
            out: _,
        } = self;
        let config = (config.as_path() != Path::new(CONFIG)).then(|| config.display().to_string());
        let with_values = [
            ("--config", config),
            ("--runner", runner.map(|runner| runner.name().to_owned())),
            ("--runs", runs.map(|runs| runs.to_string())),
            ("--against", against.clone()),
            ("--tier", tier.map(|tier| tier.name().to_owned())),
        ];
        let with_values = with_values.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten();
        let flags = [("--force-probes", force_probes), ("--no-snapshot", no_snapshot), ("--no-wait", no_wait)];
        with_values.chain(flags.into_iter().filter(|(_, given)| **given).map(|(name, _)| name.to_owned())).collect()
    }
}

/// What `init` writes.
#[derive(Debug, Args)]
pub struct Initialised {
    /// The directory for memgate.yaml, in or below which the modules lie.
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// A program, by its directory or its import path, such as ./cmd/uaa. Can be given several times. The default is
    /// every package `main` that can listen.
    #[arg(long = "package", value_name = "P")]
    packages: Vec<String>,
    /// Builds and starts no program. What the file says then comes from the sources and from `go list`, which runs.
    #[arg(long)]
    no_run: bool,
    /// Replaces a memgate.yaml that is there.
    #[arg(long, conflicts_with = "print")]
    force: bool,
    /// Prints the file to stdout instead of writing it.
    #[arg(long)]
    print: bool,
    /// The user that builds and services run as if memgate runs as root: NAME, NAME:GROUP, or numbers.
    #[arg(long, value_name = "USER", value_parser = user)]
    user: Option<String>,
    /// Does not wait while another memgate measures natively on this machine. The two disturb each other.
    #[arg(long)]
    no_wait: bool,
    /// The directory for executables and logs.
    #[arg(long, value_name = "DIR", default_value = "target/memgate")]
    out: PathBuf,
}

impl Initialised {
    /// The plain options.
    pub(crate) fn wanted(&self) -> init::Wanted {
        init::Wanted {
            directory: self.directory.clone(),
            packages: self.packages.clone(),
            runs: !self.no_run,
            replaces: self.force,
            prints: self.print,
            user: self.user.clone(),
            waits: !self.no_wait,
            out: self.out.clone(),
        }
    }
}

/// A user, and perhaps its group.
fn user(text: &str) -> Result<String, String> {
    match memgate_config::User::is_valid(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected {}", memgate_config::User::EXPECTED)),
    }
}

/// What `calibrate` and `selftest` work on.
#[derive(Debug, Args)]
pub struct Trusted {
    /// What to measure.
    #[command(flatten)]
    pub measured: Measured,
    /// Evidence files, or directories that contain them. Starts no process, and reads no configuration.
    #[arg(long, value_name = "EVIDENCE", num_args = 1.., conflicts_with_all = MEASURED)]
    pub from: Vec<PathBuf>,
    /// The directory of baselines for `--from`. Otherwise the configuration names it.
    #[arg(long, value_name = "DIR", default_value = "baselines", requires = "from")]
    pub baselines: PathBuf,
    /// What to print.
    #[arg(long, value_name = "F", value_enum, default_value_t = Printed::Terminal)]
    pub format: Printed,
}

/// The options of [`Measured`] by their fields.
const MEASURED: [&str; 11] = [
    "config",
    "services",
    "platforms",
    "runner",
    "runs",
    "against",
    "tier",
    "force_probes",
    "no_snapshot",
    "no_wait",
    "out",
];

/// The default configuration file.
const CONFIG: &str = "memgate.yaml";

/// What to judge by.
#[derive(Debug, Args)]
pub struct JudgedBy {
    /// Takes the baselines from another commit, so that no change judges itself: `merge-base`, a commit, a branch or a
    /// tag, or the path of a second checkout. The default is the checkout's own.
    #[arg(long, value_name = "REV")]
    pub baselines_from: Option<String>,
}

/// What was recorded.
#[derive(Debug, Args)]
pub struct Recorded {
    /// Evidence files, or directories that contain them.
    #[arg(required = true, value_name = "EVIDENCE")]
    pub evidence: Vec<PathBuf>,
    /// The directory of baselines.
    #[arg(long, value_name = "DIR", default_value = "baselines")]
    pub baselines: PathBuf,
}

/// New figures for baselines.
#[derive(Debug, Args)]
pub struct NewFigures {
    /// What was recorded.
    #[command(flatten)]
    recorded: Recorded,
    /// A service in the evidence whose figures to take. Can be given several times. The default is all.
    #[arg(long = "service", value_name = "S")]
    services: Vec<String>,
    /// A platform in the evidence whose figures to take: linux/amd64, linux/arm64, linux/loong64 or `host`. Can be given
    /// several times. The default is all.
    #[arg(long = "platform", value_name = "P")]
    platforms: Vec<PlatformArgument>,
}

impl NewFigures {
    /// The plain options.
    pub(crate) fn plain(&self) -> baseline_files::Recorded<'_> {
        let Self { recorded, services, platforms: arguments } = self;
        baseline_files::Recorded {
            evidence: &recorded.evidence,
            directory: &recorded.baselines,
            services,
            platforms: platforms(arguments),
        }
    }
}

/// What to print and write.
#[derive(Debug, Args)]
pub struct Formats {
    /// A format of the report, which goes to stdout or to FILE. Can be given several times.
    #[arg(long = "format", value_name = "F[=FILE]", default_value = "terminal", value_parser = OutputParser)]
    pub outputs: Vec<Output>,
}

/// Where to keep verdicts.
#[derive(Debug, Args)]
pub struct Kept {
    /// Appends a line to this file for each service and platform that was judged. `memgate history` shows them.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// What to show of a history.
#[derive(Debug, Args)]
pub struct Shown {
    /// History files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A service. Can be given several times. The default is all.
    #[arg(long = "service", value_name = "S")]
    services: Vec<String>,
    /// linux/amd64, linux/arm64, linux/loong64, `host` or `all`. Can be given several times. The default is `all`.
    #[arg(long = "platform", value_name = "P")]
    platforms: Vec<PlatformArgument>,
    /// A metric. Can be given several times. The default is all.
    #[arg(long = "metric", value_name = "M", value_parser = one_of(&Metric::ALL, Metric::name))]
    metrics: Vec<Metric>,
    /// Draws the trends into this directory: a picture for each service and platform, with a chart for each metric.
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
    /// The format of what is printed.
    #[arg(long, value_name = "F", value_enum, default_value_t = Printed::Terminal)]
    pub format: Printed,
}

impl Shown {
    /// The plain options.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted { services: self.services.clone(), platforms: platforms(&self.platforms), metrics: self.metrics.clone() }
    }
}

/// A format of a result that is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Printed {
    /// Text for a person at a terminal or in a log.
    Terminal,
    /// Everything, for programs.
    Json,
}

/// Parses an output, and lists the formats in help texts.
#[derive(Debug, Clone, Copy)]
struct OutputParser;

impl TypedValueParser for OutputParser {
    type Value = Output;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Output, clap::Error> {
        str::parse::<Output>.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::ALL.map(|format| PossibleValue::new(format.name()).help(format.sentence())).into_iter()))
    }
}

/// A platform, or a word that means several.
#[derive(Debug, Clone)]
struct PlatformArgument(Vec<Platform>);

impl PlatformArgument {
    fn platforms(&self) -> impl Iterator<Item = Platform> {
        self.0.iter().copied()
    }
}

impl std::str::FromStr for PlatformArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self(vec![Platform::host()])),
            "all" => Ok(Self(Platform::ALL.to_vec())),
            _ => text.parse().map(|platform| Self(vec![platform])).map_err(|error| format!("{error}, host or all")),
        }
    }
}

/// One value of a list, by its name.
pub fn one_of<T: Copy + Send + Sync>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|value| name(*value))).try_map(move |text| {
        let named = all.iter().find(|value| name(**value).eq_ignore_ascii_case(&text));
        named.copied().ok_or_else(|| format!("`{text}` has no value"))
    })
}

/// The file formats that have a schema.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SchemaOf {
    /// memgate.yaml.
    Config,
    /// A baseline file.
    Baseline,
    /// A run's evidence.
    Evidence,
    /// The report that `--format json` prints.
    Report,
    /// A line of a history.
    History,
    /// The trends that `history --format json` prints.
    Trends,
    /// What `bisect --format json` prints.
    Bisection,
    /// What `calibrate --format json` prints.
    Calibration,
    /// What `selftest --format json` prints.
    Selftest,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = ["memgate", "check"].iter().chain(words).collect();
        match Cli::try_parse_from(&words).unwrap().command {
            Command::Check { measured, .. } => measured.selection(&[Platform::host()]).options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_options_are_repeated_as_they_were_given() {
        let all =
            ["--config", "ci/memgate.yaml", "--runner", "qemu", "--runs", "2", "--against", "main", "--tier", "T0"];
        let all: Vec<_> = all.into_iter().chain(["--force-probes", "--no-snapshot", "--no-wait"]).collect();
        assert_eq!(options(&all), all);
        let where_results_go = ["--service", "uaa", "--platform", "host", "--out", "x", "--format", "json"];
        assert_eq!(options(&where_results_go), Vec::<String>::new());
        assert_eq!(options(&["--tier", "t1"]), ["--tier", "T1"]);
    }
}
