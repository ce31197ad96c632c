//! How far each signal can be trusted, in all runs.

use memgate_evidence::{Exactness, Provenance};
use serde::{Deserialize, Serialize};

use super::run::{Run, clause};

/// How far a signal can be trusted, in the worst of the runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalNote {
    /// The signal's name in the evidence, such as `gc_pauses`.
    pub name: String,
    /// The source; empty if nobody measured the signal.
    pub source: String,
    /// How far it can be trusted.
    pub exactness: Trust,
    /// Why it is not better, as a clause; `null` for exact and sampled signals.
    pub reason: Option<String>,
    /// Lost records in all runs.
    pub lost: u64,
}

/// How far a signal can be trusted, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Every event, or the runtime's or kernel's own total.
    Exact,
    /// Exact at the times of the entries.
    Sampled,
    /// The upper ends of the runtime's own buckets.
    Bucketed,
    /// Something is lost or doubtful. No gate passes on it.
    Inexact,
    /// There is no data. No gate passes on it.
    Missing,
}

impl Trust {
    /// Every degree, best first.
    pub const ALL: [Self; 5] = [Self::Exact, Self::Sampled, Self::Bucketed, Self::Inexact, Self::Missing];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled => "sampled",
            Self::Bucketed => "bucketed",
            Self::Inexact => "inexact",
            Self::Missing => "missing",
        }
    }
}

/// A note for each signal, in the order of the evidence, for the worst of the runs.
pub(super) fn notes(runs: &[Run<'_>]) -> Vec<SignalNote> {
    let mut worst: Vec<SignalNote> = Vec::new();
    for run in runs {
        let of_run = run.signals().provenance().map(note);
        if worst.is_empty() {
            worst = of_run.into();
            continue;
        }
        for (worst, note) in worst.iter_mut().zip(of_run) {
            let lost = worst.lost.saturating_add(note.lost);
            if note.exactness > worst.exactness {
                *worst = note;
            }
            worst.lost = lost;
        }
    }
    worst
}

/// A signal with lost records is not exact, whatever it claims: no gate passes on it.
fn note(signal: Provenance<'_>) -> SignalNote {
    let lost = || match signal.lost {
        1 => "a record was lost".to_owned(),
        lost => format!("{lost} records were lost"),
    };
    let (exactness, reason) = match signal.exactness {
        Exactness::Missing { reason } => (Trust::Missing, Some(clause(reason).to_owned())),
        Exactness::Inexact { reason } => (Trust::Inexact, Some(clause(reason).to_owned())),
        Exactness::Exact | Exactness::Sampled | Exactness::Bucketed if signal.lost > 0 => {
            (Trust::Inexact, Some(lost()))
        }
        Exactness::Exact => (Trust::Exact, None),
        Exactness::Sampled => (Trust::Sampled, None),
        Exactness::Bucketed => (Trust::Bucketed, Some("each is at most a quarter too high".to_owned())),
    };
    SignalNote { name: signal.name.to_owned(), source: signal.source.to_owned(), exactness, reason, lost: signal.lost }
}
