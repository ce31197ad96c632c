//! The ruling on a gate, and which of several rulings counts.

use crate::{
    baseline::Waiver,
    results::{Need, Verdict, worst},
};

/// A verdict and the reason, one clause without a full stop.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) clause: String,
    /// What would decide an inconclusive gate.
    pub(super) needs: Option<Need>,
    /// The smallest figure that would have been noticed, if the gate holds.
    pub(super) noticed: Option<f64>,
}

impl Ruling {
    pub(super) fn new(verdict: Verdict, clause: impl Into<String>) -> Self {
        Self { verdict, clause: clause.into(), needs: None, noticed: None }
    }

    /// An inconclusive gate, and what would decide it.
    pub(super) fn undecided(needs: Need, clause: impl Into<String>) -> Self {
        Self { needs: Some(needs), ..Self::new(Verdict::Inconclusive, clause) }
    }

    /// A gate that holds. A figure of `noticed` would not have passed, in 95 of 100 checks.
    pub(super) fn holds(verdict: Verdict, noticed: f64, clause: impl Into<String>) -> Self {
        Self { noticed: Some(noticed), ..Self::new(verdict, clause) }
    }

    /// The reason as a sentence.
    pub(super) fn sentence(&self) -> String {
        let mut rest = self.clause.chars();
        let first = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
        first + rest.as_str() + "."
    }

    /// The worse of two rulings on one figure. If neither is worse, or both are good, the result has both reasons. The
    /// stricter of the two notices first.
    pub(super) fn and(self, other: Self) -> Self {
        let verdict = worst([self.verdict, other.verdict]);
        let noticed = match (self.noticed, other.noticed) {
            _ if !verdict.is_good() => None,
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let both = self.verdict == other.verdict || verdict.is_good();
        let (clause, needs) = match () {
            () if both => (format!("{}; {}", self.clause, other.clause), self.needs.or(other.needs)),
            () if verdict == self.verdict => (self.clause, self.needs),
            () => (other.clause, other.needs),
        };
        Self { verdict, clause, needs, noticed }
    }

    /// The ruling of a gate under a waiver. Until its last day, the gate does not fail. Afterwards it fails whatever the
    /// figure is, so that nobody forgets it. Days are compared as text, `2026-12-31`; a day of another form is never within.
    pub(super) fn waived(self, waiver: &Waiver, day: &str) -> Self {
        let Waiver { reason, owner, expires } = waiver;
        if day.len() != expires.len() || day > expires.as_str() {
            let clause = format!(
                "the waiver of {owner} ended on {expires} ({reason}), and the runs are of {day}: remove it, or agree on \
                 another day; {}",
                self.clause
            );
            return Self::new(Verdict::Regressed, clause);
        }
        match self.verdict {
            Verdict::Regressed | Verdict::Inconclusive => {
                let clause = format!("waived until {expires} by {owner} ({reason}): {}", self.clause);
                Self::new(Verdict::Advisory, clause)
            }
            Verdict::Pass | Verdict::Improved | Verdict::Advisory | Verdict::NoBaseline => self,
        }
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
