//! The ruling on a gate, and which of several rulings counts.

use crate::results::{Verdict, worst};

/// A verdict and the reason, one clause without a full stop.
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

    /// The worse of two rulings on one figure. If neither is worse, or both are good, the result has both reasons.
    pub(super) fn and(self, other: Self) -> Self {
        let verdict = worst([self.verdict, other.verdict]);
        let both = self.verdict == other.verdict || verdict.is_good();
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
            Verdict::Pass | Verdict::Improved | Verdict::Advisory | Verdict::NoBaseline => self,
        }
    }
}
