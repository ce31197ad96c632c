//! Runs a parsed command line and returns the exit code.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use memgate_agent::cancel::Cancel;
use memgate_config::{self as config, Config, baseline};
use memgate_evidence::{
    error::{Error, InfrastructureError, InputError, Result, Stage},
    platform::Platform,
};
use memgate_files::evidence_file;
use memgate_goexe::{GoExe, GoExeError};
use memgate_report::{self as report, Format, Output, Style};
use memgate_verdict::{
    metric::Metric,
    results::{self, Report},
};
use serde::Serialize;

use crate::{
    baseline_files,
    baselines::Baselines,
    bisect,
    boot::Booth,
    cli::{
        BaselineCommand, Cli, Command, Formats, ImageCommand, Initialised, JudgedBy, Kept, Measured, Printed, Recorded,
        SchemaOf, Shown, Trusted,
    },
    doctor::ProbeReport,
    failures::{colour_is_allowed, rendered},
    history::{self, History},
    images::{self, Which},
    init, leftovers, manual,
    narrator::Narrator,
    outdir, pipeline,
    select::{self, Selection},
    trust::{calibrate, selftest},
};

/// Runs the command. Errors go to stderr.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Init(wanted) => init(&wanted),
        Command::Check { measured, judged_by, formats, kept } => {
            measure(&measured, Some((&judged_by, &formats, &kept)))
        }
        Command::Record { measured } => measure(&measured, None),
        Command::Judge { recorded, out, formats, kept } => {
            judge(&recorded, &out, &formats, Some(&kept)).map(|report| report.exit_code())
        }
        Command::Merge { measured, evidence, judged_by, formats, kept } => {
            merge(&measured, &evidence, &judged_by, &formats, &kept)
        }
        Command::Bisect { measured, last, metric, format } => bisect(&measured, &last, metric, format),
        Command::Plan { measured, github_matrix: _ } => plan(&measured).map(|()| 0),
        Command::Report { recorded, out, formats } => judge(&recorded, &out, &formats, None).map(|_| 0),
        Command::History(shown) => show_history(&shown).map(|()| 0),
        Command::Baseline(command) => baseline(&command),
        Command::Image(command) => image(&command),
        Command::Doctor { probes, twin, force_probes, json } => {
            doctor(&probes, twin.as_deref(), force_probes, json).map(|()| 0)
        }
        Command::Calibrate { trusted, processes } => calibrate(&trusted, processes),
        Command::Selftest { trusted } => selftest(&trusted),
        Command::Schema { of } => print_schema(of).map(|()| 0),
        Command::Completions { shell } => print(&manual::completions(shell)).map(|()| 0),
        Command::Man { words, out } => man(&words, out.as_deref()).map(|()| 0),
    };
    ExitCode::from(outcome.unwrap_or_else(|error| {
        let code = error.exit_code();
        print_error(error);
        code
    }))
}

fn init(wanted: &Initialised) -> Result<u8> {
    let narrator = Narrator::new();
    until_cancelled(async |cancel| {
        let made = init::init(&wanted.wanted(), &narrator, cancel).await?;
        match &made.file {
            // What was found goes to stderr, so that stdout is the file.
            Some(file) => {
                narrator.say(made.text.trim_end());
                print(file)?;
            }
            None => print(&made.text)?,
        }
        Ok(made.exit_code)
    })
}

/// Checks, or only records if there is nothing to judge by and to report in. Everything runs on one thread, because the
/// service ends when the thread that started it ends.
fn measure(measured: &Measured, judged: Option<(&JudgedBy, &Formats, &Kept)>) -> Result<u8> {
    let config = config::load(&measured.config)?;
    let selection = measured.selection(&[Platform::host()]);
    outdir::ready_for_others(&config, &selection)?;
    leftovers::remove_runs(&config, &selection)?;
    leftovers::remove_report(&selection.out)?;
    let narrator = Narrator::new();
    until_cancelled(async |cancel| match judged {
        Some((by, formats, kept)) => {
            clear(formats, Some(kept))?;
            let history = open_history(kept, beside(&config), &narrator)?;
            check(&config, &selection, by, formats, &narrator, cancel, history.as_ref()).await
        }
        None => record(&config, &selection, &narrator, cancel).await,
    })
}

/// Runs the work on this thread and cancels it on Ctrl-C and SIGTERM.
fn until_cancelled(work: impl AsyncFnOnce(&Cancel) -> Result<u8>) -> Result<u8> {
    let failed = |error: std::io::Error| {
        let help = "raise the limits on files and threads";
        Error::caused(Stage::Preflight, "memgate cannot wait for signals and events", error, help)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let cancel = Cancel::on_signals().map_err(failed)?;
        work(&cancel).await
    })
}

async fn boot(which: &Which, out: &Path, words: &[String], narrator: &Narrator, cancel: &Cancel) -> Result<u8> {
    let booth = Booth::prepare(which, words, out, narrator, cancel)?;
    if words.is_empty() {
        narrator.say("booting; Ctrl-a x leaves, Ctrl-a h lists more keys");
    }
    booth.run(cancel).await
}

async fn check(
    config: &Config,
    selection: &Selection,
    by: &JudgedBy,
    formats: &Formats,
    narrator: &Narrator,
    cancel: &Cancel,
    history: Option<&History>,
) -> Result<u8> {
    let baselines = baselines(config, by, &selection.out, cancel).await?;
    let report = pipeline::check(config, selection, &baselines, narrator, cancel).await?;
    finish(&report, &formats.outputs, Some(&selection.out), history)?;
    Ok(report.exit_code())
}

async fn record(config: &Config, selection: &Selection, narrator: &Narrator, cancel: &Cancel) -> Result<u8> {
    let recorded = pipeline::record(config, selection, narrator, cancel).await?;
    let mut files = recorded.done.concat();
    files.sort();
    for file in files {
        print(&format!("{}\n", file.display()))?;
    }
    Ok(if recorded.failures.is_empty() { 0 } else { InfrastructureError::EXIT_CODE })
}

fn judge(recorded: &Recorded, out: &Path, formats: &Formats, kept: Option<&Kept>) -> Result<Report> {
    clear(formats, kept)?;
    let history = match kept {
        Some(kept) => open_history(kept, &std::env::current_dir().unwrap_or_default(), &Narrator::new())?,
        None => None,
    };
    let report = pipeline::judge(&recorded.evidence, &Baselines::of(recorded.baselines.clone()), out)?;
    finish(&report, &formats.outputs, None, history.as_ref())?;
    Ok(report)
}

fn merge(measured: &Measured, evidence: &[PathBuf], by: &JudgedBy, formats: &Formats, kept: &Kept) -> Result<u8> {
    let config = config::load(&measured.config)?;
    let selection = measured.selection(&Platform::ALL);
    outdir::ready_for_others(&config, &selection)?;
    leftovers::remove_report(&selection.out)?;
    clear(formats, Some(kept))?;
    let history = open_history(kept, beside(&config), &Narrator::new())?;
    until_cancelled(async |cancel| {
        let baselines = baselines(&config, by, &selection.out, cancel).await?;
        let report = pipeline::merge(&config, &selection, &baselines, evidence)?;
        finish(&report, &formats.outputs, Some(&selection.out), history.as_ref())?;
        Ok(report.exit_code())
    })
}

/// The baselines to judge by. Those of another commit are checked out below `out`.
async fn baselines(config: &Config, by: &JudgedBy, out: &Path, cancel: &Cancel) -> Result<Baselines> {
    Baselines::find(config, by.baselines_from.as_deref(), &out.join("baselines-from"), cancel).await
}

fn bisect(measured: &Measured, last: &str, metric: Option<Metric>, format: Printed) -> Result<u8> {
    let selection = measured.selection(&[Platform::host()]);
    if selection.against.is_none() {
        let help = "name the last commit that is good: --against v1.4.0";
        return Err(InputError::new("bisect needs --against REV, the commit to begin with", help).into());
    }
    let config = config::load(&measured.config)?;
    let narrator = Narrator::new();
    until_cancelled(async |cancel| {
        let found = bisect::bisect(&config, &selection, last, metric, &narrator, cancel).await?;
        print_as(format, &found, bisect::Bisection::text)?;
        Ok(found.exit_code())
    })
}

fn plan(measured: &Measured) -> Result<()> {
    let config = config::load(&measured.config)?;
    print(&format!("{}\n", select::github_matrix(&config, &measured.selection(&Platform::ALL))?))
}

/// Checks that no two outputs go to the same place, and removes the reports of an earlier command from there.
fn clear(formats: &Formats, kept: Option<&Kept>) -> Result<()> {
    report::validate(&formats.outputs)?;
    if let Some(history) = kept.and_then(|kept| kept.history.as_deref()) {
        is_no_output(history, formats)?;
    }
    leftovers::remove_reports(&formats.outputs)
}

/// Checks that no report would replace the history.
fn is_no_output(history: &Path, formats: &Formats) -> Result<()> {
    let place = |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok();
    let is_history = |output: &&Output| output.file.as_deref().is_some_and(|file| place(file) == place(history));
    let Some(output) = formats.outputs.iter().find(is_history) else { return Ok(()) };
    let message = format!("--history {}: the format `{}` would go to the same file", history.display(), output.format);
    Err(InputError::new(message, "give the report a file of its own: it replaces what is there").into())
}

/// The history to keep verdicts in, if one is named. `checkout` lies in the checkout whose commit is judged.
fn open_history(kept: &Kept, checkout: &Path, narrator: &Narrator) -> Result<Option<History>> {
    kept.history.as_deref().map(|file| History::open(file, checkout, narrator)).transpose()
}

/// The directory of the configuration.
fn beside(config: &Config) -> &Path {
    config.file.parent().unwrap_or(Path::new("/"))
}

/// Writes the reports, and keeps the verdicts even if a report cannot be written.
fn finish(report: &Report, outputs: &[Output], out: Option<&Path>, history: Option<&History>) -> Result<()> {
    let written = write_report(report, outputs, out);
    history.map_or(Ok(()), |history| history.append(report))?;
    written
}

/// Prints the trends of a history and draws its pictures.
fn show_history(shown: &Shown) -> Result<()> {
    let (trends, notes) = history::trends(&shown.files, &shown.wanted())?;
    let narrator = Narrator::new();
    for note in notes {
        narrator.say(&note);
    }
    let pictures = match &shown.svg {
        Some(directory) => report::write_history_pictures(directory, &trends)?,
        None => Vec::new(),
    };
    match shown.format {
        Printed::Json => {
            pictures.iter().for_each(|picture| narrator.say(&format!("file: {}", picture.display())));
            print(&report::history_json(&trends))
        }
        Printed::Terminal => {
            let files: String = pictures.iter().map(|picture| format!("file: {}\n", picture.display())).collect();
            print(&(report::history_text(&trends, style()) + &files))
        }
    }
}

/// The style of what goes to standard output.
#[expect(clippy::disallowed_methods, reason = "it only asks whether stdout is a terminal")]
fn style() -> Style {
    Style { colour: std::io::stdout().is_terminal() && colour_is_allowed(), width: None }
}

/// Writes the requested reports, `report.json` in the output directory, and the step summary that GitHub shows.
#[expect(clippy::disallowed_methods, reason = "a report is a result")]
fn write_report(report: &Report, outputs: &[Output], out: Option<&Path>) -> Result<()> {
    let stdout = std::io::stdout();
    let style = Style { colour: stdout.is_terminal() && colour_is_allowed(), width: None };
    let kept = out.map(|out| Output::to_file(Format::Json, out.join(Format::Json.file_name())));
    let outputs: Vec<_> = kept.into_iter().chain(outputs.iter().cloned()).collect();
    report::write(&outputs, report, &mut stdout.lock(), style)?;
    match std::env::var_os("GITHUB_STEP_SUMMARY") {
        Some(file) if out.is_some() && !file.is_empty() => report::append_step_summary(Path::new(&file), report),
        _ => Ok(()),
    }
}

fn baseline(command: &BaselineCommand) -> Result<u8> {
    let text = match command {
        BaselineCommand::Update(update) => {
            let updated = baseline_files::update(&update.recorded.plain(), update.waiver().as_ref())?;
            print(&updated.text)?;
            return Ok(u8::from(updated.is_looser));
        }
        BaselineCommand::Review { recorded } => {
            let mut answers = std::io::stdin().lock();
            baseline_files::review(&recorded.plain(), &mut answers, &mut |text| print(text))?;
            return Ok(0);
        }
        BaselineCommand::Anchor(anchored) => baseline_files::anchor(&anchored.which(), &anchored.baselines),
        BaselineCommand::Record { recorded, limits } => baseline_files::record(&recorded.plain(), (*limits).into()),
        BaselineCommand::Diff { recorded, patch: true } => baseline_files::patch(&recorded.plain()),
        BaselineCommand::Diff { recorded, patch: false } => baseline_files::diff(&recorded.plain()),
        BaselineCommand::Waive(waived) => baseline_files::waive(
            waived.metric,
            &waived.service,
            &waived.platforms(),
            &waived.waiver(),
            &waived.baselines,
        ),
        BaselineCommand::Explain { metric, baselines } => baseline_files::explain(*metric, baselines),
        BaselineCommand::Accept { recorded, metrics } => {
            baseline_files::accept(&recorded.plain(), &metrics.iter().copied().collect())
        }
    }?;
    print(&text).map(|()| 0)
}

fn image(command: &ImageCommand) -> Result<u8> {
    let narrator = Narrator::new();
    until_cancelled(async |cancel| {
        let text = match command {
            ImageCommand::Boot { which, out, words } => {
                return boot(&which.which(), out, words, &narrator, cancel).await;
            }
            ImageCommand::Build { which } => images::build(&which.which(), &narrator, cancel),
            ImageCommand::List => images::list(),
            ImageCommand::Clean => images::clean(cancel),
            ImageCommand::Lock { which, file } => images::lock(&which.which(), file, &narrator, cancel),
        }?;
        print(&text).map(|()| 0)
    })
}

fn doctor(executable: &Path, twin: Option<&Path>, force: bool, json: bool) -> Result<()> {
    let unfit =
        |error: GoExeError| InputError::new(error.to_string(), "name an ELF executable of one of memgate's platforms");
    let mut exe = GoExe::open(executable).map_err(unfit)?;
    if let Some(twin) = twin {
        exe = exe.with_twin(twin).map_err(unfit)?;
    }
    let report = ProbeReport::of(&exe, force);
    print(&if json { json_text(&report)? } else { report.text() })
}

fn json_text(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_value(value).map_err(|error| InputError::new(error.to_string(), "please report this"))?;
    Ok(format!("{json:#}\n"))
}

fn calibrate(trusted: &Trusted, processes: u32) -> Result<u8> {
    let shown = |report: &calibrate::Report| {
        print_as(trusted.format, report, calibrate::Report::text)?;
        Ok(report.exit_code())
    };
    if !trusted.from.is_empty() {
        return shown(&calibrate::of_evidence(&trusted.from, &trusted.baselines)?);
    }
    let config = config::load(&trusted.measured.config)?;
    let selection = trusted.measured.selection(&[Platform::host()]);
    let narrator = Narrator::new();
    until_cancelled(async |cancel| {
        shown(&calibrate::measure(&config, selection.clone(), processes, &narrator, cancel).await?)
    })
}

fn selftest(trusted: &Trusted) -> Result<u8> {
    let shown = |report: &selftest::Report| {
        print_as(trusted.format, report, selftest::Report::text)?;
        Ok(report.exit_code())
    };
    if !trusted.from.is_empty() {
        return shown(&selftest::of_evidence(&trusted.from, &trusted.baselines)?);
    }
    let config = config::load(&trusted.measured.config)?;
    let selection = trusted.measured.selection(&[Platform::host()]);
    let narrator = Narrator::new();
    until_cancelled(async |cancel| shown(&selftest::measure(&config, selection.clone(), &narrator, cancel).await?))
}

fn print_as<T: Serialize>(format: Printed, result: &T, text: fn(&T) -> String) -> Result<()> {
    match format {
        Printed::Terminal => print(&text(result)),
        Printed::Json => print(&json_text(result)?),
    }
}

fn man(words: &[String], out: Option<&Path>) -> Result<()> {
    match out {
        Some(directory) => manual::pages(directory),
        None => print(&manual::page(words)?),
    }
}

fn print_schema(of: SchemaOf) -> Result<()> {
    let schema = match of {
        SchemaOf::Config => config::schema(),
        SchemaOf::Baseline => baseline::schema(),
        SchemaOf::Evidence => evidence_file::schema(),
        SchemaOf::Report => results::schema(),
        SchemaOf::History => memgate_verdict::history::schema(),
        SchemaOf::Trends => memgate_verdict::history::trends_schema(),
        SchemaOf::Bisection => bisect::schema(),
        SchemaOf::Calibration => calibrate::schema(),
        SchemaOf::Selftest => selftest::schema(),
    };
    print(&format!("{schema:#}\n"))
}

#[expect(clippy::disallowed_methods, reason = "results go to stdout")]
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| {
        Error::caused(Stage::Output, "stdout cannot be written", error, "keep stdout open until memgate ends")
    })
}

/// Prints the error on stderr. Ignores a closed stderr.
fn print_error(error: Error) {
    let _ = std::io::stderr().lock().write_all(rendered(error).as_bytes());
}
