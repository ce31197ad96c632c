use std::fmt::Write as _;

use memgate_evidence::{RequestCounts, TimeSpan};
use proptest::prelude::*;

use super::*;

/// The start of the load, ns since 1970: 2026-11-30T12:00:00Z.
const START_NS: i128 = 1_796_040_000_000_000_000;

const SECOND: i128 = 1_000_000_000;

/// A load that begins a second after the launch, warms up for 2 s, is measured for 4 s and has a tail of 1 s.
fn phases() -> Phases {
    let span = |start: u64, end: u64| Some(TimeSpan { start_ns: start * 1_000_000_000, end_ns: end * 1_000_000_000 });
    Phases { warmup: span(1, 3), measure: span(3, 7), tail: span(7, 8), drain: None }
}

fn times() -> Times {
    Times { offset_ns: START_NS - SECOND, start_ns: SECOND, now_ns: 9 * SECOND }
}

fn figures_of(text: &str, format: ResultsFormat) -> Result<Requests, String> {
    let mut count = Count::new(times(), &phases()).unwrap();
    parse(text.as_bytes(), format, &mut count)?;
    count.finish()
}

/// The time so many ms after the start, as both programs write it.
fn at(ms: i128) -> String {
    jiff::Timestamp::from_nanosecond(START_NS + ms * 1_000_000).unwrap().to_string()
}

/// A line of k6, with the tags of its documentation.
fn k6(end_ms: i128, duration_ms: f64, tags: &str) -> String {
    format!(
        r#"{{"metric":"http_req_duration","type":"Point","data":{{"time":"{}","value":{duration_ms},"tags":{{{tags},"group":"","method":"GET","name":"http://127.0.0.1:8080/","proto":"HTTP/1.1","scenario":"default"}}}}}}"#,
        at(end_ms)
    )
}

/// A line of vegeta's.
fn vegeta(seq: u64, start_ms: i128, code: u16, error: &str) -> String {
    format!(
        r#"{{"attack":"","seq":{seq},"code":{code},"timestamp":"{}","latency":50000000,"bytes_out":0,"bytes_in":2,"error":"{error}","body":"b2s=","method":"GET","url":"http://127.0.0.1:8080/","headers":{{"Date":["x"]}}}}"#,
        at(start_ms)
    )
}

const OK: &str = r#""status":"200","expected_response":"true""#;

/// A request every half second, whose answer takes 50 ms.
fn steady_k6() -> String {
    let mut text = r#"{"type":"Metric","data":{"name":"http_req_duration","type":"trend","contains":"time","thresholds":[],"submetrics":null},"metric":"http_req_duration"}
{"metric":"vus","type":"Point","data":{"time":"2026-11-30T12:00:01Z","value":5,"tags":null}}
"#
    .to_owned();
    for ms in (100..7000).step_by(500) {
        writeln!(text, "{}", k6(ms + 50, 50.0, OK)).unwrap();
    }
    text
}

fn steady_vegeta() -> String {
    let lines = (100..7000).step_by(500).enumerate();
    lines.map(|(seq, ms)| format!("{}\n", vegeta(seq as u64, ms, 200, ""))).collect()
}

#[test]
fn requests_are_counted_in_the_phase_in_which_they_were_sent() {
    for (text, format) in [(steady_k6(), ResultsFormat::K6), (steady_vegeta(), ResultsFormat::Vegeta)] {
        let requests = figures_of(&text, format).unwrap();
        let counts = |counts: &RequestCounts| (counts.intended, counts.succeeded);
        assert_eq!([&requests.warmup, &requests.measure, &requests.tail].map(counts), [(4, 4), (8, 8), (2, 2)]);
        assert_eq!(requests.latency.count, [8]);
        assert!((49_900_000..50_100_000).contains(&requests.latency.value_ns[0]), "{:?}", requests.latency);
        assert_eq!(requests.completed.at_ns[..2], [1_150_000_000, 1_650_000_000]);
        assert_eq!(requests.completed.value, (1..=14).collect::<Vec<u64>>());
        assert!((requests.per_second - 2.0).abs() < 1e-9);
    }
}

#[test]
fn failures_have_reasons() {
    let mut text = steady_k6();
    for tags in [
        r#""status":"503","error_code":"1503","expected_response":"false""#,
        r#""status":"0","error_code":"1050","error":"request timeout","expected_response":"false""#,
        r#""status":"0","error_code":"1212","expected_response":"false""#,
        r#""status":"404","expected_response":"true""#,
    ] {
        writeln!(text, "{}", k6(3000, 10.0, tags)).unwrap();
    }
    let measure = figures_of(&text, ResultsFormat::K6).unwrap().measure;
    let failed = [("no answer", 1), ("status 503", 1), ("timeout", 1)].map(|(why, count)| (why.to_owned(), count));
    assert_eq!((measure.intended, measure.succeeded, measure.failed), (12, 9, failed.into()));
    let mut text = steady_vegeta();
    for (seq, (code, error)) in (14..).zip([
        (500, "500 Internal Server Error"),
        (0, "Get \\\"http://127.0.0.1:8080/\\\": context deadline exceeded (Client.Timeout exceeded)"),
        (0, "dial tcp 127.0.0.1:8080: connect: connection refused"),
        (0, "EOF"),
    ]) {
        writeln!(text, "{}", vegeta(seq, 3000, code, error)).unwrap();
    }
    let measure = figures_of(&text, ResultsFormat::Vegeta).unwrap().measure;
    let failed = [("connection refused", 1), ("no answer", 1), ("status 500", 1), ("timeout", 1)];
    assert_eq!(measure.failed, failed.map(|(why, count)| (why.to_owned(), count)).into());
}

#[test]
fn a_request_of_vegetas_without_a_result_has_failed() {
    // The sixth and the seventh were sent in the measuring phase.
    let text: String = steady_vegeta()
        .lines()
        .enumerate()
        .filter(|(at, _)| ![5, 6].contains(at))
        .fold(String::new(), |text, (_, line)| text + line + "\n");
    let measure = figures_of(&text, ResultsFormat::Vegeta).unwrap().measure;
    assert_eq!((measure.intended, measure.succeeded, measure.failed["no result"]), (8, 6, 2));
}

#[test]
fn what_is_cut_off_foreign_or_contradictory_leaves_the_requests_unknown() {
    let (k6_text, vegeta_text) = (steady_k6(), steady_vegeta());
    let until = |text: &str, lines: usize| text.lines().take(lines).map(|line| format!("{line}\n")).collect::<String>();
    let with = |text: &str, line: &str| format!("{text}{line}\n");
    for (text, format, why) in [
        (String::new(), ResultsFormat::K6, "no result of a request by k6"),
        (vegeta_text.clone(), ResultsFormat::K6, "line 1: it is no sample of k6"),
        (k6_text.clone(), ResultsFormat::Vegeta, "line 1: it is no result of vegeta"),
        (until(&k6_text, 14), ResultsFormat::K6, "its last result is from 0.350 s before the end"),
        (until(&vegeta_text, 12), ResultsFormat::Vegeta, "before the end of the measuring phase"),
        (with(&k6_text, "{\"metric\":"), ResultsFormat::K6, "line 17: it is no sample of k6"),
        (with(&k6_text, &k6(-5000, 1.0, OK)), ResultsFormat::K6, "line 17: its request is from before the load"),
        (with(&k6_text, &k6(900_000, 1.0, OK)), ResultsFormat::K6, "line 17: its request ended after the load"),
        (with(&k6_text, &k6(3000, -1.0, OK)), ResultsFormat::K6, "its duration is impossible"),
        (with(&k6_text, &k6(3000, 1.0, r#""status":"200""#)), ResultsFormat::K6, "no tag `expected_response`"),
        (k6_text.replace("12:00:03", "noon"), ResultsFormat::K6, "no time of the day"),
        (with(&vegeta_text, &vegeta(3, 3000, 200, "")), ResultsFormat::Vegeta, "two results with the number 3"),
        (vegeta_text.replacen("\"seq\":0,", "\"seq\":99,", 1), ResultsFormat::Vegeta, "its first results are missing"),
        (
            vegeta_text.replacen("\"seq\":13,", "\"seq\":18446744073709551615,", 1),
            ResultsFormat::Vegeta,
            "missing in it",
        ),
    ] {
        let error = figures_of(&text, format).unwrap_err();
        assert!(error.contains(why), "`{why}` is not in: {error}");
    }
}

#[test]
fn a_last_line_that_is_cut_off_is_left_out() {
    let text = steady_k6() + &k6(6990, 1.0, OK)[..60];
    assert_eq!(figures_of(&text, ResultsFormat::K6).unwrap().tail.intended, 2);
}

#[test]
fn only_a_regular_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let [file, link, pipe] = ["file", "link", "pipe"].map(|name| directory.path().join(name));
    std::fs::write(&file, steady_vegeta()).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
    let read = |file: &Path, format| {
        let mut count = Count::new(times(), &phases()).unwrap();
        super::read(file, format, &mut count).and_then(|()| count.finish())
    };
    assert_eq!(read(&file, ResultsFormat::Vegeta).unwrap().completed.value.len(), 14);
    assert!(read(&link, ResultsFormat::Vegeta).unwrap_err().starts_with("it cannot be read"));
    assert_eq!(read(&pipe, ResultsFormat::Vegeta).unwrap_err(), "it is no regular file");
    assert!(read(&directory.path().join("none"), ResultsFormat::K6).unwrap_err().starts_with("it cannot be read"));
}

#[test]
fn the_time_of_the_day_becomes_the_evidences() {
    let clock = Clock::start().unwrap();
    let started = Started::now();
    let before_ns = i128::from(clock.now_ns());
    let times = Times::of(started, clock).unwrap();
    let now_ns = wall_ns() - times.offset_ns;
    let after_ns = i128::from(clock.now_ns());
    assert!((before_ns - SLACK_NS..=after_ns + SLACK_NS).contains(&now_ns), "{before_ns} {now_ns} {after_ns}");
    let set = Started { wall_ns: started.wall_ns - 3_600 * SECOND, ..started };
    assert!(Times::of(set, clock).unwrap_err().starts_with("the time of the day was changed by 3600"));
}

proptest! {
    /// Whatever a file has, it is either read or refused.
    #[test]
    fn any_text_is_read_or_refused(
        mut lines in proptest::collection::vec("(\\PC|\n|\"|\\{|\\}|[0-9]){0,80}", 0..5),
        cut in 0usize..2000,
    ) {
        for steady in [steady_k6(), steady_vegeta()] {
            let end = steady.char_indices().map(|(at, _)| at).take_while(|at| *at <= cut).last().unwrap_or(0);
            lines.push(steady[..end].to_owned());
        }
        let text = lines.join("\n");
        for format in ResultsFormat::ALL {
            let _ = figures_of(&text, format);
        }
    }
}

#[tokio::test]
async fn a_signal_without_results_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("results.json");
    let read =
        |times| Results::new(CommandResults { format: ResultsFormat::K6, file: file.clone() }, times).read(phases());
    let why = read(Ok(times())).await.unwrap().unwrap_err();
    assert!(why.starts_with("`load.results.file` results.json: it cannot be read: No such file"), "{why}");
    assert_eq!(read(Err("the time of the day".to_owned())).await.unwrap().unwrap_err(), "the time of the day");
    std::fs::write(&file, b"\x1f\x8b\xff\n").unwrap();
    let why = read(Ok(times())).await.unwrap().unwrap_err();
    assert!(why.ends_with("line 1 is no text: let the command write the file without compression"), "{why}");
    std::fs::write(&file, steady_k6()).unwrap();
    assert_eq!(read(Ok(times())).await.unwrap().unwrap().measure.succeeded, 8);
}

#[test]
fn what_k6_leaves_out_is_told() {
    let results = |format| Results::new(CommandResults { format, file: "r".into() }, Ok(times()));
    let note = results(ResultsFormat::K6).note(&phases()).unwrap();
    assert!(note.starts_with("k6's results lack the requests that were under way at its end, 1.0 s after"), "{note}");
    assert_eq!(results(ResultsFormat::Vegeta).note(&phases()), None);
}

#[test]
fn there_are_no_more_results_than_memory_is_kept_for() {
    let mut text = steady_vegeta();
    text.push_str(&vegeta(MOST_RESULTS + 20, 6900, 200, ""));
    text.push('\n');
    let error = figures_of(&text, ResultsFormat::Vegeta).unwrap_err();
    assert!(error.contains("results are missing in it"), "{error}");
    let mut count = Count::new(times(), &phases()).unwrap();
    count.results = MOST_RESULTS;
    let error = parse(steady_k6().as_bytes(), ResultsFormat::K6, &mut count).unwrap_err();
    assert!(error.starts_with("line 3: it has more than 5000000 results: shorten"), "{error}");
}
