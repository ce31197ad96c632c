//! Whether memgate decided rightly.

use std::path::Path;
use std::time::Duration;

use miette::{Context, IntoDiagnostic, Result};
use serde::Deserialize;

use super::fixtures::Case;

/// What memgate must decide on a service, as right.yaml says it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Right {
    /// Every gate holds with a baseline that was recorded just before. Without one, only the baseline is missing.
    Green,
    /// The service fails, for the right reason.
    Red {
        /// The gates that regress.
        by: Vec<String>,
        /// What the report names: call sites, or what grew.
        tells: Vec<String>,
        /// Gates that do not regress: the fault is not theirs.
        spares: Vec<String>,
    },
    /// The service does not fail. If it cannot be judged, the reason has one of these words.
    NotRed {
        /// The words.
        says: Vec<String>,
    },
    /// The service cannot be measured.
    Exit4 {
        /// What memgate prints.
        says: Vec<String>,
    },
}

impl Right {
    /// The checks that show it.
    pub(super) fn checks(&self) -> Vec<Check<'_>> {
        match self {
            Self::Green => vec![Check::Green, Check::WithoutBaseline],
            Self::Red { by, tells, spares } => vec![Check::Red { by, tells, spares }],
            Self::NotRed { says } => vec![Check::NotRed { says }],
            Self::Exit4 { says } => vec![Check::Exit4 { says }],
        }
    }
}

/// What one check must show.
#[derive(Debug)]
pub(super) enum Check<'a> {
    /// Exit code 0 with the recorded baseline.
    Green,
    /// Exit code 3 without a baseline, and nothing undecided but what it would decide.
    WithoutBaseline,
    /// As [`Right::Red`].
    Red { by: &'a [String], tells: &'a [String], spares: &'a [String] },
    /// As [`Right::NotRed`].
    NotRed { says: &'a [String] },
    /// As [`Right::Exit4`].
    Exit4 { says: &'a [String] },
}

impl Check<'_> {
    /// A word for its directory.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::WithoutBaseline => "without-baseline",
            Self::Red { .. } => "red",
            Self::NotRed { .. } => "not-red",
            Self::Exit4 { .. } => "exit4",
        }
    }

    /// What is expected, for the table.
    fn expected(&self) -> String {
        match self {
            Self::Green => "0".to_owned(),
            Self::WithoutBaseline => "3: no baseline".to_owned(),
            Self::Red { by, .. } => format!("1: {}", by.join(", ")),
            Self::NotRed { says } => format!("not 1: {}", says.join(" or ")),
            Self::Exit4 { says } => format!("4: {}", says.join(", ")),
        }
    }

    /// Why the check is wrong. `result` is what memgate reported of the service, and `said` is all that it printed.
    fn wrong(&self, code: Option<i32>, result: Option<&ServiceResult>, said: &str) -> Option<String> {
        let wanted: &[i32] = match self {
            Self::Green => &[0],
            Self::WithoutBaseline => &[3],
            Self::Red { .. } => &[1],
            Self::NotRed { .. } => &[0, 3],
            Self::Exit4 { .. } => &[4],
        };
        if !code.is_some_and(|code| wanted.contains(&code)) {
            let wanted: Vec<_> = wanted.iter().map(i32::to_string).collect();
            return Some(format!("exit code {}, not {}", self::code(code), wanted.join(" or ")));
        }
        if let Self::Exit4 { says } = self {
            return missing(says, said).map(|word| format!("memgate does not say `{word}`"));
        }
        let Some(result) = result else { return Some("the report has no result of it".to_owned()) };
        match self {
            Self::Green => None,
            Self::WithoutBaseline => {
                let other = result.gates.iter().find(|gate| !gate.holds() && gate.verdict != "no-baseline");
                other.map(|gate| format!("`{}` is {}", gate.metric, gate.verdict))
            }
            Self::Red { by, tells, spares } => result.is_not_red_by(by, tells, spares),
            Self::NotRed { says } => result.is_unexplained(says),
            Self::Exit4 { .. } => None,
        }
    }
}

/// The first word that a text lacks, whatever the case of its letters.
fn missing<'a>(words: &'a [String], text: &str) -> Option<&'a str> {
    let text = text.to_lowercase();
    words.iter().map(String::as_str).find(|word| !text.contains(&word.to_lowercase()))
}

/// An exit code, for people.
pub(super) fn code(code: Option<i32>) -> String {
    code.map_or_else(|| "none (a signal)".to_owned(), |code| code.to_string())
}

/// The needed fields of memgate's report (docs/reference/reports.md).
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    results: Vec<ServiceResult>,
}

/// The result of a service.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ServiceResult {
    service: String,
    runs: u32,
    gates: Vec<Gate>,
    notes: Vec<String>,
}

/// The result of a gate.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Gate {
    /// Its metric.
    pub(super) metric: String,
    /// Its verdict.
    pub(super) verdict: String,
    /// The reason.
    pub(super) reason: String,
    sites: Vec<serde_json::Value>,
}

impl Gate {
    /// Whether it fails nothing.
    pub(super) fn holds(&self) -> bool {
        ["pass", "improved", "advisory"].contains(&self.verdict.as_str())
    }

    fn regressed(&self) -> bool {
        self.verdict == "regressed"
    }
}

impl Report {
    /// Reads a report; `None` if memgate wrote none.
    ///
    /// # Errors
    /// When it cannot be read or is no report.
    pub(super) fn read(file: &Path) -> Result<Option<Self>> {
        let bytes = match std::fs::read(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.into_diagnostic(),
        };
        let report = bytes.and_then(|bytes| serde_json::from_slice(&bytes).into_diagnostic());
        report.map(Some).wrap_err_with(|| format!("cannot read {}", file.display()))
    }

    fn of(&self, service: &str) -> Option<&ServiceResult> {
        self.results.iter().find(|result| result.service == service)
    }
}

impl ServiceResult {
    /// Why it is not red for the right reason.
    fn is_not_red_by(&self, by: &[String], tells: &[String], spares: &[String]) -> Option<String> {
        let regressed: Vec<_> = self.gates.iter().filter(|gate| gate.regressed()).collect();
        let fails = |metric: &&String| regressed.iter().any(|gate| gate.metric == **metric);
        if let Some(metric) = by.iter().find(|metric| !fails(metric)) {
            return Some(format!("`{metric}` is not regressed"));
        }
        if let Some(metric) = spares.iter().find(fails) {
            return Some(format!("`{metric}` is regressed"));
        }
        let mut told = self.notes.clone();
        for gate in regressed.iter().filter(|gate| by.contains(&gate.metric)) {
            told.push(gate.reason.clone());
            gate.sites.iter().for_each(|site| texts(site, &mut told));
        }
        missing(tells, &told.join("\n")).map(|word| format!("the report does not tell `{word}`"))
    }

    /// Why it is red, or inconclusive without a reason that helps.
    fn is_unexplained(&self, says: &[String]) -> Option<String> {
        if let Some(gate) = self.gates.iter().find(|gate| gate.regressed()) {
            return Some(format!("`{}` is regressed", gate.metric));
        }
        let undecided: Vec<_> = self.gates.iter().filter(|gate| gate.verdict == "inconclusive").collect();
        let reasons = undecided.iter().map(|gate| gate.reason.as_str());
        let told = reasons.chain(self.notes.iter().map(String::as_str)).collect::<Vec<_>>().join("\n").to_lowercase();
        let explained = undecided.is_empty() || says.iter().any(|word| told.contains(&word.to_lowercase()));
        (!explained).then(|| format!("no reason says {}", says.join(" or ")))
    }
}

/// All texts in a value, but no keys.
fn texts(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => into.push(text.clone()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| texts(value, into)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| texts(value, into)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => (),
    }
}

/// What a check showed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The case.
    pub(super) case: String,
    /// The platform.
    pub(super) platform: String,
    /// What is right.
    pub(super) expected: String,
    /// memgate's exit code; `None` if it did not end by itself, or did not start.
    pub(super) code: Option<i32>,
    /// The gates, if memgate judged.
    pub(super) gates: Vec<Gate>,
    /// The runs, if memgate judged.
    pub(super) runs: Option<u32>,
    /// How long the check took.
    pub(super) took: Duration,
    /// Why it is wrong; `None` if it is right.
    pub(super) wrong: Option<String>,
}

impl Outcome {
    /// A check that has not run.
    pub(super) fn new(case: &str, platform: &str, check: &Check<'_>) -> Self {
        Self {
            case: case.to_owned(),
            platform: platform.to_owned(),
            expected: check.expected(),
            code: None,
            gates: Vec::new(),
            runs: None,
            took: Duration::ZERO,
            wrong: Some("it did not run".to_owned()),
        }
    }

    /// The same check, which has run.
    pub(super) fn of(
        self,
        check: &Check<'_>,
        case: &Case,
        code: Option<i32>,
        took: Duration,
        report: Option<Report>,
        said: &str,
    ) -> Self {
        let result = report.as_ref().and_then(|report| report.of(&self.case));
        let wrong = check.wrong(code, result, said).or_else(|| {
            let beside = case.beside.as_deref()?;
            wrong_beside(beside, report.as_ref().and_then(|report| report.of(beside)))
        });
        let gates = result.map(|result| result.gates.clone()).unwrap_or_default();
        let runs = result.map(|result| result.runs);
        Self { code, gates, runs, took, wrong, ..self }
    }
}

/// Why a healthy service beside a case was not judged rightly.
fn wrong_beside(service: &str, result: Option<&ServiceResult>) -> Option<String> {
    let Some(result) = result else { return Some(format!("the result of {service} is lost")) };
    let regressed = result.gates.iter().find(|gate| gate.regressed());
    regressed.map(|gate| format!("`{}` of {service} is regressed", gate.metric))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// A result whose gates have these verdicts, and reasons that begin with the metric.
    fn result(gates: &[(&str, &str)], notes: &[&str]) -> ServiceResult {
        let gates = gates.iter().map(|(metric, verdict)| Gate {
            metric: (*metric).to_owned(),
            verdict: (*verdict).to_owned(),
            reason: format!("{metric}: for a reason"),
            sites: vec![serde_json::json!({ "at": { "function": "main.put", "line": 7 }, "own": null })],
        });
        ServiceResult { service: "s".to_owned(), runs: 2, gates: gates.collect(), notes: words(notes) }
    }

    fn wrong(check: &Check<'_>, code: i32, result: &ServiceResult) -> Option<String> {
        check.wrong(Some(code), Some(result), "")
    }

    #[test]
    fn a_healthy_service_is_green_with_a_baseline() {
        let healthy = result(&[("a", "pass"), ("b", "advisory")], &[]);
        assert_eq!(wrong(&Check::Green, 0, &healthy), None);
        assert_eq!(wrong(&Check::Green, 3, &healthy).unwrap(), "exit code 3, not 0");
        assert_eq!(Check::Green.wrong(None, None, "").unwrap(), "exit code none (a signal), not 0");
        assert_eq!(Check::Green.wrong(Some(0), None, "").unwrap(), "the report has no result of it");
    }

    #[test]
    fn without_a_baseline_only_the_baseline_is_missing() {
        let check = Check::WithoutBaseline;
        assert_eq!(wrong(&check, 3, &result(&[("a", "pass"), ("b", "no-baseline")], &[])), None);
        let undecided = result(&[("b", "no-baseline"), ("a", "inconclusive")], &[]);
        assert_eq!(wrong(&check, 3, &undecided).unwrap(), "`a` is inconclusive");
        // Without a baseline nothing is green.
        assert_eq!(wrong(&check, 0, &result(&[("a", "pass")], &[])).unwrap(), "exit code 0, not 3");
    }

    #[test]
    fn a_faulty_service_is_red_for_the_right_reason() {
        let (by, tells, spares) = (words(&["a"]), words(&["Main.Put"]), words(&["b"]));
        let check = Check::Red { by: &by, tells: &tells, spares: &spares };
        assert_eq!(wrong(&check, 1, &result(&[("a", "regressed"), ("b", "inconclusive")], &[])), None);
        let other = result(&[("a", "inconclusive"), ("c", "regressed")], &[]);
        assert_eq!(wrong(&check, 1, &other).unwrap(), "`a` is not regressed");
        let both = result(&[("a", "regressed"), ("b", "regressed")], &[]);
        assert_eq!(wrong(&check, 1, &both).unwrap(), "`b` is regressed");
        assert_eq!(wrong(&check, 3, &both).unwrap(), "exit code 3, not 1");
        assert_eq!(check.wrong(Some(1), None, "").unwrap(), "the report has no result of it");
    }

    #[test]
    fn what_is_told_stands_under_the_gate_or_in_a_note() {
        let by = words(&["a"]);
        let tells = |tells: &[&str], notes: &[&str]| {
            let tells = words(tells);
            let red = result(&[("a", "regressed"), ("c", "inconclusive")], notes);
            wrong(&Check::Red { by: &by, tells: &tells, spares: &[] }, 1, &red)
        };
        assert_eq!(tells(&["for a reason", "shmem"], &["52 MiB of SHMEM"]), None);
        assert_eq!(tells(&["shmem"], &[]).unwrap(), "the report does not tell `shmem`");
        // A key of a site, and the reason of another gate, tell nothing.
        assert_eq!(tells(&["function"], &[]).unwrap(), "the report does not tell `function`");
        assert_eq!(tells(&["c: for"], &[]).unwrap(), "the report does not tell `c: for`");
    }

    #[test]
    fn a_service_that_cannot_be_judged_says_why() {
        let says = words(&["goal", "a: FOR"]);
        let check = Check::NotRed { says: &says };
        assert_eq!(wrong(&check, 3, &result(&[("a", "inconclusive")], &[])), None);
        assert_eq!(wrong(&check, 3, &result(&[("b", "inconclusive")], &["below its goal"])), None);
        assert_eq!(wrong(&check, 0, &result(&[("b", "pass")], &[])), None);
        assert_eq!(wrong(&check, 3, &result(&[("b", "no-baseline")], &[])), None);
        let silent = result(&[("b", "inconclusive"), ("a", "pass")], &[]);
        assert_eq!(wrong(&check, 3, &silent).unwrap(), "no reason says goal or a: FOR");
        assert_eq!(wrong(&check, 1, &silent).unwrap(), "exit code 1, not 0 or 3");
    }

    #[test]
    fn a_service_that_cannot_be_measured_says_why() {
        let says = words(&["before it was ready", "/dev/null"]);
        let check = Check::Exit4 { says: &says };
        let said = "launch: exited with code 0 before it was ready\n its standard input is /dev/null";
        assert_eq!(check.wrong(Some(4), None, said), None);
        assert_eq!(check.wrong(Some(3), None, said).unwrap(), "exit code 3, not 4");
        assert_eq!(check.wrong(Some(4), None, "before it was ready").unwrap(), "memgate does not say `/dev/null`");
    }

    #[test]
    fn a_service_beside_a_broken_one_is_judged() {
        assert_eq!(wrong_beside("s", None).unwrap(), "the result of s is lost");
        assert_eq!(wrong_beside("s", Some(&result(&[("a", "no-baseline")], &[]))), None);
        assert!(wrong_beside("s", Some(&result(&[("a", "regressed")], &[]))).unwrap().contains("`a` of s"));
    }

    #[test]
    fn a_report_is_memgates() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report.json");
        assert!(Report::read(&file).unwrap().is_none());
        let gate = r#"{"metric":"a","verdict":"pass","reason":"r","sites":[],"unit":"ns"}"#;
        let text = format!(r#"{{"schema":2,"results":[{{"service":"s","runs":3,"gates":[{gate}],"notes":[]}}]}}"#);
        std::fs::write(&file, text).unwrap();
        let report = Report::read(&file).unwrap().unwrap();
        assert_eq!(report.of("s").map(|result| result.runs), Some(3));
        assert!(report.of("t").is_none());
        std::fs::write(&file, "{}").unwrap();
        assert!(Report::read(&file).is_err());
    }
}
