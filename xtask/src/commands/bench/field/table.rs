//! The table of results, in Markdown.
#![expect(clippy::print_stdout, reason = "the figures are the result")]

use std::time::Duration;

use super::right::{Gate, Outcome};

/// Verdicts other than `pass`, from worst to best.
const VERDICTS: [&str; 5] = ["regressed", "inconclusive", "no-baseline", "advisory", "improved"];

pub(super) fn head() {
    println!("| case | platform | expected | exit code | verdicts other than pass | runs | s | |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
}

pub(super) fn row(outcome: &Outcome) {
    println!("{}", line(outcome));
}

/// A case that cannot show what it is about here. It does not count.
pub(super) fn left_out(case: &str, platform: &str, reason: &str) {
    println!("| {case} | {platform} | | | | | | left out: {reason} |");
}

/// The count, and what memgate said where it was wrong.
pub(super) fn end(outcomes: &[Outcome], took: Duration) {
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| outcome.wrong.is_some()).collect();
    println!(
        "\n{} of {} right, in {:.1} minutes",
        outcomes.len() - wrong.len(),
        outcomes.len(),
        took.as_secs_f64() / 60.0
    );
    for outcome in wrong {
        println!("\n{} on {}, expected {}: {}", outcome.case, outcome.platform, outcome.expected, judged(outcome));
        for gate in outcome.gates.iter().filter(|gate| !gate.holds()) {
            println!("- {} `{}`: {}", gate.verdict, gate.metric, gate.reason);
        }
    }
}

fn line(outcome: &Outcome) -> String {
    let Outcome { case, platform, expected, code, gates, runs, took, wrong: _ } = outcome;
    let code = code.map_or_else(|| "-".to_owned(), |code| code.to_string());
    let runs = runs.map_or_else(|| "-".to_owned(), |runs| runs.to_string());
    let seconds = took.as_secs();
    let verdicts = verdicts(gates);
    format!("| {case} | {platform} | {expected} | {code} | {verdicts} | {runs} | {seconds} | {} |", judged(outcome))
}

fn judged(outcome: &Outcome) -> String {
    outcome.wrong.as_ref().map_or_else(|| "right".to_owned(), |reason| format!("WRONG: {reason}"))
}

/// The gates by verdict.
fn verdicts(gates: &[Gate]) -> String {
    let of = |verdict: &str| {
        let metrics = gates.iter().filter(|gate| gate.verdict == verdict);
        let metrics: Vec<_> = metrics.map(|gate| format!("`{}`", gate.metric)).collect();
        (!metrics.is_empty()).then(|| format!("{verdict} {}", metrics.join(", ")))
    };
    VERDICTS.into_iter().filter_map(of).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_does_not_pass_and_what_is_wrong() {
        let gates = [("a", "pass"), ("b", "no-baseline"), ("c", "regressed"), ("d", "regressed")];
        let gates = gates.map(|(metric, verdict)| {
            let gate = serde_json::json!({ "metric": metric, "verdict": verdict, "reason": "", "sites": [] });
            serde_json::from_value::<Gate>(gate).unwrap()
        });
        let outcome = Outcome {
            case: "idle".to_owned(),
            platform: "linux/amd64".to_owned(),
            expected: "0".to_owned(),
            code: Some(1),
            gates: gates.to_vec(),
            runs: Some(2),
            took: Duration::from_millis(40_700),
            wrong: Some("exit code 1, not 0".to_owned()),
        };
        let wrong =
            "| idle | linux/amd64 | 0 | 1 | regressed `c`, `d`; no-baseline `b` | 2 | 40 | WRONG: exit code 1, not 0 |";
        assert_eq!(line(&outcome), wrong);
        let right = Outcome { code: None, gates: Vec::new(), runs: None, wrong: None, ..outcome };
        assert_eq!(line(&right), "| idle | linux/amd64 | 0 | - |  | - | 40 | right |");
    }
}
