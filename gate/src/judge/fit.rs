//! Whether a baseline fits a run: figures of another kind of machine or Go prove nothing.

use crate::{
    baseline::{Baseline, BaselineEnvironment},
    evidence::Environment,
    goexe::minor_version,
    summarise::Summary,
};

/// Why the baseline does not fit the runs, as a clause; `None` where it does.
pub(super) fn misfit(summary: &Summary, baseline: &Baseline) -> Option<String> {
    let (run, recorded) = (&summary.environment, &baseline.environment);
    if summary.platform != baseline.platform {
        return Some(differs("platform", baseline.platform.name(), summary.platform.name()));
    }
    differing(run, recorded)
}

fn differing(run: &Environment, recorded: &BaselineEnvironment) -> Option<String> {
    if run.page_size != recorded.page_size {
        let sizes = [recorded.page_size, run.page_size].map(|bytes| format!("{bytes} bytes"));
        return Some(differs("page size", &sizes[0], &sizes[1]));
    }
    if run.runner != recorded.runner {
        return Some(differs("runner", &recorded.runner, &run.runner));
    }
    // Development versions have no minor version: only the very same one fits.
    let same_go = match (minor_version(&run.go), minor_version(&recorded.go)) {
        (Some(run), Some(recorded)) => run == recorded,
        _ => run.go == recorded.go,
    };
    (!same_go).then(|| differs("Go version", &recorded.go, &run.go))
}

fn differs(what: &str, recorded: &str, run: &str) -> String {
    format!("the baseline was recorded with the {what} {recorded}, and this run has {run}")
}
