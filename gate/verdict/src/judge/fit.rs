//! Checks whether a baseline fits the runs.

use crate::{baseline::Baseline, summarise::Summary};

/// Why the baseline cannot be compared with the runs: both values of everything that differs, and what to do.
pub(super) fn misfit(summary: &Summary, baseline: &Baseline) -> Option<String> {
    let (ours, theirs) = (&summary.environment, &baseline.environment);
    let pairs = [
        ("service", baseline.service.clone(), summary.baseline.clone()),
        ("platform", baseline.platform.to_string(), summary.platform.to_string()),
        ("page size", format!("{} bytes", theirs.page_size), format!("{} bytes", ours.page_size)),
        ("runner", theirs.runner.to_string(), ours.runner.to_string()),
        ("Go version", go_minor(&theirs.go).to_owned(), go_minor(&ours.go).to_owned()),
    ];
    let differences: Vec<String> = pairs
        .into_iter()
        .filter(|(_, theirs, ours)| theirs != ours)
        .map(|(what, theirs, ours)| format!("{what} {theirs} in the baseline and {ours} here"))
        .collect();
    (!differences.is_empty()).then(|| {
        format!(
            "the baseline does not fit: {}; record a new one with `memgate baseline record`",
            differences.join(", ")
        )
    })
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
