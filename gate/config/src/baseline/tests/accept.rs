//! Accepted figures go into files that people wrote, and nothing else changes.

use std::collections::BTreeSet;

use memgate_verdict::units::format_exact;

use super::*;

/// A way to write a scalar.
#[derive(Debug, Clone, Copy)]
enum Quote {
    None,
    Single,
    Double,
}

impl Quote {
    /// The value in this way. A plain one with other characters than figures have gets quotes.
    fn write(self, value: &str) -> String {
        let plain = value.chars().all(|character| character.is_ascii_alphanumeric() || "./%-_+".contains(character));
        match self {
            Self::None if plain => value.to_owned(),
            Self::Single => format!("'{value}'"),
            Self::None | Self::Double => format!("\"{value}\""),
        }
    }
}

/// A scalar of a generated file, before and after.
#[derive(Debug, Clone)]
struct Slot {
    quote: Quote,
    before: &'static str,
    after: String,
}

/// How a generated file is written.
#[derive(Debug, Clone)]
struct Layout {
    quotes: Vec<Quote>,
    indent: usize,
    is_flow: bool,
    environment_first: bool,
    is_spacious: bool,
    has_anchors: bool,
    comments: Vec<String>,
    line_end: &'static str,
    has_mark: bool,
}

fn layouts() -> impl Strategy<Value = Layout> {
    let quote = prop_oneof![Just(Quote::None), Just(Quote::Single), Just(Quote::Double)];
    let comment = prop_oneof![
        Just(String::new()),
        Just("  # 20kB, \"as\" of '2026'".to_owned()),
        Just(" # baseline: 1kB }".to_owned()),
        Just("\t# 基线".to_owned()),
    ];
    let lists = (prop::collection::vec(quote, 24), prop::collection::vec(comment, 8));
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (lists, 1..7usize, switches).prop_map(
        |((quotes, comments), indent, (flow, first, spacious, anchors, crlf, mark))| Layout {
            quotes,
            indent,
            is_flow: flow,
            environment_first: first,
            is_spacious: spacious,
            has_anchors: anchors,
            comments,
            line_end: if crlf { "\r\n" } else { "\n" },
            has_mark: mark,
        },
    )
}

/// A value that `memgate baseline accept` replaces, or one that stays.
enum Value {
    Slot(Slot),
    Fixed(&'static str),
}

/// A generated file.
struct File {
    metrics: Vec<(&'static str, Vec<(&'static str, Value)>)>,
    environment: Vec<(&'static str, Slot)>,
}

impl File {
    fn of(layout: &Layout, summary: &Summary) -> Self {
        let mut quotes = layout.quotes.iter().copied();
        let mut slot = |before: &'static str, after: String| Slot { quote: quotes.next().unwrap(), before, after };
        let figure = |metric: Metric| {
            let (mean, noise) = super::super::render::recorded_figure(summary, metric).unwrap();
            [mean, noise.unwrap()].map(|figure| format_exact(figure, metric.unit()))
        };
        let [bytes, bytes_noise] = figure(Metric::AllocBytesPerRequest);
        let [goroutines, _] = figure(Metric::GoroutinesMax);
        let [latency, latency_noise] = figure(Metric::RequestLatencyP99);
        let of_bytes = vec![
            ("baseline", Value::Slot(slot("18.41kB", bytes))),
            ("noise", Value::Slot(slot("30B", bytes_noise))),
            // Accepted figures leave it alone.
            ("anchor", Value::Fixed("18kB")),
            ("tolerance", Value::Fixed("0.4%")),
        ];
        let of_goroutines = vec![("floor", Value::Fixed("20")), ("baseline", Value::Slot(slot("38", goroutines)))];
        let of_latency = vec![
            ("noise", Value::Slot(slot("0.4ms", latency_noise))),
            ("advisory", Value::Fixed("true")),
            ("baseline", Value::Slot(slot("2.1ms", latency))),
        ];
        let now = &summary.environment;
        let environment = [
            ("go", "go1.27.3", now.go.clone()),
            ("kernel", "6.18.44", now.kernel.clone()),
            ("page_size", "16KiB", "16KiB".to_owned()),
            ("thp", "madvise", now.thp.clone()),
            ("cpu", "Loongson 3C5000", now.cpu.clone()),
            ("cpus", "4", now.cpus.to_string()),
            ("runner", "qemu", now.runner.to_string()),
            ("recorded", "2026-11-23", "2026-11-29".to_owned()),
            ("runs", "5", summary.runs.len().to_string()),
            ("load", "50/s over 1 connections: 1 GET /", now.load.clone()),
        ];
        Self {
            metrics: vec![
                ("gc_pause_p99", vec![("limit", Value::Fixed("50ms"))]),
                ("alloc_bytes_per_request", of_bytes),
                ("goroutines_max", of_goroutines),
                ("request_latency_p99", of_latency),
            ],
            environment: environment.map(|(key, before, after)| (key, slot(before, after))).into(),
        }
    }

    /// The text with the old values or with the new ones.
    fn text(&self, layout: &Layout, is_new: bool) -> String {
        let mut comments = layout.comments.iter().cycle().map(String::as_str);
        let metrics = self.metric_lines(layout, is_new, &mut comments);
        let environment = self.environment_lines(layout, is_new, &mut comments);
        let head = ["# a baseline", "version: 1", "service: uaa-login", "platform: linux/loong64"].map(str::to_owned);
        let parts = if layout.environment_first { [environment, metrics] } else { [metrics, environment] };
        let lines: Vec<String> = head.into_iter().chain(parts.concat()).collect();
        let mark = if layout.has_mark { "\u{feff}" } else { "" };
        format!("{mark}{}{}", lines.join(layout.line_end), layout.line_end)
    }

    fn metric_lines<'a>(
        &self,
        layout: &Layout,
        is_new: bool,
        comments: &mut impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let (pad, space) = (" ".repeat(layout.indent), if layout.is_spacious { "   " } else { " " });
        let mut lines = vec![format!("metrics:{}", comments.next().unwrap())];
        for (name, fields) in &self.metrics {
            let fields = fields.iter().map(|(key, value)| {
                let anchor = if layout.has_anchors && *key == "baseline" { format!("&{name} ") } else { String::new() };
                match value {
                    Value::Slot(slot) => format!("{key}:{space}{anchor}{}", slot.text(layout, is_new)),
                    Value::Fixed(text) => format!("{key}:{space}{text}"),
                }
            });
            if layout.is_flow {
                let fields = fields.collect::<Vec<_>>().join(&format!(",{space}"));
                lines.push(format!("{pad}{name}: {{{space}{fields}{space}}}{}", comments.next().unwrap()));
            } else {
                lines.push(format!("{pad}{name}:"));
                lines.extend(fields.map(|field| format!("{pad}{pad}{field}{}", comments.next().unwrap())));
            }
        }
        lines
    }

    fn environment_lines<'a>(
        &self,
        layout: &Layout,
        is_new: bool,
        comments: &mut impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let pad = " ".repeat(layout.indent);
        let fields = self.environment.iter().map(|(key, slot)| match *key {
            // Numbers have no quotes.
            "cpus" | "runs" => format!("{key}: {}", if is_new { &slot.after } else { slot.before }),
            _ => format!("{key}: {}", slot.text(layout, is_new)),
        });
        if layout.is_flow {
            let fields: Vec<_> = fields.collect();
            let (first, second) = fields.split_at(5);
            return vec![format!("environment: {{ {},", first.join(", ")), format!("{pad}{} }}", second.join(", "))];
        }
        let lines = fields.map(|field| format!("{pad}{field}{}", comments.next().unwrap()));
        ["environment:".to_owned()].into_iter().chain(lines).collect()
    }
}

impl Slot {
    fn text(&self, layout: &Layout, is_new: bool) -> String {
        // In a block, text with spaces may be plain.
        let is_bare = !layout.is_flow && matches!(self.quote, Quote::None) && !self.before.contains(": ");
        match is_new {
            false if is_bare => self.before.to_owned(),
            false => self.quote.write(self.before),
            true => self.quote.write(&self.after),
        }
    }
}

fn accepted(text: &str, summary: &Summary, metrics: &[Metric]) -> memgate_evidence::error::Result<Accepted> {
    let path = Path::new("baselines/linux-loong64/uaa-login.yaml");
    accept(path, text, summary, "2026-11-29", &metrics.iter().copied().collect::<BTreeSet<_>>())
}

fn measured() -> Summary {
    let mut summary = recorded();
    summary.environment.kernel = "7.2.0".to_owned();
    summary
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn only_the_figures_and_the_environment_change(layout in layouts()) {
        let file = File::of(&layout, &measured());
        let [before, after] = [false, true].map(|is_new| file.text(&layout, is_new));
        let accepted = accepted(&before, &measured(), &[]).unwrap_or_else(|error| panic!("{before}\n{}", render_error(&error)));
        prop_assert_eq!(&accepted.text, &after, "{}", before);
        let changed: Vec<Metric> = accepted.changes.iter().map(|change| change.metric).collect();
        prop_assert_eq!(changed, [Metric::AllocBytesPerRequest, Metric::GoroutinesMax, Metric::RequestLatencyP99]);
        // What is accepted is accepted again without a change.
        let again = super::super::accept(Path::new("x"), &after, &measured(), "2026-11-29", &BTreeSet::new()).unwrap();
        prop_assert_eq!((again.text, again.changes), (after, vec![]));
    }
}

fn waiver() -> Waiver {
    Waiver {
        reason: "the \"new\" encoder: 基线".to_owned(), owner: "ada".to_owned(), expires: "2026-12-31".to_owned()
    }
}

fn waived(text: &str, metric: Metric, waiver: &Waiver) -> memgate_evidence::error::Result<String> {
    let path = Path::new("baselines/linux-loong64/uaa-login.yaml");
    waive(path, text, (Platform::LinuxLoong64, "uaa-login"), metric, waiver)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_waiver_is_put_in_and_nothing_else_changes(layout in layouts()) {
        let before = File::of(&layout, &measured()).text(&layout, false);
        for metric in [Metric::AllocBytesPerRequest, Metric::GoroutinesMax, Metric::RequestLatencyP99] {
            let after = waived(&before, metric, &waiver()).unwrap_or_else(|error| panic!("{before}\n{}", render_error(&error)));
            let same = before.chars().zip(after.chars()).take_while(|(one, other)| one == other).count();
            let rest: String = before.chars().skip(same).collect();
            prop_assert!(after.ends_with(&rest), "{}\n{}", before, after);
            let read = parse(Path::new("x"), &after, Platform::LinuxLoong64, "uaa-login").unwrap();
            prop_assert_eq!(read.metrics[&metric].waiver.as_ref(), Some(&waiver()));
            // Another waiver takes its place.
            let other = Waiver { expires: "2027-01-31".to_owned(), ..waiver() };
            let again = waived(&after, metric, &other).unwrap();
            prop_assert_eq!(again, after.replace("2026-12-31", "2027-01-31"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn anchors_are_put_in_and_nothing_else_changes(layout in layouts()) {
        let before = File::of(&layout, &measured()).text(&layout, false);
        let (goroutines, latency) = (BTreeSet::from([Metric::GoroutinesMax]), BTreeSet::from([Metric::RequestLatencyP99]));
        for (metrics, figure, metric) in [(goroutines, "38", Metric::GoroutinesMax), (latency, "2.1ms", Metric::RequestLatencyP99)] {
            let pinned = pinned(&before, &metrics).unwrap_or_else(|error| panic!("{before}\n{}", render_error(&error)));
            // What was put in is a key behind another, or a line of its own.
            let same = before.chars().zip(pinned.text.chars()).take_while(|(one, other)| one == other).count();
            let rest: String = before.chars().skip(same).collect();
            prop_assert!(pinned.text.ends_with(&rest), "{}\n{}", before, pinned.text);
            let put_in: String = pinned.text.chars().skip(same).take(pinned.text.chars().count() - before.chars().count()).collect();
            let plain: String = put_in.chars().filter(|character| character.is_ascii_alphanumeric() || "./".contains(*character)).collect();
            prop_assert!(put_in.contains("anchor") || put_in.contains("nchor"), "{}", put_in);
            prop_assert!(plain.contains(figure), "{}", put_in);
            let after = pinned.changes[0].after;
            prop_assert_eq!(&pinned.changes, &vec![Pin { metric, before: None, after }]);
        }
        // An anchor that is there gets the recorded figure.
        let all = pinned(&before, &BTreeSet::new()).unwrap();
        prop_assert_eq!(all.changes.iter().map(|pin| pin.before.is_some()).collect::<Vec<_>>(), [true, false, false]);
        prop_assert!(all.text.contains("anchor: 18.41kB") || all.text.contains("anchor:   18.41kB"), "{}", all.text);
        let again = pinned(&all.text, &BTreeSet::new()).unwrap();
        prop_assert_eq!((again.text, again.changes), (all.text, vec![]));
    }
}

fn pinned(text: &str, metrics: &BTreeSet<Metric>) -> memgate_evidence::error::Result<Pinned> {
    anchor(Path::new("baselines/linux-loong64/uaa-login.yaml"), text, (Platform::LinuxLoong64, "uaa-login"), metrics)
}

/// A figure that a person wrote keeps all its digits, and an alias stands for its figure.
#[test]
fn an_anchor_is_the_figure_as_it_is_written() {
    let pinned_from = |from: &str, to: &str| pinned(&changed_file(from, to), &BTreeSet::new());
    let text = pinned_from("baseline: 1005B/request", "baseline: 1005.123456789B/request").unwrap().text;
    assert!(text.contains("baseline: 1005.123456789B/request, anchor: 1005.123456789B/request, noise"), "{text}");
    let aliased = "limit: &shared 1005B/request, baseline: *shared";
    let text = pinned_from("baseline: 1005B/request", aliased).unwrap().text;
    assert!(text.contains("tolerance: 2.2%, anchor: 1005B/request }"), "{text}");
    let folded = pinned_from("baseline: 1005B/request", "baseline: 1005B/request, anchor: &x 7B, floor: *x");
    let message = folded.unwrap_err().to_string();
    assert!(message.contains("anchors cannot be written without a change of something else"), "{message}");
    let message = pinned(&file(), &BTreeSet::from([Metric::GcMarkP99])).unwrap_err().to_string();
    assert!(message.contains("metrics: gc_mark_p99 has no recorded figure here"), "{message}");
}

fn changed_file(from: &str, to: &str) -> String {
    let text = file();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1)
}

#[test]
fn a_metric_without_an_entry_gets_no_waiver() {
    let message = waived(&file(), Metric::GcMarkP99, &waiver()).unwrap_err().to_string();
    assert!(message.contains("metrics: gc_mark_p99 has no entry here"), "{message}");
}

/// A file as memgate records it.
fn file() -> String {
    render(&summary(&[1000.0, 1010.0]), "2026-11-23", Limits::General).unwrap()
}

#[test]
fn a_recorded_file_takes_all_new_figures() {
    let accepted = accepted(&file(), &measured(), &[]).unwrap();
    let bytes = accepted.changes.iter().find(|change| change.metric == Metric::AllocBytesPerRequest).unwrap();
    assert_eq!((bytes.before, bytes.after), (1005.0, 18_414.17));
    assert!(accepted.text.contains("recorded: \"2026-11-29\", runs: 3"), "{}", accepted.text);
    assert!(accepted.text.contains("kernel: \"7.2.0\""));
}

#[test]
fn what_ran_beside_the_service_is_named_where_the_file_has_a_place_for_it() {
    let mut summary = measured();
    summary.environment.dependencies = "redis `redis-server --save `, before `sh -c \"a: b\"`".to_owned();
    let error = accepted_error(&file(), &summary, &[]);
    assert!(error.contains("environment: something ran beside the service or before it"), "{error}");
    let with = file().replacen("environment: {", "environment: { dependencies: none,", 1);
    assert_ne!(with, file());
    let text = accepted(&with, &summary, &[]).unwrap().text;
    let read = |text: &str| parse(Path::new("x.yaml"), text, summary.platform, &summary.baseline).unwrap();
    let read = |text: &str| read(text).environment.dependencies;
    assert_eq!(read(&text).as_deref(), Some(summary.environment.dependencies.as_str()), "{text}");
    let text = accepted(&text, &measured(), &[]).unwrap().text;
    assert_eq!(read(&text).as_deref(), Some("none"), "{text}");
}

#[test]
fn one_metric_may_be_accepted_by_itself() {
    let (before, now) = (file(), summary(&[1300.0, 1310.0]));
    let accepted = accepted(&before, &now, &[Metric::AllocBytesPerRequest]).unwrap();
    let differing: Vec<_> = before.lines().zip(accepted.text.lines()).filter(|(one, other)| one != other).collect();
    assert_eq!(differing.len(), 1, "{differing:?}");
    assert!(differing[0].1.contains("alloc_bytes_per_request: { baseline: 1.305kB/request, noise: 7.071068B/request"));
    let mut elsewhere = now;
    elsewhere.environment.page_size = 4096;
    let message = accepted_error(&before, &elsewhere, &[Metric::AllocBytesPerRequest]);
    assert!(message.contains("environment: the baseline does not fit: page size 16384 bytes"), "{message}");
}

fn accepted_error(text: &str, summary: &Summary, metrics: &[Metric]) -> String {
    accepted(text, summary, metrics).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_replaced_alone_is_refused_with_its_place() {
    let figure = "baseline: 1005B/request";
    let with = |value: &str| {
        let text = file();
        assert!(text.contains(figure), "{text}");
        text.replacen(figure, value, 1)
    };
    let (summary, none) = (measured(), &[][..]);
    // The same figure in two places.
    let shared = with("baseline: &shared 1005B/request").replacen("noise: 7.071068B/request", "noise: *shared", 1);
    let message = accepted_error(&shared, &summary, none);
    assert!(
        message.contains("metrics.alloc_bytes_per_request.noise: this value cannot be replaced alone"),
        "{message}"
    );
    let (before, _) = shared.split_once("*shared").unwrap();
    let (line, column) = (before.matches('\n').count() + 1, before.lines().last().unwrap().chars().count() + 1);
    assert!(message.contains(&format!(":{line}:{column}: ")), "the place of the alias: {message}");
    let floor = with("baseline: &shared 1005B/request").replacen("tolerance: 2.2%", "floor: *shared", 1);
    let message = accepted_error(&floor, &summary, none);
    assert!(message.contains("its figures cannot be replaced without a change of something else"), "{message}");
    let folded = with("baseline: \"1005B\\\n    /request\"");
    let message = accepted_error(&folded, &summary, none);
    assert!(
        message.contains("metrics.alloc_bytes_per_request.baseline: this value cannot be replaced alone"),
        "{message}"
    );
    let message = accepted_error(&file(), &summary, &[Metric::GcMarkP99]);
    assert!(message.contains("metrics: gc_mark_p99 has no recorded figure here"), "{message}");
    let mut one = measured();
    one.runs.truncate(1);
    assert!(accepted_error(&file(), &one, none).contains("one run of uaa has no noise"));
    assert!(accepted_error("", &summary, none).contains("uaa-login.yaml"));
    let conflict = file().replacen("metrics:\n", "metrics:\n<<<<<<< HEAD\n=======\n>>>>>>> change\n", 1);
    assert!(accepted_error(&conflict, &summary, none).contains("uaa-login.yaml:"));
}

#[test]
fn a_metric_that_a_run_lacks_keeps_its_figure() {
    let mut summary = measured();
    let lacking = Err(Unavailable { reason: "records were lost".to_owned() });
    summary.runs[1].metrics.insert(Metric::GcCycles, lacking);
    let accepted = accepted(&file(), &summary, &[]).unwrap();
    assert_eq!(accepted.kept, [(Metric::GcCycles, "run 2: records were lost".to_owned())]);
    let of = |text: &str| text.lines().find(|line| line.contains("gc_cycles:")).map(str::to_owned);
    assert_eq!(of(&accepted.text), of(&file()));
    // By name, it is an error.
    let message = accepted_error(&file(), &summary, &[Metric::GcCycles]);
    assert!(
        message.contains("metrics.gc_cycles: the runs have no figure to accept: run 2: records were lost"),
        "{message}"
    );
    // It cannot stay beside figures of another kind of machine.
    summary.environment.page_size = 4096;
    let message = accepted_error(&file(), &summary, &[]);
    assert!(message.contains("page size 16384 bytes in the baseline and 4096 bytes here"), "{message}");
    assert!(message.contains("and gc_cycles, whose figure would stay, was not measured"), "{message}");
}

/// Two runs say little of noise, and the file says that its figures are of more.
#[test]
fn a_tightened_figure_has_the_noise_of_all_runs_and_leaves_the_rest() {
    let before = file();
    let tightened = |summary: &Summary, metrics: &[Metric]| {
        let path = Path::new("baselines/linux-loong64/uaa-login.yaml");
        tighten(path, &before, summary, &metrics.iter().copied().collect())
    };
    let mut now = summary(&[900.0, 900.0]);
    let none = tightened(&now, &[]).unwrap();
    assert_eq!((none.text.as_str(), none.changes), (before.as_str(), vec![]));
    let bytes = tightened(&now, &[Metric::AllocBytesPerRequest]).unwrap();
    let differing: Vec<_> = before.lines().zip(bytes.text.lines()).filter(|(one, other)| one != other).collect();
    assert_eq!(differing.len(), 1, "{differing:?}");
    // A deviation of 7.071068 of two runs, and of 0 of two others: the root of half its square.
    assert!(differing[0].1.contains("{ baseline: 900B/request, noise: 5B/request, tolerance"), "{differing:?}");
    let message = tightened(&now, &[Metric::OomKills]).unwrap_err().to_string();
    assert!(message.contains("oom_kills has no recorded figure here"), "{message}");
    now.environment.page_size = 4096;
    let message = tightened(&now, &[]).unwrap_err().to_string();
    assert!(message.contains("environment: the baseline does not fit: page size 16384 bytes"), "{message}");
    now.runs.truncate(1);
    assert!(tightened(&now, &[]).unwrap_err().to_string().contains("one run of uaa has no noise"));
}
