//! Checks whether a baseline fits the runs.

use crate::{baseline::Baseline, summarise::Summary};

/// Why the baseline cannot be compared with the runs: both values of everything that differs, and what to do.
pub fn misfit(summary: &Summary, baseline: &Baseline) -> Option<String> {
    let (ours, theirs) = (&summary.environment, &baseline.environment);
    let needed = theirs.dependencies.clone().unwrap_or_else(|| "none".to_owned());
    let pairs = [
        ("service", baseline.service.clone(), summary.baseline.clone()),
        ("platform", baseline.platform.to_string(), summary.platform.to_string()),
        ("page size", format!("{} bytes", theirs.page_size), format!("{} bytes", ours.page_size)),
        ("runner", theirs.runner.to_string(), ours.runner.to_string()),
        ("Go version", go_minor(&theirs.go).to_owned(), go_minor(&ours.go).to_owned()),
        ("dependencies", needed, ours.dependencies_text()),
    ];
    let known = [
        ("build", &theirs.build, ours.build_text()),
        ("load", &theirs.load, ours.load.clone()),
        ("phases", &theirs.phases, ours.phases.clone()),
    ];
    // A baseline of an older memgate does not name them, and neither does its evidence.
    let known = known.into_iter().filter(|(_, _, ours)| !ours.is_empty());
    let known = known.filter_map(|(what, theirs, ours)| Some((what, theirs.clone()?, ours)));
    differences(pairs.into_iter().chain(known)).map(|differences| {
        format!(
            "the baseline does not fit: {differences}; to record it anew, run `memgate record --service {} --platform {} \
             --runs 5` and `memgate baseline accept` on what it writes",
            summary.service, summary.platform
        )
    })
}

/// What differs and does not keep the baseline from being compared: another machine, of which figures per request do not
/// depend, and the runtime's variables, which are a part of what a change may do.
pub(super) fn borne(summary: &Summary, baseline: &Baseline) -> Option<String> {
    let (ours, theirs) = (&summary.environment, &baseline.environment);
    let pairs = [
        ("CPUs", theirs.cpus.to_string(), ours.cpus.to_string()),
        ("transparent huge pages", theirs.thp.clone(), ours.thp.clone()),
    ];
    let variables = theirs.variables.clone().map(|theirs| ("variables", theirs, ours.variables_text()));
    differences(pairs.into_iter().chain(variables)).map(|differences| {
        format!(
            "the baseline was recorded with other settings: {differences}; figures of time, GC, threads and resident \
             memory may differ for that alone"
        )
    })
}

/// Both values of everything that differs; `None` if nothing does.
fn differences(pairs: impl Iterator<Item = (&'static str, String, String)>) -> Option<String> {
    let told: Vec<String> = pairs
        .filter(|(_, theirs, ours)| theirs != ours)
        .map(|(what, theirs, ours)| format!("{what} {theirs} in the baseline and {ours} here"))
        .collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// `go1.27` for `go1.27.3`. Text that is not a release stays as it is, so two such versions must be equal.
fn go_minor(version: &str) -> &str {
    let Some(rest) = version.strip_prefix("go") else { return version };
    let end_of_digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let major = end_of_digits(rest);
    let Some(after_dot) = rest[major..].strip_prefix('.') else { return version };
    let minor = end_of_digits(after_dot);
    if major == 0 || minor == 0 { version } else { &version[.."go".len() + major + 1 + minor] }
}

#[cfg(test)]
mod tests {
    use super::go_minor;

    #[test]
    fn patch_releases_candidates_and_experiments_are_of_their_minor_version() {
        for version in ["go1.27", "go1.27.3", "go1.27rc1", "go1.27.3 X:jsonv2"] {
            assert_eq!(go_minor(version), "go1.27", "{version}");
        }
        for version in ["devel go1.28-abc", "go", "go1", "go1.", "1.27", ""] {
            assert_eq!(go_minor(version), version);
        }
    }
}
