//! Noise with a memory in a baseline file: what `record` writes of several occasions, and what `accept` makes of it.

use std::collections::BTreeSet;

use super::*;

const BYTES: Metric = Metric::AllocBytesPerRequest;

/// Runs of several occasions.
fn on_occasions(occasions: &[&[f64]]) -> Summary {
    let mut summary = summary(&occasions.concat());
    let of_runs = occasions.iter().enumerate().flat_map(|(occasion, runs)| runs.iter().map(move |_| occasion));
    for (run, occasion) in summary.runs.iter_mut().zip(of_runs) {
        run.occasion = occasion;
    }
    summary
}

fn line(text: &str) -> &str {
    let line = text.lines().find(|line| line.contains("alloc_bytes_per_request:")).unwrap();
    line.split(" # ").next().unwrap().trim()
}

fn accepted(text: &str, summary: &Summary, metrics: &[Metric]) -> memgate_evidence::error::Result<Accepted> {
    let path = Path::new("baselines/linux-loong64/uaa-login.yaml");
    accept(path, text, summary, "2026-11-29", &metrics.iter().copied().collect::<BTreeSet<_>>())
}

/// Means of 1001 and 1005, with a variance of 8. Within each, a variance of 2.
const TWO_DAYS: &[&[f64]] = &[&[1000.0, 1002.0], &[1004.0, 1006.0]];

#[test]
fn a_baseline_of_several_occasions_keeps_their_noise_apart() {
    let summary = on_occasions(TWO_DAYS);
    let text = render(&summary, "2026-11-23", Limits::General).unwrap();
    let expected = "alloc_bytes_per_request: { baseline: 1003B/request, noise: 1.414214B/request, noise_freedom: 2, \
                    between: 2.828427B/request, between_freedom: 1, tolerance: 0.95% }";
    assert_eq!(line(&text), expected);
    assert!(text.contains("recorded: \"2026-11-23\", runs: 4, occasions: 2,\n"), "{text}");
    assert!(text.contains("between that of occasions"), "the head explains it: {text}");
    let baseline = read_back(&summary);
    assert_eq!(baseline.environment.occasions, Some(2));
    let bytes = &baseline.metrics[&BYTES];
    assert_eq!((bytes.noise_freedom, bytes.between_freedom), (Some(2), Some(1)));
    // Of one occasion, the file is as it always was.
    let one = render(&on_occasions(&[&[1000.0, 1002.0, 1004.0]]), "2026-11-23", Limits::General).unwrap();
    assert_eq!(one, render(&super::summary(&[1000.0, 1002.0, 1004.0]), "2026-11-23", Limits::General).unwrap());
    assert!(!one.contains("occasions") && !one.contains("between:") && !one.contains("freedom"), "{one}");
}

/// An occasion with many runs counts as much as another.
#[test]
fn the_figure_is_the_mean_of_the_occasions() {
    let baseline = read_back(&on_occasions(&[&[1000.0, 1000.0, 1000.0, 1000.0], &[1100.0]]));
    assert_eq!(baseline.metrics[&BYTES].baseline, Some(1050.0));
    let text = render(&on_occasions(&[&[1000.0], &[1002.0], &[1004.0]]), "2026-11-23", Limits::General).unwrap();
    assert!(line(&text).contains("{ baseline: 1.002kB/request, between: 2B/request, between_freedom: 2, "), "{text}");
}

/// Each new occasion adds what its runs and its step say.
#[test]
fn accepted_figures_are_remembered() {
    let before = render(&on_occasions(TWO_DAYS), "2026-11-23", Limits::General).unwrap();
    let now = on_occasions(&[&[1001.0, 1003.0]]);
    let after = accepted(&before, &now, &[]).unwrap().text;
    // Within: √2 with two degrees of freedom and with one. Between: 8, and 1² over 1/2 + 1 of the step, which makes
    // 26/6.
    let expected = "alloc_bytes_per_request: { baseline: 1.002kB/request, noise: 1.414214B/request, noise_freedom: 3, \
                    between: 2.081666B/request, between_freedom: 2, tolerance: 0.95% }";
    assert_eq!(line(&after), expected);
    assert!(after.contains("recorded: \"2026-11-29\", runs: 2, occasions: 1,\n"), "{after}");
    // A change of the service is no noise, but its runs differ as runs do.
    let changed = on_occasions(&[&[900_000.0, 900_002.0]]);
    let after = accepted(&before, &changed, &[]).unwrap().text;
    let expected = "alloc_bytes_per_request: { baseline: 900.001kB/request, noise: 1.414214B/request, noise_freedom: 3, \
                    between: 2.828427B/request, between_freedom: 1, tolerance: 0.95% }";
    assert_eq!(line(&after), expected);
    // Runs of two occasions bring what lies between them too.
    let both = accepted(&before, &on_occasions(&[&[1001.0, 1003.0], &[1001.0, 1003.0]]), &[]).unwrap().text;
    assert!(line(&both).contains("noise_freedom: 4,") && line(&both).contains("between_freedom: 3,"), "{both}");
    assert!(both.contains("runs: 4, occasions: 2,\n"), "{both}");
}

/// `occasions: 1` in a file that somebody wrote begins a memory. The keys go behind the figure.
#[test]
fn a_memory_can_begin_in_any_file() {
    let block = "version: 1\nservice: uaa-login\nplatform: linux/loong64\nmetrics:\n  alloc_bytes_per_request:\n    \
        baseline: 1000B # agreed\n    noise: 2B\n    tolerance: 1%\nenvironment:\n  go: go1.27.3\n  kernel: x\n  \
        page_size: 16KiB\n  thp: madvise\n  cpu: x\n  cpus: 2\n  runner: qemu\n  recorded: 2026-11-23\n  runs: 3\n";
    let with = format!("{block}  occasions: 1\n").replace('\n', "\r\n");
    let now = on_occasions(&[&[1003.0, 1003.0, 1003.0]]);
    let after = accepted(&with, &now, &[]).unwrap().text;
    // 3² of the step, over 1 + 1.
    let put_in = "    baseline: 1003B/request # agreed\r\n    noise: 1.414214B/request\r\n    noise_freedom: 4\r\n    \
                  between: 2.12132B/request\r\n    between_freedom: 1\r\n    tolerance: 1%\r\n";
    assert!(after.contains(put_in), "{after}");
    assert_eq!(accepted(&after, &now, &[]).unwrap().text, after, "the same runs say nothing new");
    let next = accepted(&after, &on_occasions(&[&[1001.0, 1001.0, 1001.0]]), &[]).unwrap().text;
    assert_eq!(next.lines().count(), after.lines().count(), "{next}");
    assert!(next.contains("noise_freedom: 6\r\n") && next.contains("between_freedom: 2\r\n"), "{next}");
    // Without the key, nothing is added, and all runs count alike.
    let two = &[&[1003.0, 1003.0, 1003.0][..], &[1007.0]];
    let plain = accepted(block, &on_occasions(two), &[]).unwrap().text;
    assert!(!plain.contains("freedom") && !plain.contains("between"), "{plain}");
    assert!(plain.contains("baseline: 1.004kB/request"), "{plain}");
}

/// The figure of one occasion stands beside those of several then, and none is better known than it.
#[test]
fn one_accepted_metric_lowers_the_number_of_occasions() {
    let before = render(&on_occasions(TWO_DAYS), "2026-11-23", Limits::General).unwrap();
    let now = on_occasions(&[&[1001.0, 1003.0]]);
    let after = accepted(&before, &now, &[BYTES]).unwrap().text;
    let lines = before.lines().zip(after.lines()).filter(|(one, other)| one != other);
    let [(_, bytes), (_, environment)] = lines.collect::<Vec<_>>().try_into().unwrap();
    assert!(bytes.contains("between_freedom: 2"), "{bytes}");
    assert!(environment.contains("recorded: \"2026-11-23\", runs: 4, occasions: 1,"), "{environment}");
    let path = Path::new("baselines/linux-loong64/uaa-login.yaml");
    let lower = on_occasions(&[&[500.0, 502.0]]);
    let tightened = tighten(path, &before, &lower, &BTreeSet::from([BYTES])).unwrap().text;
    assert!(
        line(&tightened).contains("noise_freedom: 3, between: 2.828427B/request, between_freedom: 1"),
        "{tightened}"
    );
    assert!(tightened.contains("runs: 4, occasions: 1,"), "{tightened}");
    assert_eq!(tighten(path, &before, &lower, &BTreeSet::new()).unwrap().text, before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the runs are, what is written is read again.
    #[test]
    fn any_occasions_can_be_recorded_and_accepted(
        occasions in prop::collection::vec(prop::collection::vec(1.0..1e6_f64, 1..4), 2..5),
        now in prop::collection::vec(1.0..1e6_f64, 2..4),
    ) {
        let occasions: Vec<&[f64]> = occasions.iter().map(Vec::as_slice).collect();
        let before = render(&on_occasions(&occasions), "2026-11-23", Limits::General).unwrap();
        let after = accepted(&before, &on_occasions(&[&now]), &[]).unwrap();
        let path = Path::new("x.yaml");
        let read = parse(path, &after.text, Platform::LinuxLoong64, "uaa-login").unwrap();
        for expectation in read.metrics.values() {
            prop_assert!(expectation.between.is_none_or(|between| between.is_finite() && between >= 0.0));
        }
        let again = accepted(&after.text, &on_occasions(&[&now]), &[]).unwrap();
        prop_assert_eq!(again.changes, vec![]);
    }
}
