//! What a gate is ruled to be, and which of several rulings counts.

use super::Verdict;

/// A verdict and why: one clause without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) clause: String,
}

impl Ruling {
    pub(super) fn new(verdict: Verdict, clause: impl Into<String>) -> Self {
        Self { verdict, clause: clause.into() }
    }

    /// The reason as a sentence.
    pub(super) fn sentence(&self) -> String {
        let mut rest = self.clause.chars();
        let first = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
        first + rest.as_str() + "."
    }

    /// The worse of two rulings on one figure; where neither is worse, or both are good, it gives both reasons.
    pub(super) fn and(self, other: Self) -> Self {
        let verdict = worst([self.verdict, other.verdict]);
        let both = self.verdict == other.verdict || is_good(verdict);
        let clause = match () {
            () if both => format!("{}; {}", self.clause, other.clause),
            () if verdict == self.verdict => self.clause,
            () => other.clause,
        };
        Self { verdict, clause }
    }

    /// The ruling of a gate that is reported but never failed.
    pub(super) fn advisory(self) -> Self {
        match self.verdict {
            Verdict::Regressed | Verdict::Inconclusive => {
                Self::new(Verdict::Advisory, format!("advisory only: {}", self.clause))
            }
            _ => self,
        }
    }
}

/// Whether the gate holds and says so.
pub(super) const fn is_good(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Pass | Verdict::Improved)
}

/// The worst of several verdicts: regressed, inconclusive, no-baseline, advisory, improved, pass. Of none it is
/// inconclusive: nothing was judged, and nothing is not a pass.
pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().max_by_key(|&verdict| severity(verdict)).unwrap_or(Verdict::Inconclusive)
}

const fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Improved => 1,
        Verdict::Advisory => 2,
        Verdict::NoBaseline => 3,
        Verdict::Inconclusive => 4,
        Verdict::Regressed => 5,
    }
}
