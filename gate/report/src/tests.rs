use std::io;

use memgate_evidence::{error::Error, platform::Platform};
use memgate_verdict::{
    metric::Metric,
    results::{GateResult, Report, ServiceResult, Verdict},
    summarise::{SiteKind, SourceLocation, Trust},
};
use proptest::prelude::*;

use super::{fixture::*, *};

fn rendered(format: Format) -> String {
    render(&report(), format, Style::default())
}

/// The formats that escape text themselves.
fn for_people() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| *format != Format::Json)
}

fn wide() -> Style {
    Style { colour: false, width: None }
}

/// The text without the control sequences of ANSI X3.64 that end in `m`.
fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    for (index, part) in text.split("\x1b[").enumerate() {
        plain.push_str(if index == 0 { part } else { part.split_once('m').unwrap().1 });
    }
    plain
}

#[test]
fn every_format_has_a_snapshot() {
    for format in Format::ALL {
        insta::assert_snapshot!(format.name(), rendered(format));
    }
}

#[test]
fn services_that_could_not_be_judged_have_a_snapshot_in_every_format() {
    for format in Format::ALL {
        let name = format!("failed_{}", format.name());
        insta::assert_snapshot!(name, render(&failed_report(), format, Style::default()));
    }
}

#[test]
fn the_figures_of_a_gate_name_its_anchor() {
    let figures = [Some(3.0), None, None, None, Some(2.0)];
    let gate = GateResult { anchor: Some(1.0), ..gate(Metric::GoroutinesMax, Verdict::Pass, figures, "why") };
    assert_eq!(view::figures(&gate), "measured 3, limit -, baseline 2, anchor 1, notices 2");
}

#[test]
fn a_failure_is_worse_than_every_verdict_and_hides_no_result() {
    assert_eq!(failed_report().exit_code(), 4);
    assert_eq!(failed_report().verdict, None);
    let failures = failed_report().failures;
    for verdict in Verdict::ALL {
        let gates = vec![gate(Metric::OomKills, verdict, [None; 5], "why")];
        let results = vec![result("good", Platform::LinuxAmd64, gates, &[])];
        assert_eq!(Report::new("0", String::new(), results.clone(), vec![]).exit_code(), verdict.exit_code());
        let report = Report::new("0", String::new(), results, failures.clone());
        assert_eq!(report.exit_code(), 4);
        for format in for_people() {
            let text = render(&report, format, wide());
            for said in ["broken on linux/arm64", "build", "undefined: undefined", "launched on linux/arm64", "failed"]
            {
                assert!(text.contains(said), "{format}: {said}: {text}");
            }
            // GitHub gets an annotation for what is to be told, which a pass is not.
            assert!(text.contains("good on linux/amd64") || format == Format::Github, "{format}: {text}");
        }
        let junit = render(&report, Format::Junit, wide());
        let junit = quick_junit::Report::deserialize_from_str(&junit).unwrap();
        let errors = 2 + usize::from(verdict.exit_code() == 3);
        assert_eq!((junit.tests, junit.errors, junit.failures), (3, errors, usize::from(verdict.exit_code() == 1)));
        assert!(
            render(&report, Format::Github, wide())
                .starts_with("::error title=broken on linux/arm64%3A build failed::")
        );
    }
    let nothing_but_failures = Report::new("0", String::new(), vec![], failures);
    assert_eq!((nothing_but_failures.verdict, nothing_but_failures.exit_code()), (None, 4));
    assert_eq!(Report::new("0", String::new(), vec![], vec![]).exit_code(), 3, "nothing was judged");
}

#[test]
fn lines_of_a_failure_do_not_act_either() {
    let failures = vec![hostile_failure(HOSTILE, HOSTILE)];
    let report = Report::new("0", String::new(), vec![], failures);
    for format in for_people() {
        let text = render(&report, format, wide());
        assert!(!text.contains('\x1b') && !text.contains("##["), "{format}: {text}");
        let commands = text.lines().filter(|line| line.trim_start().starts_with("::")).count();
        assert_eq!(commands, usize::from(format == Format::Github), "{format}: {text}");
    }
}

#[test]
fn json_has_the_failures_and_no_verdict() {
    let text = render(&failed_report(), Format::Json, wide());
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), failed_report());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["schema"], &json["verdict"]), (&3.into(), &serde_json::Value::Null));
    assert_eq!(json["failures"][0]["failure"]["stage"], "build");
    assert_eq!(json["results"][0]["service"], "good");
}

#[test]
fn terminal_narrow() {
    insta::assert_snapshot!(render(&report(), Format::Terminal, Style { colour: false, width: Some(60) }));
}

#[test]
fn colours_only_when_asked_and_only_added() {
    let plain = rendered(Format::Terminal);
    let coloured = render(&report(), Format::Terminal, Style { colour: true, width: None });
    assert!(!plain.contains('\x1b'));
    assert!(coloured.starts_with("\x1b[1;31mregressed\x1b[0m  uaa on linux/amd64"));
    assert_eq!(without_colours(&coloured), plain);
}

#[test]
fn tables_keep_to_the_width_and_survive_any() {
    let report = report();
    for width in 0..200 {
        let text = render(&report, Format::Terminal, Style { colour: false, width: Some(width) });
        let widest = text.lines().filter(|line| line.starts_with(['+', '|'])).map(str::len).max().unwrap();
        assert!(width < 40 || widest <= usize::from(width), "{widest} of {width}");
        assert!(text.contains("inconclusive  heap_live_growth: 3 records were lost"));
    }
}

#[test]
fn json_reads_back() {
    let text = rendered(Format::Json);
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report());
    assert!(text.ends_with("}\n"));
}

#[test]
fn the_step_summary_is_the_markdown() {
    assert_eq!(step_summary(&report()), rendered(Format::Markdown));
}

#[test]
fn the_step_summary_is_appended_to_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("summary.md");
    std::fs::write(&file, "before\n").unwrap();
    append_step_summary(&file, &report()).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("before\n{}", step_summary(&report())));
    let error = append_step_summary(directory.path(), &report()).unwrap_err();
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn the_command_repeats_the_run() {
    let mut result = report().results.remove(0);
    assert_eq!(repeat_command(&result), "memgate check --service uaa --platform linux/amd64");
    result.service = "two words".into();
    assert_eq!(repeat_command(&result), "memgate check --service 'two words' --platform linux/amd64");
    result.options = ["--config", "a b.yaml", "--tier", "T0", "--no-snapshot"].map(Into::into).to_vec();
    let repeated =
        "memgate check --service 'two words' --platform linux/amd64 --config 'a b.yaml' --tier T0 --no-snapshot";
    assert_eq!(repeat_command(&result), repeated);
}

fn one_gate(verdict: Verdict) -> Report {
    report_of(vec![result("uaa", Platform::LinuxAmd64, vec![gate(Metric::OomKills, verdict, [None; 5], "why")], &[])])
}

#[test]
fn junit_counts_what_is_no_pass() {
    for (verdict, failures, errors) in [
        (Verdict::Pass, 0, 0),
        (Verdict::Improved, 0, 0),
        (Verdict::Advisory, 0, 0),
        (Verdict::NoBaseline, 0, 1),
        (Verdict::Inconclusive, 0, 1),
        (Verdict::Regressed, 1, 0),
    ] {
        let text = render(&one_gate(verdict), Format::Junit, wide());
        let counts = format!(r#"tests="1" skipped="0" failures="{failures}" errors="{errors}""#);
        assert!(text.contains(&counts), "{verdict:?}: {text}");
    }
}

#[test]
fn github_levels_follow_the_exit_code() {
    for (verdict, level) in [
        (Verdict::Pass, "notice"),
        (Verdict::Improved, "notice"),
        (Verdict::Advisory, "warning"),
        (Verdict::NoBaseline, "error"),
        (Verdict::Inconclusive, "error"),
        (Verdict::Regressed, "error"),
    ] {
        let text = render(&one_gate(verdict), Format::Github, wide());
        assert!(text.starts_with(&format!("::{level} title=")), "{verdict:?}: {text}");
        // A result that does not hold has a notice with its trust.
        assert_eq!(text.lines().count(), 1 + usize::from(verdict.exit_code() != 0));
    }
}

#[test]
fn github_annotates_the_services_own_code_in_the_repository() {
    let annotated = |own: Option<SourceLocation>| {
        let sites = vec![site(SiteKind::Heap, place("bytes.growSlice", "go/src/bytes/buffer.go", 249), own)];
        let gate = GateResult { sites, ..gate(Metric::RssPeak, Verdict::Regressed, [None; 5], "why") };
        let text = render(&report_of(vec![result("s", Platform::LinuxAmd64, vec![gate], &[])]), Format::Github, wide());
        text.lines().next().unwrap().to_owned()
    };
    assert!(
        annotated(Some(place("main.put", "a,b:c/d.go", 42))).starts_with("::error file=a%2Cb%3Ac/d.go,line=42,title=")
    );
    assert!(annotated(Some(place("main.put", "/elsewhere/d.go", 42))).starts_with("::error title="));
    assert!(annotated(Some(place("main.put", "d.go", 0))).starts_with("::error title="), "a line is missing");
    assert!(annotated(None).starts_with("::error title="), "nobody annotates the standard library");
}

#[test]
fn signals_are_counted_and_those_that_fail_are_named_with_the_reason() {
    let mut result = result("uaa", Platform::LinuxAmd64, vec![], &[]);
    assert_eq!(view::trust(&result), "tier T2; no signals");
    result.signals = vec![note("a", Trust::Exact, None, 0), note("b", Trust::Missing, Some("x"), 0)];
    assert_eq!(view::trust(&result), "tier T2; 1 signal exact, 1 missing: b (x)");
    for name in ["c", "d"] {
        result.signals.push(note(name, Trust::Missing, Some("y"), 0));
        result.signals.push(note(name, Trust::Sampled, None, 0));
    }
    assert_eq!(view::trust(&result), "tier T2; 1 signal exact, 2 sampled, 3 missing: b (x), c, d (y)");
}

#[test]
fn files_below_the_root_are_named_from_there() {
    let mut result = result("uaa", Platform::LinuxAmd64, vec![hostile_gate("/src/uaa/main.go")], &[]);
    locate(&mut result, "/src");
    let site = &result.gates[0].sites[0];
    assert_eq!((site.at.file.as_str(), site.at.in_repository), ("uaa/main.go", true));
    assert_eq!(site.own.as_ref().unwrap().file, "uaa/main.go");
    let before = result.clone();
    locate(&mut result, "/other");
    assert_eq!(result, before);
}

#[test]
fn github_says_what_it_leaves_out() {
    let gates = Metric::ALL.map(|metric| gate(metric, Verdict::Regressed, [None; 5], "why")).to_vec();
    let text = render(&report_of(vec![result("uaa", Platform::LinuxAmd64, gates, &[])]), Format::Github, wide());
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("::error ")).collect();
    assert_eq!(errors.len(), 10);
    let left_out = format!("::error title=memgate::{} findings more than GitHub shows", Metric::ALL.len() - 9);
    assert!(errors[9].starts_with(&left_out), "{}", errors[9]);
}

#[test]
fn a_verdict_that_no_gate_explains_is_shown_in_every_format() {
    let nothing = report_of(vec![]);
    let no_gates = report_of(vec![result("uaa", Platform::LinuxAmd64, vec![], &[])]);
    let mut worse = one_gate(Verdict::Pass);
    worse.results[0].verdict = Verdict::Inconclusive;
    worse.verdict = Some(Verdict::Inconclusive);
    let mut worse_than_results = one_gate(Verdict::Pass);
    worse_than_results.verdict = Some(Verdict::Regressed);
    let mut none = one_gate(Verdict::Pass);
    none.verdict = None;
    for (report, why) in [
        (nothing, "No service was judged."),
        (no_gates, "No gate was judged."),
        (worse, "The verdict is worse than every gate's."),
        (worse_than_results, "The verdict is worse than every service's."),
        (none, "There is no verdict, and no failure explains it."),
    ] {
        for format in for_people() {
            let why = if format == Format::Junit { why.replace('\'', "&apos;") } else { why.to_owned() };
            assert!(render(&report, format, wide()).contains(&why), "{format}: {why}");
        }
        let junit = render(&report, Format::Junit, wide());
        assert!(!junit.contains(r#"failures="0" errors="0" time"#), "{junit}");
        assert!(render(&report, Format::Github, wide()).starts_with("::error "));
    }
}

#[test]
fn formats_are_parsed() {
    for format in Format::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    let list = format!("expected one of {}", Format::ALL.map(Format::name).join(", "));
    assert_eq!("xml".parse::<Format>(), Err(format!("`xml` is not a format; {list}")));
    assert_eq!(
        "html".parse::<Format>(),
        Err(format!("`html` is a format of a later version and not available yet; {list}"))
    );
}

#[test]
fn outputs_are_parsed() {
    let output = |format, file: Option<&str>| Ok(Output { format, file: file.map(Into::into) });
    assert_eq!("json".parse(), output(Format::Json, None));
    assert_eq!("json=-".parse(), output(Format::Json, None));
    assert_eq!("junit=a=b.xml".parse(), output(Format::Junit, Some("a=b.xml")));
    assert!("json=".parse::<Output>().unwrap_err().contains("names no file"));
    assert!("html=report.html".parse::<Output>().unwrap_err().contains("later version"));
}

#[test]
fn two_outputs_to_one_place_are_refused() {
    for (first, second, place) in
        [("json", "terminal", "standard output"), ("json=a", "junit=a", "a"), ("json=-", "json", "standard output")]
    {
        let error = validate(&[first.parse().unwrap(), second.parse().unwrap()]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().ends_with(&format!("would both go to {place}.")), "{error}");
    }
    validate(&["json".parse().unwrap(), "json=a".parse().unwrap(), "junit=b".parse().unwrap()]).unwrap();
}

#[test]
fn writes_several_formats_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join("new").join(name);
    let outputs = [
        Output { format: Format::Terminal, file: None },
        Output { format: Format::Json, file: Some(file("report.json")) },
        Output { format: Format::Terminal, file: Some(file("report.txt")) },
    ];
    let mut stdout = Vec::new();
    let style = Style { colour: true, width: Some(80) };
    write(&outputs, &report(), &mut stdout, style).unwrap();
    assert_eq!(String::from_utf8(stdout).unwrap(), render(&report(), Format::Terminal, style));
    assert_eq!(std::fs::read_to_string(file("report.json")).unwrap(), rendered(Format::Json));
    assert_eq!(std::fs::read_to_string(file("report.txt")).unwrap(), rendered(Format::Terminal));
}

#[test]
fn one_failure_does_not_keep_the_others_from_being_written() {
    let directory = tempfile::tempdir().unwrap();
    let [good, below, taken] = ["good", "good/report", "directory"].map(|name| directory.path().join(name));
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(&good, "").unwrap();
    let outputs = [
        Output { format: Format::Junit, file: Some(taken.clone()) },
        Output { format: Format::Json, file: Some(below.clone()) },
        Output { format: Format::Json, file: Some(good.clone()) },
    ];
    let mut stdout = Vec::new();
    let error = write(&outputs, &report(), &mut stdout, Style::default()).unwrap_err();
    assert!(matches!(error.kind(), Some(ReportError::Outputs { others, .. }) if others.len() == 1));
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(error.exit_code(), 4);
    let text = error.to_string();
    assert!(text.contains(&format!("as junit cannot be written to {}: is a directory", taken.display())), "{text}");
    assert!(text.contains(&format!("as json cannot be written to {}: ", below.display())), "{text}");
    assert_eq!(std::fs::read_to_string(good).unwrap(), rendered(Format::Json));
}

#[test]
fn a_closed_pipe_is_an_error() {
    let (reader, mut writer) = io::pipe().unwrap();
    drop(reader);
    let outputs = [Output { format: Format::Json, file: None }];
    let error = write(&outputs, &report(), &mut writer, Style::default()).unwrap_err();
    assert!(error.to_string().contains("standard output: Broken pipe"), "{error}");
    let Error::Infrastructure(failure) = error else { panic!("{error:?}") };
    let help = failure.text().help.unwrap_or_default();
    assert!(help.contains("evidence is kept") && help.contains("memgate report"), "{help}");
}

#[test]
fn what_only_the_flush_reports_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut full = io::BufWriter::with_capacity(1 << 20, full);
    let outputs = [Output { format: Format::Json, file: None }];
    let error = write(&outputs, &report(), &mut full, Style::default()).unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    let (_, unwritten) = full.into_parts();
    assert!(unwritten.is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_text_gets_out_of_its_place(service in any::<String>(), reason in any::<String>(), note in any::<String>()) {
        let hostile = |service: &str, reason: &str, note: &str| {
            let result = result(service, Platform::LinuxAmd64, vec![hostile_gate(reason)], &[note]);
            let signals = vec![fixture::note(reason, Trust::Missing, Some(note), 1)];
            let failures = vec![hostile_failure(service, note)];
            Report { failures, ..report_of(vec![ServiceResult { signals, files: vec![note.to_owned()], ..result }]) }
        };
        // Only the text of a failure may have several lines.
        let note = note.replace(['\n', '\r'], " ");
        let (plain, hostile) = (hostile("s", "r", "n"), hostile(&service, &reason, &note));
        for format in for_people() {
            let (plain, text) = (render(&plain, format, wide()), render(&hostile, format, wide()));
            prop_assert_eq!(plain.lines().count(), text.lines().count(), "{}", format);
            prop_assert!(!text.chars().any(|character| character.is_control() && character != '\n'));
            prop_assert!(!text.contains("##["));
            let commands = text.lines().filter(|line| line.trim_start().starts_with("::")).count();
            prop_assert_eq!(commands, if format == Format::Github { 3 } else { 0 });
        }
        let junit = quick_junit::Report::deserialize_from_str(&render(&hostile, Format::Junit, wide())).unwrap();
        prop_assert_eq!((junit.tests, junit.errors, junit.failures), (2, 1, 1));
    }
}
