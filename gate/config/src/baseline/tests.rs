use std::{collections::BTreeMap, path::Path};

use memgate_evidence::{
    Environment,
    error::Error,
    platform::{Platform, Runner},
    tier::Tier,
};
use memgate_verdict::{
    baseline::{Baseline, Expectation, Limit, Waiver},
    metric::{Limits, Metric},
    results::Verdict,
    summarise::{Estimate, RunSummary, Summary, Unavailable},
};
use proptest::prelude::*;

use super::*;

mod accept;
mod memory;

const EXAMPLE: &str = include_str!("testdata/uaa.yaml");

fn read(text: &str) -> memgate_evidence::error::Result<Baseline> {
    parse(Path::new("baselines/linux-amd64/uaa.yaml"), text, Platform::LinuxAmd64, "uaa")
}

fn render_error(error: &Error) -> String {
    assert_eq!(error.exit_code(), 2);
    let mut text = String::new();
    let theme = miette::GraphicalTheme::unicode_nocolor();
    miette::GraphicalReportHandler::new_themed(theme).with_width(110).render_report(&mut text, error).unwrap();
    text
}

fn refusal(text: &str) -> String {
    render_error(&read(text).unwrap_err())
}

/// The example with one text replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from}");
    EXAMPLE.replacen(from, to, 1)
}

#[test]
fn the_example_is_read() {
    insta::assert_debug_snapshot!(read(EXAMPLE).unwrap());
}

macro_rules! refused {
    ($($name:ident: $text:expr;)+) => {
        $(#[test] fn $name() { insta::assert_snapshot!(stringify!($name), refusal(&$text)); })+
    };
}

refused! {
    of_another_platform: changed("platform: linux/amd64", "platform: linux/arm64");
    of_another_service: changed("service: uaa", "service: order");
    unknown_metric: changed("gc_pause_p99:", "gc_pause_p95:");
    unknown_key: changed("tolerance: 2%", "tolerence: 2%");
    no_unit: changed("limit: 50ms", "limit: 50");
    wrong_unit: changed("baseline: 18.41kB", "baseline: 18.41ms");
    ambiguous_tolerance: changed("tolerance: 2%", "tolerance: 2");
    negative_noise: changed("noise: 30B", "noise: -30B");
    negative_floor_of_a_growth: changed("floor: 2MB/min", "floor: -2MB/min");
    duplicate_metric: changed("gc_pause_p99: { limit: 50ms }", "gc_pause_p99: { limit: 50ms }\n  gc_pause_p99: { limit: 90ms }");
    wrong_set_of_limits: changed("metrics:\n", "limits: strict\nmetrics:\n");
    must_notice_without_limit_or_baseline: changed("limit: 50ms", "must_notice: 5ms");
    waiver_without_owner: changed("limit: 50ms", "limit: 50ms, waiver: { reason: x, expires: 2026-12-31 }");
    waiver_of_no_day: changed("limit: 50ms", "limit: 50ms, waiver: { reason: x, owner: y, expires: soon }");
    waiver_of_a_day_that_is_none: changed("limit: 50ms", "limit: 50ms, waiver: { reason: x, owner: y, expires: 2026-02-30 }");
    nested_waiver: changed("limit: 50ms", "limit: 50ms, waiver: { reason: x, owner: y, expires: 2026-12-31, waiver: { reason: x, owner: y, expires: 2026-12-31 } }");
    waiver_of_an_unknown_metric: changed("gc_pause_p99: { limit: 50ms }", "gc_pause: { limit: 50ms, waiver: { reason: x, owner: y, expires: 2026-12-31 } }");
    waiver_alone: changed("limit: 50ms", "waiver: { reason: x, owner: y, expires: 2026-12-31 }");
    empty_reason: changed("limit: 50ms", "limit: 50ms, waiver: { reason: \"\", owner: y, expires: 2026-12-31 }");
    duplicate_limit: changed("limit: 50ms", "limit: 50ms, limit: 90ms");
    neither_limit_nor_baseline: changed("limit: 50ms", "advisory: true");
    anchor_without_baseline: changed("limit: 50ms", "limit: 50ms, anchor: 40ms");
    negative_anchor: changed("baseline: 18.41kB", "baseline: 18.41kB, anchor: -18kB");
    between_without_occasions: changed("tolerance: 2%", "tolerance: 2%, between: 3B, between_freedom: 3");
    between_without_freedom: changed("tolerance: 2%", "tolerance: 2%, between: 3B").replace("runs: 5", "runs: 5, occasions: 4");
    freedom_without_between: changed("tolerance: 2%", "tolerance: 2%, between_freedom: 3");
    freedom_without_noise: changed("noise: 30B", "noise_freedom: 3");
    no_occasions: changed("runs: 5", "runs: 5, occasions: 0");
    tolerance_without_baseline: changed("limit: 50ms", "limit: 50ms, tolerance: 5%");
    no_metrics: EXAMPLE.split("metrics:").next().unwrap().to_owned() + "metrics: {}\n";
    no_environment: EXAMPLE.lines().filter(|line| !line.starts_with("environment")).collect::<Vec<_>>().join("\n");
    no_day: changed("recorded: 2026-11-23", "recorded: 2026-11-31");
    no_page_size: changed("page_size: 4KiB", "page_size: 0B");
    unknown_runner: changed("runner: native", "runner: docker");
    unknown_version: changed("version: 1", "version: 2");
    wrong_type: changed("{ limit: 50ms }", "50ms");
    wrong_type_of_a_limit: changed("limit: 50ms", "limit: [50ms]");
    empty: "";
}

/// Numbers that no key of a metric can have, of each unit, and numbers of another unit.
#[test]
fn numbers_that_cannot_be_are_refused_with_their_key() {
    const NO_NUMBERS: &[&str] = &[".nan", "NaN", ".inf", "-.inf", "1e999", "1e3", "\"\"", "[1]", "many"];
    let metrics = [
        ("gc_pause_p99", "50ms", &["-50ms", "50", "50MB", "50%", "9999999999999h"][..]),
        ("gc_cpu_fraction", "25%", &["-1%", "25", "25ms", "1000000000000000000000%"]),
        ("heap_alloc_rate", "15MB/s", &["-15MB/s", "15", "15MB", "15/s", "9999999999999999999TB/s"]),
        ("alloc_bytes_per_request", "18kB/request", &["-18kB", "18", "18kB/s", "18ms", "9999999999999999999TB"]),
        ("goroutines_max", "2000", &["-1", "2000MB", "2000/s", "9999999999999999999999"]),
        ("gc_cycles", "180/min", &["-180/min", "180", "180ms", "9999999999999999999999/min"]),
        ("rss_peak", "60MiB", &["-60MiB", "60", "60ms", "60MiB/s", "9999999999999999999TB"]),
        ("page_faults_per_request", "2/request", &["-2/request", "2MB", "9999999999999999999999"]),
    ];
    let with = |metric: &str, expectation: &str| {
        changed("gc_pause_p99: { limit: 50ms }", &format!("{metric}: {{ {expectation} }}"))
            .replace("  alloc_bytes_per_request: { baseline: 18.41kB", "  allocs_per_request: { baseline: 18.41")
            .replace("noise: 30B, tolerance: 2%, floor: 64B", "tolerance: 2%")
    };
    for (metric, right, wrong) in metrics {
        for key in ["limit", "baseline", "anchor", "noise", "floor", "must_notice", "tolerance"] {
            let of = |value: &str| match key {
                "limit" | "baseline" => with(metric, &format!("{key}: {value}")),
                _ => with(metric, &format!("baseline: {right}, {key}: {value}")),
            };
            // A tolerance is a share, whatever the metric is.
            let (right, wrong) =
                if key == "tolerance" { ("5%", &["-5%", "5", "5ms", "5MB"][..]) } else { (right, wrong) };
            read(&of(right)).unwrap_or_else(|error| panic!("{metric}.{key}: {right}: {}", render_error(&error)));
            for value in wrong.iter().chain(NO_NUMBERS) {
                let Err(error) = read(&of(value)) else { panic!("{metric}.{key}: {value} is accepted") };
                let message = error.to_string();
                let place = format!("metrics.{metric}.{key}");
                let file = message.starts_with("baselines/linux-amd64/uaa.yaml:");
                assert!(file && message.contains(&place), "{place}: {value}: {message}");
                let Error::Input(error) = error else { panic!("{place}") };
                assert!(error.help.is_some_and(|help| help.starts_with("write ")), "{place}: {value}: what to do");
            }
        }
    }
}

/// A limit of 0 is one: no goroutine may leak. A page of 0 bytes, no processor and no run are none.
#[test]
fn zeros_are_limits_and_no_environment() {
    for limit in ["0ms", "0s"] {
        assert_eq!(read(&changed("50ms", limit)).unwrap().metrics[&Metric::GcPauseP99].limit, Limit::At(0.0));
    }
    for (from, to, key) in [
        ("page_size: 4KiB", "page_size: 0B", "environment.page_size"),
        ("cpus: 2", "cpus: 0", "environment.cpus"),
        ("runs: 5", "runs: 0", "environment.runs"),
        ("runs: 5", "runs: -5", "environment.runs"),
        ("runs: 5", "runs: 1.5", "environment.runs"),
        ("runs: 5", "runs: .inf", "environment.runs"),
    ] {
        let message = read(&changed(from, to)).unwrap_err().to_string();
        assert!(message.contains(key), "{to}: {message}");
    }
}

#[test]
fn a_growth_may_have_been_negative() {
    let baseline = read(EXAMPLE).unwrap();
    assert_eq!(baseline.metrics[&Metric::RssGrowth].baseline, Some(-120e3));
    let anchored = read(&changed("baseline: -120kB/min", "baseline: -120kB/min, anchor: -0.2MB/min")).unwrap();
    assert_eq!(anchored.metrics[&Metric::RssGrowth].anchor, Some(-200e3));
}

#[test]
fn files_are_found_by_platform_and_name() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(load(directory.path(), Platform::LinuxAmd64, "uaa").unwrap(), None);
    std::fs::create_dir(directory.path().join("linux-amd64")).unwrap();
    assert_eq!(load(directory.path(), Platform::LinuxAmd64, "uaa").unwrap(), None);
    std::fs::write(directory.path().join("linux-amd64/uaa.yaml"), EXAMPLE).unwrap();
    assert_eq!(load(directory.path(), Platform::LinuxAmd64, "uaa").unwrap(), Some(read(EXAMPLE).unwrap()));
    std::fs::create_dir(directory.path().join("linux-arm64")).unwrap();
    std::fs::write(directory.path().join("linux-arm64/uaa.yaml"), EXAMPLE).unwrap();
    let message = load(directory.path(), Platform::LinuxArm64, "uaa").unwrap_err().to_string();
    assert!(message.contains("baseline of linux/amd64, but the file's place is that of linux/arm64"), "{message}");
    std::fs::create_dir(directory.path().join("linux-amd64/order.yaml")).unwrap();
    assert!(load(directory.path(), Platform::LinuxAmd64, "order").unwrap_err().to_string().ends_with("is a directory"));
    for name in ["../linux-amd64/uaa", "", ".", "a/b", "UAA", "a\0"] {
        let message = load(directory.path(), Platform::LinuxAmd64, name).unwrap_err().to_string();
        assert!(message.ends_with("cannot be the name of a baseline"), "{message}");
    }
}

fn estimate(measured: f64) -> Estimate {
    Estimate {
        measured,
        low: measured,
        high: measured,
        n: 10,
        level: None,
        needs_longer: false,
        may_be_pool: false,
        remark: String::new(),
    }
}

/// A summary of runs. Every metric has the same figure, which each run scales.
fn summary(runs: &[f64]) -> Summary {
    let metrics = |figure: f64| Metric::ALL.into_iter().map(|metric| (metric, Ok(estimate(figure)))).collect();
    Summary {
        service: "uaa".to_owned(),
        platform: Platform::LinuxLoong64,
        baseline: "uaa-login".to_owned(),
        day: "2026-11-23".to_owned(),
        environment: Environment {
            go: "go1.27.3".to_owned(),
            kernel: "6.18.44-\"x\"\\\n# 龙芯\u{2028}\u{fffe}".to_owned(),
            page_size: 16384,
            thp: "madvise".to_owned(),
            cpu: "Loongson-3C5000: 4 # cores".to_owned(),
            cpus: 2,
            runner: Runner::Qemu,
            memgate: "0.1.0".to_owned(),
            build: BTreeMap::new(),
            variables: BTreeMap::new(),
            load: "500/s over 32 connections: 3 POST /login, 6 GET /verify, 1 POST /logout".into(),
            phases: "10 s, 60 s".into(),
            dependencies: String::new(),
        },
        runs: runs
            .iter()
            .zip(1..)
            .map(|(figure, run)| RunSummary { run, occasion: 0, metrics: metrics(*figure), sites: BTreeMap::new() })
            .collect(),
        sites: BTreeMap::new(),
        tier: Tier::T2,
        options: vec![],
        signals: Vec::new(),
        notes: Vec::new(),
    }
}

fn read_back(summary: &Summary) -> Baseline {
    let text = render(summary, "2026-11-23", Limits::Xinchuang).unwrap();
    parse(Path::new("x.yaml"), &text, summary.platform, &summary.baseline).unwrap()
}

fn set(summary: &mut Summary, metric: Metric, figures: &[f64]) {
    for (run, figure) in summary.runs.iter_mut().zip(figures) {
        run.metrics.insert(metric, Ok(estimate(*figure)));
    }
}

/// Three plausible runs of a service.
fn recorded() -> Summary {
    let mut summary = summary(&[0.0, 0.0, 0.0]);
    for (metric, figures) in [
        (Metric::GcPauseP99, [1.24e6, 1.31e6, 1.19e6]),
        (Metric::GcPauseP90, [301_233.0, 333_210.0, 298_112.0]),
        (Metric::GcStwFraction, [0.000_81, 0.000_79, 0.000_83]),
        (Metric::GcCycles, [180.0, 181.0, 182.0]),
        (Metric::HeapAllocRate, [9.2e6, 9.21e6, 9.19e6]),
        (Metric::AllocBytesPerRequest, [18_412.2, 18_431.9, 18_398.4]),
        (Metric::AllocsPerRequest, [61.2, 61.3, 61.25]),
        (Metric::HeapLiveGrowth, [12_000.0, -3000.0, 0.0]),
        (Metric::GoroutinesMax, [48.0, 48.0, 48.0]),
        (Metric::RssPeak, [61_865_984.0, 63_111_168.0, 62_914_560.0]),
        (Metric::RssGrowth, [-120_400.0, 80_300.0, -400_000.0]),
        (Metric::OffheapPeak, [4_194_304.0, 4_194_304.0, 4_194_304.0]),
        (Metric::PageFaultsPerRequest, [0.41, 0.39, 0.42]),
        (Metric::RequestLatencyP99, [2.1e6, 2.4e6, 1.9e6]),
    ] {
        set(&mut summary, metric, &figures);
    }
    for metric in [Metric::OffheapGrowth, Metric::OomKills] {
        let unavailable = Unavailable { reason: "there is no\nmemory controller".to_owned() };
        summary.runs[1].metrics.insert(metric, Err(unavailable));
    }
    summary
}

#[test]
fn a_recorded_baseline_reads_well() {
    insta::assert_snapshot!(render(&recorded(), "2026-11-23", Limits::General).unwrap());
    insta::assert_debug_snapshot!("recorded_read_back", read_back(&recorded()));
}

#[test]
fn one_run_has_no_noise() {
    let baseline = read_back(&summary(&[12.5]));
    assert_eq!(baseline.environment.runs, 1);
    assert!(baseline.metrics.values().all(|expectation| expectation.noise.is_none()));
    assert_eq!(baseline.metrics[&Metric::AllocsPerRequest].baseline, Some(12.5));
}

#[test]
fn what_any_run_went_without_has_no_baseline() {
    let baseline = read_back(&recorded());
    for metric in [Metric::OffheapGrowth, Metric::OomKills] {
        assert_eq!(baseline.metrics.get(&metric), None, "its default limit holds without a line");
    }
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        let mut summary = recorded();
        set(&mut summary, Metric::RssPeak, &[1.0, bad, 2.0]);
        assert_eq!(read_back(&summary).metrics.get(&Metric::RssPeak), None);
    }
}

#[test]
fn only_figures_that_are_compared_and_limits_of_their_own_have_a_line() {
    let baseline = read_back(&recorded());
    for metric in Metric::ALL {
        let expectation = baseline.metrics.get(&metric);
        assert_eq!(expectation.is_some(), metric.comparison().is_some(), "{metric}");
        let Some(expectation) = expectation else { continue };
        assert_eq!(expectation.limit, Limit::Default, "{metric}: the runs hold the default limit");
        // Recorded in a guest, where times mean little.
        let advisory = [Metric::GcPauseP90, Metric::GcStwFraction, Metric::RequestLatencyP99];
        assert_eq!(expectation.advisory, advisory.contains(&metric), "{metric}");
    }
}

/// A service that fails on the evidence that its own baseline was recorded from could never be green.
#[test]
fn limits_that_the_runs_do_not_hold_are_written_with_room_and_ask_for_a_review() {
    let mut summary = recorded();
    set(&mut summary, Metric::HeapLiveGrowth, &[9e6, 10e6, 11e6]);
    set(&mut summary, Metric::GoroutinesLeaked, &[0.0, 3.0, 0.0]);
    let text = render(&summary, "2026-11-23", Limits::General).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("REVIEW")).collect();
    assert_eq!(
        lines,
        [
            "  heap_live_growth: { limit: 22MB/min } # REVIEW: measured 10MB/min, which the default limit of 0.50MB/min does not allow",
            "  goroutines_leaked: { limit: 6 } # REVIEW: measured 1, which the default limit of 0 does not allow",
        ]
    );
    let baseline = parse(Path::new("x.yaml"), &text, summary.platform, &summary.baseline).unwrap();
    let result = memgate_verdict::judge::judge(&summary, Some(&baseline));
    for gate in result.gates.iter().filter(|gate| baseline.metrics.contains_key(&gate.metric)) {
        assert!(gate.verdict.is_good() || gate.verdict == Verdict::Advisory, "{gate:?}");
    }
}

#[test]
fn a_set_of_limits_and_none_are_read() {
    let text = EXAMPLE.replace("metrics:\n", "limits: xinchuang\nmetrics:\n  gc_cpu_fraction: { limit: none }\n");
    let baseline = read(&text).unwrap();
    assert_eq!(baseline.limits, Limits::Xinchuang);
    assert_eq!(baseline.metrics[&Metric::GcCpuFraction].limit, Limit::None);
    let none = Expectation { must_notice: Some(1e6), ..Expectation::default() };
    let text =
        EXAMPLE.replace("metrics:\n", "metrics:\n  heap_live_growth: { limit: 0.5MB/min, must_notice: 1MB/min }\n");
    let found = read(&text).map(|baseline| baseline.metrics[&Metric::HeapLiveGrowth].clone());
    assert_eq!(found.ok(), Some(Expectation { limit: Limit::At(0.5e6), ..none }));
}

#[test]
fn what_cannot_be_read_again_is_not_rendered() {
    assert!(render(&summary(&[]), "2026-11-23", Limits::General).is_err());
    assert!(render(&summary(&[1.0]), "yesterday", Limits::General).is_err());
    let mut summary = summary(&[1.0]);
    summary.baseline = "../uaa".to_owned();
    assert!(render(&summary, "2026-11-23", Limits::General).is_err());
}

/// A baseline that is cut off would gate less than it should. Only a missing last line break goes unnoticed.
#[test]
fn a_recorded_baseline_that_was_cut_off_is_refused() {
    let summary = recorded();
    let text = render(&summary, "2026-11-23", Limits::General).unwrap();
    for length in (0..text.len() - 1).filter(|length| text.is_char_boundary(*length)) {
        let read = parse(Path::new("x.yaml"), &text[..length], summary.platform, &summary.baseline);
        assert!(read.is_err(), "cut off after {:?}", &text[..length]);
    }
}

#[test]
fn the_schema_knows_the_keys_that_are_accepted() {
    let schema = schema();
    for (pointer, text) in [
        ("", changed("version", "zzz: 1\nversion")),
        ("/$defs/Environment", changed("go:", "zzz: 1, go:")),
        ("/properties/metrics", changed("gc_pause_p99:", "zzz:")),
        ("/$defs/Expectation", changed("limit:", "zzz: 1, limit:")),
    ] {
        let Error::Input(error) = read(&text).unwrap_err() else { panic!("{pointer}") };
        let help = error.help.unwrap();
        let mut accepted: Vec<&str> = help.rsplit_once("allowed here: ").unwrap().1.split(", ").collect();
        accepted.sort_unstable();
        let object = schema.pointer(pointer).unwrap();
        let known: Vec<&String> = object["properties"].as_object().unwrap().keys().collect();
        assert_eq!(known, accepted, "{pointer}");
        assert_eq!(object["additionalProperties"], false, "{pointer}");
    }
    insta::assert_json_snapshot!(schema);
}

proptest! {
    #[test]
    fn recorded_figures_are_read_back(figures in proptest::collection::vec((1.0..10.0_f64, -9..12_i32), 1..6)) {
        let figures: Vec<f64> = figures.into_iter().map(|(mantissa, exponent)| mantissa * 10_f64.powi(exponent)).collect();
        let baseline = read_back(&summary(&figures));
        let count = f64::from(u32::try_from(figures.len()).unwrap());
        let mean = figures.iter().sum::<f64>() / count;
        let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
        let noise = (figures.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        for (metric, expectation) in &baseline.metrics {
            let Some(read) = expectation.baseline else { continue };
            prop_assert!((read - mean).abs() <= mean * 1e-6, "{metric}: {read} instead of {mean}");
            match (expectation.noise, noise) {
                (Some(read), Some(noise)) => prop_assert!((read - noise).abs() <= noise * 1e-6 + mean * 1e-9, "{metric}"),
                (read, noise) => prop_assert_eq!(read, noise),
            }
        }
    }

    #[test]
    fn a_broken_example_is_read_or_refused(at in 0..EXAMPLE.len(), length in 0..12_usize, insert in "[ \\n\\t:,{}\\[\\]\"'&*!|>%@#-]{0,4}") {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        bytes.splice(at..(at + length).min(EXAMPLE.len()), insert.bytes());
        if let Err(error) = read(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(render_error(&error).contains("uaa.yaml"));
        }
    }

    #[test]
    fn any_environment_can_be_recorded(text in any::<String>().prop_filter("not empty", |text| text.chars().any(|c| !c.is_whitespace() && c != '\0'))) {
        let mut summary = summary(&[1.0]);
        summary.environment.cpu = text.clone();
        prop_assert_eq!(read_back(&summary).environment.cpu, text.replace('\0', ""));
    }
}

#[test]
fn a_waiver_is_read() {
    let waiver = "waiver: { reason: \"until the rewrite\", owner: ada, expires: 2026-12-31 }";
    let baseline = read(&changed("limit: 50ms", &format!("limit: 50ms, {waiver}"))).unwrap();
    let read = baseline.metrics[&Metric::GcPauseP99].waiver.as_ref().unwrap();
    assert_eq!(
        (read.reason.as_str(), read.owner.as_str(), read.expires.as_str()),
        ("until the rewrite", "ada", "2026-12-31")
    );
}

/// A service of five requests a second allocates 1.3 % more in one run than in another.
#[test]
fn a_figure_that_varies_by_much_gets_room_for_it() {
    let mut summary = recorded();
    set(&mut summary, Metric::AllocBytesPerRequest, &[1450.0, 1480.0, 1440.0]);
    let text = render(&summary, "2026-11-23", Limits::General).unwrap();
    let line = text.lines().find(|line| line.contains("alloc_bytes_per_request")).unwrap();
    assert!(line.contains("tolerance: 4.3% }"), "{line}");
    assert!(line.ends_with("# tolerance: 3 × noise instead of 0.40%, because the runs differ by much"), "{line}");
    set(&mut summary, Metric::AllocBytesPerRequest, &[1450.0, 1450.1, 1450.2]);
    assert_eq!(read_back(&summary).metrics[&Metric::AllocBytesPerRequest].tolerance, Some(0.004));
}
